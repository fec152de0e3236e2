//! Answers that are made while they are read: on a thread of their own, no further ahead of the reader than a few pieces, and
//! ended with it.
//!
//! What fails before the first piece has gone is an error answer; what makes the answer says later failures in it.

use std::{
    io::{self, Write},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::problem::Problem;

/// Bytes that go out together.
const PIECE: usize = 64 * 1024;

/// An answer under way. Each piece waits until the one before it is on its way.
pub(super) struct Answer {
    pieces: mpsc::Sender<Bytes>,
    runtime: tokio::runtime::Handle,
    timeout: Duration,
    piece: Vec<u8>,
    gone: usize,
    stalled: bool,
}

/// Makes an answer by `make`, on a thread for what blocks. A reader that takes nothing for as long as `timeout` has left.
pub(super) async fn make(
    media: &'static str,
    timeout: Duration,
    make: impl FnOnce(&mut Answer) -> Result<(), Problem> + Send + 'static,
) -> Result<Response, Problem> {
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static(media))];
    let (pieces, mut made) = mpsc::channel(1);
    let runtime = tokio::runtime::Handle::current();
    let making = tokio::task::spawn_blocking(move || {
        let mut answer = Answer { pieces, runtime, timeout, piece: Vec::new(), gone: 0, stalled: false };
        make(&mut answer)?;
        // Nobody reads on where this fails.
        let _ = answer.flush();
        match answer.stalled {
            true => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the reader took nothing for too long: ask again")),
            false => Ok(()),
        }
    });
    let Some(first) = made.recv().await else {
        return ended(making.await).map(|()| (content_type, Body::empty()).into_response());
    };
    // Whoever reads an answer that breaks off is to notice it: its end is missing.
    let end = stream::once(making)
        .filter_map(|made| std::future::ready(ended(made).err().map(|problem| Err(io::Error::other(problem.message)))));
    let pieces = stream::iter([first]).chain(ReceiverStream::new(made)).map(Ok);
    Ok((content_type, Body::from_stream(pieces.chain(end))).into_response())
}

fn ended(made: Result<Result<(), Problem>, tokio::task::JoinError>) -> Result<(), Problem> {
    made.unwrap_or_else(|panic| Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string())))
}

impl Answer {
    /// Says, also beside what is being added, whether nobody reads it any more.
    pub(super) fn is_over(&self) -> impl Fn() -> bool + use<> {
        let pieces = self.pieces.clone();
        move || pieces.is_closed()
    }

    /// Bytes of it so far.
    pub(super) const fn bytes(&self) -> usize {
        self.gone + self.piece.len()
    }

    /// True while none of it is on its way.
    pub(super) const fn is_new(&self) -> bool {
        self.gone == 0
    }

    /// Adds a value as JSON; false where nobody reads on.
    pub(super) fn add(&mut self, value: &impl Serialize) -> bool {
        serde_json::to_writer(self, value).is_ok()
    }

    /// Adds text; false where nobody reads on.
    pub(super) fn add_text(&mut self, text: &str) -> bool {
        self.write_all(text.as_bytes()).is_ok()
    }

    fn send(&mut self, piece: Bytes) -> io::Result<()> {
        match self.runtime.block_on(tokio::time::timeout(self.timeout, self.pieces.send(piece))) {
            Ok(sent) => sent.map_err(|_| io::ErrorKind::BrokenPipe.into()),
            Err(_) => {
                self.stalled = true;
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }
}

impl Write for Answer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.gone += self.piece.len();
        let piece = std::mem::take(&mut self.piece);
        self.send(piece.into())
    }
}
