//! CPU-bound work (decompressing, parsing) on threads of its own: a few jobs at a time, in the order of arrival. The memory
//! of parsing stays in the allocator arenas of a few threads, and the async threads are never blocked.
//!
//! Each job is bounded by itself; a job whose sender disconnects before its turn is not started.

use std::{
    future::Future,
    io, panic,
    pin::Pin,
    sync::{Arc, mpsc},
    task::{Context, Poll},
    thread,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Refusal, Refused};

/// Jobs at the same time, per listener: this bounds their memory too.
pub(crate) const AT_ONCE: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that convert what senders sent.
#[derive(Debug, Clone)]
pub(super) struct Conversions {
    jobs: mpsc::Sender<Job>,
}

/// A conversion in progress. Cancel-safe: it can be awaited again until it is ready.
#[derive(Debug)]
pub(super) struct Converting<T> {
    answer: oneshot::Receiver<Result<T, Refusal>>,
}

impl Conversions {
    /// # Errors
    /// When the threads cannot be started.
    pub(super) fn new(listener: &str) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..AT_ONCE {
            let waiting = Arc::clone(&waiting);
            let work = move || {
                loop {
                    // A statement of its own: the lock must not be held while the job runs.
                    let job = waiting.lock().recv();
                    match job {
                        Ok(job) => job(),
                        Err(mpsc::RecvError) => return,
                    }
                }
            };
            thread::Builder::new().name(format!("{listener}-{number}")).spawn(work)?;
        }
        Ok(Self { jobs })
    }

    /// Queues a conversion.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        conversion: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<Converting<T>, Refusal> {
        let (sender, answer) = oneshot::channel();
        let job = Box::new(move || {
            if sender.is_closed() {
                return;
            }
            let conversion = panic::AssertUnwindSafe(conversion);
            let converted = panic::catch_unwind(conversion).unwrap_or_else(|_| {
                Err(Refusal::new(Refused::Invalid, "these bytes make the conversion fail: please report this"))
            });
            // Nobody waits for the result if the sender has disconnected.
            let _ = sender.send(converted);
        });
        self.jobs.send(job).map_err(|_| ended())?;
        Ok(Converting { answer })
    }
}

impl<T> Future for Converting<T> {
    type Output = Result<T, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(ended())))
    }
}

fn ended() -> Refusal {
    Refusal::new(Refused::Unavailable, "internal error: the conversion threads have ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_conversion_that_panics_is_an_answer_and_the_next_one_works() {
        let conversions = Conversions::new("test").unwrap();
        for _ in 0..2 * AT_ONCE {
            let failed = conversions.begin(|| -> Result<(), Refusal> { panic!("on purpose") }).unwrap().await;
            assert_eq!(failed.unwrap_err().reason, Refused::Invalid);
        }
        assert_eq!(conversions.begin(|| Ok(7)).unwrap().await, Ok(7));
    }

    #[tokio::test]
    async fn a_conversion_that_nobody_waits_for_is_not_begun() {
        let conversions = Conversions::new("test").unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let busy: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let held = Arc::clone(&held);
                conversions.begin(move || Ok(held.lock().recv().is_ok())).unwrap()
            })
            .collect();
        let began = Arc::new(Mutex::new(false));
        let begin = Arc::clone(&began);
        let begins = move || {
            *begin.lock() = true;
            Ok(())
        };
        drop(conversions.begin(begins).unwrap());
        for _ in 0..AT_ONCE {
            release.send(()).unwrap();
        }
        for converting in busy {
            converting.await.unwrap();
        }
        conversions.begin(|| Ok(())).unwrap().await.unwrap();
        assert!(!*began.lock());
    }
}
