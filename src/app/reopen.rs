//! Opens spools again that did not open: in a reload, and periodically if the cause can go away by itself.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;

use super::{App, replace::Reloaded, sinks::Running};
use crate::tasks;

/// How often opening is tried again if the cause can go away by itself.
const OPEN_PERIOD: Duration = Duration::from_secs(30);

impl App {
    /// Opens spools that did not open before, concurrently.
    pub(super) async fn open_again(self: &Arc<Self>, timeout: Duration, done: &mut Reloaded) {
        let sinks = self.sinks.load_full();
        let opened = join_all(sinks.iter().map(|sink| async {
            let why = sink.slot.not_open_now()?;
            let opening = tasks::spawn(Arc::clone(self).open_independently(Arc::clone(sink)));
            let name = &sink.config.name;
            Some(match tokio::time::timeout(timeout, opening).await {
                Ok(Ok(true)) => Ok(format!("sink {name}: its spool is open again")),
                Err(_) => Err(format!("sink {name}: its spool is not open yet: its disk does not answer")),
                Ok(_) => {
                    let why = sink.slot.not_open_now().unwrap_or(why);
                    Err(format!("sink {name}: its spool does not open: {}", why.error))
                }
            })
        }));
        for opened in opened.await.into_iter().flatten() {
            match opened {
                Ok(applied) => done.applied.push(applied),
                Err(failed) => done.failed.push(failed),
            }
        }
    }

    /// Runs until the process stops and opens spools again whose cause can go away by itself; each in its own task, as its
    /// disk may not answer.
    pub(crate) async fn keep_opening(self: Arc<Self>) {
        loop {
            tokio::time::sleep(OPEN_PERIOD).await;
            for sink in self.sinks.load_full().iter() {
                if sink.slot.not_open_now().is_some_and(|why| why.error.is_retryable()) {
                    tasks::spawn(Arc::clone(&self).open_independently(Arc::clone(sink)));
                }
            }
        }
    }

    /// Opens a spool independently of reloads, so that none waits for a disk that does not answer. Returns whether it
    /// opened; logs the result.
    async fn open_independently(self: Arc<Self>, sink: Arc<Running>) -> bool {
        let in_force = async {
            let no_reload = self.reloading.lock().await;
            self.sinks.load().iter().any(|running| Arc::ptr_eq(running, &sink)).then_some(no_reload)
        };
        sink.open_again(self.data_dir(), in_force).await
    }
}
