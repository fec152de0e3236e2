//! Threads that every command needs. The runtime panics where the system gives none, and may hang then; here it is an error.

use std::thread::{self, available_parallelism};

use parking_lot::Mutex;

use super::{Exit, Failure, Outcome};

/// Besides one for each processor: one that may block, one in reserve.
const MORE: usize = 2;

/// Starts as many as a command begins with, all at once, and lets them end.
pub(super) fn ensure() -> Outcome {
    let needed = available_parallelism().map_or(1, usize::from) + MORE;
    let go_on = Mutex::new(());
    thread::scope(|scope| {
        let _held = go_on.lock();
        (0..needed)
            .try_for_each(|_| thread::Builder::new().spawn_scoped(scope, || drop(go_on.lock())).map(drop))
            .map_err(|error| {
                let message = format!(
                    "the system does not give the {needed} threads that a start needs ({error}): raise `ulimit -u`, systemd's \
                     TasksMax or the container's pids limit"
                );
                Failure::new(Exit::Failed, message)
            })
    })
}
