//! One recorder stream: messages in, batches to the spools, one answer at the end that covers them all.
//!
//! While batches are on their way to the disk, arriving messages are gathered into the next one: a stream of single events
//! costs one sync per batch, not per event. A good part of a window is appended at once, so that the spool has it when its
//! last sync is done. A stream that has ended when its first messages are read is one batch. At most `window` bytes (and the message that crosses this limit) are received and not yet durable. At
//! the limit the stream is not read, and HTTP/2 flow control slows the sender down.
//!
//! Messages share a batch only while it stays small compared with the smallest spool: a message that fits by itself is
//! never refused because of the others.

use std::{
    pin::pin,
    sync::Arc,
    task::Poll::{self, Pending, Ready},
};

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
    /// Nothing else waits for this thread: the last batch of the stream may be appended by it.
    pub alone: bool,
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
        let held = gathered.bytes() + appends.bytes;
        frames.holds(held);
        let reads = end.is_none() && held < options.window;
        if reads && held_back {
            frames.rearm();
        }
        held_back = end.is_none() && !reads;
        // What has already arrived is appended together.
        let is_first = appends.is_idle() && gathered.bytes() > 0 && gathered.bytes() < enough;
        let arrived = if reads && is_first { poll!(pin!(frames.next())) } else { Pending };
        if arrived.is_pending()
            && (appends.is_idle() || end.is_some() || gathered.bytes() >= enough)
            && let Some((batch, share)) = gathered.take()
        {
            let alone = options.alone && appends.is_idle() && matches!(end, Some(Ok(())));
            if let Err(refusal) = appends.begin(Arc::clone(&ingester), batch, share, alone).await {
                end = Some(Err(refusal));
            }
            continue;
        }
        if appends.is_idle()
            && let Some(end) = end
        {
            return end.map(|()| appends.dropped);
        }
        let message = match arrived {
            Ready(message) => Some(message),
            Pending => tokio::select! {
                appended = appends.next(), if !appends.is_idle() => {
                    if let Err(refusal) = appended {
                        // The sender has to resend all of it: nothing more is appended.
                        gathered = Gathered::default();
                        end = Some(Err(refusal));
                    }
                    None
                }
                message = frames.next(), if reads => Some(message),
                refusal = ended.as_mut(), if end.is_none() => {
                    end = Some(Err(refusal));
                    None
                }
                () = stop.cancelled(), if end.is_none() => {
                    let why = "livekit-spool is stopping: connect again and resend";
                    end = Some(Err(Refusal::new(Refused::Stopping, why)));
                    None
                }
            },
        };
        match message {
            None => {}
            Some(Ok(Some(message))) => {
                turn += message.bytes.len();
                let before = (gathered.bytes() + message.bytes.len() > TOGETHER).then(|| gathered.take()).flatten();
                let begun = match before {
                    Some((batch, share)) => appends.begin(Arc::clone(&ingester), batch, share, false).await,
                    None => Ok(()),
                };
                if let Err(refusal) = begun.and_then(|()| gathered.add(message, options)) {
                    end = Some(Err(refusal));
                }
            }
            Some(Ok(None)) => end = Some(Ok(())),
            Some(Err(refusal)) => end = Some(Err(refusal)),
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

    /// Appends a batch, by this thread if it is `alone`; an error if it was refused at once.
    async fn begin(
        &mut self,
        ingester: Arc<Ingester>,
        batch: RecordBatch,
        share: Share,
        alone: bool,
    ) -> Result<(), Refusal> {
        let bytes = batch.bytes().len();
        let mut append: BoxFuture<'static, _> = Box::pin(async move {
            let result = ingester.append_to_all(Protocol::Grpc, batch, alone).await;
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

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        time::Duration,
    };

    use async_trait::async_trait;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;
    use crate::{
        ingest::{
            Append, CannotAppend, Filter, MemoryOptions, Target, conversions::Conversions, fake::MemorySpool,
            frames::FrameLimits,
        },
        record::SinkName,
        spool::Appended,
    };

    const OPTIONS: StreamOptions =
        StreamOptions { stream: Stream::Events, window: 1 << 20, max_records: 100, alone: true };

    /// Counts the batches that the calling thread was to append.
    struct Spool {
        kept: Arc<MemorySpool>,
        alone: AtomicUsize,
    }

    #[async_trait]
    impl Append for Spool {
        async fn append(&self, batch: RecordBatch) -> Result<Appended, CannotAppend> {
            Append::append(&*self.kept, batch).await
        }

        async fn append_alone(&self, batch: RecordBatch) -> Result<Appended, CannotAppend> {
            self.alone.fetch_add(1, Relaxed);
            self.append(batch).await
        }
    }

    /// Ingests a stream of so many events, each a message and a frame of its own; it may stay open. Returns how many batches
    /// came of it, and how many of these the calling thread was to append.
    async fn ingested(events: u8, stays_open: bool, options: StreamOptions) -> (usize, usize) {
        let spool = Arc::new(Spool { kept: MemorySpool::new(), alone: AtomicUsize::new(0) });
        let (name, filter) = (SinkName::new("a").unwrap(), Filter::default());
        let target = Target { name, required: true, filter, spool: Arc::clone(&spool) as _, missed: 0 };
        let ingester = Arc::new(Ingester::new(vec![target], &MemoryOptions::default()));
        let frame = |i| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0, 0, 0, 0, 4, 0x0A, 2, 0x08, i])));
        let frames = futures::stream::iter((0..events).map(frame).collect::<Vec<_>>());
        let tail = futures::stream::pending().take_until(async move {
            if stays_open {
                std::future::pending::<()>().await;
            }
        });
        let second = Duration::from_secs(60);
        let limits = FrameLimits { max_message_bytes: 1000, message_timeout: second, idle_timeout: second };
        let body = StreamBody::new(Box::pin(frames.chain(tail)));
        let conversions = Conversions::new("test").unwrap();
        let frames = Frames::new(body, None, limits, Arc::clone(ingester.memory()), conversions);
        let mut taking =
            pin!(ingest(frames, ingester, options, CancellationToken::new(), std::future::pending::<Refusal>()));
        assert_eq!(poll!(&mut taking).is_ready(), !stays_open, "all that is there is accepted at once");
        assert_eq!(spool.kept.records(), u64::from(events));
        (spool.kept.batches().len(), spool.alone.load(Relaxed))
    }

    #[tokio::test]
    async fn a_stream_that_has_ended_is_one_batch_which_its_thread_may_append() {
        assert_eq!(ingested(1, false, OPTIONS).await, (1, 1));
        assert_eq!(ingested(5, false, OPTIONS).await, (1, 1));
        assert_eq!(
            ingested(5, false, StreamOptions { alone: false, ..OPTIONS }).await,
            (1, 0),
            "others wait for the thread"
        );
    }

    #[tokio::test]
    async fn what_has_arrived_of_an_open_stream_is_appended_at_once_and_blocks_no_thread() {
        assert_eq!(ingested(5, true, OPTIONS).await, (1, 0));
    }
}
