//! `peek`: shows some records as documents, one per line, without removing any; of a running and a stopped process.

use std::sync::Arc;

use super::{
    Common, Exit, Failure, Outcome, backlog, block_on,
    client::{Client, encoded},
    output,
};
use crate::{
    app::{self, NoSuchSink},
    config::Config,
    document::Encoder,
    inspect::{self, Condition, Inspected, Query},
    record::{SinkName, Stream},
    status::Snapshot,
    tasks,
};

/// Arguments of `peek`.
#[derive(Debug, clap::Args)]
pub struct PeekArgs {
    /// Name of the sink
    sink: String,
    /// events, stats or node_rooms [default: all, one after another]
    stream: Option<Stream>,
    /// Maximum number of records
    #[arg(short, value_name = "N", default_value_t = 10)]
    n: usize,
    /// Show the newest first instead of the oldest
    #[arg(long)]
    newest: bool,
    /// Only records whose document has this value at this path: room.name=lobby; can be given several times
    #[arg(long = "where", value_name = "FIELD=VALUE")]
    conditions: Vec<Condition>,
}

pub(super) fn peek(common: &Common, args: &PeekArgs) -> Outcome {
    let config = common.config_of_spools()?;
    let query = Query {
        streams: args.stream.map_or_else(|| Stream::ALL.to_vec(), |stream| vec![stream]),
        newest: args.newest,
        limit: Some(args.n),
        filters: args.conditions.clone(),
        ..Query::default()
    };
    let json = common.json;
    block_on(async {
        let unread = each(&config, &args.sink, query, move |inspected| {
            // With --json the stream, sequence number and receive time are printed too.
            let text = match (&inspected.document, json) {
                (Some(document), false) => document.get().to_owned(),
                _ => serde_json::to_string(&inspected)?,
            };
            output::line_while_read(text)
        })
        .await?;
        unread.map_or(Ok(()), |error| Err(Failure::new(Exit::Partial, error)))
    })
}

/// A line of the process's answer; if the rest cannot be read, the last line says why.
fn record(line: &[u8]) -> Result<Inspected, Failure> {
    #[derive(serde::Deserialize)]
    struct Failed {
        failed: String,
    }
    match serde_json::from_slice::<Failed>(line) {
        Ok(Failed { failed }) => Err(Failure::from(failed)),
        Err(_) => Ok(serde_json::from_slice(line)?),
    }
}

/// Reads records, from the running process or the directory, until `each` returns false. Returns which segments could not be
/// read, if any: their records are missing.
pub(super) async fn each(
    config: &Config,
    sink: &str,
    query: Query,
    mut each: impl FnMut(Inspected) -> Result<bool, Failure> + Send + 'static,
) -> Result<Option<String>, Failure> {
    if let Some(client) = Client::find(&config.data_dir).await? {
        // The set of unreadable segments can have changed during the read.
        let before = unread_error(&client, sink).await?;
        let path = format!("sinks/{}/records?{}", encoded(sink), parameters(&query));
        client.lines(&path, |line| each(record(line)?)).await?;
        return Ok(before.or(unread_error(&client, sink).await?));
    }
    let Some(name) = stopped_spool(config, sink)? else { return Ok(None) };
    let source = app::look_at(config, &name).await?;
    let encoder = Arc::new(Encoder::new(config.documents.clone()));
    tasks::run_blocking(move || {
        let mut failed = None;
        inspect::inspect(&source, &encoder, &query, &|| false, &mut |inspected| match each(inspected) {
            Ok(more) => more,
            Err(failure) => {
                failed = Some(failure);
                false
            }
        })?;
        failed.map_or_else(|| Ok(source.contents().status().unread_error), Err)
    })
    .await?
}

async fn unread_error(client: &Client, sink: &str) -> Result<Option<String>, Failure> {
    let snapshot: Snapshot = client.get("status").await?;
    Ok(backlog::sink_of(&snapshot, sink)?.unread_error.clone())
}

/// A sink's spool in the directory; `None` if the configuration names the sink and it has had no record yet.
pub(super) fn stopped_spool(config: &Config, sink: &str) -> Result<Option<SinkName>, Failure> {
    let name = SinkName::new(sink).map_err(|error| Failure::usage(error.to_string()))?;
    let mut there = app::spools_in(&config.data_dir)?;
    if there.contains(&name) {
        return Ok(Some(name));
    }
    if config.sinks.iter().any(|configured| configured.name == name) {
        return Ok(None);
    }
    there.extend(config.sinks.iter().map(|sink| sink.name.clone()));
    there.sort();
    there.dedup();
    let names = there.iter().map(ToString::to_string).collect();
    Err(Failure::usage(NoSuchSink { name: sink.to_owned(), names }.to_string()))
}

fn parameters(query: &Query) -> String {
    let mut parts = vec![format!("newest={}", query.newest), format!("raw={}", query.raw)];
    if let [stream] = query.streams[..] {
        parts.push(format!("stream={stream}"));
    }
    parts.extend(query.limit.map(|limit| format!("n={limit}")));
    if !query.from.is_empty() {
        let from: Vec<String> = query.from.iter().map(|(stream, seq)| format!("{stream}:{seq}")).collect();
        parts.push(format!("from={}", encoded(&from.join(","))));
    }
    if !query.filters.is_empty() {
        let lines: Vec<String> = query.filters.iter().map(ToString::to_string).collect();
        parts.push(format!("where={}", encoded(&lines.join("\n"))));
    }
    parts.join("&")
}
