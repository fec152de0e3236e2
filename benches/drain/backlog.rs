//! What the benchmarks of a drain share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use livekit_protocol::AnalyticsEvent;
use livekit_spool::{
    flush::{FlushOptions, Worker},
    record::{RecordBatchBuilder, SinkName, Stream, now_millis},
    sink::Sink,
    spool::{Spool, SpoolOptions},
};
use prost::Message;
use tokio_util::sync::CancellationToken;

/// From the start of the worker over a full spool until the queue is empty. The sink is ready.
pub(crate) async fn drain(sink: Arc<dyn Sink>, events: &[AnalyticsEvent], options: &FlushOptions) -> Duration {
    let directory = crate::support::directory("drain");
    let spool = Arc::new(Spool::open(directory.path(), SpoolOptions::default()).expect("a spool"));
    for part in events.chunks(1000) {
        let mut batch = RecordBatchBuilder::new(Stream::Events);
        for event in part {
            batch.push(&event.encode_to_vec());
        }
        spool.append(batch.build(now_millis())).await.expect("appended");
    }
    let shutdown = CancellationToken::new();
    let name = SinkName::new("bench").expect("a name");
    let begun = Instant::now();
    let worker = Worker::spawn(&name, Arc::clone(&spool) as _, sink, options.clone(), shutdown.clone());
    // As `livekit-spool drain` asks: the last batch is not full, and would wait for the interval.
    worker.flush_now();
    while worker.status().figures.delivered_records < events.len() as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = begun.elapsed();
    shutdown.cancel();
    worker.stopped().await;
    spool.close().await;
    took
}
