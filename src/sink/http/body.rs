//! The body of a request, which reports how far the connection has read it: an answer that comes before cannot be about all of
//! its records.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use hyper::body::{Bytes, Frame, SizeHint};

/// Bytes that the connection gets at once.
const PART_BYTES: usize = 64 * 1024;

/// A body of known length.
#[derive(Debug)]
pub(super) struct Body {
    rest: Bytes,
    is_taken: Arc<AtomicBool>,
}

/// Whether a body was taken to its end.
#[derive(Debug)]
pub(super) struct Progress(Arc<AtomicBool>);

impl Body {
    pub(super) fn new(bytes: Bytes) -> (Self, Progress) {
        let is_taken = Arc::new(AtomicBool::new(bytes.is_empty()));
        (Self { rest: bytes, is_taken: Arc::clone(&is_taken) }, Progress(is_taken))
    }
}

impl Progress {
    pub(super) fn is_complete(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let bytes = self.rest.len().min(PART_BYTES);
        let part = self.rest.split_to(bytes);
        if self.rest.is_empty() {
            self.is_taken.store(true, Ordering::Release);
        }
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_is_complete_when_its_last_part_was_taken() {
        let bytes = Bytes::from(vec![b'x'; 2 * PART_BYTES + 1]);
        let (mut body, progress) = Body::new(bytes.clone());
        assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(bytes.len() as u64));
        let mut taken = Vec::new();
        while !hyper::body::Body::is_end_stream(&body) {
            assert!(!progress.is_complete());
            taken
                .extend_from_slice(&body.frame().await.expect("a frame").expect("no error").into_data().expect("data"));
        }
        assert!(progress.is_complete() && taken == bytes);
        assert!(Body::new(Bytes::new()).1.is_complete());
    }
}
