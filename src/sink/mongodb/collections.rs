//! What exists at the streams' names in the database: only an ordinary collection keeps each record, and keeps it once.

use bson::{Document, doc};
use mongodb::{Database, error::Error};

use super::indexes::is_unavailable;
use crate::record::Stream;

/// Something other than an ordinary collection at a stream's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unusual {
    /// The stream.
    pub(super) stream: Stream,
    /// False: nothing may be sent there.
    pub(super) is_suitable: bool,
    /// What it is, and the remedy.
    pub(super) message: String,
}

/// Checks the collections of these streams. If the server does not say what they are (missing rights, or no support for
/// listing), the result is empty.
///
/// # Errors
/// When the server cannot be reached.
pub(super) async fn unusual_collections(database: &Database, streams: &[Stream]) -> Result<Vec<Unusual>, Error> {
    let names: Vec<&str> = streams.iter().map(|stream| stream.as_str()).collect();
    let command = doc! { "listCollections": 1, "filter": { "name": { "$in": names } } };
    let answer = match database.run_command(command).await {
        Ok(answer) => answer,
        Err(error) if is_unavailable(&error) => return Err(error),
        Err(_) => return Ok(Vec::new()),
    };
    let listed = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let listed = listed.map(Vec::as_slice).unwrap_or_default().iter().filter_map(|entry| entry.as_document());
    Ok(listed.filter_map(|entry| judge(database.name(), streams, entry)).collect())
}

/// The meaning of an entry of `listCollections`: `{ name, type, options: { capped, timeseries, viewOn, … }, … }`.
fn judge(database: &str, streams: &[Stream], entry: &Document) -> Option<Unusual> {
    let name = entry.get_str("name").ok()?;
    let stream = *streams.iter().find(|stream| stream.as_str() == name)?;
    let options = entry.get_document("options").ok();
    let has = |key: &str| options.is_some_and(|options| options.contains_key(key));
    let is_a = |kind: &str| entry.get_str("type").is_ok_and(|of| of == kind);
    let remedy = "drop or rename it, or let `database` name another one";
    let (is_suitable, what) = if is_a("timeseries") || has("timeseries") {
        let what =
            "is a time-series collection, which has no unique _id: a record that is sent again would be stored twice";
        (false, format!("{what}; {remedy}"))
    } else if is_a("view") || has("viewOn") {
        (false, format!("is a view, which accepts no documents; {remedy}"))
    } else if options.is_some_and(|options| options.get_bool("capped").unwrap_or(false)) {
        let what = "is a capped collection: when it is full MongoDB removes its oldest documents, before they expire";
        (true, format!("{what}, and an outage's records with them; convert it to an ordinary one"))
    } else {
        return None;
    };
    Some(Unusual { stream, is_suitable, message: format!("{database}.{name} {what}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ordinary_collection_is_not_unusual() {
        let judge = |kind: &str, options: Document| {
            let entry = doc! { "name": "events", "type": kind, "options": options, "info": { "readOnly": false } };
            judge("openvidu", &Stream::ALL, &entry).map(|unusual| (unusual.is_suitable, unusual.message))
        };
        assert_eq!(judge("collection", doc! {}), None);
        assert_eq!(judge("collection", doc! { "validator": { "a": 1 }, "capped": false }), None);
        for (kind, options, suits, text) in [
            ("timeseries", doc! { "timeseries": { "timeField": "time" } }, false, "twice"),
            ("collection", doc! { "timeseries": { "timeField": "time" } }, false, "twice"),
            ("view", doc! { "viewOn": "other", "pipeline": [] }, false, "is a view"),
            ("collection", doc! { "capped": true, "size": 4096 }, true, "is a capped collection"),
        ] {
            let (is_suitable, message) = judge(kind, options).expect(kind);
            assert_eq!(is_suitable, suits, "{kind}");
            assert!(message.starts_with("openvidu.events ") && message.contains(text), "{message}");
        }
        let other = doc! { "name": "mine", "type": "view", "options": {} };
        assert_eq!(super::judge("openvidu", &Stream::ALL, &other), None);
    }
}
