//! The indexes of the collections, compared with those that they should have.

use std::sync::Arc;

use mongodb::{
    bson::{Document, doc},
    error::{Error, ErrorKind},
};

use super::{MongoOptions, MongoSink, unusual_collections};
use crate::{
    document::{self, Encoder},
    record::Stream,
    sink::{IndexState, IndexStatus},
};

/// MongoDB's error code for a collection that does not exist (yet).
const NAMESPACE_NOT_FOUND: i32 = 26;

/// The indexes of the collections, compared with what the server lists.
pub(super) async fn compare(options: &MongoOptions, encoder: &Arc<Encoder>) -> Result<Vec<IndexStatus>, String> {
    // Connects like delivery does, so that errors have the same texts.
    let reached = MongoSink::new(options.clone(), Arc::clone(encoder)).map_err(|error| error.to_string())?;
    let failed = |error: Error| reached.driver_error(&error).to_string();
    let database = reached.client().await.map_err(failed)?.database(&options.database);
    let mut rows = Vec::new();
    let unusual = unusual_collections(&database, &options.streams).await.map_err(failed)?;
    for &stream in &options.streams {
        if let Some(unusual) = unusual.iter().find(|unusual| unusual.stream == stream) {
            let detail = Some(unusual.message.clone());
            rows.push(row(stream, "(collection)", IndexState::Differs, detail));
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
        rows.extend(of_collection(stream, options.expiration.is_some(), &present));
    }
    Ok(rows)
}

fn row(stream: Stream, index: &str, state: IndexState, detail: Option<String>) -> IndexStatus {
    IndexStatus { collection: stream.to_string(), index: index.to_owned(), state, detail }
}

fn of_collection(stream: Stream, expires: bool, present: &[Document]) -> Vec<IndexStatus> {
    let key_of = |index: &Document| {
        index.get_document("key").map(|key| key.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default()
    };
    let wanted: Vec<_> =
        document::indexes(stream).iter().filter(|index| expires || index.expire_after_seconds.is_none()).collect();
    let mut rows: Vec<IndexStatus> = wanted
        .iter()
        .map(|index| {
            let Some(found) = present.iter().find(|found| key_of(found) == index.fields.join(", ")) else {
                let detail = "livekit-spool creates it within two minutes while it runs and reaches the sink; if it cannot, \
                              its log says why";
                return row(stream, &index.name(), IndexState::Missing, Some(detail.to_owned()));
            };
            let seconds = found
                .get_i32("expireAfterSeconds")
                .ok()
                .or_else(|| found.get_i64("expireAfterSeconds").ok().and_then(|seconds| i32::try_from(seconds).ok()));
            let seconds = seconds.or_else(|| found.get_f64("expireAfterSeconds").ok().map(|seconds| seconds as i32));
            if seconds == index.expire_after_seconds {
                row(stream, &index.name(), IndexState::Ok, None)
            } else {
                let shown = |seconds: Option<i32>| seconds.map_or("none".to_owned(), |seconds| seconds.to_string());
                let detail = format!(
                    "expireAfterSeconds is {}, should be {}: drop the index; it is created again within two minutes",
                    shown(seconds),
                    shown(index.expire_after_seconds)
                );
                row(stream, &index.name(), IndexState::Differs, Some(detail))
            }
        })
        .collect();
    let is_ours = |index: &Document| {
        let key = key_of(index);
        key == "_id" || wanted.iter().any(|wanted| wanted.fields.join(", ") == key)
    };
    rows.extend(
        present.iter().filter(|index| !is_ours(index)).map(|index| {
            row(stream, index.get_str("name").unwrap_or_default(), IndexState::Extra, Some(key_of(index)))
        }),
    );
    rows
}
