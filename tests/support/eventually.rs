//! Waiting for what must happen.
#![allow(unreachable_pub, reason = "the ingest tests name it as a module of their own")]

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// How long a test waits for what must happen before it fails: generous, since machines under test are slow.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// Polls until `done` says so.
///
/// # Panics
/// After [`TIMEOUT`], saying what did not happen.
pub async fn eventually<F>(what: &str, mut done: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let deadline = Instant::now() + TIMEOUT;
    while !done().await {
        assert!(Instant::now() < deadline, "still not after {TIMEOUT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
