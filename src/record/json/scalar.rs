//! Values other than messages: numbers, names of enum values, bytes.

use std::{borrow::Cow, num::ParseFloatError, str::FromStr};

use base64::{
    DecodeError, Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::schema::{Coding, Integer};
use crate::record::wire;

/// What is wrong with a value, without the value.
pub(super) type Problem = Cow<'static, str>;

/// A number as JSON has it; protobuf's mapping allows them as strings too.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
}

/// The number of an enum's value.
pub(super) const ENUM: Integer = Integer { min: i32::MIN as i128, max: i32::MAX as i128, coding: Coding::Varint };

impl Integer {
    /// A number of this type.
    #[inline]
    pub(super) fn read(self, number: Number<'_>) -> Result<i128, Problem> {
        let value = match number {
            Number::Unsigned(value) => value.into(),
            Number::Signed(value) => value.into(),
            Number::Float(value) => self.whole(value)?,
            Number::Text(text) if self.min == 0 && text.starts_with('-') => {
                return Err("not an unsigned integer".into());
            }
            Number::Text(text) => text.parse::<i128>().map_err(|error| error.to_string())?,
        };
        if value < self.min || value > self.max {
            return Err(format!("out of range: the limits are {} and {}", self.min, self.max).into());
        }
        Ok(value)
    }

    /// `1.0` and `1e3` are integers too. The limits are those that a double can tell apart.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the range is checked")]
    fn whole(self, value: f64) -> Result<i128, Problem> {
        if value.fract() != 0.0 {
            return Err("expected an integer".into());
        }
        if value < self.min as f64 || value > self.max as f64 {
            return Err(format!("out of range: the limits are {} and {}", self.min, self.max).into());
        }
        Ok((value as i128).clamp(self.min, self.max))
    }
}

impl Coding {
    /// The bits of a varint or of a fixed-width value.
    #[expect(clippy::cast_possible_truncation, reason = "the value is within the type's range")]
    pub(super) const fn bits(self, value: i128) -> u64 {
        match self {
            // Negative numbers are extended to 64 bits, as protobuf requires.
            Self::Varint | Self::Fixed32 | Self::Fixed64 => (value as i64).cast_unsigned(),
            Self::Zigzag => wire::zigzag(value as i64),
        }
    }
}

/// A `double`.
#[expect(clippy::cast_precision_loss, reason = "as the JSON mapping has it")]
pub(super) fn double(number: Number<'_>) -> Result<f64, Problem> {
    match number {
        Number::Unsigned(value) => Ok(value as f64),
        Number::Signed(value) => Ok(value as f64),
        Number::Float(value) => Ok(value),
        Number::Text(text) => float_text(text),
    }
}

/// A `float`.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "as the JSON mapping has it")]
pub(super) fn float(number: Number<'_>) -> Result<f32, Problem> {
    match number {
        Number::Unsigned(value) => Ok(value as f32),
        Number::Signed(value) => Ok(value as f32),
        // What rounds to the largest float is one: encoders write it with nine digits, which are a little more than it.
        Number::Float(value) if (value as f32).is_infinite() => Err("out of a float's range".into()),
        Number::Float(value) => Ok(value as f32),
        Number::Text(text) => float_text(text),
    }
}

/// Rust reads `Infinity`, `-Infinity` and `NaN` as well, as the JSON mapping writes them. It reads numbers that are too large
/// as infinite: they are distinguished from the names of infinity by their digits.
fn float_text<T: FromStr<Err = ParseFloatError> + Into<f64> + Copy>(text: &str) -> Result<T, Problem> {
    let value: T = text.parse().map_err(|error: ParseFloatError| error.to_string())?;
    let double: f64 = value.into();
    if double.is_infinite() && text.bytes().any(|byte| byte.is_ascii_digit()) {
        return Err("out of range: infinity is written Infinity".into());
    }
    Ok(value)
}

/// Both alphabets of base64, with and without padding.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Replaces `out` with the bytes that a base64 text stands for.
pub(super) fn bytes(text: &str, out: &mut Vec<u8>) -> Result<(), Problem> {
    out.clear();
    let mut decoded = STANDARD.decode_vec(text, out);
    if matches!(decoded, Err(DecodeError::InvalidByte(_, b'-' | b'_'))) {
        out.clear();
        decoded = URL_SAFE.decode_vec(text, out);
    }
    decoded.map_err(|_| "not valid base64".into())
}
