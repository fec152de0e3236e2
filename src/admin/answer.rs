//! Streamed answers: a thread of their own produces them, at most a few pieces ahead of the reader, and stops when the
//! reader leaves.
//!
//! A failure before the first piece is sent becomes an error answer; the producer reports later failures inside the answer.

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
use crate::tasks;

/// Size of a piece, bytes.
const PIECE: usize = 64 * 1024;

/// An answer being produced. Each piece waits until the previous one is being sent.
pub(super) struct Answer {
    pieces: mpsc::Sender<Bytes>,
    runtime: tokio::runtime::Handle,
    timeout: Duration,
    piece: Vec<u8>,
    gone: usize,
    stalled: bool,
}

/// Streams what `make` produces, on a thread for blocking work. A reader that reads nothing for `timeout` counts as gone.
pub(super) async fn make(
    media: &'static str,
    timeout: Duration,
    make: impl FnOnce(&mut Answer) -> Result<(), Problem> + Send + 'static,
) -> Result<Response, Problem> {
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static(media))];
    let (pieces, mut made) = mpsc::channel(1);
    let runtime = tokio::runtime::Handle::current();
    let making = tasks::run_blocking(move || {
        let mut answer = Answer { pieces, runtime, timeout, piece: Vec::new(), gone: 0, stalled: false };
        make(&mut answer)?;
        // Fails only when the reader has gone.
        let _ = answer.flush();
        match answer.stalled {
            true => {
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the answer was not read for too long: request it again"))
            }
            false => Ok(()),
        }
    });
    let Some(first) = made.recv().await else {
        return ended(making.await).map(|()| (content_type, Body::empty()).into_response());
    };
    // A reader must notice that an answer is incomplete: its end is missing.
    let end = stream::once(making)
        .filter_map(|made| std::future::ready(ended(made).err().map(|problem| Err(io::Error::other(problem.message)))));
    let pieces = stream::iter([first]).chain(ReceiverStream::new(made)).map(Ok);
    Ok((content_type, Body::from_stream(pieces.chain(end))).into_response())
}

fn ended(made: Result<Result<(), Problem>, tokio::task::JoinError>) -> Result<(), Problem> {
    made.unwrap_or_else(|panic| Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string())))
}

impl Answer {
    /// Returns a function that tells whether the reader has gone; it can be called while text is added.
    pub(super) fn is_over(&self) -> impl Fn() -> bool + use<> {
        let pieces = self.pieces.clone();
        move || pieces.is_closed()
    }

    /// Bytes so far.
    pub(super) const fn bytes(&self) -> usize {
        self.gone + self.piece.len()
    }

    /// True while nothing has been sent.
    pub(super) const fn is_new(&self) -> bool {
        self.gone == 0
    }

    /// Adds a value as JSON; false if the reader has gone.
    pub(super) fn add(&mut self, value: &impl Serialize) -> bool {
        serde_json::to_writer(self, value).is_ok()
    }

    /// Adds text; false if the reader has gone.
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
