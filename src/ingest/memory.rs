//! The memory that records may take up between the network and the disk, shared by all senders.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{MemoryOptions, Refusal, Refused};

/// Bytes that may wait; whoever finds none left waits for a while, then is refused.
#[derive(Debug)]
pub(super) struct Budget {
    free: Arc<Semaphore>,
    max: usize,
    wait: Duration,
}

impl Budget {
    pub(super) fn new(options: &MemoryOptions) -> Self {
        // acquire_many counts in u32
        let max = options.max_bytes.min(u32::MAX as usize);
        Self { free: Arc::new(Semaphore::new(max)), max, wait: options.wait }
    }

    /// Takes room for `bytes`. Cancel-safe.
    pub(super) async fn take(&self, bytes: usize) -> Result<Share, Refusal> {
        let out_of_memory = || {
            Refusal::new(
                Refused::Memory,
                format!("no memory left for records that wait to be durable ({} bytes): try again later", self.max),
            )
        };
        if bytes > self.max {
            return Err(out_of_memory());
        }
        let permits = u32::try_from(bytes).map_err(|_| out_of_memory())?;
        let permit = match Arc::clone(&self.free).try_acquire_many_owned(permits) {
            Ok(permit) => permit,
            Err(_) => tokio::time::timeout(self.wait, Arc::clone(&self.free).acquire_many_owned(permits))
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or_else(out_of_memory)?,
        };
        Ok(Share(Some(permit)))
    }

    /// Bytes taken now.
    pub(super) fn used(&self) -> usize {
        self.max.saturating_sub(self.free.available_permits())
    }
}

/// Room that was taken; given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Share(Option<OwnedSemaphorePermit>);

impl Share {
    pub(super) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Adds another share to this one.
    pub(super) fn merge(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(own), Some(other)) => own.merge(other),
            (own @ None, other) => *own = other,
            (Some(_), None) => {}
        }
    }

    /// Parts with `bytes` of it (or with all, if it is less).
    pub(super) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes());
        Self(self.0.as_mut().and_then(|own| own.split(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max_bytes: usize, wait: Duration) -> Budget {
        Budget::new(&MemoryOptions { max_bytes, wait })
    }

    #[tokio::test]
    async fn what_is_taken_comes_back_when_it_is_dropped() {
        let budget = budget(100, Duration::ZERO);
        let mut share = budget.take(60).await.unwrap();
        share.merge(budget.take(40).await.unwrap());
        assert_eq!((share.bytes(), budget.used()), (100, 100));
        let part = share.split(30);
        drop(share);
        assert_eq!((part.bytes(), budget.used()), (30, 30));
        drop(part);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn who_finds_none_waits_and_is_refused_in_the_end() {
        let budget = budget(10, Duration::from_millis(1));
        let held = budget.take(10).await.unwrap();
        assert_eq!(budget.take(1).await.unwrap_err().reason, Refused::Memory);
        assert_eq!(budget.take(11).await.unwrap_err().reason, Refused::Memory);
        drop(held);
        budget.take(10).await.unwrap();
    }

    #[tokio::test]
    async fn who_waits_gets_what_another_gives_back() {
        let budget = Arc::new(budget(10, Duration::from_secs(60)));
        let held = budget.take(10).await.unwrap();
        let waiter = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.take(5).await.map(|share| share.bytes()) }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert_eq!(waiter.await.unwrap().unwrap(), 5);
    }
}
