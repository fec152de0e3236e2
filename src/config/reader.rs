//! A serde deserializer over a [`Node`] tree, with errors for people: each [`Fault`] has the place, the path, the value,
//! what is allowed, and the nearest known word.
//!
//! serde stops at the first fault. [`read`] treats the faulty value as not written and starts again until there is no
//! fault: this way all faults are reported at once.

use std::fmt;

use serde::de::{
    self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor,
    value::{MapDeserializer, SeqDeserializer, StrDeserializer},
};

use super::{
    tree::{Node, Place, Scalar, Value, above, below, printable},
    words::{unknown_key, unknown_word},
    yaml,
};
use crate::setting::SECRET;

/// More faults than anybody fixes at once.
const MAX_PROBLEMS: usize = 100;

/// One thing that is wrong in a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the environment variable that holds the YAML.
    pub source: String,
    /// The line in it, 1-based; 0 if there is none (a section that is missing).
    pub line: usize,
    /// The column in the line, 1-based, in characters.
    pub column: usize,
    /// The key's path: `sinks[0].flush.interval`.
    pub path: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl Problem {
    pub(super) fn new(place: &Place, path: impl Into<String>, message: impl Into<String>) -> Self {
        let Place { source, line, column } = place.clone();
        let path = yaml::shown_key(&path.into()).to_owned();
        Self { source: source.to_string(), line, column, path, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.source))?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", printable(&self.path))?;
        }
        write!(f, ": {}", printable(&self.message))
    }
}

/// Reads the value at this path of a document. Faulty values are added to the problems and skipped: `None` if nothing is
/// left. `also` are further keys that are allowed.
pub(super) fn read<T: DeserializeOwned>(
    root: &mut Node,
    at: &str,
    also: &[&str],
    problems: &mut Vec<Problem>,
) -> Option<T> {
    loop {
        let (path, fault) = match serde_path_to_error::deserialize(Reader(root)) {
            Ok(value) => return Some(value),
            Err(error) => (error.path().to_string(), error.into_inner()),
        };
        let path = below(path.trim_start_matches('.'), fault.missing.unwrap_or_default());
        let place = match root.find(&path) {
            Some(node) if fault.unknown.is_none() => node.place.clone(),
            _ => root.place_of(&path),
        };
        let message = match fault.unknown {
            Some((key, known)) => unknown_key(&key, &[known, also].concat()),
            None => fault.message,
        };
        let problem = Problem::new(&place, below(at, &path), message);
        let file = format!("{}_file", problem.path);
        // A fault in a section that sinks inherit is found in each of them.
        let is_known = |old: &Problem| {
            (old.line, old.column, &old.message) == (problem.line, problem.column, &problem.message)
                || (fault.missing.is_some() && (old.path == problem.path || old.path == file))
        };
        if !fault.is_empty && !problems.iter().any(is_known) {
            problems.push(problem);
        }
        let mut path = path.as_str();
        // Removing an item would change the paths of those after it.
        while root.find(path).is_none_or(|node| node.is_skipped() || (path.ends_with(']') && !fault.is_empty)) {
            path = above(path).map_or("", |(parent, _)| parent);
        }
        if path.is_empty() || problems.len() >= MAX_PROBLEMS {
            return None;
        }
        if let Some((list, index)) = above(path)
            && let Some(Node { value: Value::List(items), .. }) = root.find_mut(list)
        {
            items.remove(index.parse().ok()?);
        } else {
            skip(root, path, fault.is_empty)?;
        }
    }
}

/// Skips the value at this path. Below a sink, the same key of the other sinks is skipped too if it is the same value, which
/// they inherit, or is also empty: a restart for each of them would take time quadratic in their number.
fn skip(root: &mut Node, path: &str, is_empty: bool) -> Option<()> {
    let skipped = root.find_mut(path)?;
    let place = skipped.place.clone();
    skipped.value = Value::Skipped;
    if let Some((_, key)) = path.strip_prefix("sinks[").and_then(|rest| rest.split_once("].")) {
        for twin in root.get_mut("sinks")?.items_mut().iter_mut().filter_map(|sink| sink.find_mut(key)) {
            if twin.place == place || (is_empty && matches!(twin.value, Value::Empty)) {
                twin.value = Value::Skipped;
            }
        }
    }
    Some(())
}

/// Why a value cannot be read.
#[derive(Debug, Default)]
struct Fault {
    message: String,
    /// An unknown key, and the known ones.
    unknown: Option<(String, &'static [&'static str])>,
    /// A required key is missing.
    missing: Option<&'static str>,
    /// No fault: a variable is empty, and the default applies.
    is_empty: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), ..Self::default() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self { unknown: Some((field.to_owned(), expected)), ..Self::default() }
    }

    fn missing_field(field: &'static str) -> Self {
        let message = match field {
            "type" => "missing; expected one of mongodb, redis, file",
            "name" => "missing; expected 1 to 64 lower-case letters, digits, - or _",
            "certificate" | "key" => "missing: this section needs it",
            _ => "missing",
        };
        Self { missing: Some(field), ..Self::custom(message) }
    }
}

/// The deserializer of a node.
#[derive(Clone, Copy)]
struct Reader<'de>(&'de Node);

impl<'de> Reader<'de> {
    /// Reads a scalar; the error of `read` is the second half of a sentence about it.
    fn scalar<T>(
        self,
        expected: impl fmt::Display,
        is_secret: bool,
        read: impl FnOnce(&'de Scalar) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if matches!(self.0.value, Value::Empty) {
            return Err(Fault { is_empty: true, ..Fault::default() });
        }
        let Value::Scalar(scalar) = &self.0.value else { return self.unexpected(expected) };
        if let Some(fault) = &scalar.fault {
            return custom(fault);
        }
        read(scalar).map_err(|fault| {
            let written = match &scalar.written {
                Some(written) if written.starts_with("what ") => written.clone(),
                _ if is_secret => "the value".to_owned(),
                _ => format!("{:?}", scalar.written()),
            };
            de::Error::custom(format!("{written} {}", fault.message))
        })
    }

    /// Reads a mapping; keys of a section without a value have their default.
    fn map<V: Visitor<'de>>(self, known: &[&str], visitor: V) -> Result<V::Value, Fault> {
        let entries = match &self.0.value {
            Value::Map(entries) => entries.as_slice(),
            _ if self.0.is_null() => &[],
            _ => return self.unexpected("keys and values"),
        };
        let says_something = |key: &str, node: &Node| !node.is_skipped() && (!node.is_null() || !known.contains(&key));
        let entries = entries.iter().map(|(key, node)| (key.text.as_str(), node));
        visitor.visit_map(MapDeserializer::new(entries.filter(|(key, node)| says_something(key, node))))
    }

    fn unexpected<T>(self, expected: impl fmt::Display) -> Result<T, Fault> {
        custom(format!("expected {expected}, found {}", self.0.kind()))
    }
}

fn custom<T>(message: impl fmt::Display) -> Result<T, Fault> {
    Err(de::Error::custom(message))
}

impl<'de> IntoDeserializer<'de, Fault> for &'de Node {
    type Deserializer = Reader<'de>;

    fn into_deserializer(self) -> Reader<'de> {
        Reader(self)
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.scalar("true or false", false, |scalar| match (scalar.text.as_str(), scalar.quoted) {
            ("true" | "True" | "TRUE", false) => visitor.visit_bool(true),
            ("false" | "False" | "FALSE", false) => visitor.visit_bool(false),
            (_, true) => custom("is a text in quotes; expected true or false"),
            _ => custom("is not a boolean; expected true or false"),
        })
    }

    /// A value of one of our kinds; the name says whether it may be shown. A visitor gets quoted text as a borrowed string.
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        let expected = (&visitor as &dyn de::Expected).to_string();
        self.scalar(expected, name == SECRET, |scalar| {
            if scalar.quoted { visitor.visit_borrowed_str(&scalar.text) } else { visitor.visit_str(&scalar.text) }
        })
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.scalar("a text", false, |scalar| visitor.visit_str(&scalar.text))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value::List(items) = &self.0.value else { return self.unexpected("a list") };
        visitor.visit_seq(SeqDeserializer::new(items.iter().filter(|item| !item.is_skipped())))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.map(&[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.map(known, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let expected = format!("one of {}", words.join(", "));
        self.scalar(expected, false, |scalar| {
            if words.contains(&scalar.text.as_str()) {
                let word: StrDeserializer<'_, Fault> = scalar.text.as_str().into_deserializer();
                visitor.visit_enum(word)
            } else {
                custom(unknown_word(&scalar.text, words))
            }
        })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char string bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}
