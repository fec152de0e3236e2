//! The parts that have to run for as long as the process does: the servers, the watch over states. One that ends by itself
//! (a thread that cannot be started, a bug) is not brought back: the process is not ready any more, and ends, so that
//! whoever looks after it starts it again.

use std::{fmt::Display, future::Future, panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::catch_panic;

/// What has become of the parts.
#[derive(Debug)]
pub(super) struct Parts(watch::Sender<Option<String>>);

impl Parts {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(None)))
    }

    /// Runs a part until it ends, which it may once the process is stopping.
    pub(super) fn run<E: Display>(
        self: &Arc<Self>,
        name: &'static str,
        stopping: CancellationToken,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> JoinHandle<()> {
        let parts = Arc::clone(self);
        tokio::spawn(async move {
            let why = match AssertUnwindSafe(part).catch_unwind().await {
                Ok(Ok(())) if stopping.is_cancelled() => return,
                Ok(Ok(())) => "nobody told it to".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => catch_panic::message(&*panic),
            };
            let ended = format!("{name} has ended: {why}");
            tracing::error!("{ended}");
            // The first is the cause.
            parts.0.send_if_modified(|first| first.is_none() && first.replace(ended).is_none());
        })
    }

    /// Which one has ended, and why.
    pub(super) fn ended(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Returns once one has.
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
        parts.run("the server", token, part).await.expect("no panic comes through");
        match parts.ended() {
            Some(_) => Some(parts.one_ended().await),
            None => None,
        }
    }

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_told_of_however_it_ended() {
        let no_thread = async { Err(io::Error::other("no thread")) };
        assert_eq!(end_of(no_thread, false).await.unwrap(), "the server has ended: no thread");
        assert_eq!(end_of(async { Ok(()) }, false).await.unwrap(), "the server has ended: nobody told it to");
        let bug = async { panic!("a bug") };
        assert_eq!(end_of(bug, false).await.unwrap(), "the server has ended: a bug");
        assert_eq!(end_of(async { Ok(()) }, true).await, None, "at the end of the process it may");
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
