//! Writes raw BSON sequentially, without a tree: element headers are prepared, lengths are filled in afterwards.

use base64::{Engine, engine::general_purpose::STANDARD};

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

/// The bytes before an element's value: space for its type, its key, a NUL.
#[derive(Debug, Clone)]
pub(super) struct Header {
    bytes: [u8; INLINE],
    len: u8,
    /// The whole header, if it does not fit above.
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

/// The bytes before an element of an array: space for its type, its index in digits, a NUL. Its digits are incremented,
/// which is quicker than a division for each element.
///
/// The bytes are one number, the first byte is its lowest: changing a byte in memory and then reading all of them is slow.
#[derive(Debug, Clone)]
pub(super) struct Index {
    bytes: u128,
    /// The increment of the last digit.
    one: u128,
    len: u8,
    last: u8,
}

/// Space for the digits of more elements than a document has bytes.
const INDEX: usize = size_of::<u128>();

impl Default for Index {
    fn default() -> Self {
        Self { bytes: u128::from(b'0') << 8, one: 1 << 8, len: 3, last: 0 }
    }
}

impl Index {
    /// Moves to the next element.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.bytes += self.one;
        self.last += 1;
        if self.last > 9 {
            self.carry();
        }
    }

    #[inline(never)]
    fn carry(&mut self) {
        self.last = 0;
        let mut bytes = self.bytes.to_le_bytes();
        let end = usize::from(self.len) - 1;
        for at in (1..end).rev() {
            if bytes[at] <= b'9' {
                break;
            }
            bytes[at] = b'0';
            if at > 1 {
                bytes[at - 1] += 1;
            } else if end + 1 < INDEX {
                bytes[1] = b'1';
                bytes[end] = b'0';
                self.len += 1;
                self.one <<= 8;
            }
        }
        self.bytes = u128::from_le_bytes(bytes);
    }

    /// Tells whether it is the first element.
    pub(super) fn is_first(&self) -> bool {
        self.bytes.to_le_bytes()[1] == b'0'
    }

    /// For errors.
    pub(super) fn segment(&self) -> String {
        format!("[{}]", String::from_utf8_lossy(&self.bytes.to_le_bytes()[1..usize::from(self.len) - 1]))
    }
}

/// A buffer that raw BSON is appended to.
#[derive(Debug)]
pub(super) struct Writer {
    buffer: Vec<u8>,
}

impl Writer {
    /// Appends to `buffer`; about `expected` bytes will follow.
    pub(super) fn append_to(mut buffer: Vec<u8>, expected: usize) -> Self {
        buffer.reserve(expected + INLINE);
        Self { buffer }
    }

    /// The buffer with what was written.
    pub(super) fn finish(self) -> Vec<u8> {
        self.buffer
    }

    /// The position of the next byte.
    #[inline]
    pub(super) const fn position(&self) -> usize {
        self.buffer.len()
    }

    /// Removes everything from `position` on.
    pub(super) fn rewind(&mut self, position: usize) {
        self.buffer.truncate(position);
    }

    /// Copies more than is needed and truncates again: a copy of a known length is a few instructions, one of an unknown
    /// length a call.
    #[inline]
    pub(super) fn header(&mut self, kind: u8, header: &Header) {
        let start = self.buffer.len();
        if let Some(long) = &header.long {
            self.buffer.extend_from_slice(long);
        } else {
            self.buffer.extend_from_slice(&header.bytes);
            self.buffer.truncate(start + usize::from(header.len));
        }
        self.buffer[start] = kind;
    }

    /// The header of an element of an array.
    #[inline]
    pub(super) fn index_header(&mut self, kind: u8, index: &Index) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&index.bytes.to_le_bytes());
        self.buffer.truncate(start + usize::from(index.len));
        self.buffer[start] = kind;
    }

    /// An element of an array that is a document without elements.
    #[inline]
    pub(super) fn empty_element(&mut self, index: &Index) {
        self.short_element(kind::DOCUMENT, index, [5, 0, 0, 0, 0]);
    }

    /// An element of an array that is a number.
    #[inline]
    pub(super) fn int32_element(&mut self, index: &Index, value: i32) {
        self.short_element(kind::INT32, index, value.to_le_bytes());
    }

    /// An element whose header and value are usually short enough to be written as one number.
    #[inline]
    fn short_element<const N: usize>(&mut self, kind: u8, index: &Index, value: [u8; N]) {
        if usize::from(index.len) + N > INDEX {
            self.index_header(kind, index);
            return self.array(value);
        }
        let mut number = [0; INDEX];
        number[..N].copy_from_slice(&value);
        let element = index.bytes | u128::from(kind) | u128::from_le_bytes(number) << (8 * u32::from(index.len));
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&element.to_le_bytes());
        self.buffer.truncate(start + usize::from(index.len) + N);
    }

    /// The header of an element whose key comes from the record; BSON keys end at the first NUL, so `key` holds none.
    #[inline]
    pub(super) fn key_header(&mut self, kind: u8, key: &[u8]) {
        self.buffer.reserve(key.len() + 2);
        self.array([kind]);
        self.bytes(key);
        self.array([0]);
    }

    #[inline]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    #[inline]
    fn array<const N: usize>(&mut self, bytes: [u8; N]) {
        self.buffer.extend_from_slice(&bytes);
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

    /// A string value: length with the NUL, bytes, NUL. `text` is UTF-8, checked before.
    #[inline]
    pub(super) fn string(&mut self, text: &[u8]) {
        self.array(length(text.len() + 1));
        self.bytes(text);
        self.array([0]);
    }

    /// A string value: the bytes in base64.
    pub(super) fn base64(&mut self, bytes: &[u8]) {
        let encoded = bytes.len().div_ceil(3) * 4;
        self.array(length(encoded + 1));
        let start = self.position();
        self.buffer.resize(start + encoded, 0);
        let written = STANDARD.encode_slice(bytes, &mut self.buffer[start..]);
        debug_assert_eq!(written, Ok(encoded));
        self.array([0]);
    }

    /// A document value without elements.
    #[inline]
    pub(super) fn empty(&mut self) {
        self.array([5, 0, 0, 0, 0]);
    }

    /// Begins a document or array value; [`Self::end`] gets what this returns.
    #[inline]
    pub(super) fn begin(&mut self) -> usize {
        let start = self.position();
        self.array([0; 4]);
        start
    }

    /// Ends the document or array that began at `start`.
    #[inline]
    pub(super) fn end(&mut self, start: usize) {
        self.array([0]);
        let bytes = length(self.position() - start);
        self.buffer[start..start + 4].copy_from_slice(&bytes);
    }
}

/// A BSON length. Lengths over 2 GiB do not occur: documents are limited far below, and checked.
#[inline]
fn length(n: usize) -> [u8; 4] {
    #[expect(clippy::cast_possible_truncation, reason = "documents over the limit are refused before they are used")]
    (n as u32).to_le_bytes()
}

/// The decimal digits of a number, at the end of `digits`.
#[inline]
pub(super) fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[first..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted_up_as_they_are_written() {
        let mut index = Index::default();
        for count in 0..100_002 {
            assert_eq!((index.segment(), index.is_first()), (format!("[{count}]"), count == 0));
            let mut writer = Writer::append_to(Vec::new(), 0);
            writer.index_header(kind::INT32, &index);
            assert_eq!(writer.finish(), [&[kind::INT32], count.to_string().as_bytes(), &[0]].concat());
            index.advance();
        }
    }

    #[test]
    fn short_elements_are_their_header_and_their_value() {
        let of = |write: &dyn Fn(&mut Writer)| {
            let mut writer = Writer::append_to(Vec::new(), 0);
            write(&mut writer);
            writer.finish()
        };
        // Up to more digits than are written at once.
        for digits in 1..=12_u8 {
            let mut bytes = [0; INDEX];
            bytes[1..=usize::from(digits)].fill(b'7');
            let index = Index { bytes: u128::from_le_bytes(bytes), len: digits + 2, ..Index::default() };
            let number = |writer: &mut Writer| (writer.index_header(kind::INT32, &index), writer.int32(-2)).1;
            assert_eq!(of(&|writer| writer.int32_element(&index, -2)), of(&number));
            let empty = |writer: &mut Writer| (writer.index_header(kind::DOCUMENT, &index), writer.empty()).1;
            assert_eq!(of(&|writer| writer.empty_element(&index)), of(&empty));
        }
    }
}
