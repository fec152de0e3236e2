//! A parsed document as a tree that keeps where each value is written, so that every error can name the place.
//!
//! Other ways to write a setting are brought into one form here, and each value keeps its place; then serde reads it. Paths
//! look as people write them: `sinks[0].flush.interval`.

use std::fmt;

use super::{
    expand::{Environment, expand},
    problem::Place,
};

/// A value and where it begins.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Clone)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
    /// An empty variable: in place of a scalar it means no value.
    Empty,
    /// An empty variable that was found where the default applies.
    Absent,
    /// A required key that is not written.
    Missing,
    /// A value with a problem, which was reported.
    Reported,
}

#[derive(Clone)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) text: String,
}

/// The text of a scalar, and whether it was quoted (`"5"` is text, `5` a number).
#[derive(Clone, Default)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) quoted: bool,
    /// What the file itself says, if the text comes from a variable or another file. That may be the wrong variable or
    /// file: its text is not shown.
    pub(super) written: Option<String>,
    /// Why a variable in it could not be expanded: an error if the value is needed.
    pub(super) fault: Option<String>,
}

impl Scalar {
    pub(super) fn written(&self) -> &str {
        self.written.as_ref().unwrap_or(&self.text)
    }
}

/// The path of a key, or of an index such as `[0]`, below this one.
pub(super) fn below(path: &str, step: &str) -> String {
    let dot = if path.is_empty() || step.starts_with('[') { "" } else { "." };
    format!("{path}{dot}{step}")
}

/// The keys of a path, and its indices as `[0]`.
fn steps(path: &str) -> Vec<String> {
    path.replace('[', ".[").split('.').filter(|step| !step.is_empty()).map(str::to_owned).collect()
}

fn index(step: &str) -> Option<usize> {
    step.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

impl Node {
    pub(super) fn new(place: &Place, value: Value) -> Self {
        Self { place: place.clone(), value }
    }

    /// A text that is not in the file.
    pub(super) fn text(place: &Place, text: impl Into<String>) -> Self {
        Self::new(place, Value::Scalar(Scalar { text: text.into(), quoted: true, ..Scalar::default() }))
    }

    pub(super) fn map(place: &Place) -> Self {
        Self::new(place, Value::Map(Vec::new()))
    }

    /// A mapping of one key.
    pub(super) fn section(place: &Place, key: &str, node: Self) -> Self {
        let mut section = Self::map(place);
        section.set(key, node);
        section
    }

    /// `key:`, `key: ~` and `key: null` mean no value.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(Scalar { text, quoted: false, written: None, .. })
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// True if there is nothing left to read.
    pub(super) fn is_skipped(&self) -> bool {
        matches!(self.value, Value::Absent | Value::Reported)
    }

    /// True if nothing is to be read from it.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self.value, Value::Empty) || self.is_skipped() || self.is_null()
    }

    /// True if it is silent, or an empty collection.
    pub(super) fn says_nothing(&self) -> bool {
        match &self.value {
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
            _ => self.is_silent(),
        }
    }

    /// Its kind, for people.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::List(_) => "a list",
            Value::Map(_) => "keys and values",
            _ => "a single value",
        }
    }

    /// A scalar's text, variables expanded.
    pub(super) fn as_text(&self) -> Option<&str> {
        if let Value::Scalar(scalar) = &self.value { Some(&scalar.text) } else { None }
    }

    /// The keys and values of a mapping; empty for anything else.
    pub(super) fn entries(&self) -> &[(Key, Self)] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    /// The items of a list; empty for anything else.
    pub(super) fn items_mut(&mut self) -> &mut [Self] {
        if let Value::List(items) = &mut self.value { items } else { &mut [] }
    }

    /// The value of a key, null or not.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(name, _)| name.text == key).map(|(_, node)| node)
    }

    /// The text of a key's value, if it is a scalar.
    pub(super) fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_text()
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        let Value::Map(entries) = &mut self.value else { return None };
        entries.iter_mut().find(|(name, _)| name.text == key).map(|(_, node)| node)
    }

    /// True if the key is written with a value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some_and(|node| !node.is_null())
    }

    /// Sets a key of a mapping, and replaces its old value.
    pub(super) fn set(&mut self, key: &str, node: Self) {
        if let Some(value) = self.get_mut(key) {
            *value = node;
        } else if let Value::Map(entries) = &mut self.value {
            entries.push((Key { place: node.place.clone(), text: key.to_owned() }, node));
        }
    }

    /// Moves the keys of a mapping except these into a mapping of their own.
    pub(super) fn split_off(&mut self, kept: &[&str]) -> Self {
        let mut others = Vec::new();
        if let Value::Map(entries) = &mut self.value {
            others = entries.extract_if(.., |(key, _)| !kept.contains(&key.text.as_str())).collect();
        }
        Self::new(&self.place, Value::Map(others))
    }

    /// The value of a key or index, with the place of the key or item.
    fn step(&self, step: &str) -> Option<(&Place, &Self)> {
        match &self.value {
            Value::List(items) => items.get(index(step)?).map(|item| (&item.place, item)),
            _ => self.entries().iter().find(|(key, _)| key.text == step).map(|(key, node)| (&key.place, node)),
        }
    }

    /// The value at this path, if it is written; its keys may have dots.
    pub(super) fn at(&self, steps: &[String]) -> Option<&Self> {
        steps.iter().try_fold(self, |node, step| node.step(step).map(|(_, inner)| inner))
    }

    pub(super) fn at_mut(&mut self, steps: &[String]) -> Option<&mut Self> {
        steps.iter().try_fold(self, |node, step| match &mut node.value {
            Value::List(items) => items.get_mut(index(step)?),
            Value::Map(entries) => entries.iter_mut().find(|(key, _)| key.text == *step).map(|(_, node)| node),
            _ => None,
        })
    }

    /// The place of a path: that of its key, or of the closest parent that exists.
    pub(super) fn place_at(&self, steps: &[String]) -> Place {
        let mut found = (&self.place, self);
        for step in steps {
            let Some(next) = found.1.step(step) else { break };
            found = next;
        }
        found.0.clone()
    }

    /// As [`Self::at`], for a path of keys without dots.
    pub(super) fn find(&self, path: &str) -> Option<&Self> {
        self.at(&steps(path))
    }

    pub(super) fn find_mut(&mut self, path: &str) -> Option<&mut Self> {
        self.at_mut(&steps(path))
    }

    pub(super) fn place_of(&self, path: &str) -> Place {
        self.place_at(&steps(path))
    }

    /// Adds what only `defaults` says, key by key and section by section; `encryption` is inherited as a whole.
    pub(super) fn inherit(&mut self, defaults: &Self) {
        if self.is_null() {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else { return };
        for (key, default) in defaults.entries() {
            match entries.iter_mut().find(|(name, _)| name.text == key.text) {
                None => entries.push((key.clone(), default.clone())),
                Some((_, own)) if own.is_null() => *own = default.clone(),
                Some((_, own)) if own.is_silent() && !matches!(default.value, Value::Map(_)) => *own = default.clone(),
                Some((_, own)) if key.text != "encryption" => own.inherit(default),
                Some(_) => {}
            }
        }
    }

    /// Expands variables in all scalars.
    pub(super) fn expand(&mut self, environment: Environment<'_>) {
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.expand(environment)),
            Value::Map(entries) => entries.iter_mut().for_each(|(_, node)| node.expand(environment)),
            Value::Scalar(scalar) if scalar.text.contains('$') => match expand(&scalar.text, environment) {
                Ok(text) if text.is_empty() => self.value = Value::Empty,
                Ok(text) => {
                    scalar.written = Some(std::mem::replace(&mut scalar.text, text));
                    scalar.quoted = false;
                }
                Err(fault) => scalar.fault = Some(fault),
            },
            _ => {}
        }
    }
}

/// The nodes may hold secrets.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.place)
    }
}
