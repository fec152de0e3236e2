//! `drain`: delivers the whole backlog, then exits. `purge`: removes it.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{
    Common, Exit, Failure, Outcome, backlog, block_on,
    client::{Client, encoded},
    output,
};
use crate::{
    app::{Removed, Stopped},
    config::units::{human_count, human_duration, human_size, parse_duration},
    status::{SinkState, SinkStatus, Snapshot},
};

const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// At most this many of the files that a purge left are listed.
const SHOWN: usize = 20;

/// Arguments of `drain`.
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    /// Name of the sink [default: all]
    sink: Option<String>,
    /// Stop after this time (exit code 4): 30s, 5m
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse_duration(text))]
    timeout: Option<Duration>,
}

/// Arguments of `purge`.
#[derive(Debug, clap::Args)]
pub struct PurgeArgs {
    /// Name of the sink
    sink: String,
    /// Remove its dead letters too
    #[arg(long)]
    dead: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

pub(super) fn drain(common: &Common, args: &DrainArgs) -> Outcome {
    let config = common.config_of_spools()?;
    block_on(async {
        let mut meter = Meter::new();
        let inspected = config.clone();
        let is_empty = match Client::find(&config.data_dir).await? {
            Some(client) => drain_running(&client, args, &mut meter).await?,
            None => {
                let stopped = Stopped::open(config).map_err(Failure::operation)?;
                let drained = stopped.drain(args.sink.as_deref(), args.timeout, |sinks| meter.show(sinks));
                drained.await.map_err(Failure::operation)?
            }
        };
        let others = match args.sink {
            Some(_) => Vec::new(),
            None => backlog::snapshot(&inspected)
                .await?
                .sinks
                .into_iter()
                .filter(|sink| !sink.configured && !sink.is_drained())
                .collect(),
        };
        meter.end(common, is_empty, &others)
    })
}

async fn drain_running(client: &Client, args: &DrainArgs, meter: &mut Meter) -> Result<bool, Failure> {
    let begun = Instant::now();
    let mut is_first = true;
    loop {
        let snapshot: Snapshot = client.get("status").await?;
        if let Some(name) = &args.sink {
            let sink = backlog::sink_of(&snapshot, name)?;
            if !sink.configured {
                let message =
                    format!("the configuration does not name the sink {name}: there is no address to deliver to");
                return Err(Failure::usage(message));
            }
        }
        let chosen = |sink: &SinkStatus| args.sink.as_ref().is_none_or(|name| *name == sink.name) && sink.configured;
        let sinks: Vec<SinkStatus> = snapshot.sinks.into_iter().filter(chosen).collect();
        if is_first {
            for sink in &sinks {
                // The drain itself reports a sink that cannot deliver.
                let _: Result<Value, Failure> = client.post(&format!("sinks/{}/flush", encoded(&sink.name))).await;
            }
            is_first = false;
        }
        meter.show(&sinks);
        if sinks.iter().all(|sink| sink.is_drained() && sink.state != SinkState::SpoolFailed) {
            return Ok(true);
        }
        if args.timeout.is_some_and(|timeout| begun.elapsed() >= timeout) {
            return Ok(false);
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// Shows the progress of a drain.
struct Meter {
    bar: ProgressBar,
    begun: Instant,
    first: Option<Dispositions>,
    gone: Dispositions,
    left: u64,
    /// Why records are not delivered, and what to do.
    obstacle: Option<String>,
}

/// The dispositions of records: since their spools were created, or since the drain began.
#[derive(Debug, Clone, Copy, Default)]
struct Dispositions {
    delivered: u64,
    dead_lettered: u64,
}

impl Dispositions {
    fn of(sinks: &[SinkStatus]) -> Self {
        let streams = || sinks.iter().flat_map(|sink| sink.streams.values());
        Self {
            delivered: streams().map(|stream| stream.delivered).sum(),
            dead_lettered: streams().map(|stream| stream.dead_lettered).sum(),
        }
    }
}

impl Meter {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {human_pos}/{human_len} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, begun: Instant::now(), first: None, gone: Dispositions::default(), left: 0, obstacle: None }
    }

    fn show(&mut self, sinks: &[SinkStatus]) {
        let now = Dispositions::of(sinks);
        let first = *self.first.get_or_insert(now);
        self.gone = Dispositions {
            delivered: now.delivered.saturating_sub(first.delivered),
            dead_lettered: now.dead_lettered.saturating_sub(first.dead_lettered),
        };
        self.left = sinks.iter().map(|sink| sink.records).sum();
        self.obstacle =
            sinks.iter().filter(|sink| !sink.is_drained() || sink.state == SinkState::SpoolFailed).find_map(obstacle);
        let done = self.gone.delivered + self.gone.dead_lettered;
        let seconds = self.begun.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let left = if rate > 0.0 {
            format!(", {} left", human_duration(Duration::from_secs((self.left as f64 / rate) as u64)))
        } else {
            String::new()
        };
        // Records can still come in during the drain.
        self.bar.set_length(done + self.left);
        self.bar.set_position(done);
        let obstacle = self.obstacle.as_ref().map(|obstacle| format!("; {obstacle}")).unwrap_or_default();
        self.bar.set_message(format!("{rate:.0}/s{left}{obstacle}"));
    }

    /// `others` are orphaned spools, whose records are not delivered.
    fn end(self, common: &Common, is_empty: bool, others: &[SinkStatus]) -> Outcome {
        self.bar.finish_and_clear();
        if common.json {
            output::json(&json!({
                "drained": is_empty,
                "records": self.gone.delivered,
                "dead_lettered": self.gone.dead_lettered,
                "left": self.left,
                "not_configured": others.iter().map(|sink| (sink.name.clone(), sink.records)).collect::<BTreeMap<_, _>>(),
                "seconds": self.begun.elapsed().as_secs_f64(),
                "error": self.obstacle,
            }))?;
        } else if is_empty {
            let took = human_duration(self.begun.elapsed());
            output::line(format!("drained: {} records in {took}", human_count(self.gone.delivered)))?;
            if self.gone.dead_lettered > 0 {
                let dead_lettered = human_count(self.gone.dead_lettered);
                output::line(format!(
                    "{dead_lettered} were rejected and are dead letters: `livekit-spool dead list SINK` says why"
                ))?;
            }
        }
        if is_empty && others.is_empty() {
            return Ok(());
        }
        if is_empty {
            let others: Vec<_> = others.iter().map(left_of).collect();
            let message = format!(
                "records of sinks that the configuration does not name are left: {}: add the sink again to deliver them, or \
                 remove them with `livekit-spool purge SINK`",
                others.join(", ")
            );
            return Err(Failure::new(Exit::Partial, message));
        }
        let why = self.obstacle.map(|obstacle| format!(" ({obstacle})")).unwrap_or_default();
        Err(Failure::new(Exit::Partial, format!("not drained: {} records are left{why}", human_count(self.left))))
    }
}

/// The backlog of an orphaned spool, as text.
fn left_of(sink: &SinkStatus) -> String {
    let unread = sink.unread_error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
    format!("{} of {}{unread}", human_count(sink.records), sink.name)
}

/// Why a sink's records are not delivered: its error; without one (it is paused), the advice; or that some cannot be read.
fn obstacle(sink: &SinkStatus) -> Option<String> {
    let reason = match sink.state {
        SinkState::Paused => sink.advice.first(),
        state if state.is_failing() => sink.last_error.as_ref(),
        _ => None,
    };
    let is_unread = sink.records == 0 || sink.state == SinkState::SpoolFailed;
    let reason = sink.unread_error.as_ref().filter(|_| is_unread).or(reason);
    Some(format!("{} is {}: {}", sink.name, sink.state.as_str(), reason?))
}

pub(super) fn purge(common: &Common, args: &PurgeArgs) -> Outcome {
    let config = common.config_of_spools()?;
    block_on(async {
        let snapshot = backlog::snapshot(&config).await?;
        let sink = backlog::sink_of(&snapshot, &args.sink)?;
        if !args.yes && !confirmed(sink, args)? {
            return Err(Failure::new(Exit::Failed, "nothing was removed"));
        }
        let removed: Removed = match Client::find(&config.data_dir).await? {
            Some(client) => client.post(&format!("sinks/{}/purge?dead={}", encoded(&args.sink), args.dead)).await?,
            None => {
                let stopped = Stopped::open(config.clone()).map_err(Failure::operation)?;
                stopped.purge(&args.sink, args.dead).await.map_err(Failure::operation)?
            }
        };
        if common.json {
            return output::json(&removed);
        }
        output::line(format!(
            "{}: removed {} records ({}) and {} dead letters",
            args.sink,
            human_count(removed.records),
            human_size(removed.bytes),
            human_count(removed.dead_letters)
        ))?;
        if removed.left.is_empty() {
            return Ok(());
        }
        output::line("kept, because the spool did not create them:")?;
        removed.left.iter().take(SHOWN).try_for_each(|path| output::line(format!("  {path}")))?;
        match removed.left.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => output::line(format!("  and {more} more")),
        }
    })
}

fn confirmed(sink: &SinkStatus, args: &PurgeArgs) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("purge removes records for good: without a terminal to confirm it, give --yes"));
    }
    let dead = if args.dead || !sink.configured {
        format!(" and {} dead letters", human_count(sink.dead_letters))
    } else {
        String::new()
    };
    eprint!("Remove {} undelivered records{dead} of {} for good? [y/N] ", human_count(sink.records), sink.name);
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
