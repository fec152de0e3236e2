//! Starts tasks and blocking work, boxed. tokio's code of a task is compiled again for each type that it is given, some 2,000
//! lines of LLVM IR; here it is given few. The allocation is nothing for what runs once per batch, request or command.

use std::any::Any;

use futures::FutureExt;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

/// Starts a task.
pub(crate) fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(task.boxed())
}

/// Starts work on a thread that may block; it continues if nobody waits for its result.
///
/// # Errors
/// When it panics.
pub(crate) fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> + Send {
    let running = start(Box::new(move || Box::new(work())));
    async move {
        let result = running.await?;
        Ok(*result.downcast().expect("the result of this work"))
    }
}

type AnyResult = Box<dyn Any + Send>;

fn start(work: Box<dyn FnOnce() -> AnyResult + Send>) -> JoinHandle<AnyResult> {
    spawn_blocking(work)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn blocking_work_begins_at_once_and_gives_its_result_or_its_panic() {
        let (sender, begun) = mpsc::channel();
        let work = run_blocking(move || {
            sender.send(()).unwrap();
            7
        });
        begun.recv().unwrap();
        assert_eq!(work.await.unwrap(), 7);
        assert!(run_blocking(|| panic!("a bug")).await.unwrap_err().is_panic());
    }
}
