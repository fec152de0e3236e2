//! What a call that was answered OK did not keep, and in which sink: the only OK that does not mean "kept".
//!
//! A sink drops records of such a call if its spool is full and `when_full` is `drop_newest`, or if it is optional and its
//! spool refused its copy. The answer says so, as far as it is known by then:
//!
//! - HTTP: `"dropped": {"SINK": {"records": 3, "reason": "…"}}` in the JSON; absent if nothing was dropped;
//! - gRPC: the trailers `livekit-spool-dropped: SINK=3` and `livekit-spool-dropped-reason: SINK: …`, one of each per sink.

use std::{collections::BTreeMap, fmt};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tonic::metadata::MetadataMap;

use crate::{record::SinkName, spool::FullLimit};

const RECORDS: &str = "livekit-spool-dropped";
const REASON: &str = "livekit-spool-dropped-reason";

/// Records that were not kept although the call was answered OK, by sink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Dropped(BTreeMap<SinkName, DroppedRecords>);

/// The answer to accepted records, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// How many records came in.
    pub records: u64,
    /// Those of them that were not kept.
    #[serde(default, skip_serializing_if = "Dropped::is_empty")]
    pub dropped: Dropped,
}

/// What one sink did not keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedRecords {
    /// How many.
    pub records: u64,
    /// Why; the latest reason.
    pub reason: String,
}

impl Dropped {
    /// Adds what a sink dropped.
    pub fn add(&mut self, sink: &SinkName, records: u64, reason: impl Into<String>) {
        let dropped = self.0.entry(sink.clone()).or_default();
        dropped.records += records;
        dropped.reason = reason.into();
    }

    /// Adds what another call dropped.
    pub fn merge(&mut self, other: Self) {
        other.0.into_iter().for_each(|(sink, dropped)| self.add(&sink, dropped.records, dropped.reason));
    }

    /// True if everything was kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each sink that dropped something.
    pub fn iter(&self) -> impl Iterator<Item = (&SinkName, &DroppedRecords)> {
        self.0.iter()
    }

    /// The trailers of a gRPC answer that report it.
    pub(super) fn add_trailers(&self, trailers: &mut HeaderMap) {
        // A message of the operating system may hold any character; a trailer holds ASCII.
        let ascii = |text: String| text.replace(|c: char| !(' '..='~').contains(&c), "?");
        for (sink, dropped) in &self.0 {
            for (name, text) in [
                (RECORDS, format!("{sink}={}", dropped.records)),
                (REASON, ascii(format!("{sink}: {}", dropped.reason))),
            ] {
                if let Ok(value) = HeaderValue::try_from(text) {
                    trailers.append(HeaderName::from_static(name), value);
                }
            }
        }
    }

    /// Reads the trailers of a gRPC answer; other trailers are ignored.
    pub(super) fn of_trailers(trailers: &MetadataMap) -> Self {
        let texts = |name: &'static str| trailers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let mut dropped = Self::default();
        for (sink, records) in texts(RECORDS).filter_map(|text| text.split_once('=')) {
            if let (Ok(sink), Ok(records)) = (SinkName::new(sink), records.parse()) {
                let reason = texts(REASON).find_map(|text| text.strip_prefix(sink.as_str())?.strip_prefix(": "));
                dropped.add(&sink, records, reason.unwrap_or_default());
            }
        }
        dropped
    }
}

/// `3 by sink files: its spool is full …; 2 by sink …`
impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (sink, dropped)) in self.0.iter().enumerate() {
            let separator = if i > 0 { "; " } else { "" };
            write!(f, "{separator}{} by sink {sink}: {}", dropped.records, dropped.reason)?;
        }
        Ok(())
    }
}

/// Why a full spool that drops the newest records did not keep them.
pub(crate) fn drops_newest(limit: FullLimit) -> String {
    format!("its spool is full ({limit}), and when_full is drop_newest")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(name: &str) -> SinkName {
        SinkName::new(name).unwrap()
    }

    #[test]
    fn trailers_report_what_was_dropped_where_and_why() {
        let mut dropped = Dropped::default();
        dropped.add(&sink("a"), 3, "its spool is full");
        dropped.add(&sink("b-2"), 1, "ungültig\nand more");
        dropped.add(&sink("a"), 2, "its spool is full: a=7");
        let mut trailers = HeaderMap::new();
        dropped.add_trailers(&mut trailers);
        let read = Dropped::of_trailers(&MetadataMap::from_headers(trailers));
        assert_eq!(read.to_string(), "5 by sink a: its spool is full: a=7; 1 by sink b-2: ung?ltig?and more");
    }

    #[test]
    fn an_answer_without_such_trailers_dropped_nothing() {
        let mut trailers = HeaderMap::new();
        Dropped::default().add_trailers(&mut trailers);
        assert!(trailers.is_empty());
        trailers.insert(RECORDS, HeaderValue::from_static("no count"));
        assert!(Dropped::of_trailers(&MetadataMap::from_headers(trailers)).is_empty());
    }
}
