//! A serde deserializer over a [`Node`] tree, with errors for people: each [`Fault`] has the place, the path, the value,
//! what is allowed, and the nearest known word.
//!
//! serde stops at the first fault. [`read`] treats the faulty value as not written and starts again until there is no
//! fault: this way all faults are reported at once.

use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
    value::StrDeserializer,
};

use super::{
    problem::{Place, Problem},
    tree::{Key, Node, Scalar, Value, below},
    words::{unknown_key, unknown_word},
};
use crate::setting::SECRET;

/// More faults than anybody fixes at once.
const MAX_PROBLEMS: usize = 100;

/// Reads the value at this path of a document. Faulty values are added to the problems and skipped: `None` if nothing is
/// left. `also` are further keys that are allowed.
pub(super) fn read<T: DeserializeOwned>(
    root: &mut Node,
    at: &str,
    also: &[&str],
    problems: &mut Vec<Problem>,
) -> Option<T> {
    loop {
        match T::deserialize(Reader(root)) {
            Ok(value) => return Some(value),
            Err(fault) => report(fault, root, at, also, problems)?,
        }
    }
}

/// The keys of a section, which its struct names when it refuses another one.
pub(super) fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let another = Node::text(&Place::default(), "");
    let section = Node::section(&Place::default(), "", another);
    T::deserialize(Reader(&section)).err().and_then(|fault| fault.unknown).unwrap_or_default()
}

/// Adds the fault to the problems, and skips the faulty value; `None` if nothing is left to read.
fn report(fault: Fault, root: &mut Node, at: &str, also: &[&str], problems: &mut Vec<Problem>) -> Option<()> {
    let mut steps = fault.steps;
    steps.reverse();
    let found = root.at(&steps);
    let place = match found {
        Some(node) if fault.unknown.is_none() => node.place.clone(),
        _ => root.place_at(&steps),
    };
    let is_reported = found.is_some_and(|node| matches!(node.value, Value::Reported));
    if fault.is_missing
        && !is_reported
        && let Some((key, section)) = steps.split_last()
    {
        // To read it says what is expected.
        let missing = Node::section(&place, key, Node::new(&place, Value::Missing));
        root.at_mut(section)?.inherit(&missing);
        return Some(());
    }
    if !fault.is_empty && !is_reported {
        let message = match fault.unknown {
            Some(known) => unknown_key(steps.last()?, &[known, also].concat()),
            None => fault.message,
        };
        let path = steps.iter().fold(at.to_owned(), |path, step| below(&path, step));
        let problem = Problem::new(&place, path, message);
        // A fault in a section that sinks inherit is found in each of them.
        let is_known = |old: &Problem| (&old.place, &old.message) == (&problem.place, &problem.message);
        if !problems.iter().any(is_known) {
            problems.push(problem);
        }
    }
    // Removing an item would change the paths of those after it.
    let is_item = |steps: &[String]| steps.last().is_some_and(|step| step.starts_with('['));
    while root.at(&steps).is_none_or(|node| node.is_skipped() || (is_item(&steps) && !fault.is_empty)) {
        steps.pop()?;
    }
    let (last, list) = steps.split_last()?;
    if problems.len() >= MAX_PROBLEMS {
        return None;
    }
    if let Some(Node { value: Value::List(items), .. }) = root.at_mut(list) {
        items.remove(last.trim_matches(['[', ']']).parse().ok()?);
        return Some(());
    }
    skip(root, &steps, fault.is_empty)
}

/// Skips the value at this path. Below a sink, the same key of the other sinks is skipped too if it is the same value, which
/// they inherit, or is also empty: a restart for each of them would take time quadratic in their number.
fn skip(root: &mut Node, steps: &[String], is_empty: bool) -> Option<()> {
    let without = || if is_empty { Value::Absent } else { Value::Reported };
    let skipped = root.at_mut(steps)?;
    let place = skipped.place.clone();
    skipped.value = without();
    if let [sinks, _, key @ ..] = steps
        && sinks == "sinks"
        && !key.is_empty()
    {
        for twin in root.get_mut("sinks")?.items_mut().iter_mut().filter_map(|sink| sink.at_mut(key)) {
            if twin.place == place || (is_empty && matches!(twin.value, Value::Empty)) {
                twin.value = without();
            }
        }
    }
    Some(())
}

/// Why a value cannot be read.
#[derive(Debug, Default)]
struct Fault {
    message: String,
    /// The path, its last step first.
    steps: Vec<String>,
    /// The path is that of an unknown key; these are known.
    unknown: Option<&'static [&'static str]>,
    /// The path is that of a required key that is not written.
    is_missing: bool,
    /// No fault: a variable is empty, and the default applies.
    is_empty: bool,
}

impl Fault {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    fn below(mut self, step: String) -> Self {
        self.steps.push(step);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self { unknown: Some(expected), ..Self::default() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { is_missing: true, ..Self::default() }.below(field.to_owned())
    }
}

/// The deserializer of a node.
#[derive(Clone, Copy)]
struct Reader<'de>(&'de Node);

impl<'de> Reader<'de> {
    fn scalar(self, expected: &dyn fmt::Display) -> Result<&'de Scalar, Fault> {
        match &self.0.value {
            Value::Empty => Err(Fault { is_empty: true, ..Fault::default() }),
            Value::Scalar(Scalar { fault: Some(fault), .. }) => Err(Fault::new(fault)),
            Value::Scalar(scalar) => Ok(scalar),
            _ => Err(self.unexpected(expected)),
        }
    }

    fn unexpected(self, expected: &dyn fmt::Display) -> Fault {
        Fault::new(match self.0.value {
            Value::Missing => format!("missing; expected {expected}"),
            _ => format!("expected {expected}, found {}", self.0.kind()),
        })
    }

    /// Reads a mapping; keys of a section without a value have their default.
    fn map(self, known: &'static [&'static str]) -> Result<Entries<'de>, Fault> {
        let entries = match &self.0.value {
            Value::Map(entries) => entries.as_slice(),
            _ if self.0.is_null() => &[],
            _ => return Err(self.unexpected(&"keys and values")),
        };
        Ok(Entries { known, left: entries.iter(), last: None })
    }
}

/// What is wrong with a scalar, as a sentence about it.
fn about(scalar: &Scalar, is_secret: bool, reason: &str) -> Fault {
    Fault::new(match &scalar.written {
        Some(written) if written.starts_with("what ") => format!("{written} {reason}"),
        _ if is_secret => format!("the value {reason}"),
        _ => format!("{:?} {reason}", scalar.written()),
    })
}

/// The keys of a mapping with their values.
struct Entries<'de> {
    known: &'static [&'static str],
    left: std::slice::Iter<'de, (Key, Node)>,
    last: Option<&'de (Key, Node)>,
}

impl<'de> Entries<'de> {
    fn advance(&mut self) -> Option<&'de str> {
        let known = self.known;
        let says_something =
            |(key, node): &&(Key, Node)| !node.is_skipped() && (!node.is_null() || !known.contains(&key.text.as_str()));
        self.last = self.left.by_ref().find(says_something);
        self.last.map(|(key, _)| key.text.as_str())
    }

    fn fault(&self, fault: Fault) -> Fault {
        fault.below(self.last.map_or_else(String::new, |(key, _)| key.text.clone()))
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(key) = self.advance() else { return Ok(None) };
        let key: StrDeserializer<'_, Fault> = key.into_deserializer();
        seed.deserialize(key).map(Some).map_err(|fault| self.fault(fault))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((_, node)) = self.last else { return Err(Fault::new("a value without a key")) };
        seed.deserialize(Reader(node)).map_err(|fault| self.fault(fault))
    }
}

/// The items of a list.
struct Items<'de>(std::iter::Enumerate<std::slice::Iter<'de, Node>>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, node)) = self.0.find(|(_, node)| !node.is_skipped()) else { return Ok(None) };
        seed.deserialize(Reader(node)).map(Some).map_err(|fault| fault.below(format!("[{index}]")))
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let scalar = self.scalar(&"true or false")?;
        match (scalar.text.as_str(), scalar.quoted) {
            ("true" | "True" | "TRUE", false) => visitor.visit_bool(true),
            ("false" | "False" | "FALSE", false) => visitor.visit_bool(false),
            (_, true) => Err(about(scalar, false, "is a text in quotes; expected true or false")),
            _ => Err(about(scalar, false, "is not a boolean; expected true or false")),
        }
    }

    /// A value of one of our kinds; the name says whether it may be shown. A visitor gets quoted text as a borrowed string.
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        let scalar = self.scalar(&(&visitor as &dyn de::Expected))?;
        let value: Result<_, Fault> =
            if scalar.quoted { visitor.visit_borrowed_str(&scalar.text) } else { visitor.visit_str(&scalar.text) };
        value.map_err(|fault| about(scalar, name == SECRET, &fault.message))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(&self.scalar(&"a text")?.text)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value::List(items) = &self.0.value else { return Err(self.unexpected(&"a list")) };
        visitor.visit_seq(Items(items.iter().enumerate()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_map(self.map(&[])?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_map(self.map(known)?)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let expected = format!("one of {}", words.join(", "));
        let scalar = self.scalar(&expected)?;
        if !words.contains(&scalar.text.as_str()) {
            return Err(about(scalar, false, &format!("{}; expected {expected}", unknown_word(&scalar.text, words))));
        }
        let word: StrDeserializer<'_, Fault> = scalar.text.as_str().into_deserializer();
        visitor.visit_enum(word)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char string bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}
