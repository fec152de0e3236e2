//! Writes raw BSON, in one go and without a tree: element headers are ready-made, lengths are filled in afterwards.
//!
//! The buffer is kept longer than what is written and cut at the end, so that the writes are plain copies into it.

/// BSON element types that documents use.
pub(super) mod kind {
    pub(crate) const DOUBLE: u8 = 0x01;
    pub(crate) const STRING: u8 = 0x02;
    pub(crate) const DOCUMENT: u8 = 0x03;
    pub(crate) const ARRAY: u8 = 0x04;
    pub(crate) const BOOL: u8 = 0x08;
    pub(crate) const DATE: u8 = 0x09;
    pub(crate) const INT32: u8 = 0x10;
    pub(crate) const INT64: u8 = 0x12;
}

/// Bytes of a header that are copied at once, whatever its length.
const INLINE: usize = 32;

/// What comes before an element's value: room for its type, its key, a NUL.
#[derive(Debug, Clone)]
pub(super) struct Header {
    bytes: [u8; INLINE],
    len: u8,
    /// The whole, where it does not fit above.
    long: Option<Box<[u8]>>,
}

impl Header {
    /// The header of an element; `key` holds no NUL (names of protobuf fields never do).
    pub(super) fn new(key: &str) -> Self {
        let whole = [&[0], key.as_bytes(), &[0]].concat();
        let mut bytes = [0; INLINE];
        let inline = whole.len().min(INLINE);
        bytes[..inline].copy_from_slice(&whole[..inline]);
        #[expect(clippy::cast_possible_truncation, reason = "at most INLINE")]
        Self { bytes, len: inline as u8, long: (whole.len() > INLINE).then(|| whole.into()) }
    }

    /// The key, for errors.
    pub(super) fn key(&self) -> &str {
        let whole = self.long.as_deref().unwrap_or(&self.bytes[..usize::from(self.len)]);
        std::str::from_utf8(&whole[1..whole.len() - 1]).unwrap_or_default()
    }
}

/// A buffer that raw BSON is appended to.
#[derive(Debug)]
pub(super) struct Writer {
    /// Written up to `at`; the rest is spare.
    buffer: Vec<u8>,
    at: usize,
}

impl Writer {
    /// Appends to `buffer`; about `expected` bytes will come.
    pub(super) fn append_to(mut buffer: Vec<u8>, expected: usize) -> Self {
        let at = buffer.len();
        buffer.resize(at + expected + INLINE, 0);
        Self { buffer, at }
    }

    /// The buffer, cut to what was written.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.buffer.truncate(self.at);
        self.buffer
    }

    /// Where the next byte goes.
    #[inline]
    pub(super) const fn position(&self) -> usize {
        self.at
    }

    /// Takes back everything from `position` on.
    pub(super) fn rewind(&mut self, position: usize) {
        self.at = position;
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, n: usize) {
        let len = (self.at + n).max(self.buffer.len() * 2);
        self.buffer.resize(len, 0);
    }

    /// The next `n` bytes, yet to be written.
    #[inline]
    fn slot(&mut self, n: usize) -> &mut [u8] {
        if self.buffer.len() - self.at < n {
            self.grow(n);
        }
        &mut self.buffer[self.at..self.at + n]
    }

    #[inline]
    pub(super) fn header(&mut self, kind: u8, header: &Header) {
        let start = self.at;
        if let Some(long) = &header.long {
            self.bytes(long);
        } else {
            self.slot(INLINE).copy_from_slice(&header.bytes);
            self.at += usize::from(header.len);
        }
        self.buffer[start] = kind;
    }

    /// The header of element `index` of an array.
    #[inline]
    pub(super) fn index_header(&mut self, kind: u8, index: usize) {
        let slot = self.slot(24);
        slot[0] = kind;
        let mut digits = [0; 20];
        let mut first = digits.len();
        let mut rest = index;
        loop {
            first -= 1;
            #[expect(clippy::cast_possible_truncation, reason = "a digit")]
            let digit = (rest % 10) as u8;
            digits[first] = b'0' + digit;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let count = digits.len() - first;
        slot[1..=count].copy_from_slice(&digits[first..]);
        slot[count + 1] = 0;
        self.at += count + 2;
    }

    /// The header of an element whose key comes from the record; BSON keys end at the first NUL, so `key` holds none.
    pub(super) fn key_header(&mut self, kind: u8, key: &str) {
        self.bytes(&[kind]);
        self.bytes(key.as_bytes());
        self.bytes(&[0]);
    }

    #[inline]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.slot(bytes.len()).copy_from_slice(bytes);
        self.at += bytes.len();
    }

    #[inline]
    fn array<const N: usize>(&mut self, bytes: [u8; N]) {
        self.slot(N).copy_from_slice(&bytes);
        self.at += N;
    }

    #[inline]
    pub(super) fn bool(&mut self, value: bool) {
        self.array([u8::from(value)]);
    }

    #[inline]
    pub(super) fn int32(&mut self, value: i32) {
        self.array(value.to_le_bytes());
    }

    #[inline]
    pub(super) fn int64(&mut self, value: i64) {
        self.array(value.to_le_bytes());
    }

    #[inline]
    pub(super) fn double(&mut self, value: f64) {
        self.array(value.to_le_bytes());
    }

    /// A string value: length with the NUL, bytes, NUL. Its length is checked against the document's limit at the end.
    #[inline]
    pub(super) fn string(&mut self, value: &str) {
        let n = value.len();
        let slot = self.slot(n + 5);
        slot[..4].copy_from_slice(&length(n + 1));
        slot[4..4 + n].copy_from_slice(value.as_bytes());
        slot[4 + n] = 0;
        self.at += n + 5;
    }

    /// Begins a document or array value; [`Self::end`] gets what this returns.
    #[inline]
    pub(super) fn begin(&mut self) -> usize {
        let start = self.at;
        self.array([0; 4]);
        start
    }

    /// Ends the document or array that began at `start`.
    #[inline]
    pub(super) fn end(&mut self, start: usize) {
        self.array([0]);
        let len = self.at - start;
        self.buffer[start..start + 4].copy_from_slice(&length(len));
    }
}

/// A BSON length. Lengths over 2 GiB do not come up: documents are limited far below, and checked.
#[inline]
fn length(n: usize) -> [u8; 4] {
    #[expect(clippy::cast_possible_truncation, reason = "documents over the limit are refused before they are used")]
    (n as u32).to_le_bytes()
}
