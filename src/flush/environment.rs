//! What a worker uses besides its queue and its sink: threads for blocking calls, randomness, the wall clock.
//!
//! In production these are the runtime's blocking threads, a generator seeded by the operating system and the system's
//! clock. A simulation runs blocking calls inline, draws from a seed and provides its own clock: on a current-thread
//! runtime with a paused clock, the same seed then gives the same run. Durations are measured by `tokio::time` only.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    record::{UnixMillis, now_millis},
    tasks,
};

/// A worker's environment; clones share their randomness.
#[derive(Clone)]
pub(crate) struct Environment {
    threads: Threads,
    random: Arc<Mutex<StdRng>>,
    wall_clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
}

#[derive(Debug, Clone, Copy)]
enum Threads {
    /// Blocking calls run on the runtime's blocking threads.
    Blocking,
    /// Blocking calls run on the calling thread.
    #[cfg(test)]
    Inline,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Environment {
    /// The operating system's threads, randomness and clock.
    pub(crate) fn of_the_system() -> Self {
        Self {
            threads: Threads::Blocking,
            random: Arc::new(Mutex::new(StdRng::from_os_rng())),
            wall_clock: Arc::new(now_millis),
        }
    }

    /// One thread, all randomness from `seed`, and a given wall clock.
    #[cfg(test)]
    pub(crate) fn simulated(seed: u64, wall_clock: impl Fn() -> UnixMillis + Send + Sync + 'static) -> Self {
        Self {
            threads: Threads::Inline,
            random: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
            wall_clock: Arc::new(wall_clock),
        }
    }

    /// Runs a blocking call. It runs to its end even if its caller is cancelled.
    ///
    /// # Errors
    /// The message of its panic.
    pub(super) async fn run_blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        match self.threads {
            Threads::Blocking => tasks::run_blocking(call).await.map_err(|panic| panic.to_string()),
            #[cfg(test)]
            Threads::Inline => std::panic::catch_unwind(std::panic::AssertUnwindSafe(call))
                .map_err(|panic| crate::catch_panic::message(&*panic)),
        }
    }

    /// A random number from 0 to 1.
    pub(super) fn random_fraction(&self) -> f64 {
        self.random.lock().random()
    }

    /// True or false, with equal probability.
    pub(super) fn random_bool(&self) -> bool {
        self.random.lock().random()
    }

    /// The wall clock, for times that are displayed; never for durations.
    pub(super) fn now_millis(&self) -> UnixMillis {
        (self.wall_clock)()
    }
}
