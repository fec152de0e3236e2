//! Failpoints: `LIVEKIT_SPOOL_FAILPOINT=block_written:abort` ends the process, as kill -9 would, the first time a named
//! step is reached; `block_written:abort:5` the fifth time. They are compiled only with debug assertions: release
//! builds have none.

/// The steps that can be named.
pub const NAMES: [&str; 15] = [
    "block_written",
    "block_synced",
    "segment_roll",
    "segment_delete",
    "segment_deleted",
    "queue_change",
    "queue_flush",
    "queue_flushed",
    "replay",
    "replay_block",
    "replayed",
    "dead_write",
    "dead_written",
    "dead_noted",
    "dead_delete",
];

/// Marks a step.
#[cfg(debug_assertions)]
pub(crate) fn reach(name: &'static str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };
    static ARMED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    debug_assert!(NAMES.contains(&name), "failpoint {name} is not listed");
    let armed = ARMED.get_or_init(|| {
        let value = std::env::var("LIVEKIT_SPOOL_FAILPOINT").ok()?;
        let mut parts = value.split(':');
        let (name, action) = (parts.next()?, parts.next()?);
        let nth = parts.next().map_or(Some(1), |nth| nth.parse().ok())?;
        (action == "abort").then(|| (name.to_owned(), AtomicU64::new(nth)))
    });
    if let Some((armed, left)) = armed
        && armed == name
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

/// Marks a step.
#[cfg(not(debug_assertions))]
pub(crate) fn reach(_name: &'static str) {}
