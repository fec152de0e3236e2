//! The journal: what makes records durable. It knows nothing of delivery.
//!
//! ```text
//! journal/000000000001.journal   a segment: groups of blocks, appended, never changed
//! journal/000000000001.done      a segment that is proven to be needed no more, on its way out (see retention)
//! ```
//!
//! **Format.** A segment is blocks ([`block`]) and nothing else; its first one is its front ([`front`]). What one write and
//! one `fdatasync` made durable is a group: its blocks say where it begins, and the last one that it ends. Sequence numbers
//! count a stream's records; they grow through a segment and from segment to segment, and none is used twice.
//!
//! **Invariants.**
//! - A group is answered after its sync, and after its file was still found in its place.
//! - A write that fails is undone; after a sync that failed, a file is never written to again, and the next front says where
//!   it ends: what lies behind was refused.
//! - A group behind which a later one lies was synced: what does not hold in it is damage. A last group that is not whole is
//!   a write that was cut off: nobody was told that it is kept, and all of it goes.
//! - Numbers of segments are never used twice.
//!
//! **Operation.** To write: batches become blocks ([`builder`]), blocks a group for one place ([`packing`], [`codec`]), and that is
//! written, synced and answered in its turn ([`writer`]). To read: a segment is walked block by block, over damage ([`segment`]), and
//! judged group by group ([`scan`]).
//!
//! Used by [`store`](super::store), which binds it to a queue, and by the tools that look from outside.

pub(crate) mod block;
pub(crate) mod builder;
pub(crate) mod codec;
pub(crate) mod front;
pub(crate) mod packing;
pub(crate) mod position;
pub(crate) mod scan;
pub(crate) mod segment;
pub(crate) mod writer;
