//! `drain`: deliver all that waits, and exit. `purge`: remove it.

use std::{
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
    status::{SinkStatus, Snapshot},
};

const LOOK: Duration = Duration::from_millis(200);

/// Arguments of `drain`.
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    /// The sink [default: all]
    sink: Option<String>,
    /// Give up after this long (exit code 4): 30s, 5m
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse_duration(text))]
    timeout: Option<Duration>,
}

/// Arguments of `purge`.
#[derive(Debug, clap::Args)]
pub struct PurgeArgs {
    /// The sink
    sink: String,
    /// Its dead letters too
    #[arg(long)]
    dead: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(super) fn drain(common: &Common, args: &DrainArgs) -> Outcome {
    let config = common.load_config()?;
    block_on(async {
        let mut meter = Meter::new();
        let is_empty = match Client::find(&config.data_dir).await? {
            Some(client) => drain_running(&client, args, &mut meter).await?,
            None => {
                let stopped = Stopped::open(config)?;
                stopped.drain(args.sink.as_deref(), args.timeout, |sinks| meter.show(sinks)).await?
            }
        };
        meter.end(common, is_empty)
    })
}

async fn drain_running(client: &Client, args: &DrainArgs, meter: &mut Meter) -> Result<bool, Failure> {
    let begun = Instant::now();
    let mut is_first = true;
    loop {
        let snapshot: Snapshot = client.get("status").await?;
        let chosen = |sink: &SinkStatus| args.sink.as_ref().is_none_or(|name| *name == sink.name) && sink.configured;
        let sinks: Vec<SinkStatus> = snapshot.sinks.into_iter().filter(chosen).collect();
        if let (true, Some(name)) = (sinks.is_empty(), &args.sink) {
            return Err(Failure::usage(format!("there is no sink {name:?}")));
        }
        if is_first {
            for sink in &sinks {
                let _: Value = client.post(&format!("sinks/{}/flush", encoded(&sink.name))).await?;
            }
            is_first = false;
        }
        meter.show(&sinks);
        if sinks.iter().all(|sink| sink.records == 0) {
            return Ok(true);
        }
        if args.timeout.is_some_and(|timeout| begun.elapsed() >= timeout) {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Shows how far a drain is.
struct Meter {
    bar: ProgressBar,
    begun: Instant,
    first: Option<u64>,
    left: u64,
    error: Option<String>,
}

impl Meter {
    fn new() -> Self {
        Self { bar: ProgressBar::new(0), begun: Instant::now(), first: None, left: 0, error: None }
    }

    fn show(&mut self, sinks: &[SinkStatus]) {
        self.left = sinks.iter().map(|sink| sink.records).sum();
        let first = *self.first.get_or_insert_with(|| {
            if let Ok(style) = ProgressStyle::with_template("{bar:24} {human_pos}/{human_len} {msg}") {
                self.bar.set_style(style);
            }
            self.left
        });
        // Records may still come in while it drains.
        let total = first.max(self.left);
        let done = total - self.left;
        let seconds = self.begun.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let left = if rate > 0.0 {
            format!(", {} left", human_duration(Duration::from_secs((self.left as f64 / rate) as u64)))
        } else {
            String::new()
        };
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.error = sinks
            .iter()
            .filter(|sink| sink.state.is_trouble())
            .find_map(|sink| Some(format!("{}: {}", sink.name, sink.last_error.as_ref()?)));
        let trouble = self.error.as_ref().map(|error| format!("; {error}")).unwrap_or_default();
        self.bar.set_message(format!("{rate:.0}/s{left}{trouble}"));
    }

    fn end(self, common: &Common, is_empty: bool) -> Outcome {
        self.bar.finish_and_clear();
        let delivered = self.first.unwrap_or_default().saturating_sub(self.left);
        if common.json {
            output::json(&json!({
                "drained": is_empty,
                "records": delivered,
                "left": self.left,
                "seconds": self.begun.elapsed().as_secs_f64(),
                "error": self.error,
            }))?;
        } else if is_empty {
            let took = human_duration(self.begun.elapsed());
            output::line(format!("drained: {} records in {took}", human_count(delivered)))?;
        }
        if is_empty {
            return Ok(());
        }
        let why = self.error.map(|error| format!(" ({error})")).unwrap_or_default();
        Err(Failure::new(Exit::Partial, format!("out of time: {} records are left{why}", human_count(self.left))))
    }
}

pub(super) fn purge(common: &Common, args: &PurgeArgs) -> Outcome {
    let config = common.load_config()?;
    block_on(async {
        let snapshot = backlog::snapshot(&config).await?;
        let sink = snapshot.sink(&args.sink).ok_or_else(|| {
            let names: Vec<&str> = snapshot.sinks.iter().map(|sink| sink.name.as_str()).collect();
            Failure::usage(format!("there is no sink {:?}; there are {}", args.sink, names.join(", ")))
        })?;
        if !args.yes && !confirmed(sink, args)? {
            return Err(Failure::new(Exit::Failed, "nothing was removed"));
        }
        let removed: Removed = match Client::find(&config.data_dir).await? {
            Some(client) => client.post(&format!("sinks/{}/purge?dead={}", encoded(&args.sink), args.dead)).await?,
            None => Stopped::open(config.clone())?.purge(&args.sink, args.dead).await?,
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
        ))
    })
}

fn confirmed(sink: &SinkStatus, args: &PurgeArgs) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "purge removes records for good: there is no terminal to ask on, so it needs --yes",
        ));
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
