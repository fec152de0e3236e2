//! A spool's threads: two that append, and the maintenance. They end when the owner calls [`Threads::stop`].

use std::{io, sync::Arc, thread::JoinHandle};

use super::{appending, maintenance::Maintenance, shared::Shared};

#[derive(Debug)]
pub(super) struct Threads {
    appenders: [JoinHandle<()>; 2],
    maintenance: JoinHandle<()>,
}

impl Threads {
    pub(super) fn start(shared: &Arc<Shared>, maintenance: Maintenance) -> io::Result<Self> {
        let appender = || {
            let shared = Arc::clone(shared);
            spawn("spool-append", move || appending::run(&shared))
        };
        let appenders = [appender()?, appender()?];
        let maintained = Arc::clone(shared);
        let maintenance = spawn("spool-maintain", move || maintenance.run(&maintained))?;
        shared.maintenance.wake();
        Ok(Self { appenders, maintenance })
    }

    /// Ends appending, then the maintenance, whose last round includes everything.
    pub(super) fn stop(self, shared: &Shared) {
        let Self { appenders, maintenance } = self;
        shared.inbox.lock().closing = true;
        shared.mail.notify_all();
        for thread in appenders {
            if thread.join().is_err() {
                shared.reports.error("a thread that appends panicked".to_owned());
            }
        }
        // No thread is left to answer them.
        shared.inbox.lock().clear();
        shared.maintenance.state.lock().closing = true;
        shared.maintenance.condition.notify_one();
        if maintenance.join().is_err() {
            shared.reports.error("the maintenance panicked".to_owned());
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}
