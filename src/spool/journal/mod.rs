//! The journal: what makes records durable. It knows nothing of delivery.
//!
//! ```text
//! journal/000000000001.journal   a segment: groups of blocks, appended, never changed
//! journal/000000000001.done      a segment that is proven to be needed no more, on its way out (see retention)
//! ```
//!
//! **Format.** A segment consists of blocks ([`block`]); the first is its front ([`front`]). What one write and one
//! `fdatasync` made durable is a group: its blocks record where it begins, and the last one that it ends. Sequence
//! numbers count a stream's records; they increase within a segment and from segment to segment, and none is used
//! twice.
//!
//! **Invariants.**
//! - A group is answered after its sync, and after a check that its file is still in its place.
//! - A write that fails is undone. After a sync that failed, the file is never written to again, and the next front
//!   records where it ends: bytes after that were refused.
//! - A group that a later one follows was synced: bytes in it that fail their checksum are damage. A last group that is
//!   incomplete is a torn group: its callers were not answered OK, and recovery removes all of it.
//! - Segment numbers are never used twice.
//!
//! **Operation.** To write: batches become blocks ([`builder`]), and blocks become a group for one place ([`packing`],
//! [`codec`]), which is written, synced and answered in its turn ([`writer`]). To read: a segment is walked block by
//! block, skipping damage ([`segment`]), and checked group by group ([`scan`]).
//!
//! Used by [`store`](super::store), which connects it to a queue, and by the tools that read a spool from outside.

pub(crate) mod block;
pub(crate) mod builder;
pub(crate) mod codec;
pub(crate) mod front;
pub(crate) mod packing;
pub(crate) mod position;
pub(crate) mod scan;
pub(crate) mod segment;
pub(crate) mod writer;
