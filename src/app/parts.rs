//! The tasks that have to run as long as the process does: the servers, the monitoring of states. A task that ends by itself
//! (a thread cannot be started, a bug) is not restarted: the process becomes not ready and exits, so that the service
//! manager restarts it.

use std::{fmt::Display, future::Future, panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt, TryFutureExt, future::BoxFuture};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{catch_panic, tasks};

/// Records which part ended first.
#[derive(Debug)]
pub(super) struct Parts(watch::Sender<Option<String>>);

impl Parts {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(None)))
    }

    /// Runs a part until it ends. Only while the process stops is its end expected.
    pub(super) fn run<E: Display>(
        self: &Arc<Self>,
        name: &'static str,
        stopping: CancellationToken,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> JoinHandle<()> {
        let part = part.map_err(|error| error.to_string()).boxed();
        tasks::spawn(Arc::clone(self).watch(name, stopping, part))
    }

    async fn watch(
        self: Arc<Self>,
        name: &'static str,
        stopping: CancellationToken,
        part: BoxFuture<'static, Result<(), String>>,
    ) {
        let why = match AssertUnwindSafe(part).catch_unwind().await {
            Ok(Ok(())) if stopping.is_cancelled() => return,
            Ok(Ok(())) => "unexpectedly".to_owned(),
            Ok(Err(error)) => error,
            Err(panic) => catch_panic::message(&*panic),
        };
        let ended = format!("{name} has ended: {why}");
        tracing::error!("{ended}");
        // The first one is the cause; later ones are usually its consequences.
        self.0.send_if_modified(|first| first.is_none() && first.replace(ended).is_none());
    }

    /// Which part has ended, and why.
    pub(super) fn ended(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Returns once a part has ended.
    pub(super) async fn one_ended(&self) -> String {
        let mut ended = self.0.subscribe();
        loop {
            if let Some(why) = ended.borrow_and_update().clone() {
                return why;
            }
            if ended.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    async fn end_of(part: impl Future<Output = io::Result<()>> + Send + 'static, stopping: bool) -> Option<String> {
        let (parts, token) = (Parts::new(), CancellationToken::new());
        if stopping {
            token.cancel();
        }
        parts.run("the server", token, part).await.expect("panics are caught");
        match parts.ended() {
            Some(_) => Some(parts.one_ended().await),
            None => None,
        }
    }

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_reported_however_it_ended() {
        let no_thread = async { Err(io::Error::other("no thread")) };
        assert_eq!(end_of(no_thread, false).await.unwrap(), "the server has ended: no thread");
        assert_eq!(end_of(async { Ok(()) }, false).await.unwrap(), "the server has ended: unexpectedly");
        let bug = async { panic!("a bug") };
        assert_eq!(end_of(bug, false).await.unwrap(), "the server has ended: a bug");
        assert_eq!(end_of(async { Ok(()) }, true).await, None, "its end is expected while the process stops");
    }

    #[tokio::test]
    async fn the_first_is_the_cause() {
        let parts = Parts::new();
        for error in ["first", "second"] {
            let part = async move { Err(error) };
            parts.run("it", CancellationToken::new(), part).await.unwrap();
        }
        assert_eq!(parts.one_ended().await, "it has ended: first");
    }
}
