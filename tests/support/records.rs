//! Records to send: LiveKit's real ones from tests/data, and copies of them under ids of the test's own.

use std::{collections::BTreeSet, fs, path::Path};

use livekit_protocol::{AnalyticsEvent, AnalyticsStat};
use prost::Message;

/// The 763 events that a real livekit-server 1.11 sent.
pub fn real_events() -> Vec<AnalyticsEvent> {
    read("livekit-1.11/events.pb")
}

/// The 482 stats that it sent.
pub fn real_stats() -> Vec<AnalyticsStat> {
    read("livekit-1.11/stats.pb")
}

/// Real events without end, the n-th with the id `AE_<prefix>_<n>`.
pub fn numbered_events(prefix: &str) -> impl Iterator<Item = AnalyticsEvent> + use<> {
    let prefix = prefix.to_owned();
    let real = real_events();
    (0..).map(move |n: usize| AnalyticsEvent { id: format!("AE_{prefix}_{n:06}"), ..real[n % real.len()].clone() })
}

/// The ids of events.
pub fn event_ids(events: &[AnalyticsEvent]) -> BTreeSet<String> {
    events.iter().map(|event| event.id.clone()).collect()
}

/// The ids of stats.
pub fn stat_ids(stats: &[AnalyticsStat]) -> BTreeSet<String> {
    stats.iter().map(|stat| stat.id.clone()).collect()
}

/// Reads records that each follow their varint length.
fn read<M: Message + Default>(file: &str) -> Vec<M> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut rest = &bytes[..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        records.push(M::decode_length_delimited(&mut rest).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    }
    records
}
