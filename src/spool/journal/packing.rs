//! Packs a group: its bytes, for the place that it gets if all groups before it succeed.
//!
//! A group that begins a segment begins with the segment's front. Groups get consecutive tickets in the order of their
//! places. A failure begins a new generation: groups packed before it are void.

use std::io;

use super::{
    block::{Header, Kind},
    builder::BlockBuilder,
    codec::Packer,
    front::Front,
    position::{ActivePosition, Position},
};
use crate::{
    record::{PerStream, Stream, now_millis},
    spool::totals::Totals,
};

/// What a front records of delivery; queried when a segment is begun.
#[derive(Debug, Clone, Default)]
pub(crate) struct FrontFacts {
    pub(crate) needed_from: u64,
    pub(crate) ack_floor: PerStream<u64>,
    pub(crate) totals: PerStream<Totals>,
}

/// A group's bytes, for one place.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(super) ticket: u64,
    pub(super) generation: u64,
    pub(super) before: Position,
    pub(super) after: Position,
    pub(super) bytes: Vec<u8>,
    /// Offsets in the segment.
    pub(super) blocks: Vec<(u64, Header)>,
    /// The checksum of its front, if it begins a segment.
    pub(super) front: Option<u32>,
}

impl Packed {
    /// Its length in bytes.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Packs groups, each for the place after the one packed before it.
pub(super) struct Packing {
    kind: Kind,
    /// About the length at which a segment is sealed.
    segment_bytes: u64,
    packer: Packer,
    pub(super) position: Position,
    ticket: u64,
    pub(super) generation: u64,
    /// A group's joined parts.
    raw: Vec<u8>,
    /// Buffers of groups that are written, for reuse.
    pub(super) spare: Vec<Vec<u8>>,
}

impl Packing {
    pub(super) const fn new(kind: Kind, segment_bytes: u64, packer: Packer, position: Position) -> Self {
        Self { kind, segment_bytes, packer, position, ticket: 0, generation: 0, raw: Vec::new(), spare: Vec::new() }
    }

    /// Packs blocks into a group. `roll` begins a new segment with it; `facts` is called when a segment is begun.
    ///
    /// # Errors
    /// When compression or encryption fails.
    pub(super) fn pack(
        &mut self,
        builders: &[BlockBuilder],
        roll: bool,
        facts: impl FnOnce() -> FrontFacts,
    ) -> io::Result<Packed> {
        let raw_bytes: u64 = builders.iter().map(|block| u64::from(block.raw_len)).sum();
        let before = self.position;
        let mut after = before;
        if roll || after.active.is_some_and(|active| active.end + raw_bytes / 4 > self.segment_bytes) {
            after.leave_active();
        }
        let front = after.active.is_none().then(|| {
            let FrontFacts { needed_from, ack_floor, totals } = facts();
            let segment = after.next_segment;
            Front {
                segment,
                first: after.next,
                previous: after.ended,
                needed_from: needed_from.min(segment),
                ack_floor,
                totals,
            }
        });
        let mut active = after.active.unwrap_or(ActivePosition { segment: after.next_segment, end: 0, records: 0 });
        let start = active.end;
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        let mut blocks = Vec::with_capacity(builders.len());
        let header = |kind, stream| Header {
            kind,
            stream,
            codec: 0,
            seq: 0,
            count: 0,
            raw_len: 0,
            stored_len: 0,
            received_at: 0,
            group: start as u32,
            ends_group: false,
        };
        if let Some(front) = front {
            let header = Header {
                received_at: now_millis(),
                ends_group: builders.is_empty(),
                ..header(Kind::Front, Stream::Events)
            };
            self.packer.write(&mut bytes, active.segment, header, &front.to_bytes())?;
        }
        let front = bytes.last_chunk().copied().map(u32::from_le_bytes);
        for (i, block) in builders.iter().enumerate() {
            let next = &mut after.next[block.stream as usize];
            let header = Header {
                seq: *next,
                count: block.count,
                received_at: block.received_at,
                ends_group: i + 1 == builders.len(),
                ..header(self.kind, block.stream)
            };
            *next += u64::from(block.count);
            active.records += u64::from(block.count);
            let offset = start + bytes.len() as u64;
            let raw = block.payload(&mut self.raw);
            blocks.push((offset, self.packer.write(&mut bytes, active.segment, header, raw)?));
        }
        active.end += bytes.len() as u64;
        after.active = Some(active);
        after.next_segment = active.segment + 1;
        let ticket = self.ticket;
        self.ticket += 1;
        self.position = after;
        Ok(Packed { ticket, generation: self.generation, before, after, bytes, blocks, front })
    }
}
