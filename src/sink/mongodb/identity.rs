//! Detects whether the server may have changed since it was set up, from its heartbeats and answers.
//!
//! A server that was unavailable, another process, another replica set or another primary may have lost what the sink
//! created there. So may one that refuses what it accepted before. Each of these is a doubt, and causes one check.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
};

use bson::{Bson, Document};
use mongodb::event::sdam::SdamEvent;
use parking_lot::Mutex;

/// Fields of the answers to `hello` and `insert` that identify a server.
const IDENTIFYING: [&str; 3] = ["setName", "electionId", "me"];

/// What is known of the servers.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// The last identity of each server, by address or by another source.
    seen: Mutex<HashMap<String, HashMap<&'static str, Bson>>>,
    /// Addresses whose last heartbeat failed.
    failing: Mutex<HashSet<String>>,
    doubts: AtomicU64,
    /// The number of doubts that were resolved.
    cleared: AtomicU64,
}

impl Identity {
    pub(super) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubts() > self.cleared.load(Ordering::Relaxed)
    }

    /// Doubts so far.
    pub(super) fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Relaxed)
    }

    /// A check that began at this number of doubts has succeeded: later doubts remain. If the check is cancelled, all
    /// remain.
    pub(super) fn believe(&self, doubts: u64) {
        self.cleared.fetch_max(doubts, Ordering::Relaxed);
    }

    /// Receives what the driver's monitors see.
    pub(super) fn observe(&self, event: &SdamEvent) {
        match event {
            SdamEvent::ServerHeartbeatSucceeded(event) => {
                let who = event.server_address.to_string();
                if self.failing.lock().remove(&who) {
                    self.doubt();
                }
                self.says(&who, &event.reply);
            }
            SdamEvent::ServerHeartbeatFailed(event) => {
                self.failing.lock().insert(event.server_address.to_string());
            }
            _ => {}
        }
    }

    /// A server's answer; a doubt if it differs from the one before.
    pub(super) fn says(&self, who: &str, answer: &Document) {
        let mut seen = self.seen.lock();
        let seen = seen.entry(who.to_owned()).or_default();
        let process = answer.get_document("topologyVersion").ok().and_then(|version| version.get("processId"));
        let identifying = IDENTIFYING.iter().filter_map(|&key| Some((key, answer.get(key)?)));
        for (key, value) in identifying.chain(process.map(|process| ("processId", process))) {
            if seen.get(key) == Some(value) {
                continue;
            }
            if seen.insert(key, value.clone()).is_some() {
                self.doubt();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::{doc, oid::ObjectId};

    use super::*;

    #[test]
    fn another_process_set_or_primary_is_a_doubt_and_the_same_again_is_none() {
        let (one, other) = (ObjectId::from_bytes([1; 12]), ObjectId::from_bytes([2; 12]));
        let hello = |process, election, set: &str| {
            doc! { "ok": 1, "setName": set, "electionId": election, "topologyVersion": { "processId": process, "counter": 6_i64 } }
        };
        let first = hello(one, one, "rs");
        for changed in [hello(other, one, "rs"), hello(one, other, "rs"), hello(one, one, "other")] {
            let identity = Identity::default();
            identity.says("a:1", &first);
            identity.says("b:1", &changed);
            identity.says("a:1", &first);
            identity.says("a:1", &doc! { "ok": 1 });
            assert!(!identity.is_doubted(), "each by itself");
            identity.says("a:1", &changed);
            assert!(identity.is_doubted());
            identity.believe(identity.doubts());
            identity.says("a:1", &changed);
            assert!(!identity.is_doubted());
        }
    }

    #[test]
    fn a_check_resolves_the_doubts_before_it_and_none_that_came_meanwhile() {
        let identity = Identity::default();
        identity.doubt();
        let before = identity.doubts();
        assert!(identity.is_doubted(), "also during a check, which may be cancelled");
        identity.doubt();
        identity.believe(before);
        assert!(identity.is_doubted());
        identity.believe(identity.doubts());
        assert!(!identity.is_doubted());
    }
}
