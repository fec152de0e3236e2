//! `indexes`: compares the indexes of each database sink with those it should have.

use std::sync::Arc;

use mongodb::{
    bson::{Document, doc},
    error::{Error, ErrorKind},
};
use serde::Serialize;

use super::{Common, Exit, Failure, Outcome, block_on, output};
use crate::{
    app::NoSuchSink,
    config::{SinkConfig, Target},
    document::{self, Encoder},
    record::Stream,
    sink::{
        mongodb::{MongoOptions, MongoSink, unusual_collections},
        redis::RedisOptions,
    },
};

/// MongoDB's error code for a collection that does not exist (yet).
const NAMESPACE_NOT_FOUND: i32 = 26;

/// Arguments of `indexes`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the sink [default: all that have indexes]
    sink: Option<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    sink: String,
    collection: String,
    index: String,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// It does not exist: it is created when the sink is reached next.
    Missing,
    /// It exists with other options.
    Differs,
    /// It is not one of livekit-spool's.
    Extra,
}

pub(super) fn run(common: &Common, args: &Args) -> Outcome {
    let config = common.config_in_force()?;
    let chosen: Vec<&SinkConfig> =
        config.sinks.iter().filter(|sink| args.sink.as_ref().is_none_or(|name| *name == sink.name.as_str())).collect();
    if let (true, Some(name)) = (chosen.is_empty(), &args.sink) {
        let names = config.sinks.iter().map(|sink| sink.name.to_string()).collect();
        return Err(Failure::usage(NoSuchSink { name: name.clone(), names }.to_string()));
    }
    let rows = std::sync::Mutex::new(Vec::new());
    let encoder = Arc::new(Encoder::new(config.documents.clone()));
    block_on(async {
        for sink in chosen {
            let found = match &sink.target {
                Target::Mongodb(options) => of_mongodb(sink, options, &encoder).await,
                Target::Redis(options) => of_redis(sink, options).await,
                Target::File(_) => Ok(Vec::new()),
            };
            let found = found.map_err(|reason| Failure::from(format!("sink {}: {reason}", sink.name)))?;
            rows.lock().map_err(|_| "listing was aborted")?.extend(found);
        }
        Ok(())
    })?;
    let rows = rows.into_inner().map_err(|_| "listing was aborted")?;
    if common.json {
        output::json(&rows)?;
    } else if rows.is_empty() {
        output::line("no sink has indexes")?;
    } else {
        show(&rows)?;
    }
    match rows.iter().filter(|row| matches!(row.state, State::Missing | State::Differs)).count() {
        0 => Ok(()),
        wrong => Err(Failure::new(Exit::Partial, format!("{wrong} indexes are missing or differ"))),
    }
}

fn show(rows: &[Row]) -> Outcome {
    let mut table = output::table(&["sink", "collection", "index", "state", "detail"]);
    for row in rows {
        let state = match row.state {
            State::Ok => "ok",
            State::Missing => "missing",
            State::Differs => "differs",
            State::Extra => "extra",
        };
        let detail = row.detail.clone().unwrap_or_default();
        let cells = [row.sink.clone(), row.collection.clone(), row.index.clone(), state.to_owned(), detail];
        output::add_row(&mut table, cells);
    }
    output::print_table(&table)
}

async fn of_mongodb(sink: &SinkConfig, options: &MongoOptions, encoder: &Arc<Encoder>) -> Result<Vec<Row>, String> {
    // Connects like delivery does, so that errors have the same texts.
    let reached = MongoSink::new(options.clone(), Arc::clone(encoder)).map_err(|error| error.to_string())?;
    let failed = |error: Error| reached.driver_error(&error).to_string();
    let database = reached.client().await.map_err(failed)?.database(&options.database);
    let mut rows = Vec::new();
    let unusual = unusual_collections(&database, &options.streams).await.map_err(failed)?;
    for &stream in &options.streams {
        if let Some(unusual) = unusual.iter().find(|unusual| unusual.stream == stream) {
            let (sink, collection) = (sink.name.to_string(), stream.to_string());
            let (index, detail) = ("(collection)".to_owned(), Some(unusual.message.clone()));
            rows.push(Row { sink, collection, index, state: State::Differs, detail });
            if !unusual.is_suitable {
                continue;
            }
        }
        let listed = database.run_command(doc! { "listIndexes": stream.as_str() }).await;
        let present: Vec<Document> = match listed {
            Ok(answer) => answer
                .get_document("cursor")
                .and_then(|cursor| cursor.get_array("firstBatch"))
                .map(|batch| batch.iter().filter_map(|index| index.as_document().cloned()).collect())
                .unwrap_or_default(),
            Err(error) => match error.kind.as_ref() {
                ErrorKind::Command(answer) if answer.code == NAMESPACE_NOT_FOUND => Vec::new(),
                _ => return Err(failed(error)),
            },
        };
        rows.extend(compare(sink, stream, options.expiration.is_some(), &present));
    }
    Ok(rows)
}

fn compare(sink: &SinkConfig, stream: Stream, expires: bool, present: &[Document]) -> Vec<Row> {
    let row = |index: &str, state, detail| Row {
        sink: sink.name.to_string(),
        collection: stream.to_string(),
        index: index.to_owned(),
        state,
        detail,
    };
    let key_of = |index: &Document| {
        index.get_document("key").map(|key| key.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default()
    };
    let wanted: Vec<_> =
        document::indexes(stream).iter().filter(|index| expires || index.expire_after_seconds.is_none()).collect();
    let mut rows: Vec<Row> = wanted
        .iter()
        .map(|index| {
            let Some(found) = present.iter().find(|found| key_of(found) == index.field) else {
                let detail = "livekit-spool creates it within two minutes while it runs and reaches the sink; if it cannot, \
                              its log says why";
                return row(&index.name(), State::Missing, Some(detail.to_owned()));
            };
            let seconds = found
                .get_i32("expireAfterSeconds")
                .ok()
                .or_else(|| found.get_i64("expireAfterSeconds").ok().and_then(|seconds| i32::try_from(seconds).ok()));
            let seconds = seconds.or_else(|| found.get_f64("expireAfterSeconds").ok().map(|seconds| seconds as i32));
            if seconds == index.expire_after_seconds {
                row(&index.name(), State::Ok, None)
            } else {
                let shown = |seconds: Option<i32>| seconds.map_or("none".to_owned(), |seconds| seconds.to_string());
                let detail = format!(
                    "expireAfterSeconds is {}, should be {}: drop the index; it is created again within two minutes",
                    shown(seconds),
                    shown(index.expire_after_seconds)
                );
                row(&index.name(), State::Differs, Some(detail))
            }
        })
        .collect();
    let is_ours = |index: &Document| {
        let key = key_of(index);
        key == "_id" || wanted.iter().any(|wanted| wanted.field == key)
    };
    rows.extend(
        present
            .iter()
            .filter(|index| !is_ours(index))
            .map(|index| row(index.get_str("name").unwrap_or_default(), State::Extra, Some(key_of(index)))),
    );
    rows
}

async fn of_redis(sink: &SinkConfig, options: &RedisOptions) -> Result<Vec<Row>, String> {
    let failed = |error: redis::RedisError| format!("{}: {error}", sink.target.address());
    let client = redis::Client::open(options.url.as_str()).map_err(|_| "the url cannot be used".to_owned())?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
    let present: Vec<String> = match redis::cmd("FT._LIST").query_async(&mut connection).await {
        Ok(present) => present,
        Err(error) if error.to_string().to_ascii_lowercase().contains("unknown command") => {
            return Err(format!("{} has no RediSearch, and so no indexes", sink.target.address()));
        }
        Err(error) => return Err(failed(error)),
    };
    let rows = options.streams.iter().flat_map(|&stream| {
        let present = &present;
        crate::sink::redis::index_names(stream).into_iter().map(move |index| {
            let state = if present.contains(&index) { State::Ok } else { State::Missing };
            Row { sink: sink.name.to_string(), collection: stream.to_string(), index, state, detail: None }
        })
    });
    Ok(rows.collect())
}
