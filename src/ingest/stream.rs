//! One recorder stream: messages in, batches to the spools, one answer at the end that covers them all.
//!
//! While batches are on their way to the disk, arriving messages are gathered into the next one: a stream of single events
//! costs one sync per batch, not per event. A good part of a window is appended at once, so that the spool has it when its
//! last sync is done. At most `window` bytes (and the message that crosses this limit) are received and not yet durable. At
//! the limit the stream is not read, and HTTP/2 flow control slows the sender down.
//!
//! Messages share a batch only while it stays small compared with the smallest spool: a message that fits by itself is
//! never refused because of the others.

use std::{pin::pin, sync::Arc, task::Poll};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, poll, stream::FuturesUnordered};
use hyper::body::Body;
use tokio_util::sync::CancellationToken;

use super::{
    Dropped, Ingester, Protocol, Refusal, Refused,
    frames::{Frames, Message},
    memory::Share,
    wire,
};
use crate::record::{RecordBatch, RecordBatchBuilder, Stream, now_millis};

/// After this many bytes other streams get their turn, however fast this one sends.
const TURN: usize = 32 * 1024;
/// This part of a window is appended although other batches are still on their way.
const BATCH_PART: usize = 4;
/// The maximum size of messages in one batch; a larger message is a batch of its own.
const TOGETHER: usize = 256 * 1024;

/// The batches of a stream's messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamOptions {
    pub stream: Stream,
    pub window: usize,
    pub max_records: u32,
}

/// Reads a stream to its end. Returns `Ok` when all its records are durable in every required sink's spool, with what was
/// dropped, or at `stop` or `ended`. On an error the whole messages before it are still appended.
pub(super) async fn ingest<B>(
    mut frames: Frames<B>,
    ingester: Arc<Ingester>,
    options: StreamOptions,
    stop: CancellationToken,
    ended: impl Future<Output = Refusal>,
) -> Result<Dropped, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut ended = pin!(ended);
    let mut gathered = Gathered::default();
    let mut appends = Appends::default();
    let mut end: Option<Result<(), Refusal>> = None;
    let (mut held_back, mut turn) = (false, 0);
    let enough = (options.window / BATCH_PART).min(TOGETHER);
    loop {
        if turn >= TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
        if (appends.is_idle() || end.is_some() || gathered.bytes() >= enough)
            && let Some((batch, share)) = gathered.take()
            && let Err(refusal) = appends.begin(Arc::clone(&ingester), batch, share).await
        {
            end = Some(Err(refusal));
        }
        if appends.is_idle()
            && let Some(end) = end
        {
            return end.map(|()| appends.dropped);
        }
        let held = gathered.bytes() + appends.bytes;
        frames.holds(held);
        let reads = end.is_none() && held < options.window;
        if reads && held_back {
            frames.rearm();
        }
        held_back = end.is_none() && !reads;
        tokio::select! {
            appended = appends.next(), if !appends.is_idle() => {
                if let Err(refusal) = appended {
                    // The sender has to resend all of it: nothing more is appended.
                    gathered = Gathered::default();
                    end = Some(Err(refusal));
                }
            }
            message = frames.next(), if reads => match message {
                Ok(Some(message)) => {
                    turn += message.bytes.len();
                    let before = (gathered.bytes() + message.bytes.len() > TOGETHER).then(|| gathered.take()).flatten();
                    let begun = match before {
                        Some((batch, share)) => appends.begin(Arc::clone(&ingester), batch, share).await,
                        None => Ok(()),
                    };
                    if let Err(refusal) = begun.and_then(|()| gathered.add(message, options)) {
                        end = Some(Err(refusal));
                    }
                }
                Ok(None) => end = Some(Ok(())),
                Err(refusal) => end = Some(Err(refusal)),
            },
            refusal = ended.as_mut(), if end.is_none() => end = Some(Err(refusal)),
            () = stop.cancelled(), if end.is_none() => {
                end = Some(Err(Refusal::new(Refused::Stopping, "livekit-spool is stopping: connect again and resend")));
            }
        }
    }
}

/// Records that are not yet appended.
#[derive(Default)]
struct Gathered {
    first: Option<RecordBatch>,
    more: Option<RecordBatchBuilder>,
    share: Share,
}

impl Gathered {
    fn bytes(&self) -> usize {
        self.more
            .as_ref()
            .map_or_else(|| self.first.as_ref().map_or(0, |first| first.bytes().len()), RecordBatchBuilder::len)
    }

    fn add(&mut self, message: Message, options: StreamOptions) -> Result<(), Refusal> {
        let batch = wire::message(options.stream, now_millis(), message.bytes, options.max_records)?;
        self.share.merge(message.share);
        let Some(first) = &self.first else {
            self.first = Some(batch);
            return Ok(());
        };
        let more = self.more.get_or_insert_with(|| {
            let mut builder = RecordBatchBuilder::new(options.stream);
            builder.extend(first);
            builder
        });
        more.extend(&batch);
        Ok(())
    }

    fn take(&mut self) -> Option<(RecordBatch, Share)> {
        let first = self.first.take()?;
        let batch = match self.more.take() {
            Some(more) => more.build(first.received_at),
            None => first,
        };
        Some((batch, std::mem::take(&mut self.share)))
    }
}

/// Batches on their way to the disk.
#[derive(Default)]
struct Appends {
    under_way: FuturesUnordered<BoxFuture<'static, (usize, Result<Dropped, Refusal>)>>,
    bytes: usize,
    /// The results of those that have ended.
    dropped: Dropped,
}

impl Appends {
    fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Appends a batch; an error if it was refused at once.
    async fn begin(&mut self, ingester: Arc<Ingester>, batch: RecordBatch, share: Share) -> Result<(), Refusal> {
        let bytes = batch.bytes().len();
        let mut append: BoxFuture<'static, _> = Box::pin(async move {
            let result = ingester.append(Protocol::Grpc, batch).await;
            drop(share);
            (bytes, result)
        });
        // The first poll puts it into the spools' queues: it must be there before the next one.
        match poll!(&mut append) {
            Poll::Ready((_, result)) => result.map(|dropped| self.dropped.merge(dropped)),
            Poll::Pending => {
                self.bytes += bytes;
                self.under_way.push(append);
                Ok(())
            }
        }
    }

    /// The result of one of them. Cancel-safe.
    async fn next(&mut self) -> Result<(), Refusal> {
        match self.under_way.next().await {
            Some((bytes, result)) => {
                self.bytes -= bytes;
                result.map(|dropped| self.dropped.merge(dropped))
            }
            None => std::future::pending().await,
        }
    }
}
