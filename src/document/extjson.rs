//! Documents as JSON text, directly from the raw BSON: MongoDB Extended JSON (canonical keeps every type, relaxed is easier
//! to read), and plain JSON for stores that have only JSON's own types.

use std::{
    io::Write,
    time::{Duration, UNIX_EPOCH},
};

use super::writer::{decimal, kind};

/// How to write BSON types that JSON does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonStyle {
    /// Canonical Extended JSON v2: `{"$numberLong": "7"}`, `{"$date": {"$numberLong": "1795301026000"}}`.
    Canonical,
    /// Relaxed Extended JSON v2: `7`, `{"$date": "2026-11-21T22:43:46Z"}`.
    Relaxed,
    /// Plain JSON: dates are milliseconds since the Unix epoch, NaN and infinities are null.
    Plain,
}

/// Why a document cannot be converted to JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoJson {
    /// Bytes that are not a document of this program: cut off, or with an element type that documents do not use.
    #[error("not a BSON document of this program: byte {at} cannot be read")]
    BadBson {
        /// The offset of the first byte that cannot be read.
        at: usize,
    },
    /// A key or a string.
    #[error("not a BSON document of this program: a text in it is not UTF-8")]
    NotUtf8,
    /// A control character needs six characters: the text may be much larger than the document.
    #[error("as JSON, the document is larger than the limit of {limit} bytes")]
    TooLarge {
        /// [`MAX_JSON`].
        limit: usize,
    },
}

/// The maximum size of a document as JSON, bytes.
pub const MAX_JSON: usize = 2 * super::MONGODB_MAX_DOCUMENT;

/// Deeper than any document of ours: a message adds at most three levels (oneof, array, document).
const MAX_NESTING: usize = 3 * super::MAX_DEPTH;

/// Appends `document`, raw BSON from the [`Encoder`](super::Encoder), to `out`: one line, without its line feed.
///
/// # Errors
/// When the bytes are not such a document, or the text would be longer than [`MAX_JSON`]; `out` may then hold a part of it.
pub fn write_json(document: &[u8], style: JsonStyle, out: &mut Vec<u8>) -> Result<(), NoJson> {
    let start = out.len();
    let mut reader = Reader { bytes: document, at: 0, style, out, end: start + MAX_JSON };
    reader.document(b'{', 1)?;
    if reader.at != document.len() {
        return Err(reader.bad());
    }
    // Once for all keys and strings: what is written around them does not change whether they are UTF-8.
    match std::str::from_utf8(&out[start..]) {
        Ok(_) => Ok(()),
        Err(_) => Err(NoJson::NotUtf8),
    }
}

/// Bytes that must be escaped in JSON strings.
const ESCAPED: [bool; 256] = {
    let mut escaped = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        escaped[byte] = true;
        byte += 1;
    }
    escaped[b'"' as usize] = true;
    escaped[b'\\' as usize] = true;
    escaped
};

/// The position of the first byte that must be escaped; the length if there is none. It looks at eight bytes at once.
fn first_escaped(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (chunks, _) = text.as_chunks::<8>();
    let mut at = 0;
    for chunk in chunks {
        let chunk = u64::from_le_bytes(*chunk);
        let zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
        let control = chunk.wrapping_sub(ONES * 0x20) & !chunk;
        let found = (control | zero(chunk ^ (ONES * 0x22)) | zero(chunk ^ (ONES * 0x5C))) & (ONES << 7);
        if found != 0 {
            // The lowest one is right; a borrow may have set those above it.
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = text[at..].iter().position(|&byte| ESCAPED[usize::from(byte)]);
    rest.map_or(text.len(), |rest| at + rest)
}

struct Reader<'a, 'o> {
    bytes: &'a [u8],
    at: usize,
    style: JsonStyle,
    out: &'o mut Vec<u8>,
    /// The maximum length of `out`.
    end: usize,
}

impl<'a> Reader<'a, '_> {
    const fn bad(&self) -> NoJson {
        NoJson::BadBson { at: self.at }
    }

    fn check_size(&self) -> Result<(), NoJson> {
        if self.out.len() <= self.end { Ok(()) } else { Err(NoJson::TooLarge { limit: MAX_JSON }) }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], NoJson> {
        let taken = self.bytes[self.at..].get(..n).ok_or(NoJson::BadBson { at: self.at })?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], NoJson> {
        let bytes = self.bytes[self.at..].first_chunk::<N>().ok_or(NoJson::BadBson { at: self.at })?;
        self.at += N;
        Ok(*bytes)
    }

    fn document(&mut self, open: u8, depth: usize) -> Result<(), NoJson> {
        if depth > MAX_NESTING {
            return Err(self.bad());
        }
        let start = self.at;
        let length = u32::from_le_bytes(self.array()?) as usize;
        self.out.push(open);
        let mut first = true;
        loop {
            let [element] = self.array()?;
            if element == 0 {
                break;
            }
            if !first {
                self.out.push(b',');
            }
            first = false;
            let key = self.key()?;
            if open == b'{' {
                self.text(key)?;
                self.out.push(b':');
            }
            self.value(element, depth)?;
            self.check_size()?;
        }
        if self.at - start != length {
            return Err(self.bad());
        }
        self.out.push(if open == b'{' { b'}' } else { b']' });
        Ok(())
    }

    fn key(&mut self) -> Result<&'a [u8], NoJson> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == 0).ok_or(self.bad())?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    fn value(&mut self, element: u8, depth: usize) -> Result<(), NoJson> {
        match element {
            kind::DOCUMENT => self.document(b'{', depth + 1)?,
            kind::ARRAY => self.document(b'[', depth + 1)?,
            kind::STRING => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                let bytes = self.take(length)?;
                let text = bytes.split_last().filter(|(end, _)| **end == 0).map(|(_, text)| text);
                self.text(text.ok_or(self.bad())?)?;
            }
            kind::BOOL => {
                let value: &[u8] = if self.array()? == [0] { b"false" } else { b"true" };
                self.out.extend_from_slice(value);
            }
            kind::INT32 => {
                let value = i32::from_le_bytes(self.array()?);
                self.integer("$numberInt", value.into());
            }
            kind::INT64 => {
                let value = i64::from_le_bytes(self.array()?);
                self.integer("$numberLong", value);
            }
            kind::DOUBLE => {
                let value = f64::from_le_bytes(self.array()?);
                self.double(value);
            }
            kind::DATE => {
                let value = i64::from_le_bytes(self.array()?);
                self.date(value);
            }
            _ => return Err(self.bad()),
        }
        Ok(())
    }

    fn format(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a Vec never fails.
        let _ = self.out.write_fmt(arguments);
    }

    fn integer(&mut self, name: &str, value: i64) {
        let canonical = self.style == JsonStyle::Canonical;
        if canonical {
            self.out.extend_from_slice(b"{\"");
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"\":\"");
        }
        if value < 0 {
            self.out.push(b'-');
        }
        self.out.extend_from_slice(decimal(value.unsigned_abs(), &mut [0; 20]));
        if canonical {
            self.out.extend_from_slice(b"\"}");
        }
    }

    fn double(&mut self, value: f64) {
        // `{:?}` is the shortest form that reads back the same, with a point or an exponent: 1.0, 4.5, 1e300.
        match self.style {
            JsonStyle::Relaxed | JsonStyle::Plain if value.is_finite() => self.format(format_args!("{value:?}")),
            JsonStyle::Plain => self.out.extend_from_slice(b"null"),
            _ if value.is_finite() => self.format(format_args!("{{\"$numberDouble\":\"{value:?}\"}}")),
            _ => {
                let name = match value {
                    f64::INFINITY => "Infinity",
                    f64::NEG_INFINITY => "-Infinity",
                    _ => "NaN",
                };
                self.format(format_args!("{{\"$numberDouble\":\"{name}\"}}"));
            }
        }
    }

    fn date(&mut self, millis: i64) {
        // The relaxed text form exists from 1970 to 9999 only.
        let since_1970 = u64::try_from(millis).ok().filter(|&millis| millis <= 253_402_300_799_999);
        match (self.style, since_1970) {
            (JsonStyle::Plain, _) => self.format(format_args!("{millis}")),
            (JsonStyle::Relaxed, Some(since_1970)) => {
                let at = UNIX_EPOCH + Duration::from_millis(since_1970);
                let whole = since_1970 % 1000 == 0;
                let text =
                    if whole { humantime::format_rfc3339_seconds(at) } else { humantime::format_rfc3339_millis(at) };
                self.format(format_args!("{{\"$date\":\"{text}\"}}"));
            }
            _ => self.format(format_args!("{{\"$date\":{{\"$numberLong\":\"{millis}\"}}}}")),
        }
    }

    /// A JSON string: escapes what has to be escaped, and copies everything between as a whole.
    fn text(&mut self, text: &[u8]) -> Result<(), NoJson> {
        self.out.push(b'"');
        let mut rest = text;
        loop {
            let at = first_escaped(rest);
            self.out.extend_from_slice(&rest[..at]);
            let Some(&byte) = rest.get(at) else { break };
            match byte {
                b'\n' => self.out.extend_from_slice(b"\\n"),
                b'\r' => self.out.extend_from_slice(b"\\r"),
                b'\t' => self.out.extend_from_slice(b"\\t"),
                byte @ (b'"' | b'\\') => self.out.extend_from_slice(&[b'\\', byte]),
                byte => self.format(format_args!("\\u{byte:04x}")),
            }
            self.check_size()?;
            rest = &rest[at + 1..];
        }
        self.out.push(b'"');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn json(document: &bson::Document, style: JsonStyle) -> String {
        let mut bytes = Vec::new();
        document.to_writer(&mut bytes).unwrap();
        let mut out = Vec::new();
        write_json(&bytes, style, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn sample() -> bson::Document {
        doc! {
            "text": "Zoë\n\"房间\"\\\u{1}", "": true, "a.b$c": { "x": {} }, "list": [1, false, [], "1"],
            "int": -7, "long": i64::MAX, "double": 4.5, "whole": 1.0, "big": 1e300, "zero": -0.0,
            "nan": f64::NAN, "inf": f64::NEG_INFINITY,
            "time": bson::DateTime::from_millis(1_795_301_026_748), "odd": bson::DateTime::from_millis(i64::MIN),
        }
    }

    #[test]
    fn canonical_extended_json_keeps_every_type() {
        let expected = concat!(
            r#"{"text":"Zoë\n\"房间\"\\\u0001","":true,"a.b$c":{"x":{}},"#,
            r#""list":[{"$numberInt":"1"},false,[],"1"],"int":{"$numberInt":"-7"},"#,
            r#""long":{"$numberLong":"9223372036854775807"},"double":{"$numberDouble":"4.5"},"#,
            r#""whole":{"$numberDouble":"1.0"},"big":{"$numberDouble":"1e300"},"zero":{"$numberDouble":"-0.0"},"#,
            r#""nan":{"$numberDouble":"NaN"},"inf":{"$numberDouble":"-Infinity"},"#,
            r#""time":{"$date":{"$numberLong":"1795301026748"}},"odd":{"$date":{"$numberLong":"-9223372036854775808"}}}"#,
        );
        assert_eq!(json(&sample(), JsonStyle::Canonical), expected);
    }

    #[test]
    fn relaxed_extended_json_reads_well() {
        let expected = concat!(
            r#"{"text":"Zoë\n\"房间\"\\\u0001","":true,"a.b$c":{"x":{}},"list":[1,false,[],"1"],"int":-7,"#,
            r#""long":9223372036854775807,"double":4.5,"whole":1.0,"big":1e300,"zero":-0.0,"#,
            r#""nan":{"$numberDouble":"NaN"},"inf":{"$numberDouble":"-Infinity"},"#,
            r#""time":{"$date":"2026-11-21T22:43:46.748Z"},"odd":{"$date":{"$numberLong":"-9223372036854775808"}}}"#,
        );
        assert_eq!(json(&sample(), JsonStyle::Relaxed), expected);
    }

    #[test]
    fn plain_json_has_json_types_only() {
        let json = json(&sample(), JsonStyle::Plain);
        assert!(json.contains(r#""long":9223372036854775807,"double":4.5,"#), "{json}");
        assert!(json.contains(r#""nan":null,"inf":null,"time":1795301026748,"odd":-9223372036854775808}"#), "{json}");
    }

    /// As the specification of Extended JSON has it: three digits, or none.
    #[test]
    fn times_have_milliseconds_or_whole_seconds() {
        let last = 253_402_300_799_999;
        for (millis, expected) in [
            (0, r#"{"$date":"1970-01-01T00:00:00Z"}"#),
            (10, r#"{"$date":"1970-01-01T00:00:00.010Z"}"#),
            (951_782_400_500, r#"{"$date":"2000-02-29T00:00:00.500Z"}"#),
            (last, r#"{"$date":"9999-12-31T23:59:59.999Z"}"#),
            (last + 1, r#"{"$date":{"$numberLong":"253402300800000"}}"#),
            (-1, r#"{"$date":{"$numberLong":"-1"}}"#),
        ] {
            let document = json(&doc! { "at": bson::DateTime::from_millis(millis) }, JsonStyle::Relaxed);
            assert_eq!(document, format!(r#"{{"at":{expected}}}"#));
        }
    }

    #[test]
    fn each_byte_that_must_be_escaped_is_found_at_each_place() {
        for length in 0..20 {
            for at in 0..length {
                for byte in 0..=255_u8 {
                    for fill in [b'a', 0x7F, 0x80, 0xFF, b' ', b'!', b'#'] {
                        let mut text = vec![fill; length];
                        text[at] = byte;
                        let expected = text.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\');
                        assert_eq!(first_escaped(&text), expected.unwrap_or(length), "{text:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_key_or_string_that_is_not_utf8_is_an_error() {
        for at in [6, 15] {
            let mut bytes = Vec::new();
            bson::doc! { "key": "text" }.to_writer(&mut bytes).unwrap();
            bytes[at] = 0xFF;
            assert_eq!(write_json(&bytes, JsonStyle::Plain, &mut Vec::new()), Err(NoJson::NotUtf8));
        }
    }

    #[test]
    fn text_that_would_be_much_longer_than_its_document_is_an_error_that_says_so() {
        let document = bson::doc! { "text": "\u{1}".repeat(MAX_JSON / 5) };
        let mut bytes = Vec::new();
        document.to_writer(&mut bytes).unwrap();
        let mut out = Vec::new();
        assert_eq!(write_json(&bytes, JsonStyle::Plain, &mut out), Err(NoJson::TooLarge { limit: MAX_JSON }));
        assert!(out.len() < MAX_JSON + 100);
    }

    #[test]
    fn broken_bytes_are_an_error_wherever_they_are_cut() {
        let mut bytes = Vec::new();
        sample().to_writer(&mut bytes).unwrap();
        for end in 0..bytes.len() {
            write_json(&bytes[..end], JsonStyle::Relaxed, &mut Vec::new()).unwrap_err();
        }
        let nested = [16, 0, 0, 0, 3, 0].repeat(100_000);
        write_json(&nested, JsonStyle::Relaxed, &mut Vec::new()).unwrap_err();
    }
}
