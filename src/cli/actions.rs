//! `pause`, `resume`, `flush`, `reload`, `ready`: requests to a running process.

use serde_json::{Value, json};

use super::{
    Common, Exit, Failure, Outcome, block_on,
    client::{Client, encoded},
    output,
};
use crate::{app::Reloaded, status::Snapshot};

/// Arguments of the commands for one sink.
#[derive(Debug, clap::Args)]
pub struct SinkArgs {
    /// Name of the sink
    sink: String,
}

/// Asks the running process to perform an action on a sink.
pub(super) fn perform(common: &Common, args: &SinkArgs, action: &'static str) -> Outcome {
    let config = common.config_in_force()?;
    block_on(async {
        let client = Client::need(&config.data_dir).await?;
        let answer: Value = client.post(&format!("sinks/{}/{action}", encoded(&args.sink))).await?;
        if common.json {
            return output::json(&answer);
        }
        output::line(format!("{}: {}", args.sink, answer["message"].as_str().unwrap_or("done")))
    })
}

/// Asks the running process to read its configuration again.
pub(super) fn reload(common: &Common) -> Outcome {
    let config = common.config_in_force()?;
    block_on(async {
        let done: Reloaded = Client::need(&config.data_dir).await?.post("reload").await?;
        let outcome =
            if done.failed.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Partial, done.failed.join("\n"))) };
        if common.json {
            output::json(&done)?;
            return outcome;
        }
        for line in &done.applied {
            output::line(format!("now in force: {line}"))?;
        }
        for line in &done.needs_restart {
            output::line(format!("needs a restart: {line}"))?;
        }
        if done.applied.is_empty() && done.needs_restart.is_empty() && done.failed.is_empty() {
            output::line("nothing has changed")?;
        }
        outcome
    })
}

/// Whether the running process accepts records, for health checks. A sink that accepts none is reported on stderr, and the
/// exit code is still 0: the spool keeps its records.
pub(super) fn ready(common: &Common) -> Outcome {
    let config = common.config_in_force()?;
    block_on(async {
        let snapshot: Snapshot = Client::need(&config.data_dir).await?.get("status").await?;
        let process = snapshot.process.ok_or("the answer does not describe a process")?;
        let blocked = snapshot.sinks.iter().filter(|sink| sink.state.is_failing());
        let blocked =
            blocked.map(|sink| (&sink.name, sink.state.as_str(), sink.last_error.as_deref().unwrap_or_default()));
        if common.json {
            let sinks = blocked.map(|(name, state, error)| json!({ "sink": name, "state": state, "error": error }));
            let sinks: Vec<Value> = sinks.collect();
            output::json(&json!({ "ready": process.ready, "not_ready": process.not_ready, "blocked": sinks }))?;
        } else if process.ready {
            output::line("accepting records")?;
            for (name, state, error) in blocked {
                output::complain(format!("sink {name} is {state}: {error}").trim_end_matches([':', ' ']));
            }
        }
        if process.ready { Ok(()) } else { Err(Failure::from(process.not_ready.join("; "))) }
    })
}
