//! CPU-bound work (decompressing, parsing) on threads of its own: a few jobs at a time, in the order of arrival. The memory
//! of parsing stays in the allocator arenas of a few threads, and the async threads are not blocked.
//!
//! A small body that is not compressed is converted by the thread that received it: that takes less time than to wake
//! another thread and be woken by it.
//!
//! Each job is bounded by itself; a job whose sender disconnects before its turn is not started. Until its turn it keeps what
//! it would convert: the memory for that belongs to the job, not to the one that waits for it. A job may offer a part of
//! its work to another thread ([`Conversions::both`]): what is not begun there when it needs it, it does itself, so no job
//! ever waits for one that has not begun.

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

use super::{Refusal, Refused, decompress::Encoding};

/// Jobs at the same time, per listener: this bounds their memory too.
pub(crate) const AT_ONCE: usize = 2;
/// Bodies up to this length are converted where they are, if they are not compressed. The slowest of them (JSON, one map of
/// short keys) takes about a millisecond.
const SMALL: usize = 8 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// Converts what senders sent.
#[derive(Debug, Clone)]
pub(super) struct Conversions {
    /// To the threads; none: the calling thread converts.
    jobs: Option<mpsc::Sender<Job>>,
}

/// A conversion in progress. Cancel-safe: it can be awaited again until it is ready.
#[derive(Debug)]
pub(super) enum Converting<T> {
    /// By the calling thread, which has done it.
    Done(Option<Result<T, Refusal>>),
    /// By another one.
    UnderWay(oneshot::Receiver<Result<T, Refusal>>),
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
        Ok(Self { jobs: Some(jobs) })
    }

    /// The conversions of a body of this length: by the calling thread if that is quick.
    pub(super) fn of_body(&self, encoding: Encoding, length: usize) -> Self {
        let is_quick = encoding == Encoding::Identity && length <= SMALL;
        if is_quick { Self { jobs: None } } else { self.clone() }
    }

    /// Begins a conversion, or does it.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        conversion: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<Converting<T>, Refusal> {
        let Some(jobs) = &self.jobs else { return Ok(Converting::Done(Some(convert(conversion)))) };
        let (sender, answer) = oneshot::channel();
        let job = Box::new(move || {
            if sender.is_closed() {
                return;
            }
            // Nobody waits for the result if the sender has disconnected.
            let _ = sender.send(convert(conversion));
        });
        jobs.send(job).map_err(|_| ended())?;
        Ok(Converting::UnderWay(answer))
    }
}

impl Conversions {
    /// The results of both: of `other` by another of these threads, if one is free before `one` is done.
    ///
    /// # Panics
    /// If either does.
    pub(super) fn both<T: Send + 'static>(
        &self,
        one: impl FnOnce() -> T,
        other: impl FnOnce() -> T + Send + 'static,
    ) -> (T, T) {
        let (sender, answer) = mpsc::channel();
        let offered = Arc::new(Mutex::new(Some(other)));
        if let Some(jobs) = &self.jobs {
            let offered = Arc::clone(&offered);
            let job = move || {
                let accepted = offered.lock().take();
                if let Some(other) = accepted {
                    // Nobody waits for the result if `one` panicked.
                    let _ = sender.send(panic::catch_unwind(panic::AssertUnwindSafe(other)));
                }
            };
            // A queue that has ended accepts nothing.
            let _ = jobs.send(Box::new(job));
        }
        let one = one();
        let left = offered.lock().take();
        let other = match left {
            Some(other) => other(),
            None => match answer.recv() {
                Ok(Ok(other)) => other,
                Ok(Err(panicked)) => panic::resume_unwind(panicked),
                Err(mpsc::RecvError) => panic!("the thread that accepted a part has ended"),
            },
        };
        (one, other)
    }
}

#[cfg(test)]
impl Conversions {
    /// Returns once all threads are busy, and so have ended all jobs before; they are until the result is dropped.
    pub(super) fn occupy(&self) -> mpsc::Sender<()> {
        let ((release, held), (begin, begun)) = (mpsc::channel(), mpsc::channel());
        let held = Arc::new(Mutex::new(held));
        for _ in 0..AT_ONCE {
            let (held, begin) = (Arc::clone(&held), begin.clone());
            let job = move || {
                begin.send(()).unwrap();
                held.lock().recv().unwrap_err();
            };
            self.jobs.as_ref().unwrap().send(Box::new(job)).unwrap();
        }
        begun.iter().take(AT_ONCE).for_each(drop);
        release
    }
}

fn convert<T>(conversion: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    panic::catch_unwind(panic::AssertUnwindSafe(conversion)).unwrap_or_else(|_| {
        Err(Refusal::new(Refused::Invalid, "these bytes make the conversion fail: please report this"))
    })
}

/// The result is moved, never pinned.
impl<T> Unpin for Converting<T> {}

impl<T> Future for Converting<T> {
    type Output = Result<T, Refusal>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Done(result) => result.take().map_or_else(|| Poll::Ready(Err(ended())), Poll::Ready),
            Self::UnderWay(answer) => Pin::new(answer).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(ended()))),
        }
    }
}

fn ended() -> Refusal {
    Refusal::new(Refused::Unavailable, "internal error: the conversion threads have ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_small_and_plain_is_converted_by_the_calling_thread_and_all_else_by_others() {
        let conversions = Conversions::new("test").unwrap();
        let here = thread::current().id();
        for (encoding, length, is_here) in [
            (Encoding::Identity, SMALL, true),
            (Encoding::Identity, SMALL + 1, false),
            (Encoding::Gzip, 1, false),
            (Encoding::Zstd, 1, false),
        ] {
            let converting = conversions.of_body(encoding, length).begin(|| Ok(thread::current().id())).unwrap();
            assert_eq!(converting.await.unwrap() == here, is_here, "{length} bytes, {encoding:?}");
        }
    }

    #[tokio::test]
    async fn a_conversion_that_panics_is_an_answer_and_the_next_one_works() {
        let conversions = Conversions::new("test").unwrap();
        for conversions in [conversions.clone(), conversions.of_body(Encoding::Identity, 1)] {
            let failed = conversions.begin(|| -> Result<(), Refusal> { panic!("on purpose") }).unwrap().await;
            assert_eq!(failed.unwrap_err().reason, Refused::Invalid);
        }
        for _ in 0..2 * AT_ONCE {
            let failed = conversions.begin(|| -> Result<(), Refusal> { panic!("on purpose") }).unwrap().await;
            assert_eq!(failed.unwrap_err().reason, Refused::Invalid);
        }
        assert_eq!(conversions.begin(|| Ok(7)).unwrap().await, Ok(7));
    }

    #[test]
    fn a_part_is_done_by_a_free_thread_or_by_the_one_that_offers_it() {
        let conversions = Conversions::new("test").unwrap();
        let here = thread::current().id();
        let (begun, is_begun) = mpsc::channel();
        let other = move || {
            begun.send(()).unwrap();
            thread::current().id()
        };
        let (one, other) = conversions.both(
            || {
                is_begun.recv().unwrap();
                thread::current().id()
            },
            other,
        );
        assert!(one == here && other != here);

        let busy = conversions.occupy();
        let id = || thread::current().id();
        assert_eq!(conversions.both(id, id), (here, here), "nobody is free");
        drop(busy);
        assert_eq!(Conversions { jobs: None }.both(id, id), (here, here));
    }

    #[tokio::test]
    async fn jobs_that_all_offer_a_part_are_done_and_a_part_that_panics_is_an_answer() {
        let conversions = Conversions::new("test").unwrap();
        let begin = |number: u32| {
            let inner = conversions.clone();
            let part = move || if number % 7 == 3 { panic!("on purpose") } else { number };
            conversions.begin(move || Ok(inner.both(|| number, part))).unwrap()
        };
        let all: Vec<_> = (0..200).map(begin).collect();
        for (number, converting) in (0..).zip(all) {
            match converting.await {
                Ok(both) => assert!(number % 7 != 3 && both == (number, number)),
                Err(failed) => assert!(number % 7 == 3 && failed.reason == Refused::Invalid),
            }
        }
    }

    #[tokio::test]
    async fn a_conversion_that_nobody_waits_for_is_not_begun() {
        let conversions = Conversions::new("test").unwrap();
        let busy = conversions.occupy();
        let began = Arc::new(Mutex::new(false));
        let begin = Arc::clone(&began);
        let begins = move || {
            *begin.lock() = true;
            Ok(())
        };
        drop(conversions.begin(begins).unwrap());
        drop(busy);
        drop(conversions.occupy());
        assert!(!*began.lock());
    }
}
