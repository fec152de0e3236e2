//! The state of encoding one record, and its limits: depth, size, work.
//!
//! Each part of the encoding is a method of [`Encoding`] in a file of its own. They call each other as messages nest:
//!
//! ```text
//! message ── in order ──► fields ─┬─► value, oneof, list, map ─► message …
//!    └────── out of order ─► exact ┘
//! ```

use super::{
    error::{DocumentError, DocumentErrorReason},
    options::{DocumentOptions, PiiKey},
    parts::{Part, Slot},
    schema::{Field, Schema, Shape, Table},
    writer::{Header, Index, Writer},
};
use crate::record::wire::{BadWire, MAX_DEPTH};

/// How often each byte of a record may be read. The maximum found is three times: once by the quick path, once when the
/// exact path gathers, once when it writes.
pub(super) const WORK_PER_BYTE: usize = 4;

/// The state of encoding one record.
pub(super) struct Encoding<'a> {
    pub(super) schema: &'a Schema,
    pub(super) record: &'a [u8],
    pub(super) writer: Writer,
    pub(super) pii_key: Option<&'a PiiKey>,
    /// Where the document begins.
    pub(super) start: usize,
    pub(super) max_bytes: usize,
    /// Bytes of the record that were read, counted each time. Skipped bytes do not count.
    pub(super) work: usize,
    pub(super) max_work: usize,
    pub(super) way: Way,
    /// The message checked last was out of order: the next one, which is often like it, is assumed to be so too.
    pub(super) out_of_order: bool,
    /// What the exact path has gathered of the messages that are being written, the outermost first.
    pub(super) parts: Vec<Part>,
    pub(super) slots: Vec<Slot>,
}

/// How the next messages are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Long ones are checked first, short ones are tried.
    TryShort,
    /// They are in a short message that is tried on the quick path.
    Quick,
    /// They are in a short message for which the quick path failed.
    Exact,
    /// All are checked first: the quick path failed for an earlier one.
    Inspect,
}

/// Why the encoding of a message ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its fields are repeated or interleaved, and the quick path was tried.
    OutOfOrder,
    Failed(DocumentError),
}

impl Stop {
    /// The same, seen from the enclosing message.
    #[cold]
    pub(super) fn within(self, segment: impl Into<String>) -> Self {
        match self {
            Self::OutOfOrder => self,
            Self::Failed(error) => Self::Failed(error.within(segment)),
        }
    }

    /// The same, seen from the message that the field is in.
    #[cold]
    pub(super) fn within_field(self, table: &Table, field: &Field) -> Self {
        let stop = self.within(field.header.key());
        match field.shape {
            Shape::Oneof(index) => stop.within(table.oneofs[index].key()),
            _ => stop,
        }
    }
}

impl From<BadWire> for Stop {
    #[cold]
    fn from(error: BadWire) -> Self {
        Self::Failed(error.into())
    }
}

impl From<DocumentError> for Stop {
    #[cold]
    fn from(error: DocumentError) -> Self {
        Self::Failed(error)
    }
}

impl From<DocumentErrorReason> for Stop {
    #[cold]
    fn from(reason: DocumentErrorReason) -> Self {
        Self::Failed(reason.into())
    }
}

/// The name of an element.
pub(super) trait Key {
    fn write(&self, writer: &mut Writer, kind: u8);
}

impl Key for &Header {
    #[inline]
    fn write(&self, writer: &mut Writer, kind: u8) {
        writer.header(kind, self);
    }
}

impl Key for &Index {
    #[inline]
    fn write(&self, writer: &mut Writer, kind: u8) {
        writer.index_header(kind, self);
    }
}

impl<'a> Encoding<'a> {
    /// An encoding of one record, which begins at the position of `writer`.
    pub(super) fn new(schema: &'a Schema, writer: Writer, options: &'a DocumentOptions, record: &'a [u8]) -> Self {
        Self {
            schema,
            record,
            start: writer.position(),
            writer,
            pii_key: options.pii_key.as_ref(),
            max_bytes: options.max_bytes,
            work: 0,
            max_work: record.len().saturating_mul(WORK_PER_BYTE),
            way: Way::TryShort,
            out_of_order: false,
            parts: Vec::new(),
            slots: Vec::new(),
        }
    }

    /// Checked before each message, with the work so far.
    #[inline]
    pub(super) fn check_depth(&self, depth: usize) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            return Err(BadWire::TooDeep.into());
        }
        if self.work > self.max_work {
            return Err(DocumentErrorReason::TooMuchWork.into());
        }
        Ok(())
    }

    /// Checked after each message, so that encoding a document that is much too large stops early.
    #[inline]
    pub(super) fn check_size(&self) -> Result<(), DocumentError> {
        let bytes = self.writer.position() - self.start;
        if bytes <= self.max_bytes {
            return Ok(());
        }
        Err(DocumentErrorReason::TooLarge { bytes, limit: self.max_bytes }.into())
    }
}
