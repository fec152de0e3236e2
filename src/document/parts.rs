//! What is gathered of a record whose fields are out of order. Places in it are half as large as slices, because a hostile
//! record has hundreds of thousands.

/// The maximum parts of one record: each costs memory in addition to the record. A list or map with so many elements would
/// make a document close to the limit.
pub(super) const MAX_PARTS: usize = 1 << 20;
/// The end of a chain of parts.
pub(super) const NONE: u32 = u32::MAX;

/// A part of a record, or of another text of less than 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    at: u32,
    len: u32,
}

impl Span {
    /// The place of `part`, which is a slice of `whole`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "both are below 4 GiB")]
    pub(super) fn of(whole: &[u8], part: &[u8]) -> Self {
        let at = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
        debug_assert!(at + part.len() <= whole.len(), "a part of something else");
        Self { at: at as u32, len: part.len() as u32 }
    }

    /// The bytes at this place.
    #[inline]
    pub(super) fn within(self, whole: &[u8]) -> &[u8] {
        let at = self.at as usize;
        &whole[at..at + self.len as usize]
    }
}

/// A part of a record that belongs to a field, see [`super::exact`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) span: Span,
    pub(super) next: u32,
}

/// The gathered parts of a field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// The field; for a oneof, the member that came last.
    pub(super) number: u32,
    pub(super) slot: u16,
    /// Its parts are contents of messages.
    pub(super) message: bool,
    pub(super) first: u32,
    pub(super) last: u32,
}
