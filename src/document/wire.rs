//! Reading protobuf's wire format: tags, varints, lengths; bounds are checked before anything is taken.

use super::error::{DocumentError, DocumentErrorReason, WireType};
use crate::record::read_varint;

/// The largest field number that protobuf allows.
const MAX_FIELD_NUMBER: u64 = (1 << 29) - 1;

/// A value as it lies on the wire, not yet given a meaning.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Length(&'a [u8]),
    Fixed32([u8; 4]),
}

/// Takes a varint.
#[inline(always)]
pub(super) fn varint(input: &mut &[u8]) -> Result<u64, DocumentError> {
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
fn long_varint(input: &mut &[u8]) -> Result<u64, DocumentError> {
    // With ten bytes at hand there is nothing to check on the way but where it ends.
    if let Some(bytes) = input.first_chunk::<10>() {
        let mut value = 0;
        for (i, &byte) in bytes.iter().take(9).enumerate() {
            value |= u64::from(byte & 0x7F) << (7 * i);
            if byte < 0x80 {
                *input = &input[i + 1..];
                return Ok(value);
            }
        }
    }
    read_varint(input).ok_or_else(|| {
        // Ten bytes that go on (or overflow) are no varint however many follow; fewer are cut off.
        let overlong = input.len() >= 10;
        if overlong { DocumentErrorReason::BadVarint } else { DocumentErrorReason::Truncated }.into()
    })
}

/// Takes a tag: `field number << 3 | wire type`, with both in range.
#[inline(always)]
pub(super) fn tag(input: &mut &[u8]) -> Result<u32, DocumentError> {
    let tag = varint(input)?;
    let number = tag >> 3;
    if number == 0 || number > MAX_FIELD_NUMBER {
        return Err(DocumentErrorReason::BadTag.into());
    }
    #[expect(clippy::cast_possible_truncation, reason = "a field number of 29 bits and a wire type of 3")]
    Ok(tag as u32)
}

/// Takes a length and as many bytes.
#[inline(always)]
pub(super) fn length_delimited<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], DocumentError> {
    let length = varint(input)?;
    let split = usize::try_from(length).ok().and_then(|length| input.split_at_checked(length));
    let (head, tail) = split.ok_or(DocumentErrorReason::Truncated)?;
    *input = tail;
    Ok(head)
}

/// Takes `N` bytes.
#[inline]
pub(super) fn fixed<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], DocumentError> {
    let (head, tail) = input.split_first_chunk::<N>().ok_or(DocumentErrorReason::Truncated)?;
    *input = tail;
    Ok(*head)
}

/// Takes the value that follows `tag`; groups have none and are an error here.
pub(super) fn raw<'a>(input: &mut &'a [u8], tag: u32) -> Result<Raw<'a>, DocumentError> {
    Ok(match WireType::from_tag(tag) {
        Some(WireType::Varint) => Raw::Varint(varint(input)?),
        Some(WireType::Fixed64) => Raw::Fixed64(fixed(input)?),
        Some(WireType::Length) => Raw::Length(length_delimited(input)?),
        Some(WireType::Fixed32) => Raw::Fixed32(fixed(input)?),
        Some(WireType::StartGroup | WireType::EndGroup) | None => return Err(DocumentErrorReason::BadTag.into()),
    })
}

/// Steps over the value of a field that the schema does not know; a whole group if it is one.
pub(super) fn skip(input: &mut &[u8], tag: u32) -> Result<(), DocumentError> {
    contents(input, tag).map(|_| ())
}

/// Steps over a value too; what is in it, where it is length-delimited.
#[inline(always)]
pub(super) fn contents<'a>(input: &mut &'a [u8], tag: u32) -> Result<&'a [u8], DocumentError> {
    const VARINT: u32 = WireType::Varint as u32;
    const LENGTH: u32 = WireType::Length as u32;
    match tag & 7 {
        LENGTH => length_delimited(input),
        VARINT => varint(input).map(|_| &[][..]),
        _ => other_contents(input, tag),
    }
}

#[inline(never)]
fn other_contents<'a>(input: &mut &'a [u8], tag: u32) -> Result<&'a [u8], DocumentError> {
    if WireType::from_tag(tag) == Some(WireType::StartGroup) {
        return skip_group(input, tag >> 3, 1).map(|()| &[][..]);
    }
    raw(input, tag).map(|_| &[][..])
}

fn skip_group(input: &mut &[u8], number: u32, depth: usize) -> Result<(), DocumentError> {
    loop {
        if input.is_empty() {
            return Err(DocumentErrorReason::BadGroup.into());
        }
        let tag = self::tag(input)?;
        match WireType::from_tag(tag) {
            Some(WireType::StartGroup) if depth >= super::MAX_DEPTH => return Err(DocumentErrorReason::TooDeep.into()),
            Some(WireType::StartGroup) => skip_group(input, tag >> 3, depth + 1)?,
            Some(WireType::EndGroup) if tag >> 3 == number => return Ok(()),
            Some(WireType::EndGroup) => return Err(DocumentErrorReason::BadGroup.into()),
            _ => raw(input, tag).map(|_| ())?,
        }
    }
}

/// The tag of the next field, and what follows it, where that is the field of `tag` once more.
#[inline]
pub(super) fn again(mut input: &[u8], tag: u32) -> Option<(u32, &[u8])> {
    // The end of a run is no error, which would be made only to be dropped.
    if input.is_empty() {
        return None;
    }
    let next = self::tag(&mut input).ok()?;
    (next >> 3 == tag >> 3).then_some((next, input))
}

/// The opposite of `sint32` / `sint64`'s zigzag.
pub(super) const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}
