//! Signals, and what systemd wants to hear.

use std::{io, sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

use super::App;

/// The signals that are caught.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Reloads on SIGHUP, keeps systemd's watchdog quiet, returns on SIGTERM or SIGINT: also while a reload waits for a
    /// disk or a server. Such a reload goes on.
    pub(super) async fn until_stopped(&mut self, app: &Arc<App>) {
        let patience = watchdog();
        let mut alive = tokio::time::interval(patience.map_or(Duration::from_secs(3_600), |patience| patience / 3));
        let mut reload = JoinSet::new();
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                // One that comes meanwhile waits, and reads the file once more.
                _ = self.hangup.recv(), if reload.is_empty() => {
                    reload.spawn(reload_and_tell(Arc::clone(app)));
                }
                Some(_) = reload.join_next() => {}
                _ = alive.tick() => if patience.is_some() {
                    notify(&[NotifyState::Watchdog]);
                },
            }
        }
        reload.detach_all();
    }

    /// Returns when the process is told to stop once more.
    pub(super) async fn stop_again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Tells systemd that records are taken.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

async fn reload_and_tell(app: Arc<App>) {
    reloading();
    // What came of it is logged.
    let _ = app.reload().await;
    if !app.stopping.is_cancelled() {
        notify(&[NotifyState::Ready]);
    }
}

fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// Tells systemd that it stops.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell; that is no error.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
