//! Reads sections out of a parsed file, key by key, and gathers everything that is wrong instead of stopping at the
//! first: each problem names source, line, path and what is allowed.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use super::{
    expand::{Environment, expand},
    kinds::{Found, Kind},
    yaml::{Node, Scalar, Value},
};

/// One thing that is wrong in a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the environment variable that holds the YAML.
    pub source: String,
    /// The line in it, 1-based; 0 where there is none (a section that is missing).
    pub line: usize,
    /// The key's path: `sinks[0].flush.interval`.
    pub path: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// One source of configuration while it is read.
pub(super) struct Reader<'a> {
    source: String,
    /// `None`: `${VAR}` stays as it is.
    environment: Option<Environment<'a>>,
    problems: RefCell<Vec<Problem>>,
    /// What works and should not stay so.
    warnings: RefCell<Vec<Problem>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: impl Into<String>, environment: Option<Environment<'a>>) -> Self {
        Self { source: source.into(), environment, problems: RefCell::default(), warnings: RefCell::default() }
    }

    pub(super) fn problem(&self, line: usize, path: impl Into<String>, message: impl Into<String>) {
        self.problems.borrow_mut().push(self.found(line, path.into(), message.into()));
    }

    fn found(&self, line: usize, path: String, message: String) -> Problem {
        Problem { source: self.source.clone(), line, path, message }
    }

    /// All problems, and all warnings, in the order of their lines.
    pub(super) fn into_found(self) -> (Vec<Problem>, Vec<Problem>) {
        let (mut problems, mut warnings) = (self.problems.into_inner(), self.warnings.into_inner());
        problems.sort_by_key(|problem| problem.line);
        warnings.sort_by_key(|warning| warning.line);
        (problems, warnings)
    }

    fn expanded(&self, scalar: &Scalar) -> Result<(String, bool), String> {
        match self.environment {
            Some(environment) if scalar.text.contains('$') => Ok((expand(&scalar.text, environment)?, true)),
            _ => Ok((scalar.text.clone(), false)),
        }
    }
}

/// A mapping of the config. Keys asked for are the allowed ones; [`Section::finish`] complains about the others.
pub(super) struct Section<'r> {
    reader: &'r Reader<'r>,
    path: String,
    line: usize,
    entries: Vec<(&'r str, usize, &'r Node)>,
    known: Vec<&'static str>,
    /// Nothing in its values is expanded.
    literal: bool,
}

impl<'r> Section<'r> {
    /// The section at `node`; empty (every key at its default) where the node is null.
    pub(super) fn new(reader: &'r Reader<'r>, path: impl Into<String>, node: &'r Node) -> Self {
        let path = path.into();
        let entries = match &node.value {
            Value::Map(entries) => entries.iter().map(|(key, node)| (key.text.as_str(), key.line, node)).collect(),
            Value::Scalar(scalar) if scalar.is_null() => Vec::new(),
            other => {
                reader.problem(node.line, path.clone(), format!("expected keys and values, found {}", named(other)));
                Vec::new()
            }
        };
        Self { reader, path, line: node.line, entries, known: Vec::new(), literal: false }
    }

    /// Reads something whose values stand for themselves: `$` has no meaning in them.
    pub(super) fn literally<T>(&mut self, is_literal: bool, read: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.literal, is_literal);
        let value = read(self);
        self.literal = before;
        value
    }

    /// The line the section starts on.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The names of all keys that are there.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'r str> {
        self.entries.iter().map(|(key, ..)| *key)
    }

    /// The names and lines of all keys that are there.
    pub(super) fn keys_and_lines(&self) -> impl Iterator<Item = (&'r str, usize)> {
        self.entries.iter().map(|(key, line, _)| (*key, *line))
    }

    /// The path of a key of this section.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Records a problem with a key, on its line (or the section's, where the key is missing).
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        self.reader.problem(self.line_of(key), self.path_of(key), message);
    }

    /// Records what works with a key and should not stay so.
    pub(super) fn warn(&self, key: &str, message: impl Into<String>) {
        let warning = self.reader.found(self.line_of(key), self.path_of(key), message.into());
        self.reader.warnings.borrow_mut().push(warning);
    }

    fn line_of(&self, key: &str) -> usize {
        self.entries.iter().find(|(name, ..)| *name == key).map_or(self.line, |(_, line, _)| *line)
    }

    /// Records a problem at a place that is no key of this section.
    pub(super) fn problem_at(&self, line: usize, path: impl Into<String>, message: impl Into<String>) {
        self.reader.problem(line, path, message);
    }

    fn node(&mut self, key: &'static str) -> Option<&'r Node> {
        self.known.push(key);
        self.entries.iter().find(|(name, ..)| *name == key).map(|(.., node)| *node).filter(|node| !node.is_null())
    }

    /// True where the key stands there with a value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _, node)| *name == key && !node.is_null())
    }

    /// A value, if it is there and right.
    pub(super) fn get<T>(&mut self, key: &'static str, kind: &Kind<T>) -> Option<T> {
        let node = self.node(key)?;
        self.read(&self.path_of(key), node, kind)
    }

    /// A value, or its default.
    pub(super) fn get_or<T>(&mut self, key: &'static str, default: T, kind: &Kind<T>) -> T {
        self.get(key, kind).unwrap_or(default)
    }

    /// A section below this one; empty where it is missing.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'r> {
        let path = self.path_of(key);
        match self.node(key) {
            Some(node) => Section { literal: self.literal, ..Section::new(self.reader, path, node) },
            None => self.of_entries(path, self.line, Vec::new()),
        }
    }

    /// A section below this one that may also be one plain value, which then counts as its `short` key:
    /// `auth: livekit` for `auth: {mode: livekit}`.
    pub(super) fn section_or_value(&mut self, key: &'static str, short: &'static str) -> Section<'r> {
        match self.entries.iter().find(|(name, ..)| *name == key) {
            Some((_, line, node)) if matches!(&node.value, Value::Scalar(scalar) if !scalar.is_null()) => {
                let (line, node) = (*line, *node);
                self.known.push(key);
                self.of_entries(self.path_of(key), line, vec![(short, line, node)])
            }
            _ => self.section(key),
        }
    }

    fn of_entries(&self, path: String, line: usize, entries: Vec<(&'r str, usize, &'r Node)>) -> Self {
        Section { reader: self.reader, path, line, entries, known: Vec::new(), literal: self.literal }
    }

    /// A list of sections, if the key is there.
    pub(super) fn sections(&mut self, key: &'static str) -> Option<Vec<Section<'r>>> {
        let path = self.path_of(key);
        let node = self.node(key)?;
        let items = self.items(&path, node)?;
        Some(
            items.iter().enumerate().map(|(i, item)| Section::new(self.reader, format!("{path}[{i}]"), item)).collect(),
        )
    }

    /// A list of values, if the key is there.
    pub(super) fn list<T>(&mut self, key: &'static str, kind: &Kind<T>) -> Option<Vec<T>> {
        let path = self.path_of(key);
        let node = self.node(key)?;
        let items = self.items(&path, node)?;
        Some(items.iter().enumerate().filter_map(|(i, item)| self.read(&format!("{path}[{i}]"), item, kind)).collect())
    }

    /// Free keys with values of one kind.
    pub(super) fn map<T>(&mut self, key: &'static str, kind: &Kind<T>) -> BTreeMap<String, T> {
        let path = self.path_of(key);
        let Some(node) = self.node(key) else { return BTreeMap::new() };
        Section::new(self.reader, path.clone(), node)
            .entries
            .into_iter()
            .filter_map(|(name, _, node)| Some((name.to_owned(), self.read(&format!("{path}.{name}"), node, kind)?)))
            .collect()
    }

    /// True where the key holds one plain value.
    pub(super) fn is_value(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _, node)| *name == key && matches!(node.value, Value::Scalar(_)))
    }

    fn items(&self, path: &str, node: &'r Node) -> Option<&'r [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            other => {
                self.reader.problem(node.line, path, format!("expected a list, found {}", named(other)));
                None
            }
        }
    }

    fn read<T>(&self, path: &str, node: &Node, kind: &Kind<T>) -> Option<T> {
        let Value::Scalar(scalar) = &node.value else {
            let message = format!("expected {}, found {}", kind.expected(), named(&node.value));
            self.reader.problem(node.line, path, message);
            return None;
        };
        let expanded = if self.literal { Ok((scalar.text.clone(), false)) } else { self.reader.expanded(scalar) };
        let (text, from_environment) = match expanded {
            Ok(expanded) => expanded,
            Err(message) => {
                self.reader.problem(node.line, path, message);
                return None;
            }
        };
        // `${VAR:-}` that came out empty says nothing, as `key:` does.
        if from_environment && text.is_empty() {
            return None;
        }
        let found = Found { text: &text, quoted: scalar.quoted && !from_environment, written: &scalar.text };
        match kind.read(&found) {
            Ok(value) => Some(value),
            Err(reason) => {
                // What a variable holds is not repeated: it may be the wrong one.
                let shown = if kind.is_secret() { "the value".to_owned() } else { format!("{:?}", scalar.text) };
                let message = format!("{shown} {reason}; expected {}", kind.expected());
                self.reader.problem(node.line, path, message);
                None
            }
        }
    }

    /// Complains about every key that nobody asked for.
    pub(super) fn finish(self) {
        for (key, line, _) in &self.entries {
            if !self.known.contains(key) {
                self.reader.problem(*line, self.path_of(key), unknown_key(key, &self.known));
            }
        }
    }
}

fn named(value: &Value) -> &'static str {
    match value {
        Value::Scalar(_) => "a single value",
        Value::List(_) => "a list",
        Value::Map(_) => "keys and values",
    }
}

/// Says that a key is unknown, what it may have been meant to be, and what is allowed in its place.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    let mut allowed = known.to_vec();
    allowed.sort_unstable();
    allowed.dedup();
    let meant = nearest(key, &allowed).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    format!("unknown key{meant} (allowed here: {})", allowed.join(", "))
}

/// The name that was probably meant, if one is near enough.
pub(super) fn nearest<'n>(name: &str, candidates: &[&'n str]) -> Option<&'n str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    candidates
        .iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&plain(name), &plain(candidate));
            (distance, strsim::damerau_levenshtein(name, candidate), *candidate)
        })
        .min()
        .filter(|(distance, _, candidate)| *distance <= 1 + candidate.len() / 5)
        .map(|(.., candidate)| candidate)
}
