//! What the fuzz targets share: the HTTP port over a spool in memory.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode};
use livekit_spool::{
    document::{DocumentContext, DocumentErrorReason, DocumentOptions, Encoder},
    fuzzing::HttpPort,
    ingest::{Append, AuthOptions, Authenticator, CannotAppend, Filter, HttpOptions, Ingester, LivekitKeys, Target},
    record::{RecordBatch, SinkName, wire::BadWire},
    spool::Appended,
};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

/// A body's limit: small, so that it is met.
pub const MAX_BODY_BYTES: usize = 256 << 10;
const MAX_RECORDS: u32 = 100;

#[derive(Default)]
struct Memory(Mutex<Vec<RecordBatch>>);

#[async_trait]
impl Append for Memory {
    async fn append(&self, batch: RecordBatch) -> Result<Appended, CannotAppend> {
        self.0.lock().push(batch);
        Ok(Appended::Kept)
    }
}

/// An HTTP port, and what it has handed to the spool of its only sink.
pub struct Port {
    runtime: Runtime,
    ingester: Arc<Ingester>,
    port: HttpPort,
    spool: Arc<Memory>,
    encoder: Encoder,
}

impl Port {
    /// One that asks nobody but webhooks, which are signed with these keys.
    pub fn new(keys: LivekitKeys) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let spool = Arc::<Memory>::default();
        let ingester = Arc::new(Ingester::new(vec![target(&spool)], &Default::default()));
        let options =
            HttpOptions { max_body_bytes: MAX_BODY_BYTES, max_request_records: MAX_RECORDS, ..HttpOptions::default() };
        let authenticator = Arc::new(Authenticator::new(AuthOptions::None, keys, None));
        let port = HttpPort::new(Arc::clone(&ingester), authenticator, &options).expect("a port");
        Self { runtime, ingester, port, spool, encoder: Encoder::new(DocumentOptions::default()) }
    }

    /// The answer's status, and the batch that it is about; the webhooks so far are forgotten.
    pub fn ask(&self, request: Request<Bytes>) -> (StatusCode, Option<RecordBatch>) {
        self.ingester.replace(vec![target(&self.spool)]);
        let (status, answer) = self.ask_again(request);
        assert!(serde_json::from_slice::<serde_json::Value>(&answer).is_ok(), "{status} {answer:?}");
        let mut batches = std::mem::take(&mut *self.spool.0.lock());
        assert!(batches.len() <= 1 && (status.is_success() || batches.is_empty()), "{status} {batches:?}");
        let batch = batches.pop();
        if let Some(batch) = &batch {
            assert!(batch.count() > 0 && batch.count() <= MAX_RECORDS);
            assert_eq!(batch.iter().count(), batch.count() as usize);
        }
        (status, batch)
    }

    /// The same request once more.
    pub fn ask_again(&self, request: Request<Bytes>) -> (StatusCode, Bytes) {
        let (status, answer) = self.runtime.block_on(self.port.ask(request));
        let known = [200, 400, 401, 413, 415].map(|known| StatusCode::from_u16(known).expect("a status"));
        assert!(known.contains(&status), "{status} {answer:?}");
        (status, answer)
    }

    /// Records that were made from JSON make documents.
    pub fn check_documents(&self, batch: &RecordBatch) {
        for record in batch {
            let made = self.encoder.encode(batch.stream, record, &DocumentContext::default(), &mut Vec::new());
            let failed = made.err().map(|error| error.reason().clone());
            assert!(matches!(failed, None | Some(DocumentErrorReason::Wire(BadWire::TooDeep))), "{failed:?}");
        }
    }
}

fn target(spool: &Arc<Memory>) -> Target {
    let name = SinkName::new("memory").expect("a name");
    Target { name, required: true, filter: Filter::default(), spool: Arc::clone(spool) as Arc<dyn Append>, missed: 0 }
}
