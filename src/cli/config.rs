//! `config`: the configuration's schema, its documented defaults, and the configuration in force.

use super::{Common, Failure, Outcome, check_config, output};
use crate::config;

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print the configuration in force as YAML: every value and its source; secrets as ***
    Show,
    /// Print a config file with every default, documented key by key
    Default,
    /// Print the JSON Schema of a config file, for editors
    Schema,
    /// Check the configuration, as `check-config` does
    Check(check_config::Args),
}

pub(super) fn run(common: &Common, args: &Args) -> Outcome {
    match &args.what {
        What::Show => {
            let shown = config::show(common.config.as_deref(), &|name| std::env::var(name).ok())
                .map_err(|error| Failure::usage(error.to_string()))?;
            if common.json { output::json(&shown) } else { output::line(shown.yaml.trim_end()) }
        }
        What::Default => output::line(config::default_file().trim_end()),
        What::Schema => output::json(&config::schema()),
        What::Check(args) => check_config::run(common, args),
    }
}
