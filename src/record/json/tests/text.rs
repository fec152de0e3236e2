//! JSON texts for a message: mostly right, with what a sender may get wrong.

use std::collections::HashSet;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

/// Values that no field has, or few.
const ODD: [&str; 24] = [
    "null",
    "true",
    "\"\"",
    "\"x\"",
    "7",
    "-1",
    "1.0",
    "1.5",
    "-0",
    "1e3",
    "1e300",
    "-1e-300",
    "[]",
    "{}",
    "[null]",
    "[[]]",
    "{\"a\":1}",
    "\"7\"",
    "\"-7\"",
    "\"+7\"",
    "\" 7\"",
    "\"NaN\"",
    "4294967296",
    "\"18446744073709551616\"",
];
const INTEGERS: [&str; 16] = [
    "0",
    "1",
    "-1",
    "127",
    "128",
    "2147483647",
    "2147483648",
    "-2147483648",
    "-2147483649",
    "4294967295",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "2.0",
    "1e2",
    "-3",
];
const FLOATS: [&str; 12] = [
    "0",
    "-0.0",
    "1.5",
    "-2.25e10",
    "3e38",
    "4e38",
    "1e308",
    "\"Infinity\"",
    "\"-Infinity\"",
    "\"NaN\"",
    "\"1e400\"",
    "0.1",
];
const STRINGS: [&str; 12] = [
    "",
    "a",
    "RM_1",
    "é",
    "😀",
    "\\n",
    "\\u0000",
    "\\u00e9",
    "\\ud83d\\ude00",
    "\\ud800",
    "\\\"\\\\\\/",
    "long, long, long: it has over 128 bytes, so that its length takes two, and that of every message around it does too, which moves them",
];
const BASE64: [&str; 9] = ["", "AA==", "AA", "AAE", "-_-_", "+/+/", "A", "AB==", "A A="];
const TIMES: [&str; 11] = [
    "2026-11-22T00:00:01.5Z",
    "1970-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "2026-11-22T00:00:01+01:30",
    "2026-02-30T00:00:00Z",
    "2026-11-22t00:00:00Z",
    "2026-11-22T00:00:00",
    "1969-12-31T23:59:59.25Z",
    "2026-11-22T23:59:60Z",
    "2026-11-22T00:00:00.1234567891Z",
];
const DURATIONS: [&str; 10] =
    ["0s", "1s", "1.5s", "-1.5s", "-0.25s", "315576000000s", "315576000001s", "1", "1.0000000001s", "3m"];

pub(super) struct Texts<'a> {
    pub(super) random: &'a mut StdRng,
    /// Full names for `@type`.
    pub(super) names: &'a [String],
    /// Of how many values one is odd.
    pub(super) odd: u32,
}

impl Texts<'_> {
    pub(super) fn message(&mut self, message: &MessageDescriptor, depth: u32) -> String {
        match message.full_name() {
            "google.protobuf.Timestamp" => self.quoted(&TIMES),
            "google.protobuf.Duration" => self.quoted(&DURATIONS),
            "google.protobuf.Any" => self.any(message, depth),
            name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
                let field = message.fields().next().expect("a wrapper has a field");
                self.single(&field.kind(), depth)
            }
            _ => {
                let fields = self.fields(message, depth);
                self.object(fields)
            }
        }
    }

    fn object(&mut self, fields: Vec<String>) -> String {
        let comma = if self.one_in(4) { " ,\n " } else { "," };
        format!("{{{}}}", fields.join(comma))
    }

    fn fields(&mut self, message: &MessageDescriptor, depth: u32) -> Vec<String> {
        let all: Vec<FieldDescriptor> = message.fields().collect();
        let count = if depth == 0 || all.is_empty() { 0 } else { self.random.random_range(0..6) };
        let mut fields = Vec::new();
        for _ in 0..count {
            let field = all.choose(self.random).expect("some");
            let name = if self.one_in(2) { field.json_name() } else { field.name() };
            let name = if self.one_in(self.odd * 4) { "unknown" } else { name };
            let value = if self.one_in(self.odd) { self.pick(&ODD) } else { self.field(field, depth) };
            fields.push(format!("\"{name}\":{value}"));
        }
        fields
    }

    fn field(&mut self, field: &FieldDescriptor, depth: u32) -> String {
        let count = self.random.random_range(0..4);
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else { unreachable!("an entry is a message") };
            let entries = (0..count)
                .map(|_| {
                    let key = match entry.map_entry_key_field().kind() {
                        Kind::String => self.quoted(&STRINGS),
                        Kind::Bool => self.quoted(&["true", "false", "0"]),
                        _ => self.quoted(&INTEGERS),
                    };
                    format!("{key}:{}", self.single(&entry.map_entry_value_field().kind(), depth))
                })
                .collect();
            self.object(entries)
        } else if field.is_list() {
            let elements: Vec<_> = (0..count).map(|_| self.single(&field.kind(), depth)).collect();
            format!("[{}]", elements.join(", "))
        } else {
            self.single(&field.kind(), depth)
        }
    }

    fn single(&mut self, kind: &Kind, depth: u32) -> String {
        match kind {
            Kind::Bool => self.pick(&["true", "false"]),
            Kind::Float | Kind::Double => self.pick(&FLOATS),
            Kind::String => self.quoted(&STRINGS),
            Kind::Bytes => self.quoted(&BASE64),
            Kind::Enum(one) if self.one_in(2) => {
                let names: Vec<_> = one.values().map(|value| value.name().to_owned()).collect();
                format!("\"{}\"", names.choose(self.random).expect("an enum has values"))
            }
            Kind::Message(message) => self.message(message, depth - 1),
            _ if self.one_in(3) => self.quoted(&INTEGERS),
            _ => self.pick(&INTEGERS),
        }
    }

    fn any(&mut self, any: &MessageDescriptor, depth: u32) -> String {
        let name = self.names.choose(self.random).expect("names").clone();
        let message = any.parent_pool().get_message_by_name(&name);
        let mut fields = match message {
            Some(message) if has_own_form(&name) => vec![format!("\"value\":{}", self.message(&message, depth))],
            Some(message) => self.fields(&message, depth),
            None => Vec::new(),
        };
        // Of several before `@type` the model keeps the last alone.
        let mut seen = HashSet::new();
        fields.retain(|field| seen.insert(field.split(':').next().map(str::to_owned)));
        let at = self.random.random_range(0..=fields.len());
        let at = if self.one_in(2) { 0 } else { at };
        fields.insert(at, format!("\"@type\":\"type.googleapis.com/{name}\""));
        self.object(fields)
    }

    /// The text with some bytes of it changed, taken out or doubled.
    pub(super) fn mutated(&mut self, text: &str) -> Vec<u8> {
        let mut text = text.as_bytes().to_vec();
        for _ in 0..self.random.random_range(1..4) {
            let at = self.random.random_range(0..text.len().max(1));
            let to = (at + self.random.random_range(0..8)).min(text.len());
            match self.random.random_range(0..4) {
                0 if at < text.len() => text[at] = self.random.random(),
                1 => _ = text.drain(at.min(to)..to),
                2 => {
                    let again = text[at.min(to)..to].to_vec();
                    text.splice(at.min(text.len())..at.min(text.len()), again);
                }
                _ => {
                    let token = *b"{}[],:\"\\ \n0-.eE".choose(self.random).expect("some");
                    text.insert(at.min(text.len()), token);
                }
            }
        }
        text
    }

    fn quoted(&mut self, of: &[&str]) -> String {
        format!("\"{}\"", self.pick(of))
    }

    fn pick(&mut self, of: &[&str]) -> String {
        (*of.choose(self.random).expect("some")).to_owned()
    }

    fn one_in(&mut self, of: u32) -> bool {
        self.random.random_range(0..of) == 0
    }
}

/// Messages that are not an object with their fields.
fn has_own_form(name: &str) -> bool {
    ["Timestamp", "Duration", "Any", "Empty"].iter().any(|own| name.strip_prefix("google.protobuf.") == Some(own))
        || (name.starts_with("google.protobuf.") && name.ends_with("Value"))
}
