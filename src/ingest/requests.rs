//! The requests of a connection, run by the connection's own task.
//!
//! hyper runs each request of an HTTP/2 connection in a task of its own. A small call is then handed from task to task, and
//! where its thread was blocked for the sync (see [`OpenRequest::is_alone`](super::slots::OpenRequest::is_alone)), to another thread,
//! which has to be woken to write the answer. Here the task that read the request writes its answer, all frames of it with
//! one system call. What takes long is no matter for this task: it is done by others.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered, task::AtomicWaker};
use hyper::rt::Executor;
use parking_lot::Mutex;

/// How often a connection is polled again at once, before other tasks get their turn.
const ROUNDS: usize = 8;

/// The requests that hyper has begun, and that are not polled yet.
#[derive(Clone, Default)]
pub(crate) struct Begun(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Begun {
    fn execute(&self, request: F) {
        // A panic ends this request only.
        self.0.lock().push(AssertUnwindSafe(request).catch_unwind().map(drop).boxed());
    }
}

/// The open requests of a connection.
pub(super) struct Requests {
    begun: Begun,
    open: FuturesUnordered<BoxFuture<'static, ()>>,
    wakeups: Arc<Wakeups>,
    waker: Waker,
}

impl Requests {
    /// For the connection that was given this executor.
    pub(super) fn new(begun: Begun) -> Self {
        let wakeups = Arc::<Wakeups>::default();
        Self { begun, open: FuturesUnordered::new(), waker: Arc::clone(&wakeups).into(), wakeups }
    }

    /// Polls the connection and its requests; ready when the connection has ended.
    pub(super) fn poll<C: Future>(&mut self, mut connection: Pin<&mut C>, cx: &mut Context<'_>) -> Poll<C::Output> {
        self.wakeups.task.register(cx.waker());
        let mut own = Context::from_waker(&self.waker);
        for _ in 0..ROUNDS {
            self.wakeups.polling.store(true, SeqCst);
            self.wakeups.woken.store(false, SeqCst);
            // All that has arrived is read first: a request knows whether it is alone.
            let ended = connection.as_mut().poll(&mut own);
            self.open.extend(std::mem::take(&mut *self.begun.0.lock()));
            while let Poll::Ready(Some(())) = self.open.poll_next_unpin(&mut own) {}
            self.wakeups.polling.store(false, SeqCst);
            if ended.is_ready() {
                return ended;
            }
            if !self.wakeups.woken.swap(false, SeqCst) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Wakes the task, but not while it polls: it is polled again then without the scheduler, which would wake another thread
/// for it.
#[derive(Default)]
struct Wakeups {
    task: AtomicWaker,
    polling: AtomicBool,
    woken: AtomicBool,
}

impl Wake for Wakeups {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // In this order, and read in the opposite one: either this sees that polling is over, or the poll sees this.
        self.woken.store(true, SeqCst);
        if !self.polling.load(SeqCst) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::atomic::AtomicUsize,
        task::Poll::{Pending, Ready},
    };

    use futures::task::noop_waker;

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn requests() -> (Begun, Requests) {
        let begun = Begun::default();
        (begun.clone(), Requests::new(begun))
    }

    #[test]
    fn requests_are_polled_with_their_connection_and_dropped_with_it() {
        let (begun, mut requests) = requests();
        let (done, held) = (Arc::new(AtomicBool::new(false)), Arc::new(()));
        let mut rounds = 0;
        let mut connection = pin!(poll_fn(|cx: &mut Context<'_>| {
            rounds += 1;
            if rounds == 2 {
                return Ready("ended");
            }
            let (done, held) = (Arc::clone(&done), Arc::clone(&held));
            begun.execute(async move { done.store(true, SeqCst) });
            begun.execute(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
            cx.waker().wake_by_ref();
            Pending
        }));
        let ended = requests.poll(connection.as_mut(), &mut Context::from_waker(&noop_waker()));
        assert_eq!((ended, done.load(SeqCst), Arc::strong_count(&held)), (Ready("ended"), true, 2));
        drop(requests);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn a_panic_ends_its_own_request_only() {
        let (begun, mut requests) = requests();
        let done = Arc::new(AtomicBool::new(false));
        let after = Arc::clone(&done);
        begun.execute(async { panic!("on purpose") });
        begun.execute(async move { after.store(true, SeqCst) });
        let mut connection = pin!(std::future::pending::<()>());
        assert!(requests.poll(connection.as_mut(), &mut Context::from_waker(&noop_waker())).is_pending());
        assert!(done.load(SeqCst) && requests.open.is_empty());
    }

    #[test]
    fn what_happens_while_it_is_polled_is_handled_at_once_and_what_happens_later_wakes_the_task() {
        let (_, mut requests) = requests();
        let task = Arc::<Counter>::default();
        let waker = Arc::clone(&task).into();
        let mut polled = 0;
        let mut connection = pin!(poll_fn(|cx: &mut Context<'_>| {
            polled += 1;
            match polled {
                1 => cx.waker().wake_by_ref(),
                3 => return Ready(()),
                _ => {}
            }
            Pending
        }));
        assert!(requests.poll(connection.as_mut(), &mut Context::from_waker(&waker)).is_pending());
        assert_eq!(task.0.load(SeqCst), 0, "it was polled again instead");
        requests.waker.wake_by_ref();
        assert_eq!(task.0.load(SeqCst), 1);
        assert!(requests.poll(connection.as_mut(), &mut Context::from_waker(&waker)).is_ready());
        assert_eq!(polled, 3);
    }

    #[test]
    fn a_connection_that_always_has_something_to_do_leaves_others_their_turn() {
        let (_, mut requests) = requests();
        let task = Arc::<Counter>::default();
        let mut polled = 0;
        let mut connection = pin!(poll_fn(|cx: &mut Context<'_>| {
            polled += 1;
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        let waker = Arc::clone(&task).into();
        assert!(requests.poll(connection.as_mut(), &mut Context::from_waker(&waker)).is_pending());
        assert_eq!((polled, task.0.load(SeqCst)), (ROUNDS, 1));
    }
}
