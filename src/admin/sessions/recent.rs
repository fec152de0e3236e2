//! Answers of the last seconds: the same request again, or at the same time, reads nothing.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::OnceCell, time::Instant};

/// A few values, each kept for a while.
pub(super) struct Recent<K, V> {
    kept: Duration,
    capacity: usize,
    /// The oldest first.
    entries: Mutex<Vec<(K, Cell<V>)>>,
}

/// A value and when it was made; empty while it is being made.
type Cell<V> = Arc<OnceCell<(Instant, V)>>;

impl<K: PartialEq, V: Clone> Recent<K, V> {
    pub(super) const fn new(capacity: usize, kept: Duration) -> Self {
        Self { kept, capacity, entries: Mutex::new(Vec::new()) }
    }

    /// The value of this key; makes it if it is not there, once for all who wait for it. A failure is not kept.
    pub(super) async fn get<E>(&self, key: K, make: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        let cell = self.cell(key);
        let made = cell.get_or_try_init(|| async {
            let value = make.await?;
            Ok((Instant::now(), value))
        });
        Ok(made.await?.1.clone())
    }

    fn cell(&self, key: K) -> Cell<V> {
        let mut entries = self.entries.lock();
        entries.retain(|(_, cell)| cell.get().is_none_or(|(made, _)| made.elapsed() < self.kept));
        if let Some((_, cell)) = entries.iter().find(|(other, _)| *other == key) {
            return Arc::clone(cell);
        }
        if entries.len() >= self.capacity {
            entries.remove(0);
        }
        let cell = Cell::default();
        entries.push((key, Arc::clone(&cell)));
        cell
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    const KEPT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_value_is_made_once_for_all_who_ask_and_again_when_it_is_old() {
        let (recent, made) = (Recent::new(2, KEPT), AtomicU32::new(0));
        let get = |key: &'static str| {
            recent.get(key, async {
                tokio::time::sleep(Duration::from_secs(9)).await;
                Ok::<_, ()>(made.fetch_add(1, Relaxed))
            })
        };
        assert_eq!(tokio::join!(get("a"), get("a")), (Ok(0), Ok(0)));
        tokio::time::sleep(KEPT / 2).await;
        assert_eq!(get("a").await, Ok(0));
        tokio::time::sleep(KEPT).await;
        assert_eq!(get("a").await, Ok(1));
        assert_eq!((get("b").await, get("c").await), (Ok(2), Ok(3)));
        assert_eq!(get("a").await, Ok(4), "there is room for two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_not_kept() {
        let recent = Recent::new(2, KEPT);
        assert_eq!(recent.get("a", async { Err("away") }).await, Err("away"));
        assert_eq!(recent.get("a", async { Ok::<_, &str>(1) }).await, Ok(1));
    }
}
