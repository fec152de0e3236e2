//! Records: streams, records as the received bytes, batches of them, ids, times; and their wire format.
//!
//! Uses no other module.

mod batch;
mod clock;
mod id;
pub mod json;
mod queued;
pub mod schema;
mod sink_name;
mod stream;
mod time;
mod webhook;
pub mod wire;

pub use batch::{BadFraming, RECORD_TAG, RecordBatch, RecordBatchBuilder, Records};
#[cfg(test)]
pub(crate) use clock::simulated;
pub use clock::{UnixMillis, now_millis, trust_wall_clock, wall_millis};
pub(crate) use clock::{instant, pause, trusts_recorded};
pub use id::RecordId;
pub use queued::QueuedRecord;
pub use sink_name::{BadSinkName, SinkName};
pub(crate) use stream::PerStream;
pub use stream::{Stream, UnknownStream};
pub use time::time_of;
pub(crate) use webhook::{add_webhook_body, event_of_webhook, webhook_body, webhook_of_event};
