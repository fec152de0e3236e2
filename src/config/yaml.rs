//! YAML to a tree and back, by serde_yaml: the one file that names it.
//!
//! A configuration needs what serde's data model drops: where a value is written, whether it is quoted, and numbers as they
//! are written (`007`, `0x10`, `1_000`). Two passes over a document keep it. The first reads the shape of each value. The
//! second uses the shapes to request each scalar as text, which serde_yaml returns as a slice of the document: the position
//! of the slice is the position of the value.

mod text;

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    sync::Arc,
};

use serde::{
    Serialize,
    de::{
        self, DeserializeSeed, Deserializer, EnumAccess, Error as _, IgnoredAny, MapAccess, SeqAccess, VariantAccess,
        Visitor,
    },
};
use serde_yaml::Error;

use self::text::{BREAKS, without_tabs, without_types};
use super::{
    problem::{Place, Problem, shown_key},
    tree::{Key, Node, Scalar, Value},
};

/// A config file has hundreds of nodes; aliases of aliases could make billions.
const MAX_NODES: usize = 100_000;

/// serde_yaml reads 128 levels; to find that there are more takes it time quadratic in their number.
const MAX_DEPTH: usize = 1_000;

const TOO_MANY: &str = "too many values (aliases of aliases?)";

const KEY_IS_NO_TEXT: &str = "a key must be a plain text";

/// The key that merges another mapping into this one.
const MERGE: &str = "<<";

/// Each attempt accepts the tabs of one group of lines, and takes time that grows with the document's length.
const MAX_ATTEMPTS: usize = 100;

/// Parses one document; an empty one is a null.
pub(super) fn parse(source: &str, text: &str) -> Result<Node, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some((offset, found)) = text.match_indices(BREAKS).next() {
        let code = found.chars().map(|found| format!("{:04X}", u32::from(found))).collect::<String>();
        let message = format!(
            "not valid YAML: the character U+{code} ends a line for some programs only: remove it, or write it as \\u{code} \
             in double quotes"
        );
        return Err(Problem::new(&Document::new(source, text).place(offset), "", message));
    }
    let mut text = Cow::Borrowed(text);
    for _ in 0..MAX_ATTEMPTS {
        match parse_strictly(source, &text) {
            Err(error) => match without_tabs(&text, error.place.line) {
                Some(accepted) => text = Cow::Owned(accepted),
                None => return Err(error),
            },
            parsed => return parsed,
        }
    }
    parse_strictly(source, &text)
}

fn parse_strictly(source: &str, text: &str) -> Result<Node, Problem> {
    let document = Document::new(source, text);
    let mut depth = 0_usize;
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(Problem::new(&document.place(offset), "", "not valid YAML: nested too deeply"));
        }
    }
    let nodes = Cell::new(0);
    let untyped = without_types(text);
    let shape = ShapeSeed(&nodes).deserialize(serde_yaml::Deserializer::from_str(&untyped));
    let shape = shape.map_err(|error| document.error(&error))?;
    if matches!(shape, Shape::Nothing) {
        return Ok(Node { place: document.place(0), value: Value::Scalar(Scalar::default()) });
    }
    let seed = NodeSeed { shape: &shape, document: &document, fallback: document.place(0) };
    seed.deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| document.error(&error))
}

/// The tree of a value, with its keys in the order of the fields.
pub(super) fn tree(value: &impl Serialize) -> Node {
    fn node(value: serde_yaml::Value) -> Node {
        let plain = |text: String| Value::Scalar(Scalar { text, ..Scalar::default() });
        let value = match value {
            serde_yaml::Value::Sequence(items) => Value::List(items.into_iter().map(node).collect()),
            serde_yaml::Value::Mapping(entries) => {
                let entry = |(key, value)| {
                    let key = node(key);
                    (Key { text: key.as_text().unwrap_or_default().to_owned(), place: key.place }, node(value))
                };
                Value::Map(entries.into_iter().map(entry).collect())
            }
            serde_yaml::Value::Tagged(tagged) => return node(tagged.value),
            serde_yaml::Value::String(text) => Value::Scalar(Scalar { text, quoted: true, ..Scalar::default() }),
            serde_yaml::Value::Null => plain(String::new()),
            serde_yaml::Value::Bool(value) => plain(value.to_string()),
            serde_yaml::Value::Number(value) => plain(value.to_string()),
        };
        Node { place: Place::default(), value }
    }
    node(serde_yaml::to_value(value).unwrap_or_default())
}

/// A text as a scalar that reads back as this text; in quotes if needed.
pub(super) fn scalar(text: &str) -> String {
    let plain = serde_yaml::to_string(text).map(|line| line.trim_end().to_owned()).unwrap_or_default();
    // A flow collection needs quotes for more characters, and a block scalar is not one line.
    if plain.contains('\n') || (plain == text && text.contains(['{', '}', '[', ']', ','])) {
        return serde_json::Value::from(text).to_string();
    }
    plain
}

/// A text and where its lines begin.
struct Document<'t> {
    source: Arc<str>,
    text: &'t str,
    lines: Vec<usize>,
    /// The first error that serde_yaml gives no place for.
    fault: RefCell<Option<Problem>>,
}

impl<'t> Document<'t> {
    fn new(source: &str, text: &'t str) -> Self {
        let mut lines = vec![0];
        lines.extend(text.match_indices('\n').map(|(at, _)| at + 1));
        Self { source: source.into(), text, lines, fault: RefCell::default() }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines[line - 1];
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Place { source: Arc::clone(&self.source), line, column }
    }

    /// The position of this slice in the text.
    fn offset(&self, part: &str) -> Option<usize> {
        let offset = (part.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?;
        (offset + part.len() <= self.text.len()).then_some(offset)
    }

    /// Tells whether the scalar is quoted: a plain scalar that is followed by a quote would include it. An empty one is
    /// between two quotes.
    fn is_quoted(&self, offset: usize, length: usize) -> bool {
        let byte = |at: usize| self.text.as_bytes().get(at).copied();
        let behind = byte(offset + length);
        matches!(behind, Some(b'"' | b'\'')) && (length > 0 || offset.checked_sub(1).and_then(byte) == behind)
    }

    fn refuse<E: de::Error>(&self, place: &Place, message: String) -> E {
        let error = E::custom(&message);
        self.fault.replace(Some(Problem::new(place, "", message)));
        error
    }

    fn error(&self, error: &Error) -> Problem {
        if let Some(fault) = self.fault.take() {
            return fault;
        }
        let mut message = error.to_string();
        let (mut line, mut column) = (1, 1);
        if let Some(location) = error.location() {
            // The parser counts one line more if the last one has no line end.
            line = location.line().clamp(1, self.text.split(['\n', '\r']).count());
            column = location.column();
            message = message.replacen(&format!(" at line {} column {column}", location.line()), "", 1);
        }
        // serde puts the path before these, and a key may be a secret (`{name:secret}`).
        if let Some(own) = [KEY_IS_NO_TEXT, TOO_MANY].into_iter().find(|own| message.ends_with(own)) {
            message = own.to_owned();
        }
        if message.contains("more than one document") {
            message = "a second document: a config file has only one".to_owned();
        }
        // These repeat the value, which may be a secret.
        if ["invalid type: ", "invalid value: ", "invalid length "].iter().any(|start| message.contains(start)) {
            message = "a value of another kind was expected here".to_owned();
        }
        let place = Place { source: Arc::clone(&self.source), line, column };
        Problem::new(&place, "", format!("not valid YAML: {message}"))
    }
}

/// The kind of a value, with those of its parts.
enum Shape {
    Nothing,
    Scalar,
    List(Vec<Shape>),
    Map(Vec<Shape>),
}

/// Reads shapes, and counts the values.
#[derive(Clone, Copy)]
struct ShapeSeed<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for ShapeSeed<'_> {
    type Value = Shape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        self.0.set(self.0.get() + 1);
        if self.0.get() > MAX_NODES {
            return Err(D::Error::custom(TOO_MANY));
        }
        deserializer.deserialize_any(self)
    }
}

/// Implements the visit methods of scalars, which do the same.
macro_rules! scalars {
    ($($visit:ident: $kind:ty),*) => {
        $(fn $visit<E>(self, _: $kind) -> Result<Shape, E> { Ok(Shape::Scalar) })*
    };
}

impl<'de> Visitor<'de> for ShapeSeed<'_> {
    type Value = Shape;

    scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64, visit_str: &str);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut values = Vec::new();
        while let Some(key) = map.next_key_seed(self)? {
            if !matches!(key, Shape::Scalar) {
                return Err(A::Error::custom(KEY_IS_NO_TEXT));
            }
            values.push(map.next_value_seed(self)?);
        }
        Ok(Shape::Map(values))
    }

    /// A custom tag (`!custom`) changes nothing.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Shape, A::Error> {
        let (_, content) = tagged.variant::<IgnoredAny>()?;
        content.newtype_variant_seed(self)
    }
}

/// Reads values of known shapes.
struct NodeSeed<'a> {
    shape: &'a Shape,
    document: &'a Document<'a>,
    /// The place of the key, for a value without a known place of its own: a block scalar, a text with escapes.
    fallback: Place,
}

impl NodeSeed<'_> {
    fn scalar(&self, text: &str, place: Place, quoted: bool) -> Node {
        Node { place, value: Value::Scalar(Scalar { text: text.to_owned(), quoted, ..Scalar::default() }) }
    }

    fn of<'a>(&'a self, shape: &'a Shape, fallback: &Place) -> NodeSeed<'a> {
        NodeSeed { shape, document: self.document, fallback: fallback.clone() }
    }
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        match self.shape {
            Shape::Nothing | Shape::Scalar => deserializer.deserialize_str(self),
            Shape::List(_) => deserializer.deserialize_seq(self),
            Shape::Map(_) => deserializer.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value that was here before")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Node, E> {
        let Some(offset) = self.document.offset(text) else {
            return Ok(self.scalar(text, self.fallback.clone(), true));
        };
        let quoted = self.document.is_quoted(offset, text.len());
        Ok(self.scalar(text, self.document.place(offset - usize::from(quoted)), quoted))
    }

    /// A block scalar, or a text with escapes or several lines: never a number or boolean.
    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(self.scalar(text, self.fallback.clone(), true))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let Shape::List(shapes) = self.shape else { return Err(A::Error::custom("a list where none was before")) };
        let mut items = Vec::new();
        for shape in shapes {
            items.extend(seq.next_element_seed(self.of(shape, &self.fallback))?);
        }
        let place = items.first().map_or_else(|| self.fallback.clone(), |first: &Node| first.place.clone());
        Ok(Node { place, value: Value::List(items) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let Shape::Map(shapes) = self.shape else { return Err(A::Error::custom("keys where none were before")) };
        let (mut entries, mut merges) = (Vec::new(), Vec::new());
        let mut lines: HashMap<String, usize> = HashMap::new();
        for shape in shapes {
            let key = map.next_key_seed(self.of(&Shape::Scalar, &self.fallback))?;
            let Some(Node { place, value: Value::Scalar(key) }) = key else { break };
            if let Some(first) = lines.insert(key.text.clone(), place.line) {
                return Err(self
                    .document
                    .refuse(&place, format!("duplicate key {:?}, first on line {first}", shown_key(&key.text))));
            }
            let value = map.next_value_seed(self.of(shape, &place))?;
            if key.text == MERGE && !key.quoted {
                merges.push((place, value));
            } else {
                entries.push((Key { place, text: key.text }, value));
            }
        }
        let place = entries.first().map_or_else(|| self.fallback.clone(), |(key, _): &(Key, Node)| key.place.clone());
        for (place, source) in merges {
            merge(&mut entries, source).map_err(|message| self.document.refuse(&place, message.to_owned()))?;
        }
        Ok(Node { place, value: Value::Map(entries) })
    }
}

/// Merges what `<<` names, a mapping or a list of them. The mapping's own keys take precedence, then earlier items of the
/// list.
fn merge(entries: &mut Vec<(Key, Node)>, source: Node) -> Result<(), &'static str> {
    let sources = if let Value::List(items) = source.value { items } else { vec![source] };
    for source in sources {
        let Value::Map(source) = source.value else {
            return Err("<< needs keys and values, or a list of them, usually an alias");
        };
        for (key, value) in source {
            if entries.iter().all(|(own, _)| own.text != key.text) {
                entries.push((key, value));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
