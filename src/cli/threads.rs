//! Checks that a command can start the threads it needs. The runtime and libraries panic or hang if the system refuses a
//! thread. This check makes it an error before anything has begun: it starts as many threads as are needed at once, and ends
//! them.

use std::{
    fs,
    pin::Pin,
    thread::{self, available_parallelism},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::signal::unix::SignalKind;

use super::outcome::{Exit, Failure, Outcome};
use crate::{config::Config, ingest::CONVERSION_THREADS};

/// To read a configuration: MongoDB's URIs are parsed on a thread of their own.
pub(super) const TO_READ: usize = 1;
/// Of the runtime, besides one for each processor: one for blocking work, one in reserve.
const MORE: usize = 2;
/// The log's thread.
const LOG: usize = 1;
/// sled starts this many for all of its databases together, and waits forever without them.
const QUEUES: usize = 7;
/// Per spool: two that append, one for maintenance, one that opens the spool, and one that flushes its queue.
const A_SINK: usize = 5;
/// Stack size: the checking threads only wait.
const STACK: usize = 64 * 1024;
/// How long the system can still count a thread that has ended.
const COUNTED: Duration = Duration::from_millis(200);

/// The threads that every command starts with.
pub(super) fn of_command() -> usize {
    available_parallelism().map_or(1, usize::from) + MORE
}

/// The threads that `run` needs to start and to accept records.
pub(super) fn of_run(config: &Config) -> usize {
    let servers = [&config.ingest.grpc.listen, &config.ingest.http.listen].into_iter().flatten().count();
    of_command() + LOG + QUEUES + config.sinks.len() * A_SINK + servers * CONVERSION_THREADS
}

/// Runs an asynchronous command.
pub(super) fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    run(Box::pin(command))
}

fn run(command: Pin<Box<dyn Future<Output = Outcome> + '_>>) -> Outcome {
    ensure(of_command())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        // With a handler, a file larger than `ulimit -f` allows is an error of that write (EFBIG) and does not end the
        // process.
        let _caught = tokio::signal::unix::signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
        command.await
    });
    // Not shut down: a thread that waits for a disk must not delay the exit, and blocking work that has not begun must not
    // be cancelled, which the tasks that wait for it would report as an error.
    std::mem::forget(runtime);
    outcome
}

/// Starts this many threads at once, then ends them.
pub(super) fn ensure(needed: usize) -> Outcome {
    let before = count();
    let release = Mutex::new(());
    thread::scope(|scope| {
        let _held = release.lock();
        for given in 0..needed {
            let started = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || drop(release.lock()));
            if let Err(error) = started {
                let message = format!(
                    "could start only {given} of the {needed} threads that this needs ({error}): raise `ulimit -u` \
                     (systemd: LimitNPROC), systemd's TasksMax or the container's pids limit"
                );
                return Err(Failure::new(Exit::Failed, message));
            }
        }
        Ok(())
    })?;
    // They have ended, but the system may still count them.
    let pause = Duration::from_millis(1);
    for _ in 0..COUNTED.as_millis() / pause.as_millis() {
        if count() <= before {
            break;
        }
        thread::sleep(pause);
    }
    Ok(())
}

/// Number of this process's threads; 0 if unknown.
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
    fn as_many_threads_as_exist_are_no_error() {
        ensure(of_command()).unwrap();
    }
}
