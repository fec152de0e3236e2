//! The messages of a gRPC stream, as bytes. In addition to what tonic's decoder does, the bytes count against the memory
//! budget as they arrive, a message has to be complete in time, and a stream must not stay silent.
//!
//! ```text
//! flag (1 byte: compressed)   length (4 bytes, big-endian)   message
//! ```

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::{Instant, timeout_at};

use super::{
    Refusal, Refused,
    conversions::{Conversions, Converting},
    decompress::Encoding,
    memory::{Budget, Share},
};

const HEADER: usize = 5;

/// The limits of a stream of messages.
#[derive(Debug, Clone)]
pub(super) struct FrameLimits {
    pub max_message_bytes: usize,
    pub message_timeout: Duration,
    pub idle_timeout: Duration,
}

/// A whole message, and the memory it needs.
#[derive(Debug)]
pub(super) struct Message {
    pub bytes: Bytes,
    pub share: Share,
}

/// Reads messages from a request's body.
#[derive(Debug)]
pub(super) struct Frames<B> {
    body: B,
    encoding: Option<Encoding>,
    limits: FrameLimits,
    memory: Arc<Budget>,
    buffer: BytesMut,
    /// The memory of `buffer`.
    share: Share,
    /// What the stream holds outside of this buffer: messages that are not yet durable.
    held_besides: usize,
    conversions: Conversions,
    /// A message that waits for the memory of its decompressed content.
    packed: Option<Message>,
    /// A message that is being decompressed.
    decompressing: Option<Converting<Message>>,
    /// The deadline for the message that has begun, or for the next one to begin.
    deadline: Instant,
    begun: bool,
}

impl<B> Frames<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    pub(super) fn new(
        body: B,
        encoding: Option<Encoding>,
        limits: FrameLimits,
        memory: Arc<Budget>,
        conversions: Conversions,
    ) -> Self {
        let deadline = Instant::now() + limits.idle_timeout;
        Self {
            body,
            encoding,
            limits,
            memory,
            buffer: BytesMut::new(),
            share: Share::default(),
            held_besides: 0,
            conversions,
            packed: None,
            decompressing: None,
            deadline,
            begun: false,
        }
    }

    /// Restarts the timeout, after a time in which the stream was not read on purpose.
    pub(super) fn rearm(&mut self) {
        let timeout = if self.begun { self.limits.message_timeout } else { self.limits.idle_timeout };
        self.deadline = Instant::now() + timeout;
    }

    /// Sets how much the stream's earlier messages hold.
    pub(super) const fn holds(&mut self, held_besides: usize) {
        self.held_besides = held_besides;
    }

    /// The next message; `None` at the end of the stream. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, Refusal> {
        loop {
            if self.buffer.len() > self.share.bytes() {
                let lacking = self.buffer.len() - self.share.bytes();
                self.memory.acquire(&mut self.share, lacking, self.held_besides).await?;
            }
            if let Some(decompressing) = &mut self.decompressing {
                let message = decompressing.await;
                self.decompressing = None;
                return message.map(Some);
            }
            if self.packed.is_some() {
                self.decompress().await?;
                continue;
            }
            if let Some((message, compressed)) = self.cut()? {
                if !compressed {
                    return Ok(Some(message));
                }
                self.packed = Some(message);
                continue;
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Removes the first message from the buffer, if it is complete.
    fn cut(&mut self) -> Result<Option<(Message, bool)>, Refusal> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            self.mark_begun(!self.buffer.is_empty());
            return Ok(None);
        };
        let &[flag, a, b, c, d] = header;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if flag > 1 {
            return Err(Refusal::new(Refused::Invalid, format!("{flag} is not a gRPC compression flag")));
        }
        if length > self.limits.max_message_bytes {
            let limit = self.limits.max_message_bytes;
            let message =
                format!("a message of {length} bytes is larger than the limit of {limit}: send smaller messages");
            return Err(Refusal::new(Refused::TooLarge, message));
        }
        if self.buffer.len() < HEADER + length {
            self.mark_begun(true);
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let bytes = self.buffer.split_to(length).freeze();
        let share = self.share.split(HEADER + length);
        self.begun = false;
        self.deadline = Instant::now() + self.limits.idle_timeout;
        Ok(Some((Message { bytes, share }, flag == 1)))
    }

    fn mark_begun(&mut self, begun: bool) {
        if begun && !self.begun {
            self.begun = true;
            self.deadline = Instant::now() + self.limits.message_timeout;
        }
    }

    /// Starts to decompress the message that waits for it, once there is memory. Cancel-safe.
    async fn decompress(&mut self) -> Result<(), Refusal> {
        let encoding = self.encoding.ok_or_else(|| {
            Refusal::new(Refused::Invalid, "a message is flagged as compressed, but there is no grpc-encoding")
        })?;
        let max = self.limits.max_message_bytes;
        let length = self.packed.as_ref().map_or(0, |message| message.bytes.len());
        let mut space = self.memory.for_decompressed(encoding.most(length, max)).await?;
        let Some(Message { bytes, mut share }) = self.packed.take() else { return Ok(()) };
        self.decompressing = Some(self.conversions.begin(move || {
            let bytes = encoding.decompress(&bytes, max)?;
            share.merge(space.split(bytes.len().saturating_sub(share.bytes())));
            Ok(Message { bytes, share })
        })?);
        Ok(())
    }

    /// Reads the next piece of the body; false at its end.
    async fn fill(&mut self) -> Result<bool, Refusal> {
        let frame = match timeout_at(self.deadline, pin!(self.body.frame())).await {
            Ok(frame) => frame,
            Err(_) if self.begun => {
                return Err(Refusal::new(Refused::Timeout, "a message took too long to arrive"));
            }
            Err(_) => {
                return Err(Refusal::new(Refused::Timeout, "no message for too long: open a new stream for the next"));
            }
        };
        match frame {
            Some(Ok(frame)) => {
                // The trailers of a request have no meaning here.
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
                Ok(true)
            }
            Some(Err(error)) => Err(Refusal::new(Refused::Aborted, format!("the stream was interrupted: {error}"))),
            None if self.buffer.is_empty() => Ok(false),
            None => Err(Refusal::new(Refused::Invalid, "the stream ended in the middle of a message")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::StreamExt;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;
    use crate::ingest::MemoryOptions;

    const LIMITS: FrameLimits = FrameLimits {
        max_message_bytes: 1000,
        message_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
    };

    fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[flag], &length[..], message].concat()
    }

    fn body(pieces: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let frames = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece))));
        StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>()))
    }

    fn endless(pieces: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let frames = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece))));
        StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>()).chain(futures::stream::pending()))
    }

    fn memory() -> Arc<Budget> {
        Arc::new(Budget::new(&MemoryOptions { max_bytes: 10_000, wait: Duration::from_millis(10) }))
    }

    fn conversions() -> Conversions {
        Conversions::new("test").unwrap()
    }

    async fn all(pieces: Vec<Vec<u8>>, encoding: Option<Encoding>) -> Result<Vec<Bytes>, Refusal> {
        let memory = memory();
        let mut frames = Frames::new(body(pieces), encoding, LIMITS, Arc::clone(&memory), conversions());
        let mut messages = Vec::new();
        while let Some(message) = frames.next().await? {
            assert!(message.share.bytes() >= message.bytes.len());
            messages.push(message.bytes);
        }
        drop(frames);
        assert_eq!(memory.used(), 0, "all memory is released");
        Ok(messages)
    }

    #[tokio::test]
    async fn messages_are_the_same_however_the_stream_is_cut() {
        let stream = [frame(0, b"one"), frame(0, b""), frame(0, &[7; 900])].concat();
        for size in [1, 2, 5, 7, 100, stream.len()] {
            let pieces = stream.chunks(size).map(<[u8]>::to_vec).collect();
            let messages = all(pieces, None).await.unwrap();
            assert_eq!(messages, [&b"one"[..], b"", &[7; 900]], "pieces of {size}");
        }
    }

    #[tokio::test]
    async fn compressed_and_plain_messages_mix() {
        let packed = zstd::encode_all(&[7_u8; 800][..], 1).unwrap();
        let messages = all(vec![frame(1, &packed), frame(0, b"plain")], Some(Encoding::Zstd)).await.unwrap();
        assert_eq!(messages, [&[7; 800][..], b"plain"]);
    }

    #[tokio::test]
    async fn what_is_no_grpc_is_refused_with_its_reason() {
        let packed = zstd::encode_all(&[7_u8; 2000][..], 1).unwrap();
        for (pieces, reason) in [
            (vec![vec![2, 0, 0, 0, 0]], Refused::Invalid),
            (vec![vec![0, 0, 0, 4, 0]], Refused::TooLarge),
            (vec![vec![0, 0xFF, 0xFF, 0xFF, 0xFF]], Refused::TooLarge),
            (vec![frame(0, b"abc")[..7].to_vec()], Refused::Invalid),
            (vec![b"GET / HTTP/1.1".to_vec()], Refused::Invalid),
            (vec![frame(1, &packed)], Refused::TooLarge),
            (vec![frame(1, b"garbage")], Refused::Invalid),
        ] {
            let refusal = all(pieces.clone(), Some(Encoding::Zstd)).await.unwrap_err();
            assert_eq!(refusal.reason, reason, "{pieces:?}: {refusal}");
        }
        assert_eq!(all(vec![frame(1, &packed)], None).await.unwrap_err().reason, Refused::Invalid);
    }

    #[tokio::test]
    async fn half_a_message_and_silence_end_in_time() {
        let limits = FrameLimits {
            message_timeout: Duration::from_millis(20),
            idle_timeout: Duration::from_millis(20),
            ..LIMITS
        };
        for (pieces, words) in [(vec![vec![0, 0, 0]], "took too long"), (vec![], "no message")] {
            let refusal =
                Frames::new(endless(pieces), None, limits.clone(), memory(), conversions()).next().await.unwrap_err();
            assert_eq!((refusal.reason, refusal.message.contains(words)), (Refused::Timeout, true), "{refusal}");
        }
    }

    #[tokio::test]
    async fn a_message_whose_sender_has_left_keeps_its_memory_until_its_turn() {
        let (memory, conversions) = (memory(), conversions());
        let busy = conversions.occupy();
        let packed = zstd::encode_all(&[7_u8; 800][..], 1).unwrap();
        let body = body(vec![frame(1, &packed)]);
        let mut frames = Frames::new(body, Some(Encoding::Zstd), LIMITS, Arc::clone(&memory), conversions.clone());
        assert!(futures::poll!(Box::pin(frames.next())).is_pending());
        let used = memory.used();
        drop(frames);
        assert!(used > packed.len() && memory.used() == used, "{} of {used}", memory.used());
        drop(busy);
        drop(conversions.occupy());
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn a_message_that_finds_no_memory_is_refused() {
        let memory = memory();
        let mut held = Share::default();
        while memory.acquire(&mut held, 100, 0).await.is_ok() {}
        let mut frames = Frames::new(body(vec![frame(0, &[1; 500])]), None, LIMITS, Arc::clone(&memory), conversions());
        assert_eq!(frames.next().await.unwrap_err().reason, Refused::Memory);
    }
}
