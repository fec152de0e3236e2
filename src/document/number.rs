//! Numbers from the wire, as documents contain them.

use super::schema::Value;
use crate::record::wire::{self, BadWire};

/// The low 32 bits: protobuf uses them of a varint for its 32-bit types.
#[inline]
pub(super) fn low_i32(value: u64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "by the protobuf encoding rules")]
    (value as u32).cast_signed()
}

#[inline]
pub(super) fn int32(value: Value, input: &mut &[u8]) -> Result<i32, BadWire> {
    Ok(match value {
        Value::Sint32 => {
            #[expect(clippy::cast_possible_truncation, reason = "a zigzag of 32 bits fits")]
            let value = wire::unzigzag(wire::varint(input)? & 0xFFFF_FFFF) as i32;
            value
        }
        Value::Sfixed32 => i32::from_le_bytes(wire::fixed(input)?),
        _ => low_i32(wire::varint(input)?),
    })
}

/// `uint32` and `fixed32` too: as 64-bit integers they keep one type over their whole range.
#[inline]
pub(super) fn int64(value: Value, input: &mut &[u8]) -> Result<i64, BadWire> {
    Ok(match value {
        Value::Uint32 => i64::from(low_i32(wire::varint(input)?).cast_unsigned()),
        Value::Fixed32 => i64::from(u32::from_le_bytes(wire::fixed(input)?)),
        Value::Sint64 => wire::unzigzag(wire::varint(input)?),
        Value::Sfixed64 => i64::from_le_bytes(wire::fixed(input)?),
        _ => wire::varint(input)?.cast_signed(),
    })
}

/// A float as the double of its shortest decimal form: 3.9586668, not 3.9586668014526367. The fork does the same.
#[inline]
pub(super) fn widen(value: f32) -> f64 {
    let wide = f64::from(value);
    // Eighths below 1024 have at most seven digits: their exact decimal form is the shortest.
    let eighths = wide * 8.0;
    if wide.abs() < 1024.0 && eighths.trunc() == eighths || !value.is_finite() {
        return wide;
    }
    value.to_string().parse().unwrap_or(wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_become_the_doubles_that_people_read() {
        for (float, double) in
            [(3.958_666_8_f32, 3.958_666_8_f64), (4.5, 4.5), (1e10, 1e10), (0.1, 0.1), (-7.25, -7.25)]
        {
            assert_eq!(widen(float), double);
        }
        assert!(widen(f32::NAN).is_nan());
        assert_eq!(widen(f32::NEG_INFINITY), f64::NEG_INFINITY);
        assert_eq!(widen(-0.0).to_bits(), (-0.0_f64).to_bits());
    }

    #[test]
    fn the_short_way_for_floats_agrees_with_the_long_one() {
        for eighths in -8 * 1024_i16..8 * 1024 {
            let float = f32::from(eighths) / 8.0;
            assert_eq!(Ok(widen(float)), float.to_string().parse());
        }
    }
}
