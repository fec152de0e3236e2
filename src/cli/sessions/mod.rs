//! `sessions`: what calls were like, from what a sink has stored. It reads the sink's destination itself, whether livekit-spool
//! runs or not.

mod chart;
mod list;
mod show;
mod source;
mod usage;

use super::{Common, Outcome, block_on};

/// Arguments of `sessions`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: list::ListArgs,
}

const EXAMPLES: &str = "\
Sessions are read from the first sink of type mongodb, postgresql or file, or from the one that
--sink names. A session is final 3.5 minutes after its end: some records arrive late.

Examples:
  livekit-spool sessions --since 2h --worst       the worst calls of the last two hours
  livekit-spool sessions --room 'acme-*' -n 10    the last ten of rooms named acme-…
  livekit-spool sessions show RM_AsAriw3HaLMK     one session in detail
  livekit-spool sessions usage --since 2026-11-01 --until 2026-12-01 --by - --csv > usage.csv";

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show a session: participants on a timeline, tracks with their quality, what stands out
    Show(show::ShowArgs),
    /// Add up minutes and bytes by day, for all rooms or by the prefix of their names
    Usage(usage::UsageArgs),
}

pub(super) fn run(common: &Common, args: &Args) -> Outcome {
    match &args.action {
        None => block_on(list::list(common, &args.list)),
        Some(Action::Show(args)) => block_on(show::show(common, args)),
        Some(Action::Usage(args)) => block_on(usage::usage(common, args)),
    }
}
