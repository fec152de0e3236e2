//! Reads fields of documents leniently: our own documents, those of OpenVidu's fork (every number a double), and both as
//! Extended JSON. What is absent or of another type reads as absent; nothing panics.

use std::str::FromStr;

use serde_json::Value;

use super::model::Time;

/// Longer texts are cut: a session repeats an identity at each event. LiveKit's own limit is 256 characters, of up to 4 bytes.
const MAX_TEXT: usize = 1024;

/// The fields of a document, by name.
pub(super) trait Fields {
    /// `Null` if absent.
    fn field(&self, key: &str) -> &Value;

    /// Empty if absent; at most its first 1024 bytes.
    fn text(&self, key: &str) -> &str;

    /// Zero if absent or negative; rounded down.
    fn count(&self, key: &str) -> u64;

    /// Finite numbers only.
    fn real(&self, key: &str) -> Option<f64>;

    fn flag(&self, key: &str) -> bool;

    /// A time of its own: `{seconds, nanos}`, RFC 3339 or a date of Extended JSON; `None` if zero.
    fn time(&self, key: &str) -> Option<Time>;

    /// Empty if absent.
    fn list(&self, key: &str) -> &[Value];

    /// The name of an enum's value. Absent is zero, as in protobuf; a number without a name stays a number.
    fn word(&self, key: &str, name: fn(i32) -> Option<&'static str>) -> String;
}

impl Fields for Value {
    fn field(&self, key: &str) -> &Value {
        static ABSENT: Value = Value::Null;
        self.get(key).unwrap_or(&ABSENT)
    }

    fn text(&self, key: &str) -> &str {
        cut(self.field(key).as_str().unwrap_or_default())
    }

    fn count(&self, key: &str) -> u64 {
        integer(self.field(key)).and_then(|number| u64::try_from(number.max(0)).ok()).unwrap_or(0)
    }

    fn real(&self, key: &str) -> Option<f64> {
        real(self.field(key))
    }

    fn flag(&self, key: &str) -> bool {
        self.field(key).as_bool().unwrap_or(false)
    }

    fn time(&self, key: &str) -> Option<Time> {
        time(self.field(key))
    }

    fn list(&self, key: &str) -> &[Value] {
        self.field(key).as_array().map_or(&[], Vec::as_slice)
    }

    fn word(&self, key: &str, name: fn(i32) -> Option<&'static str>) -> String {
        let value = self.field(key);
        match integer(value) {
            Some(number) => i32::try_from(number).ok().and_then(name).map_or_else(|| number.to_string(), str::to_owned),
            None if value.is_null() => name(0).unwrap_or_default().to_owned(),
            None => self.text(key).to_owned(),
        }
    }
}

/// The beginning of a text from a document, as much as is kept.
pub(crate) fn cut(text: &str) -> &str {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or_default()]
}

/// The text of a document, the same whatever the order of its keys.
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("{key:?}:{}", canonical(value))).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// The only field of an object that has one, as Extended JSON writes numbers and dates.
fn wrapped(value: &Value) -> Option<(&str, &Value)> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    fields.iter().next().map(|(key, value)| (key.as_str(), value))
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => {
            number.as_i128().or_else(|| number.as_f64().filter(|real| real.is_finite()).map(|real| real as i128))
        }
        Value::String(digits) => {
            let real = || digits.parse::<f64>().ok().filter(|real| real.is_finite()).map(|real| real as i128);
            digits.parse().ok().or_else(real)
        }
        _ => match wrapped(value)? {
            ("$numberLong" | "$numberInt" | "$numberDouble", inner @ (Value::String(_) | Value::Number(_))) => {
                integer(inner)
            }
            _ => None,
        },
    }
}

fn real(value: &Value) -> Option<f64> {
    let real = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(digits) => digits.parse().ok(),
        _ => match wrapped(value)? {
            ("$numberLong" | "$numberInt" | "$numberDouble", inner @ (Value::String(_) | Value::Number(_))) => {
                real(inner)
            }
            _ => None,
        },
    };
    real.filter(|real| real.is_finite())
}

fn time(value: &Value) -> Option<Time> {
    match value {
        Value::String(text) => {
            let time = prost_types::Timestamp::from_str(text).ok()?;
            nanoseconds(time.seconds.into(), time.nanos.into())
        }
        _ => match wrapped(value) {
            Some(("$date", date @ Value::String(_))) => time(date),
            Some(("$date", date)) => {
                let millis = integer(date)?;
                nanoseconds(millis.div_euclid(1000), millis.rem_euclid(1000) * 1_000_000)
            }
            _ => nanoseconds(integer(value.field("seconds"))?, integer(value.field("nanos")).unwrap_or(0)),
        },
    }
}

/// `None` before 1970, where unset times are (Go's zero time is in the year 1), and beyond 2262.
pub(super) fn nanoseconds(seconds: i128, nanos: i128) -> Option<Time> {
    let nanos = if (0..1_000_000_000).contains(&nanos) { nanos } else { 0 };
    let total = seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?;
    i64::try_from(total).ok().filter(|&total| total > 0).map(Time)
}
