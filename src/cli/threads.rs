//! Threads that a command needs. The runtime and libraries panic where the system gives none, and may hang then; here it is an
//! error, before anything has begun: as many as are needed are started at once, and let go.

use std::{
    fs,
    thread::{self, available_parallelism},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::signal::unix::SignalKind;

use super::outcome::{Exit, Failure, Outcome};
use crate::{config::Config, ingest::CONVERSION_THREADS};

/// To read a configuration: MongoDB's URIs are looked at on one of their own.
pub(super) const TO_READ: usize = 1;
/// Besides one for each processor: one that may block, one in reserve.
const MORE: usize = 2;
/// The log's.
const LOG: usize = 1;
/// sled starts as many for all of its files together, and waits for ever where it has none.
const QUEUES: usize = 7;
/// Two that append, one that keeps things in order; one that opens the spool, and one that its queue is made durable by.
const A_SINK: usize = 5;
/// The thread that waits for the others needs no more.
const STACK: usize = 64 * 1024;
/// So long a thread that has ended may still be counted.
const COUNTED: Duration = Duration::from_millis(200);

/// What every command begins with.
pub(super) fn of_command() -> usize {
    available_parallelism().map_or(1, usize::from) + MORE
}

/// What `run` needs to start and to take records.
pub(super) fn of_run(config: &Config) -> usize {
    let servers = [&config.ingest.grpc.listen, &config.ingest.http.listen].into_iter().flatten().count();
    of_command() + LOG + QUEUES + config.sinks.len() * A_SINK + servers * CONVERSION_THREADS
}

/// Runs a command that waits for sockets and disks.
pub(super) fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    ensure(of_command())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        // Caught, it ends nothing: a file that would be larger than `ulimit -f` allows is an error of that write (EFBIG).
        let _caught = tokio::signal::unix::signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
        command.await
    });
    // A thread that waits for a disk must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// Starts so many, all at once, and lets them end.
pub(super) fn ensure(needed: usize) -> Outcome {
    let before = count();
    let go_on = Mutex::new(());
    thread::scope(|scope| {
        let _held = go_on.lock();
        for given in 0..needed {
            let started = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || drop(go_on.lock()));
            if let Err(error) = started {
                let message = format!(
                    "the system gives {given} of the {needed} threads that this needs ({error}): raise `ulimit -u` (systemd: \
                     LimitNPROC), systemd's TasksMax or the container's pids limit"
                );
                return Err(Failure::new(Exit::Failed, message));
            }
        }
        Ok(())
    })?;
    // They have ended, and the system may not know yet.
    let pause = Duration::from_millis(1);
    for _ in 0..COUNTED.as_millis() / pause.as_millis() {
        if count() <= before {
            break;
        }
        thread::sleep(pause);
    }
    Ok(())
}

/// This process's threads; 0 where that cannot be seen.
fn count() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_run_needs_grows_with_sinks_and_servers() {
        let needed = |text: &str| of_run(&config::parse(Some(("c.yaml", text)), &|_| None).unwrap());
        let one = "sinks: [{ name: a, type: file, path: a }]\n";
        let two = "sinks: [{ name: a, type: file, path: a }, { name: b, type: file, path: b }]\n";
        let no_http = format!("{one}ingest: {{ http: {{ listen: none }} }}\n");
        assert_eq!(needed(two), needed(one) + A_SINK);
        assert_eq!(needed(&no_http), needed(one) - CONVERSION_THREADS);
    }

    #[test]
    fn as_many_as_there_are_is_no_error() {
        ensure(of_command()).unwrap();
    }
}
