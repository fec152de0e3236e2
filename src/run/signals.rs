//! Signals, and what systemd wants to hear.

use std::{io, sync::Arc};

use rustix::fs::{Mode, OFlags};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

use crate::app::App;

/// The signals that are caught.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// It was started from a terminal, and not told (`nohup`) to outlive it.
    has_terminal: bool,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        // Before the signal is caught: then it is no longer ignored.
        let has_terminal = has_terminal() && !ignores_hangup();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            has_terminal,
        })
    }

    /// Reloads on SIGHUP, returns on SIGTERM or SIGINT, also while a reload waits for a disk or a server; such a reload
    /// goes on. Returns too where SIGHUP says that the terminal is closed from which the process was started: nobody sees
    /// it any more.
    pub(super) async fn until_stopped(&mut self, app: &Arc<App>) {
        let (mut reload, mut asked) = (JoinSet::new(), false);
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => {
                    if self.has_terminal && !has_terminal() {
                        tracing::info!("the terminal is closed: stopping (`nohup` or a service manager lets it run on)");
                        break;
                    }
                    asked = true;
                }
                Some(_) = reload.join_next() => {}
            }
            // One that is asked for during a reload waits, and reads the file once more.
            if asked && reload.is_empty() {
                asked = false;
                reload.spawn(reload_and_tell(Arc::clone(app)));
            }
        }
        reload.detach_all();
    }

    /// Returns when the process is told to stop: before it took records, or once more.
    pub(super) async fn stop_again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Whether the process belongs to a terminal; one that was closed is none.
fn has_terminal() -> bool {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/tty", flags, Mode::empty()).is_ok()
}

/// Whether the process was started with SIGHUP ignored, as `nohup` does.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 != 0))
}

/// Keeps systemd's watchdog quiet for as long as tasks are run at all.
pub(super) async fn keep_watchdog_quiet() {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return };
    let mut alive = tokio::time::interval(timeout / 3);
    loop {
        alive.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// Tells systemd that records are taken.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

async fn reload_and_tell(app: Arc<App>) {
    reloading();
    // What came of it is logged.
    let _ = app.reload().await;
    if !app.stopping().is_cancelled() {
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
