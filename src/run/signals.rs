//! Signals, and notifications to systemd.

use std::{io, sync::Arc};

use rustix::fs::{Mode, OFlags};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

use crate::app::App;

/// The signals that the process handles.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// It was started from a terminal without `nohup`, so it ends with the terminal.
    has_terminal: bool,
}

/// The handler of SIGHUP. It is installed before anything else: a reload that is requested then must not end the process.
#[derive(Debug)]
pub struct Hangup {
    signal: Signal,
    has_terminal: bool,
}

impl Hangup {
    /// Installs the handler. A SIGHUP that comes before the process accepts records is handled then.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn catch() -> io::Result<Self> {
        // Before the handler is installed: afterwards the signal is no longer ignored.
        let has_terminal = has_terminal() && !ignores_hangup();
        // The handler is the process's and stays when this runtime is gone.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _entered = runtime.enter();
        Ok(Self { signal: signal(SignalKind::hangup())?, has_terminal })
    }
}

impl Signals {
    pub(super) fn new(hangup: Hangup) -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: hangup.signal,
            has_terminal: hangup.has_terminal,
        })
    }

    /// Reloads on SIGHUP, returns on SIGTERM or SIGINT, also while a reload waits for a disk or a server; that reload
    /// continues. Also returns on a SIGHUP that means that the process's terminal was closed.
    pub(super) async fn until_stopped(&mut self, app: &Arc<App>) {
        let (mut reload, mut asked) = (JoinSet::new(), false);
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => {
                    if self.has_terminal && !has_terminal() {
                        tracing::info!("the terminal was closed: stopping (use `nohup` or a service manager to keep it \
                                        running)");
                        break;
                    }
                    asked = true;
                }
                Some(_) = reload.join_next() => {}
            }
            // A SIGHUP during a reload starts another one after it, which reads the file again.
            if asked && reload.is_empty() {
                asked = false;
                reload.spawn(reload_and_tell(Arc::clone(app)));
            }
        }
        reload.detach_all();
    }

    /// Returns on a stop signal: during the start, or a second one during the stop.
    pub(super) async fn stop_again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Whether the process belongs to an open terminal.
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

/// Notifies systemd's watchdog as long as the runtime runs tasks.
pub(super) async fn keep_watchdog_quiet() {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return };
    let mut alive = tokio::time::interval(timeout / 3);
    loop {
        alive.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// Tells systemd that records are accepted.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

async fn reload_and_tell(app: Arc<App>) {
    reloading();
    // The reload logs its own result.
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

/// Tells systemd that the process stops.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is no socket, which is not an error.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "could not notify systemd");
    }
}
