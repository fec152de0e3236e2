//! A worker's handle: its figures, and its commands.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    FlushOptions, FlushStatus, SinkState, backoff,
    context::Context,
    environment::Environment,
    status::{Meters, Shared},
    worker::{Command, Loop},
};
use crate::{
    catch_panic,
    record::{SinkName, Stream},
    sink::Sink,
    spool::Queue,
    tasks,
};

/// A sink's worker.
#[derive(Debug)]
pub struct Worker;

impl Worker {
    /// Starts a sink's worker on the current runtime. It runs until `shutdown` is cancelled and the last flush is over;
    /// [`Handle::stopped`] waits for that.
    #[must_use]
    pub fn spawn(
        name: &SinkName,
        queue: Arc<dyn Queue>,
        sink: Arc<dyn Sink>,
        options: FlushOptions,
        shutdown: CancellationToken,
    ) -> Handle {
        Self::spawn_in(Environment::of_the_system(), name, queue, sink, options, shutdown)
    }

    /// Starts a sink's worker in a given environment. A simulation does so on a current-thread runtime with a paused clock.
    pub(crate) fn spawn_in(
        environment: Environment,
        name: &SinkName,
        queue: Arc<dyn Queue>,
        sink: Arc<dyn Sink>,
        options: FlushOptions,
        shutdown: CancellationToken,
    ) -> Handle {
        let shared = Arc::new(Shared::new(environment.clone(), name.as_str(), sink.kind(), sink.address()));
        let meters = Arc::new(Meters::default());
        let context = Context::new(environment, queue, sink, &options, Arc::clone(&meters));
        let (commands, received) = unbounded_channel();
        let task = tasks::spawn(run(context, options, Arc::clone(&shared), received, shutdown));
        Handle { shared, meters, commands, task }
    }
}

/// Runs the loop, and restarts it after a panic; the new loop leases everything that was in flight again. Without a
/// worker, a sink would look as if it had nothing to do.
async fn run(
    context: Context,
    options: FlushOptions,
    shared: Arc<Shared>,
    mut commands: UnboundedReceiver<Command>,
    shutdown: CancellationToken,
) {
    let mut panics = 0;
    loop {
        let paused = shared.snapshot().state == SinkState::Paused;
        let flushing = Loop::new(context.clone(), options.clone(), Arc::clone(&shared), paused);
        let run = flushing.run(&mut commands, shutdown.clone());
        let Err(panic) = AssertUnwindSafe(run).catch_unwind().await else { return };
        for stream in Stream::ALL {
            context.queue.release(stream, &[0..u64::MAX]);
        }
        panics += 1;
        let error = format!("the sink's worker panicked and was restarted: {}", catch_panic::message(&*panic));
        if shutdown.is_cancelled() {
            shared.enter(SinkState::Stopped, Some(&error));
            return;
        }
        shared.enter(SinkState::Unavailable, Some(&error));
        tokio::time::sleep(backoff::pause(options.backoff, panics, 1.0)).await;
    }
}

/// A running worker, which keeps running when the handle is dropped.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    meters: Arc<Meters>,
    commands: UnboundedSender<Command>,
    task: JoinHandle<()>,
}

impl Handle {
    /// Records that the worker has in memory.
    #[cfg(test)]
    pub(super) fn in_memory(&self) -> usize {
        self.shared.in_memory.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Its current figures.
    #[must_use]
    pub fn status(&self) -> FlushStatus {
        let mut status = self.shared.snapshot();
        status.figures.latency = self.meters.latency.snapshot();
        status.figures.batch_sizes = self.meters.batch_records.snapshot();
        status
    }

    /// Stops leasing records; batches in flight are completed.
    pub fn pause(&self) {
        self.send(Command::Pause);
    }

    /// Leases records again, and ends a pause.
    pub fn resume(&self) {
        self.send(Command::Resume);
    }

    /// Sends the backlog now, even if no batch is full, and ends a pause.
    pub fn flush_now(&self) {
        self.send(Command::FlushNow);
    }

    /// Returns when the worker has ended.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(sink = %self.shared.snapshot().sink, %error, "the sink's worker failed");
        }
    }

    fn send(&self, command: Command) {
        // A worker that has ended has nothing to pause or flush.
        let _ = self.commands.send(command);
    }
}
