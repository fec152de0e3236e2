//! The memory limit of records between the network and the disk, shared by all senders.
//!
//! Bytes from the network and decompressed bytes have separate budgets: senders of highly compressed records cannot use up
//! the memory of those who do not compress.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{MemoryOptions, Refusal, Refused};

/// A sender that holds no more than this is served from the reserve, which larger ones cannot use.
const SMALL: usize = 64 * 1024;
/// The reserve is this part of the whole.
const RESERVE_PART: usize = 4;

impl MemoryOptions {
    /// The most that one sender, and so one message or body, can get.
    #[must_use]
    pub const fn largest_share(&self) -> usize {
        self.max_bytes - self.max_bytes / RESERVE_PART
    }

    /// The smallest `max_bytes` with which one sender can get this much.
    #[must_use]
    pub const fn enough_for(share: usize) -> usize {
        (share * RESERVE_PART).div_ceil(RESERVE_PART - 1)
    }
}

/// A budget of bytes; a sender that finds none left waits for a while, then is refused.
#[derive(Debug)]
pub(crate) struct Budget {
    common: Pool,
    reserve: Pool,
    /// The budget for decompressed bytes.
    decompressed: Pool,
    wait: Duration,
}

#[derive(Debug)]
struct Pool {
    free: Arc<Semaphore>,
    max: usize,
}

impl Pool {
    fn new(max: usize) -> Self {
        // acquire_many counts in u32.
        let max = max.min(u32::MAX as usize);
        Self { free: Arc::new(Semaphore::new(max)), max }
    }

    fn try_acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }

    async fn acquire(&self, bytes: usize, wait: Duration) -> Option<OwnedSemaphorePermit> {
        if bytes > self.max {
            return None;
        }
        let acquiring = Arc::clone(&self.free).acquire_many_owned(u32::try_from(bytes).ok()?);
        tokio::time::timeout(wait, acquiring).await.ok()?.ok()
    }

    fn used(&self) -> usize {
        self.max.saturating_sub(self.free.available_permits())
    }
}

impl Budget {
    pub(crate) fn new(options: &MemoryOptions) -> Self {
        let common = options.largest_share();
        let reserve = Pool::new(options.max_bytes - common);
        Self { common: Pool::new(common), reserve, decompressed: Pool::new(common), wait: options.wait }
    }

    /// Adds `bytes` to a share of a sender that holds `held_by_others` besides it. Cancel-safe.
    pub(super) async fn acquire(&self, share: &mut Share, bytes: usize, held_by_others: usize) -> Result<(), Refusal> {
        let is_small = held_by_others + share.bytes() + bytes <= SMALL;
        if is_small && let Some(space) = self.reserve.try_acquire(bytes) {
            share.merge(Share { reserve: Some(space), ..Share::default() });
            return Ok(());
        }
        let space = match self.common.try_acquire(bytes) {
            Some(space) => Some(space),
            None => self.common.acquire(bytes, self.wait).await,
        };
        let space = space.ok_or_else(|| none_left(self.common.max + self.reserve.max))?;
        share.merge(Share { common: Some(space), ..Share::default() });
        Ok(())
    }

    /// Memory for decompressing, at most this much; what is not needed is released afterwards.
    pub(super) async fn for_decompressed(&self, bytes: usize) -> Result<Share, Refusal> {
        if bytes == 0 {
            return Ok(Share::default());
        }
        let space =
            self.decompressed.acquire(bytes, self.wait).await.ok_or_else(|| none_left(self.decompressed.max))?;
        Ok(Share { decompressed: Some(space), ..Share::default() })
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.common.used() + self.reserve.used() + self.decompressed.used()
    }
}

fn none_left(max: usize) -> Refusal {
    let message = format!("no memory left for records that are not yet durable ({max} bytes): try again later");
    Refusal::new(Refused::Memory, message)
}

/// A share of the budget; released when dropped.
#[derive(Debug, Default)]
pub(crate) struct Share {
    common: Option<OwnedSemaphorePermit>,
    reserve: Option<OwnedSemaphorePermit>,
    decompressed: Option<OwnedSemaphorePermit>,
}

impl Share {
    pub(super) fn bytes(&self) -> usize {
        bytes(self.common.as_ref()) + bytes(self.reserve.as_ref()) + bytes(self.decompressed.as_ref())
    }

    /// Merges another share into this one.
    pub(super) fn merge(&mut self, other: Self) {
        merge(&mut self.common, other.common);
        merge(&mut self.reserve, other.reserve);
        merge(&mut self.decompressed, other.decompressed);
    }

    /// Splits off `max` bytes of it (or all, if it is less).
    pub(super) fn split(&mut self, max: usize) -> Self {
        let common = split(&mut self.common, max);
        let rest = max - bytes(common.as_ref());
        let reserve = split(&mut self.reserve, rest);
        let rest = rest - bytes(reserve.as_ref());
        Self { common, reserve, decompressed: split(&mut self.decompressed, rest) }
    }
}

fn bytes(permit: Option<&OwnedSemaphorePermit>) -> usize {
    permit.map_or(0, OwnedSemaphorePermit::num_permits)
}

fn merge(own: &mut Option<OwnedSemaphorePermit>, other: Option<OwnedSemaphorePermit>) {
    match (own.as_mut(), other) {
        (Some(own), Some(other)) => own.merge(other),
        (None, other) => *own = other,
        (Some(_), None) => {}
    }
}

fn split(own: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    own.as_mut().and_then(|own| own.split(bytes.min(own.num_permits())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max_bytes: usize, wait: Duration) -> Budget {
        Budget::new(&MemoryOptions { max_bytes, wait })
    }

    async fn acquired(budget: &Budget, bytes: usize) -> Result<Share, Refusal> {
        let mut share = Share::default();
        budget.acquire(&mut share, bytes, 0).await.map(|()| share)
    }

    #[tokio::test]
    async fn what_is_acquired_is_released_when_it_is_dropped() {
        let budget = budget(1 << 20, Duration::ZERO);
        let mut share = acquired(&budget, 60).await.unwrap();
        budget.acquire(&mut share, 100_000, 0).await.unwrap();
        assert_eq!((share.bytes(), budget.used()), (100_060, 100_060));
        let part = share.split(100_030);
        drop(share);
        assert_eq!((part.bytes(), budget.used()), (100_030, 100_030));
        drop(part);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn who_finds_none_waits_and_is_refused_in_the_end() {
        let budget = budget(1 << 20, Duration::from_millis(1));
        let held = acquired(&budget, 3 << 18).await.unwrap();
        assert_eq!(acquired(&budget, 100_000).await.unwrap_err().reason, Refused::Memory);
        assert_eq!(acquired(&budget, 1 << 20).await.unwrap_err().reason, Refused::Memory);
        drop(held);
        acquired(&budget, 100_000).await.unwrap();
    }

    #[tokio::test]
    async fn who_holds_much_leaves_memory_for_those_who_hold_little() {
        let budget = budget(1 << 20, Duration::from_millis(1));
        let mut greedy = Share::default();
        while budget.acquire(&mut greedy, 10_000, 0).await.is_ok() {}
        assert!(greedy.bytes() > 1 << 19);
        let is_small = [acquired(&budget, SMALL).await, acquired(&budget, SMALL).await];
        assert!(is_small.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn what_is_decompressed_leaves_memory_for_those_who_do_not_compress() {
        let budget = budget(1 << 20, Duration::from_millis(1));
        let decompressed = budget.for_decompressed(3 << 18).await.unwrap();
        assert_eq!(budget.for_decompressed(1).await.unwrap_err().reason, Refused::Memory);
        acquired(&budget, 3 << 18).await.unwrap();
        drop(decompressed);
        let mut space = budget.for_decompressed(1000).await.unwrap();
        let kept = space.split(10);
        drop(space);
        assert_eq!((kept.bytes(), budget.used()), (10, 10));
    }

    #[tokio::test]
    async fn who_waits_gets_what_another_gives_back() {
        let budget = Arc::new(budget(1 << 20, Duration::from_secs(60)));
        let held = acquired(&budget, 3 << 18).await.unwrap();
        let waiter = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { acquired(&budget, 100_000).await.map(|share| share.bytes()) }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert_eq!(waiter.await.unwrap().unwrap(), 100_000);
    }
}
