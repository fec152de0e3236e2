//! Protobuf's wire format: the one walker over it, and functions that write it.
//!
//! ```text
//! message   field…
//! field     tag value          tag: the varint  number << 3 | wire type
//! value     0  varint          base 128, low bits first, at most 64 bits in 10 bytes
//!           1  8 bytes         little-endian
//!           2  varint length, so many bytes: a string, bytes, a message, a packed list
//!           3  field… and a tag of wire type 4 with the same number: a group, which proto3 no longer writes
//!           5  4 bytes         little-endian
//! ```
//!
//! Reading functions take from the front of a slice. Bounds are checked before anything is taken, so nothing panics,
//! whatever the bytes; after an error the slice is at any position within its original range. Documents are made by
//! these functions: each is optimized for the common case (tags and lengths of one or two bytes), and the rest is out
//! of line.

use std::fmt;

use bytes::BufMut;

/// How deep messages and groups may be nested, as in protobuf's own implementations. LiveKit's records reach 9 levels.
pub const MAX_DEPTH: usize = 100;

/// The largest field number that protobuf allows.
const MAX_FIELD_NUMBER: u64 = (1 << 29) - 1;

/// How a protobuf value is encoded on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum WireType {
    /// A base-128 varint.
    Varint = 0,
    /// Eight bytes.
    Fixed64 = 1,
    /// A length, then so many bytes: strings, bytes, messages, packed lists.
    Length = 2,
    /// The start of a group (proto2).
    StartGroup = 3,
    /// The end of a group (proto2).
    EndGroup = 4,
    /// Four bytes.
    Fixed32 = 5,
}

impl WireType {
    /// The wire type in a tag, if it exists.
    #[must_use]
    pub const fn from_tag(tag: u32) -> Option<Self> {
        Some(match tag & 7 {
            0 => Self::Varint,
            1 => Self::Fixed64,
            2 => Self::Length,
            3 => Self::StartGroup,
            4 => Self::EndGroup,
            5 => Self::Fixed32,
            _ => return None,
        })
    }
}

impl fmt::Display for WireType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Varint => "varint",
            Self::Fixed64 => "64-bit",
            Self::Length => "length-delimited",
            Self::StartGroup => "start of group",
            Self::EndGroup => "end of group",
            Self::Fixed32 => "32-bit",
        })
    }
}

/// Bytes that are not protobuf's wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadWire {
    /// A length, a varint or a fixed-width value runs past the end of its message.
    #[error("the protobuf bytes end in the middle of a value")]
    Truncated,
    /// A varint longer than 64 bits.
    #[error("a varint is longer than 64 bits")]
    BadVarint,
    /// A tag with field number 0, one above 2^29 - 1, or a wire type that does not exist or cannot be there.
    #[error("a protobuf tag cannot be read (field number or wire type out of range)")]
    BadTag,
    /// A group that is not closed by its own end tag.
    #[error("a protobuf group is not closed")]
    BadGroup,
    /// Messages, or groups, nested deeper than [`MAX_DEPTH`].
    #[error("messages or groups are nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// An encoded value, not yet interpreted.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1, little-endian.
    Fixed64([u8; 8]),
    /// Wire type 2, without the length.
    Length(&'a [u8]),
    /// A whole group, which was skipped.
    Group {
        /// How deep groups are nested in it, including itself.
        levels: usize,
    },
    /// Wire type 5, little-endian.
    Fixed32([u8; 4]),
}

/// Takes a varint.
///
/// # Errors
/// When it is cut off, or longer than 64 bits.
#[inline(always)]
pub fn varint(input: &mut &[u8]) -> Result<u64, BadWire> {
    match **input {
        [byte, ..] if byte < 0x80 => {
            *input = &input[1..];
            Ok(u64::from(byte))
        }
        [low, high, ..] if high < 0x80 => {
            *input = &input[2..];
            Ok(u64::from(low & 0x7F) | u64::from(high) << 7)
        }
        _ => long_varint(input),
    }
}

#[inline(never)]
fn long_varint(input: &mut &[u8]) -> Result<u64, BadWire> {
    let mut value = 0;
    // With ten bytes available, only its end needs a check.
    if let Some(bytes) = input.first_chunk::<10>() {
        for (i, &byte) in bytes.iter().enumerate() {
            value |= u64::from(byte & 0x7F) << (7 * i);
            if byte < 0x80 {
                // One bit of the tenth byte is left.
                if i == 9 && byte > 1 {
                    break;
                }
                *input = &input[i + 1..];
                return Ok(value);
            }
        }
        return Err(BadWire::BadVarint);
    }
    for (i, &byte) in input.iter().enumerate() {
        value |= u64::from(byte & 0x7F) << (7 * i);
        if byte < 0x80 {
            *input = &input[i + 1..];
            return Ok(value);
        }
    }
    Err(BadWire::Truncated)
}

/// Takes a tag: `field number << 3 | wire type`.
///
/// # Errors
/// When there is no varint, or its field number is out of range.
#[inline(always)]
pub fn tag(input: &mut &[u8]) -> Result<u32, BadWire> {
    let tag = varint(input)?;
    let number = tag >> 3;
    if number == 0 || number > MAX_FIELD_NUMBER {
        return Err(BadWire::BadTag);
    }
    #[expect(clippy::cast_possible_truncation, reason = "a field number of 29 bits and a wire type of 3")]
    Ok(tag as u32)
}

/// Takes a length and that many bytes.
///
/// # Errors
/// When the length is not a varint, or there are fewer bytes.
#[inline(always)]
pub fn length_delimited<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], BadWire> {
    let length = varint(input)?;
    let split = usize::try_from(length).ok().and_then(|length| input.split_at_checked(length));
    let (head, tail) = split.ok_or(BadWire::Truncated)?;
    *input = tail;
    Ok(head)
}

/// Takes `N` bytes.
///
/// # Errors
/// When there are fewer.
#[inline]
pub fn fixed<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], BadWire> {
    let (head, tail) = input.split_first_chunk::<N>().ok_or(BadWire::Truncated)?;
    *input = tail;
    Ok(*head)
}

/// Takes a field: its number and its value.
///
/// # Errors
/// When there is no whole field.
pub fn field<'a>(input: &mut &'a [u8]) -> Result<(u32, Value<'a>), BadWire> {
    let tag = tag(input)?;
    Ok((tag >> 3, value(input, tag)?))
}

/// Takes the value that follows `tag`.
///
/// # Errors
/// When there is no whole value, or the tag is the end of a group.
pub fn value<'a>(input: &mut &'a [u8], tag: u32) -> Result<Value<'a>, BadWire> {
    Ok(match WireType::from_tag(tag) {
        Some(WireType::Varint) => Value::Varint(varint(input)?),
        Some(WireType::Fixed64) => Value::Fixed64(fixed(input)?),
        Some(WireType::Length) => Value::Length(length_delimited(input)?),
        Some(WireType::Fixed32) => Value::Fixed32(fixed(input)?),
        Some(WireType::StartGroup) => Value::Group { levels: skip_group(input, tag >> 3, 1)? },
        Some(WireType::EndGroup) | None => return Err(BadWire::BadTag),
    })
}

/// Skips the value that follows `tag`; a whole group if it is one.
///
/// # Errors
/// Those of [`value`].
pub fn skip(input: &mut &[u8], tag: u32) -> Result<(), BadWire> {
    contents(input, tag).map(|_| ())
}

/// Skips a value too; returns its contents if it is length-delimited.
///
/// # Errors
/// Those of [`value`].
#[inline(always)]
pub fn contents<'a>(input: &mut &'a [u8], tag: u32) -> Result<&'a [u8], BadWire> {
    const VARINT: u32 = WireType::Varint as u32;
    const LENGTH: u32 = WireType::Length as u32;
    match tag & 7 {
        LENGTH => length_delimited(input),
        VARINT => varint(input).map(|_| &[][..]),
        _ => other_contents(input, tag),
    }
}

#[inline(never)]
fn other_contents<'a>(input: &mut &'a [u8], tag: u32) -> Result<&'a [u8], BadWire> {
    value(input, tag).map(|_| &[][..])
}

/// Skips a group, `depth` levels deep; returns how many levels it has.
fn skip_group(input: &mut &[u8], number: u32, depth: usize) -> Result<usize, BadWire> {
    let mut levels = 1;
    loop {
        if input.is_empty() {
            return Err(BadWire::BadGroup);
        }
        let tag = self::tag(input)?;
        match WireType::from_tag(tag) {
            Some(WireType::StartGroup) if depth >= MAX_DEPTH => return Err(BadWire::TooDeep),
            Some(WireType::StartGroup) => levels = levels.max(1 + skip_group(input, tag >> 3, depth + 1)?),
            Some(WireType::EndGroup) if tag >> 3 == number => return Ok(levels),
            Some(WireType::EndGroup) => return Err(BadWire::BadGroup),
            _ => _ = value(input, tag)?,
        }
    }
}

/// The tag of the next field, and the bytes after it, if that is the field of `tag` again.
#[inline]
pub fn again(mut input: &[u8], tag: u32) -> Option<(u32, &[u8])> {
    let next = self::tag(&mut input).ok()?;
    (next >> 3 == tag >> 3).then_some((next, input))
}

/// The form of a `sint32` / `sint64` as a varint: numbers near zero are short, whatever their sign.
#[must_use]
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The inverse of [`zigzag`].
#[must_use]
pub const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Messages that each follow their length; ends at the first bytes that do not fit this format.
pub fn delimited(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || length_delimited(&mut bytes).ok())
}

/// Appends a varint.
pub fn write_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value as u8 & 0x7F) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Appends field `number` with an integer.
pub fn write_varint_field(out: &mut impl BufMut, number: u32, value: u64) {
    write_tag(out, number, WireType::Varint);
    write_varint(out, value);
}

/// Appends field `number` with bytes.
pub fn write_length_delimited(out: &mut impl BufMut, number: u32, bytes: &[u8]) {
    write_tag(out, number, WireType::Length);
    write_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Appends the tag of field `number`.
pub fn write_tag(out: &mut impl BufMut, number: u32, wire_type: WireType) {
    write_varint(out, u64::from(number) << 3 | wire_type as u64);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::cases;

    #[test]
    fn a_varint_has_at_most_64_bits_and_all_of_its_bytes() {
        let all = [0xFF; 9];
        let read = |last: &[u8]| varint(&mut &[&all[..], last].concat()[..]);
        assert_eq!(read(&[0x01]), Ok(u64::MAX));
        assert_eq!(read(&[0x01, 0x80]), Ok(u64::MAX), "what follows is another");
        assert_eq!(read(&[0x02]), Err(BadWire::BadVarint));
        assert_eq!(read(&[0x81]), Err(BadWire::BadVarint));
        assert_eq!(read(&[0x81, 0x00]), Err(BadWire::BadVarint), "it goes on");
        for length in 0..=9 {
            assert_eq!(varint(&mut &all[..length]), Err(BadWire::Truncated), "{length} bytes");
        }
        assert_eq!(varint(&mut &[0x80, 0x80, 0x00][..]), Ok(0), "longer than it has to be");
    }

    #[test]
    fn groups_are_stepped_over_whole_and_end_with_their_own_number() {
        // field 3: a group around field 4 and a group of field 5
        let mut group = &[0x1B, 0x22, 0x01, 0xFF, 0x2B, 0x2C, 0x1C, 0x08, 0x07][..];
        assert!(matches!(field(&mut group), Ok((3, Value::Group { levels: 2 }))));
        assert!(matches!(field(&mut group), Ok((1, Value::Varint(7)))));
        assert!(group.is_empty());
        assert_eq!(field(&mut &[0x1B, 0x24][..]).err(), Some(BadWire::BadGroup), "another's end");
        assert_eq!(field(&mut &[0x1B][..]).err(), Some(BadWire::BadGroup), "no end");
        assert_eq!(field(&mut &[0x1C][..]).err(), Some(BadWire::BadTag), "no begin");
        let nested = |depth: usize| [vec![0x0B; depth], vec![0x0C; depth]].concat();
        assert!(field(&mut &nested(MAX_DEPTH)[..]).is_ok());
        assert_eq!(field(&mut &nested(MAX_DEPTH + 1)[..]).err(), Some(BadWire::TooDeep));
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn what_is_written_is_read(value in any::<u64>(), shift in 0..64, number in 1..=MAX_FIELD_NUMBER as u32, bytes in any::<Vec<u8>>()) {
            let value = value >> shift;
            prop_assert_eq!(zigzag(unzigzag(value)), value);
            let mut out = Vec::new();
            write_varint_field(&mut out, number, value);
            write_length_delimited(&mut out, number, &bytes);
            let mut input = &out[..];
            prop_assert!(matches!(field(&mut input), Ok((n, Value::Varint(read))) if (n, read) == (number, value)));
            prop_assert!(matches!(field(&mut input), Ok((n, Value::Length(read))) if n == number && read == bytes));
            prop_assert!(input.is_empty());
        }
    }
}
