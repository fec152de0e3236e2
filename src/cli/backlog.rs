//! `backlog`: the backlog, state and last error of each sink; the same figures for a running and a stopped process.

use std::time::Duration;

use super::{Common, Failure, Outcome, block_on, client::Client, output};
use crate::{
    app::{self, NoSuchSink},
    config::{
        Config,
        units::{human_count, human_duration, human_size},
    },
    printable::one_line,
    status::{SinkState, SinkStatus, Snapshot},
    tasks,
};

/// Less is not worth a word: reserved space, and the queue's files.
const NOTICEABLE_BYTES: u64 = 1 << 20;

/// Arguments of `backlog`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show a live screen; with --json, print a line of JSON per second
    #[arg(long, short)]
    watch: bool,
}

impl Args {
    /// Whether the live screen is requested.
    pub(super) const fn is_screen(&self, common: &Common) -> bool {
        self.watch && !common.json
    }
}

pub(super) fn run(common: &Common, args: &Args) -> Outcome {
    // `--watch` can be started before the first `run`, when there is no data directory.
    let config = if args.watch { common.config_in_force()? } else { common.config_of_spools()? };
    block_on(async {
        match (args.watch, common.json) {
            (false, true) => output::json(&snapshot(&config).await?),
            (false, false) => show(&snapshot(&config).await?),
            (true, _) => {
                while output::line_while_read(serde_json::to_string(&snapshot(&config).await?)?)? {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Ok(())
            }
        }
    })
}

/// A snapshot of now: from the running process, else from the directories.
pub(super) async fn snapshot(config: &Config) -> Result<Snapshot, Failure> {
    match Client::find(&config.data_dir).await? {
        Some(client) => client.get("status").await,
        None => {
            let config = config.clone();
            Ok(tasks::run_blocking(move || app::of_stopped(&config)).await??)
        }
    }
}

/// The sink with this name, or an error that names the sinks that exist.
pub(super) fn sink_of<'s>(snapshot: &'s Snapshot, name: &str) -> Result<&'s SinkStatus, Failure> {
    snapshot.sink(name).ok_or_else(|| {
        let names = snapshot.sinks.iter().map(|sink| sink.name.clone()).collect();
        Failure::usage(NoSuchSink { name: name.to_owned(), names }.to_string())
    })
}

fn show(snapshot: &Snapshot) -> Outcome {
    let mut table = output::table(&["sink", "stream", ">records", ">blocks", ">on disk", ">oldest", ">dead"]);
    for sink in &snapshot.sinks {
        for (i, (stream, figures)) in sink.streams.iter().enumerate() {
            let cells = [
                if i == 0 { sink.name.clone() } else { String::new() },
                stream.to_string(),
                human_count(figures.records),
                human_count(figures.blocks),
                human_size(figures.bytes),
                age(figures.oldest_age_seconds),
                human_count(figures.dead_letters),
            ];
            output::add_row(&mut table, cells);
        }
    }
    output::print_table(&table)?;
    for sink in &snapshot.sinks {
        output::line(format!("\n{}", headline(sink)))?;
        for line in remarks(sink) {
            output::line(format!("  {}", one_line(&line)))?;
        }
    }
    let disk = format!("{} free of {}", human_size(snapshot.disk.free_bytes), human_size(snapshot.disk.total_bytes));
    output::line(format!("\n{}: {disk}", snapshot.data_dir))?;
    if snapshot.process.is_none() {
        output::line("No livekit-spool process uses it.")?;
    }
    Ok(())
}

fn headline(sink: &SinkStatus) -> String {
    let to = [sink.kind.as_deref(), sink.address.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let since = match (sink.since, sink.state) {
        (Some(since), state) if state != SinkState::Idle && state != SinkState::Delivering => {
            format!(" since {}", humantime::format_rfc3339_seconds(time(since)))
        }
        _ => String::new(),
    };
    let arrow = if to.is_empty() { String::new() } else { format!(" → {to}") };
    format!("{}{arrow}: {}{since}", sink.name, sink.state.as_str())
}

fn remarks(sink: &SinkStatus) -> Vec<String> {
    let mut lines = Vec::new();
    let quota = if sink.max_bytes > 0 { format!(" of {}", human_size(sink.max_bytes)) } else { String::new() };
    let spent = spent(sink).map(|bytes| format!(", {} of it delivered or reserved", human_size(bytes)));
    lines.push(format!("on disk {}{quota}{}", human_size(sink.disk_bytes), spent.unwrap_or_default()));
    if let Some(delivery) = &sink.delivery {
        let empty_in = match delivery.empty_in_seconds {
            Some(seconds) if sink.records > 0 && sink.state != SinkState::Idle => {
                format!(", empty in {}", age(Some(seconds)))
            }
            _ => String::new(),
        };
        lines.push(format!("in {:.0}/s, out {:.0}/s{empty_in}", delivery.rate_in, delivery.rate_out));
    }
    for (stream, figures) in &sink.streams {
        for (reason, records) in &figures.dropped {
            lines.push(format!("dropped of {stream}: {} ({reason})", human_count(*records)));
        }
    }
    if sink.delivery.is_some() && sink.queue_on_disk == Some(false) {
        let failures = sink.queue_failures;
        lines.push(format!(
            "the queue is in memory (its files failed {failures} times): if the process is killed, records are delivered \
             again"
        ));
    }
    lines.extend(sink.unread_error.clone());
    lines.extend(sink.unread_dead_letters.clone());
    lines.extend(sink.spool_error.clone());
    if let Some(error) = &sink.last_error {
        let at = sink.last_error_at.map(|at| format!(" ({})", humantime::format_rfc3339_seconds(time(at))));
        lines.push(format!("last error: {error}{}", at.unwrap_or_default()));
    }
    lines.extend(sink.advice.iter().map(|advice| format!("→ {advice}")));
    lines
}

/// The bytes on disk that hold neither waiting records nor dead letters, if that is a noticeable part: a segment is
/// deleted as a whole, and has space reserved.
fn spent(sink: &SinkStatus) -> Option<u64> {
    let waiting: u64 = sink.streams.values().map(|figures| figures.bytes).sum();
    let spent = sink.disk_bytes.saturating_sub(waiting + sink.dead_letter_bytes);
    (spent >= NOTICEABLE_BYTES && spent > sink.disk_bytes / 8).then_some(spent)
}

/// An age, or a dash if there is none.
pub(super) fn age(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "–".to_owned(), |seconds| human_duration(Duration::from_secs(seconds as u64)))
}

/// A wall-clock time as the standard library's type.
pub(super) fn time(millis: i64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}
