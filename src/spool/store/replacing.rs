//! Replaces a queue that fails: by one in memory, filled from the journal, and by a new sled database when there is
//! space for it.
//!
//! A handle that failed is leaked, because its drop hangs. After a limited number of leaks, a store keeps its queue in
//! memory until the next start.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use super::{Store, queue_directory, rereading};
use crate::{
    files,
    record::instant,
    spool::queue::{QueueFailed, QueueStore, memory::MemoryQueue},
};

/// The most handles that are leaked.
const MAX_LEAKED: u64 = 16;
/// The queue is kept in memory while less than this is free: sled does not survive a failed write.
pub(crate) const QUEUE_SPACE: u64 = 4 << 20;
/// The time between two attempts to put the queue on disk again.
const RESTORE_PERIOD: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

impl Store {
    /// Runs `work` with the queue locked. If the queue fails, it is replaced and `work` runs again: it must not change
    /// anything before its last use of the queue.
    pub(crate) fn with_queue<T>(&self, mut work: impl FnMut(&dyn QueueStore) -> Result<T, QueueFailed>) -> T {
        let mut queue = self.queue.lock();
        loop {
            match work(queue.as_ref()) {
                Ok(result) => return result,
                Err(error) => self.replace(&mut queue, &error),
            }
        }
    }

    /// The same, unless the lock is not free within the timeout.
    pub(crate) fn try_with_queue<T>(
        &self,
        timeout: Duration,
        mut work: impl FnMut(&dyn QueueStore) -> Result<T, QueueFailed>,
    ) -> Option<T> {
        let mut queue = self.queue.try_lock_for(timeout)?;
        loop {
            match work(queue.as_ref()) {
                Ok(result) => return Some(result),
                Err(error) => self.replace(&mut queue, &error),
            }
        }
    }

    pub(super) fn mark_changed(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Runs about once a second: enters published groups, keeps the queue on disk if there is space, flushes it,
    /// retries segments that could not be read, deletes segments that are done. True if records can be delivered now
    /// that could not be read before.
    pub(crate) fn maintain(&self, free: u64) -> bool {
        self.enter();
        if free < QUEUE_SPACE {
            self.keep_in_memory(&format!("{free} bytes are free on the disk"));
        } else if free >= 2 * QUEUE_SPACE && self.queue_is_lost.load(Ordering::Relaxed) {
            let mut restored = self.restored.lock();
            if instant().duration_since(*restored) >= RESTORE_PERIOD {
                *restored = instant();
                drop(restored);
                self.restore_queue();
            }
        }
        self.flush();
        let came_back = self.read_again();
        self.retain();
        came_back
    }

    /// Makes the queue's changes durable, if there are any; waits for a flush that is running.
    pub(crate) fn flush(&self) {
        let _turn = self.flushing.lock();
        if !self.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let (queue, before) = {
            let queue = Arc::clone(&self.queue.lock());
            let state = self.state.lock();
            (queue, state.streams.each_ref().map(|stream| stream.unflushed))
        };
        match queue.flush() {
            Ok(()) => {
                let mut state = self.state.lock();
                for (stream, before) in state.streams.iter_mut().zip(before) {
                    stream.unflushed = stream.unflushed.saturating_sub(before);
                }
            }
            Err(error) => {
                let mut current = self.queue.lock();
                if Arc::ptr_eq(&queue, &current) {
                    self.replace(&mut current, &error);
                }
            }
        }
    }

    /// True if a running flush ends in time.
    pub(crate) fn can_flush(&self, timeout: Duration) -> bool {
        self.flushing.try_lock_for(timeout).is_some()
    }

    /// True if there is something to flush.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Keeps the queue in memory for now, before it fails for lack of space. Its files on disk become outdated, and a
    /// start can still use them.
    fn keep_in_memory(&self, why: &str) {
        let mut queue = self.queue.lock();
        if !queue.is_durable() {
            return;
        }
        match MemoryQueue::copy_of(queue.as_ref()) {
            Ok(in_memory) => {
                let closing = std::mem::replace(&mut *queue, Arc::new(in_memory));
                self.queue_is_lost.store(true, Ordering::Relaxed);
                self.reports.warn(&format!("spool {}: {why}: the queue is kept in memory", self.home.display()));
                let count = Arc::clone(&self.closing_queues);
                count.fetch_add(1, Ordering::Relaxed);
                // Its drop writes, and may hang.
                let close = move || {
                    drop(closing);
                    count.fetch_sub(1, Ordering::Relaxed);
                };
                if let Err(error) = thread::Builder::new().name("spool-queue".to_owned()).spawn(close) {
                    self.reports.error(format!("spool {}: could not close the queue: {error}", self.home.display()));
                }
            }
            Err(error) => self.replace(&mut queue, &error),
        }
    }

    /// Replaces a queue that failed by one in memory.
    fn replace(&self, queue: &mut Arc<dyn QueueStore>, error: &QueueFailed) {
        self.reports.error(format!(
            "spool {}: {error}; the queue is rebuilt from the journal, and recent deliveries may be repeated",
            self.home.display()
        ));
        let in_memory = rereading::fill_from_journal(self);
        let failed = std::mem::replace(queue, Arc::new(in_memory));
        if failed.is_durable() {
            failed.leak();
            self.leaked_queues.fetch_add(1, Ordering::Relaxed);
            self.queue_is_lost.store(true, Ordering::Relaxed);
            if let Err(error) = self.empty_queue_directory() {
                self.reports.error(format!("spool {}: {error}", queue_directory(&self.home).display()));
            }
        }
    }

    /// Closes the queue's files, so that the next open need not wait for the store to be dropped.
    pub(super) fn close_queue(&self) {
        let mut queue = self.queue.lock();
        if let Ok(in_memory) = MemoryQueue::copy_of(queue.as_ref()) {
            *queue = Arc::new(in_memory);
        }
    }

    /// Frees the space of a queue that failed: open handles would keep it, so its files are truncated first.
    fn empty_queue_directory(&self) -> io::Result<()> {
        let directory = queue_directory(&self.home);
        for file in self.disk.list(&directory)? {
            let path = directory.join(file.name);
            match self.disk.open_writable(&path) {
                Ok(file) => file.set_len(0)?,
                Err(error) if files::is_refusal(&error) => {
                    self.disk.remove(&path).or_else(|_| self.disk.remove_directory(&path))?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.disk.remove(&path)?;
        }
        Ok(())
    }

    /// Creates a durable queue again in place of the one in memory.
    fn restore_queue(&self) {
        let handles = self.leaked_queues.load(Ordering::Relaxed) + self.closing_queues.load(Ordering::Relaxed);
        if handles >= MAX_LEAKED || self.queues.spent().is_some() {
            return;
        }
        let mut queue = self.queue.lock();
        let restored = MemoryQueue::copy_of(queue.as_ref()).and_then(|in_memory| {
            self.empty_queue_directory().map_err(|error| QueueFailed(error.to_string()))?;
            let new = self.queues.open(&queue_directory(&self.home))?;
            new.apply(&in_memory.as_change())?;
            Ok(new)
        });
        match restored {
            Ok(new) => {
                *queue = new;
                self.queue_is_lost.store(false, Ordering::Relaxed);
                self.mark_changed();
                self.reports.warn(&format!("spool {}: the queue is on disk again", self.home.display()));
            }
            Err(error) => {
                self.reports.warn(&format!("spool {}: {error}; the queue stays in memory", self.home.display()))
            }
        }
    }
}
