//! A YAML document as a tree that knows its lines, so that every complaint can name one.

use std::{collections::HashMap, fmt};

use saphyr_parser::{Event, Parser, ScalarStyle};

/// A config file has hundreds of nodes; aliases of aliases could make billions.
const MAX_NODES: usize = 100_000;

/// A node and the line it starts on (1-based).
#[derive(Clone)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Clone)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone)]
pub(super) struct Key {
    pub(super) line: usize,
    pub(super) text: String,
    /// `<<`: what stands behind it is merged into the mapping.
    is_merge: bool,
}

/// A scalar's text, and whether it was quoted (`"5"` is a text, `5` a number).
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) quoted: bool,
}

impl Scalar {
    /// `key:`, `key: ~` and `key: null` say nothing.
    pub(super) fn is_null(&self) -> bool {
        !self.quoted && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) => 0,
            Value::List(items) => items.iter().map(Self::size).sum(),
            Value::Map(entries) => entries.iter().map(|(_, node)| node.size()).sum(),
        }
    }
}

/// The nodes may hold secrets.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node(line {})", self.line)
    }
}

/// Text that is no YAML document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) line: usize,
    pub(super) message: String,
}

/// A collection under construction.
enum Open {
    List { line: usize, anchor: usize, items: Vec<Node> },
    Map { line: usize, anchor: usize, entries: Vec<(Key, Node)>, key: Option<Key> },
}

/// Parses one document; an empty one is a null scalar.
pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let mut tree = Tree::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| SyntaxError {
            // The parser counts a line more where the last one has no end.
            line: error.marker().line().min(text.split(['\n', '\r']).count()),
            message: format!("no YAML: {}", error.info()),
        })?;
        tree.take(event, span.start.line())?;
    }
    Ok(tree.root.unwrap_or(Node { line: 1, value: Value::Scalar(Scalar { text: String::new(), quoted: false }) }))
}

#[derive(Default)]
struct Tree {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl Tree {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), SyntaxError> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let scalar = Scalar { text: text.into_owned(), quoted: style != ScalarStyle::Plain };
                self.add(Node { line, value: Value::Scalar(scalar) }, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                self.open.push(Open::List { line, anchor, items: Vec::new() });
                Ok(())
            }
            Event::MappingStart(anchor, _) => {
                self.open.push(Open::Map { line, anchor, entries: Vec::new(), key: None });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { line, anchor, items }) => self.add(Node { line, value: Value::List(items) }, anchor),
                Some(Open::Map { line, anchor, entries, .. }) => {
                    self.add(Node { line, value: Value::Map(merged(entries)?) }, anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => self.add(node, 0),
                None => Err(SyntaxError { line, message: "an alias inside its own anchor".to_owned() }),
            },
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(SyntaxError { line, message: "a second document: a config file is one".to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        self.nodes += node.size();
        if self.nodes > MAX_NODES {
            return Err(SyntaxError { line: node.line, message: "too many values (aliases of aliases?)".to_owned() });
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let Value::Scalar(scalar) = node.value else {
                        return Err(SyntaxError { line: node.line, message: "a key must be a plain text".to_owned() });
                    };
                    if let Some((first, _)) = entries.iter().find(|(key, _)| key.text == scalar.text) {
                        return Err(SyntaxError {
                            line: node.line,
                            message: format!("{:?} stands here twice: first on line {}", scalar.text, first.line),
                        });
                    }
                    let is_merge = scalar.text == "<<" && !scalar.quoted;
                    *key = Some(Key { line: node.line, text: scalar.text, is_merge });
                }
            },
        }
        Ok(())
    }
}

/// Takes up what `<<` names, a mapping or a list of them: the mapping's own keys come before it, and an earlier one of the
/// list before a later one.
fn merged(entries: Vec<(Key, Node)>) -> Result<Vec<(Key, Node)>, SyntaxError> {
    let (merges, mut entries): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| key.is_merge);
    for (key, node) in merges {
        let sources = match node.value {
            Value::List(items) => items.into_iter().map(|item| item.value).collect(),
            other => vec![other],
        };
        for source in sources {
            let Value::Map(source) = source else {
                let message = "<< takes keys and values (or a list of such), by an alias as a rule".to_owned();
                return Err(SyntaxError { line: key.line, message });
            };
            for (name, value) in source {
                if entries.iter().all(|(own, _)| own.text != name.text) {
                    entries.push((name, value));
                }
            }
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_at_the_end_is_on_the_last_line() {
        for (text, line) in [("[", 1), ("a: 1\nb: [1,", 2), ("a: \"x", 1)] {
            assert_eq!(parse(text).err().map(|error| error.line), Some(line), "{text:?}");
        }
    }

    #[test]
    fn nodes_know_their_lines() {
        let node = parse("a: 1\nb:\n  - x\n  - y: \"2\"\n").unwrap();
        let Value::Map(entries) = node.value else { panic!("no map") };
        assert_eq!(
            entries.iter().map(|(key, _)| (key.text.as_str(), key.line)).collect::<Vec<_>>(),
            [("a", 1), ("b", 2)]
        );
        let Value::List(items) = &entries[1].1.value else { panic!("no list") };
        assert_eq!(items.iter().map(|item| item.line).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn an_empty_document_is_null_and_broken_yaml_names_its_line() {
        assert!(parse("# only a comment\n").unwrap().is_null());
        assert!(parse("").unwrap().is_null());
        assert_eq!(parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err().line, 3);
    }

    #[test]
    fn a_key_that_stands_twice_and_a_second_document_are_refused() {
        let twice = parse("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!((twice.line, twice.message.as_str()), (3, "\"a\" stands here twice: first on line 1"));
        assert!(parse("a: 1\n---\nb: 2\n").unwrap_err().message.contains("second document"));
    }

    #[test]
    fn a_merge_takes_up_what_the_mapping_does_not_say_itself() {
        let value = |text: &str, key: &str| {
            let Value::Map(entries) = parse(text).unwrap().value else { panic!("no map") };
            let Value::Map(inner) = &entries.last().unwrap().1.value else { panic!("no map") };
            inner.iter().find(|(name, _)| name.text == key).map(|(_, node)| match &node.value {
                Value::Scalar(scalar) => scalar.text.clone(),
                _ => panic!("no scalar"),
            })
        };
        let one = "a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}\n";
        assert_eq!((value(one, "k").as_deref(), value(one, "l").as_deref()), (Some("3"), Some("2")));
        assert_eq!(value(one, "<<"), None);
        let list = "a: &x {k: 1}\nc: &y {k: 2, m: 4}\nb: {<<: [*x, *y]}\n";
        assert_eq!((value(list, "k").as_deref(), value(list, "m").as_deref()), (Some("1"), Some("4")));
        assert_eq!(value("b: {'<<': x}\n", "<<").as_deref(), Some("x"), "in quotes it is a key as any other");
        for wrong in ["b: {<<: 1}", "a: &x [1]\nb: {<<: *x}"] {
            assert!(parse(wrong).unwrap_err().message.starts_with("<< takes keys"), "{wrong}");
        }
    }

    #[test]
    fn aliases_are_followed_and_bombs_refused() {
        let node = parse("a: &x {k: 1}\nb: *x\n").unwrap();
        let Value::Map(entries) = node.value else { panic!("no map") };
        assert!(matches!(&entries[1].1.value, Value::Map(inner) if inner[0].0.text == "k"));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            let previous = format!("*a{}", i - 1);
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![previous; 10].join(", ")));
        }
        assert!(parse(&bomb).unwrap_err().message.contains("too many values"));
    }
}
