//! Decides which batches go into which blocks. It reads the bytes only where a batch is too long for one block.

use bytes::Bytes;

use crate::record::{RecordBatch, Records, Stream, UnixMillis};

/// About the most unpacked bytes of a block's records: what delivery reads and holds at once.
pub(crate) const BLOCK_RAW_BYTES: usize = 1 << 20;
/// A block has one time of receipt; batches within this many milliseconds after its first share it.
const SAME_TIME_MILLIS: i64 = 1000;

/// The longest record; well below what a block can hold.
pub(crate) const MAX_RECORD_BYTES: usize = 64 << 20;

/// The length of a record that is too long for a block, if there is one.
pub(crate) fn too_long(batch: &RecordBatch) -> Option<usize> {
    if batch.bytes().len() <= MAX_RECORD_BYTES {
        return None;
    }
    batch.iter().map(<[u8]>::len).find(|&bytes| bytes > MAX_RECORD_BYTES)
}

/// A block that is being built.
#[derive(Debug)]
pub(crate) struct BlockBuilder {
    pub(crate) stream: Stream,
    /// The time of receipt of its first batch.
    pub(crate) received_at: UnixMillis,
    pub(crate) count: u32,
    pub(crate) raw_len: u32,
    parts: Vec<Bytes>,
}

impl BlockBuilder {
    /// The payload; joined in `buffer` if it has several parts.
    pub(crate) fn payload<'a>(&'a self, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        if let [only] = &self.parts[..] {
            return only;
        }
        buffer.clear();
        self.parts.iter().for_each(|part| buffer.extend_from_slice(part));
        buffer
    }

    fn takes(&self, batch: &RecordBatch) -> bool {
        let later = batch.received_at.saturating_sub(self.received_at);
        self.raw_len as usize + batch.bytes().len() <= BLOCK_RAW_BYTES && (0..=SAME_TIME_MILLIS).contains(&later)
    }
}

/// Packs the batches into as few blocks as possible, each stream's in order.
pub(crate) fn blocks<'a>(group: impl IntoIterator<Item = &'a RecordBatch>) -> Vec<BlockBuilder> {
    let mut blocks: Vec<BlockBuilder> = Vec::new();
    for batch in group {
        let last = blocks.iter_mut().rev().find(|block| block.stream == batch.stream);
        match last {
            Some(last) if last.takes(batch) => {
                last.parts.push(batch.bytes().clone());
                last.count += batch.count();
                last.raw_len += batch.bytes().len() as u32;
            }
            _ if batch.bytes().len() <= BLOCK_RAW_BYTES => {
                blocks.push(block(batch, batch.bytes().clone(), batch.count()))
            }
            _ => split(batch, &mut blocks),
        }
    }
    blocks
}

fn block(batch: &RecordBatch, bytes: Bytes, count: u32) -> BlockBuilder {
    BlockBuilder {
        stream: batch.stream,
        received_at: batch.received_at,
        count,
        raw_len: bytes.len() as u32,
        parts: vec![bytes],
    }
}

/// Splits a long batch between records.
fn split(batch: &RecordBatch, blocks: &mut Vec<BlockBuilder>) {
    let bytes = batch.bytes();
    let (mut start, mut end, mut count) = (0, 0, 0);
    for record in Records::new(bytes) {
        let record_end = record.as_ptr().addr() - bytes.as_ptr().addr() + record.len();
        if count > 0 && record_end - start > BLOCK_RAW_BYTES {
            blocks.push(block(batch, bytes.slice(start..end), count));
            (start, count) = (end, 0);
        }
        end = record_end;
        count += 1;
    }
    if count > 0 {
        blocks.push(block(batch, bytes.slice(start..end), count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordBatchBuilder;

    fn waiting(stream: Stream, received_at: UnixMillis, lengths: &[usize]) -> RecordBatch {
        let mut builder = RecordBatchBuilder::new(stream);
        lengths.iter().for_each(|&length| builder.push(&vec![7; length]));
        builder.build(received_at)
    }

    fn shape(group: &[RecordBatch]) -> Vec<(Stream, u32, UnixMillis)> {
        blocks(group).iter().map(|block| (block.stream, block.count, block.received_at)).collect()
    }

    #[test]
    fn batches_of_a_stream_that_came_together_share_a_block() {
        let group = [
            waiting(Stream::Events, 1000, &[10, 10]),
            waiting(Stream::Stats, 1000, &[10]),
            waiting(Stream::Events, 1400, &[10]),
        ];
        assert_eq!(shape(&group), [(Stream::Events, 3, 1000), (Stream::Stats, 1, 1000)]);
    }

    #[test]
    fn batches_of_different_times_keep_them() {
        let group = [
            waiting(Stream::Events, 10_000, &[10]),
            waiting(Stream::Events, 9_000, &[10]),
            waiting(Stream::Events, 90_000, &[10]),
        ];
        let times: Vec<_> = shape(&group).into_iter().map(|(_, _, at)| at).collect();
        assert_eq!(times, [10_000, 9_000, 90_000]);
    }

    #[test]
    fn a_long_batch_is_cut_between_records() {
        let group = [waiting(Stream::Events, 0, &[400_000; 7])];
        let blocks = blocks(&group);
        assert_eq!(blocks.iter().map(|block| block.count).collect::<Vec<_>>(), [2, 2, 2, 1]);
        let joined: Vec<u8> = blocks.iter().flat_map(|block| block.payload(&mut Vec::new()).to_vec()).collect();
        assert_eq!(joined[..], group[0].bytes()[..]);
    }
}
