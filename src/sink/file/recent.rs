//! The `_id`s of the last lines: a redelivered record is not written twice.
//!
//! After a crash the queue leases records again that were acknowledged but not flushed. The worker ensures that these are
//! no more than are remembered here, see [`Sink::recognizes`](crate::sink::Sink::recognizes).

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

/// The maximum number of `_id`s that are remembered per stream (about 10 MB).
pub(super) const REMEMBERED: usize = 100_000;

/// A bounded set of recent `_id`s.
#[derive(Debug, Default)]
pub(super) struct RecentIds {
    order: VecDeque<Arc<str>>,
    known: HashSet<Arc<str>>,
}

impl RecentIds {
    pub(super) fn contains(&self, id: &str) -> bool {
        self.known.contains(id)
    }

    /// Remembers an `_id`, and forgets the oldest if there are too many.
    pub(super) fn insert(&mut self, id: &str) {
        let id: Arc<str> = id.into();
        if !self.known.insert(Arc::clone(&id)) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// The `_id` of a line this sink wrote: it is the first field.
pub(super) fn id_of_line(line: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        #[serde(rename = "_id")]
        id: String,
    }
    // The usual id has nothing to unescape and ends at the next quote; the parser is for all others.
    let quick = line.strip_prefix(r#"{"_id":""#).and_then(|rest| rest.split('"').next());
    match quick {
        Some(id) if !id.contains('\\') => Some(id.to_owned()),
        _ => serde_json::from_str::<Line>(line).ok().map(|line| line.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_ids_are_forgotten_first() {
        let mut recent = RecentIds::default();
        for i in 0..REMEMBERED + 10 {
            recent.insert(&i.to_string());
        }
        assert_eq!((recent.order.len(), recent.known.len()), (REMEMBERED, REMEMBERED));
        assert!(!recent.contains("9") && recent.contains("10"));
    }

    #[test]
    fn the_id_of_a_line_is_read_escaped_or_not() {
        assert_eq!(id_of_line(r#"{"_id":"AE_1","type":"x"}"#).as_deref(), Some("AE_1"));
        assert_eq!(id_of_line(r#"{"_id":"a\"b\\c"}"#).as_deref(), Some("a\"b\\c"));
        assert_eq!(id_of_line("{torn"), None);
    }
}
