//! `sessions usage`: minutes and bytes by day.

use serde_json::json;

use super::source::{RangeArgs, SourceArgs, bar, is_whole, of_rooms, print_csv};
use crate::{
    archive::each_session,
    cli::{Common, Outcome, output},
    config::units::{human_count, human_size},
    csv,
    session::{Grouping, Usage},
};

/// The most sessions that are added up.
const MAX_SESSIONS: usize = 1_000_000;

#[derive(Debug, clap::Args)]
pub(super) struct UsageArgs {
    #[command(flatten)]
    range: RangeArgs,
    /// Only rooms with this prefix, added up by it; can be given several times
    #[arg(long, value_name = "PREFIX")]
    prefix: Vec<String>,
    /// Add up rooms whose names are the same before the first occurrence of this character
    #[arg(long, value_name = "CHARACTER", conflicts_with = "prefix")]
    by: Option<char>,
    #[command(flatten)]
    source: SourceArgs,
}

pub(super) async fn usage(common: &Common, args: &UsageArgs) -> Outcome {
    let archive = args.source.open(common)?;
    let (now, mut query) = args.range.query()?;
    let grouping = match (&args.prefix[..], args.by) {
        (_, Some(separator)) => Grouping::Separator(separator),
        ([], None) => Grouping::All,
        (prefixes, None) => Grouping::Prefixes(prefixes.to_vec()),
    };
    if let [prefix] = &args.prefix[..] {
        of_rooms(&mut query, Some(&format!("{prefix}*")));
    }
    let mut usage = Usage::new(grouping, query.from, query.to);
    let bar = bar();
    let progress = |read: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(read as u64);
    };
    let limits = args.source.limits(MAX_SESSIONS);
    let read = each_session(&*archive, &query, &limits, now, &progress, &mut |session| usage.add(session)).await;
    bar.finish_and_clear();
    let (read, rows) = (read?, usage.rows());
    if args.source.csv {
        print_csv(csv::of_usage(&rows))?;
    } else if common.json {
        output::json(&json!({
            "usage": rows,
            "complete_from": read.complete_from,
            "cut": read.cut,
            "unread": read.unread,
        }))?;
    } else if rows.is_empty() {
        output::line(format!("no sessions from {} to {} in {}", query.from, query.to, archive.address()))?;
    } else {
        let mut table = output::table(&["day", "prefix", ">sessions", ">connections", ">minutes", ">in", ">out"]);
        for row in &rows {
            let cells = [
                row.day.clone(),
                row.prefix.clone(),
                human_count(row.sessions as u64),
                human_count(row.connections),
                format!("{:.1}", row.connection_minutes),
                human_size(row.bytes_in),
                human_size(row.bytes_out),
            ];
            output::add_row(&mut table, cells);
        }
        output::print_table(&table)?;
    }
    is_whole(&read)
}
