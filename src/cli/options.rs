//! Options of every command, and how they select the configuration.

use std::path::PathBuf;

use super::{client, in_force, outcome::Failure, output, threads};
use crate::{
    app::DirectoryError,
    config::{self, Config, ConfigError, LogFormat},
};

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Config file [default: ./config.yaml if it exists, else built-in defaults]
    #[arg(long, short, global = true, value_name = "FILE", env = "LIVEKIT_SPOOL_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Format of log lines [default: as configured, which is auto by default]
    #[arg(long, global = true, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

impl Common {
    /// The configuration that the command uses: the named file, or the default place.
    ///
    /// # Errors
    /// When it is missing or not valid.
    pub fn load_config(&self) -> Result<Config, Failure> {
        threads::ensure(threads::TO_READ)?;
        config::load(self.config.as_deref(), &|name| std::env::var(name).ok())
            .map_err(|error: ConfigError| Failure::usage(error.to_string()))
    }

    /// The configuration for commands that talk to the running process or read its files: with the data directory of the
    /// process that runs with this config file, even if data_dir now names another one.
    ///
    /// # Errors
    /// When it is missing or not valid.
    pub(super) fn config_in_force(&self) -> Result<Config, Failure> {
        let mut config = self.load_config()?;
        if client::is_running(&config.data_dir) {
            return Ok(config);
        }
        if let Some(directory) = config.file.as_deref().and_then(in_force::data_dir) {
            let (named, used) = (config.data_dir.display(), directory.display());
            output::complain(format!(
                "livekit-spool: the process that runs with this configuration uses {used}, and data_dir is {named} here: \
                 this command uses {used}"
            ));
            config.data_dir = directory;
        }
        Ok(config)
    }

    /// The same, for commands that read or change spools: the data directory has to exist.
    ///
    /// # Errors
    /// When it is missing or not valid, or there is no data directory.
    pub(super) fn config_of_spools(&self) -> Result<Config, Failure> {
        let config = self.config_in_force()?;
        if std::fs::metadata(&config.data_dir).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Err(Failure::usage(DirectoryError::Missing { path: config.data_dir }.to_string()));
        }
        Ok(config)
    }
}
