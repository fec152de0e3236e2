//! A part of a batch as rows, in the binary format of COPY:
//!
//! ```text
//! row      number of fields (16 bits) field…
//! field    length (32 bits, -1: NULL) bytes             integers and floats big-endian
//! ```
//!
//! - `time` is the record's own timestamp. A record without one, or with one that `timestamptz` cannot hold (before 4714 BC,
//!   after 294276), has 1970-01-01 there: the key has to be the same for each resend. `doc` keeps the timestamp.
//! - PostgreSQL's text and jsonb cannot hold a NUL: U+FFFD replaces it. An id that is changed by this, or that is longer than
//!   1024 bytes, ends with a hash of the whole one, so that two ids never become one.
//! - A text in a column is cut after 1024 bytes, since an index cannot hold more; `doc` has all of it.
//! - A number that its column cannot hold, and a float that is no number, is NULL there; `doc` has it as the file sink
//!   writes it.

use std::collections::BTreeSet;

use bson::RawDocument;
use bytes::Bytes;

use super::{
    columns::{Kind, columns},
    fields::{EPOCH_DAY, Fields, NULL},
};
use crate::{
    document::{DocumentContext, Encoder, JsonStyle, Labels, write_json},
    record::Stream,
    sink::{
        Batch, Outcome,
        encoding::{Cancelled, PART_BYTES},
    },
};

/// What COPY's rows begin with: a signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What ends them, in place of a number of fields.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// Rows of one table.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// The index of each row's record in the batch.
    pub(super) records: Vec<usize>,
    /// The rows, one after the other, between COPY's header and its trailer.
    bytes: Bytes,
    /// The days of their times, from 1970-01-01.
    pub(super) days: BTreeSet<i64>,
}

impl Rows {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The rows as COPY takes them.
    pub(super) fn to_copy(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The rows as an array per column, in PostgreSQL's binary format.
    pub(super) fn to_arrays(&self, stream: Stream) -> Vec<Vec<u8>> {
        let columns = columns(stream);
        let rows = i32::try_from(self.records.len()).unwrap_or(i32::MAX);
        let begin = |kind: Kind| {
            let mut array = Vec::with_capacity(20 + 32 * self.records.len());
            for word in [1, 1, kind.element().oid().cast_signed(), rows, 1] {
                array.extend_from_slice(&word.to_be_bytes());
            }
            array
        };
        let mut arrays: Vec<Vec<u8>> = columns.iter().map(|column| begin(column.kind)).collect();
        let mut rest = self.bytes.get(HEADER.len()..).unwrap_or_default();
        while rest.len() > TRAILER.len() {
            rest = &rest[2..];
            for array in &mut arrays {
                let length = rest.first_chunk().map_or(NULL, |length| i32::from_be_bytes(*length));
                let (field, after) = rest.split_at(4 + usize::try_from(length).unwrap_or(0));
                array.extend_from_slice(field);
                rest = after;
            }
        }
        arrays
    }
}

/// Encodes the next part of a batch, starting with record `next`. Records that cannot be documents are rejected in
/// `outcomes`.
pub(super) fn next_rows(
    batch: &Batch,
    next: &mut usize,
    encoder: &Encoder,
    labels: &Labels,
    outcomes: &mut [Outcome],
    cancelled: &Cancelled,
) -> Rows {
    let context = DocumentContext { expire_at: None, labels };
    let (mut rows, mut bytes) = (Rows::default(), HEADER.to_vec());
    let (mut document, mut json) = (Vec::new(), Vec::new());
    while let Some(queued) = batch.records.get(*next).filter(|_| bytes.len() < PART_BYTES && !cancelled.is_set()) {
        let record = *next;
        *next += 1;
        document.clear();
        json.clear();
        let encoded = encoder.encode(batch.stream, &queued.bytes, &context, &mut document).map_err(|e| e.to_string());
        let encoded = encoded.and_then(|()| {
            write_json(&document, JsonStyle::Relaxed, &mut json).map_err(|error| error.to_string())?;
            replace_nul(&mut json);
            let document = RawDocument::from_bytes(&document).map_err(|error| error.to_string())?;
            let fields = Fields::of(batch.stream, document).map_err(|error| error.to_string())?;
            rows.days.insert(fields.time.div_euclid(DAY) + EPOCH_DAY);
            fields.write(batch.stream, &json, &mut bytes);
            Ok(())
        });
        match encoded {
            Ok(()) => rows.records.push(record),
            Err(reason) => outcomes[record] = Outcome::Rejected(format!("it cannot be a document: {reason}")),
        }
    }
    bytes.extend_from_slice(&TRAILER);
    rows.bytes = bytes.into();
    rows
}

/// Replaces each escaped NUL in JSON text by an escaped U+FFFD, which is as long.
fn replace_nul(json: &mut [u8]) {
    const NUL: &[u8] = b"\\u0000";
    let mut at = 0;
    while let Some(found) = memchr::memmem::find(&json[at..], NUL) {
        let start = at + found;
        // A backslash that is itself escaped begins no escape.
        let backslashes = json[..start].iter().rev().take_while(|&&byte| byte == b'\\').count();
        if backslashes % 2 == 0 {
            json[start + 2..start + NUL.len()].copy_from_slice(b"fffd");
        }
        at = start + NUL.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::DocumentOptions;

    #[test]
    fn nul_is_replaced_and_an_escaped_backslash_before_u0000_is_none() {
        let replaced = |text: &str| {
            let mut json = text.as_bytes().to_vec();
            replace_nul(&mut json);
            String::from_utf8(json).expect("UTF-8")
        };
        assert_eq!(replaced(r#""a\u0000b\u0000""#), r#""a\ufffdb\ufffd""#);
        assert_eq!(replaced(r#""a\\u0000""#), r#""a\\u0000""#);
        assert_eq!(replaced(r#""\\\u0000\u0000""#), r#""\\\ufffd\ufffd""#);
    }

    #[test]
    fn rows_and_arrays_have_the_same_fields() {
        let batch = crate::sink::encoding::small_records_of_large_documents(3);
        let encoder = Encoder::new(DocumentOptions::default());
        let mut outcomes = vec![Outcome::Retry; 3];
        let rows = next_rows(&batch, &mut 0, &encoder, &Labels::none(), &mut outcomes, &Cancelled::default());
        let arrays = rows.to_arrays(batch.stream);
        let fields: usize = arrays.iter().map(|array| array.len() - 20).sum();
        assert_eq!(rows.to_copy().len(), 19 + 2 * 3 + fields + 2);
        assert_eq!(&arrays[0][20..28], b"\0\0\0\x04AE_0");
        assert!(arrays.iter().all(|array| array[12..16] == 3_i32.to_be_bytes()));
    }

    #[test]
    fn documents_much_larger_than_their_records_are_made_a_part_at_a_time() {
        let batch = crate::sink::encoding::small_records_of_large_documents(150);
        let encoder = Encoder::new(DocumentOptions::default());
        let mut outcomes = vec![Outcome::Retry; batch.records.len()];
        let (mut next, mut parts, mut records) = (0, 0, Vec::new());
        while next < batch.records.len() {
            let part = next_rows(&batch, &mut next, &encoder, &Labels::none(), &mut outcomes, &Cancelled::default());
            assert!(part.bytes.len() < PART_BYTES + PART_BYTES / 4, "{} bytes at once", part.bytes.len());
            records.extend(part.records);
            parts += 1;
        }
        assert_eq!(records, (0..150).collect::<Vec<_>>());
        assert!(parts > 2, "{parts} parts");
    }
}
