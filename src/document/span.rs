//! Places in a record: half as large as slices, for what is gathered of a hostile record by the hundred thousand.

/// A part of a record, or of another text of less than 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    at: u32,
    len: u32,
}

impl Span {
    /// Where `part`, which was taken out of `whole`, lies.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "both are below 4 GiB")]
    pub(super) fn of(whole: &[u8], part: &[u8]) -> Self {
        let at = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
        debug_assert!(at + part.len() <= whole.len(), "a part of something else");
        Self { at: at as u32, len: part.len() as u32 }
    }

    /// What lies there.
    #[inline]
    pub(super) fn within(self, whole: &[u8]) -> &[u8] {
        let at = self.at as usize;
        &whole[at..at + self.len as usize]
    }
}
