//! The configuration as YAML for people: the documented default file, and the effective configuration with the source of
//! each value.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{
    expand::variables,
    problem::Place,
    schema::{self, schema},
    sections::Config,
    sinks::{KEYS_OF_SINKS, SINK_TYPES, SinkConfig, SinkTypeInfo, Target},
    tree::{Node, Value, below},
    yaml,
};
use crate::printable::wrapped;

/// The columns at which comments begin and end.
const COMMENTS: usize = 38;
const WIDTH: usize = 130;

const HEAD: &str = "\
livekit-spool: every key, with its default. It works unchanged: records are received on loopback, documents appear in \
./data/out. This is what `livekit-spool config default` prints; `livekit-spool check-config` checks it. Unknown keys, wrong \
types and absurd values are errors, with their line.";

/// The settings of LiveKit's own file that the default file shows.
const OPENVIDU: [(&str, &str); 5] = [
    ("enabled", "true"),
    ("mongo_url", "mongodb://127.0.0.1:27017/"),
    ("database", "openvidu"),
    ("interval", "10s"),
    ("expiration", "768h"),
];

/// The config file that contains every default and documents each key.
#[must_use]
pub fn default_file() -> String {
    let schema = schema();
    let mut text = Text(format!("# yaml-language-server: $schema={}\n", schema::FILE));
    text.comment("", HEAD);
    text.comment("", documentation(&schema));
    for (key, node) in yaml::tree(&Config::default()).entries() {
        let property = &schema["properties"][&key.text];
        text.0.push('\n');
        if key.text == "sinks" {
            text.comment("", documentation(property));
            text.0.push_str("sinks:\n");
            let properties = &property["items"]["properties"];
            let active = Target::default();
            text.sink("", &active, &KEYS_OF_SINKS[..2], properties);
            let others = SINK_TYPES.iter().map(|known| (known.defaults)()).filter(|other| *other != active);
            for (index, other) in others.enumerate() {
                // The keys that every sink has are explained once.
                let common = if index == 0 { &KEYS_OF_SINKS[..] } else { &KEYS_OF_SINKS[..2] };
                text.sink("#", &other, common, properties);
            }
        } else {
            text.setting("", &key.text, node, property);
        }
    }
    let openvidu = &schema["properties"]["openvidu"];
    text.0.push('\n');
    text.comment("", documentation(openvidu));
    text.0.push_str("#openvidu:\n#  analytics:\n");
    for (key, value) in OPENVIDU {
        let property = &openvidu["properties"]["analytics"]["properties"][key];
        text.line(&format!("#    {key}: {value}"), documentation(property), "#    ");
    }
    text.0
}

fn documentation(schema: &Json) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// A documented file under construction.
struct Text(String);

impl Text {
    /// A comment on lines of its own, above its subject.
    fn comment(&mut self, indent: &str, text: &str) {
        for line in wrapped(text, "", WIDTH - indent.len() - 2) {
            self.0.push_str(&format!("{indent}# {line}\n"));
        }
    }

    /// A line and the comment after it, which continues below; the comment is above if the line leaves no space for it.
    fn line(&mut self, line: &str, comment: &str, prefix: &str) {
        if line.chars().count() >= COMMENTS || comment.is_empty() {
            self.comment(prefix, comment);
            self.0.push_str(&format!("{line}\n"));
            return;
        }
        let mut before = line;
        for part in wrapped(comment, "", WIDTH - COMMENTS - 2) {
            self.0.push_str(&format!("{before:<COMMENTS$}# {part}\n"));
            before = prefix.trim_end();
        }
    }

    /// A key, or a section with its keys; a key without a default is shown as an example.
    fn setting(&mut self, indent: &str, key: &str, node: &Node, schema: &Json) {
        let comment = documentation(schema);
        if schema["properties"].is_object() && !node.entries().is_empty() {
            self.comment(indent, comment);
            self.0.push_str(&format!("{indent}{key}:\n"));
            for (inner, node) in node.entries() {
                self.setting(&format!("{indent}  "), &inner.text, node, &schema["properties"][&inner.text]);
            }
        } else if node.says_nothing() {
            self.line(&format!("{indent}#{key}: {}", example(schema)), comment, indent);
        } else if indent.is_empty() {
            self.comment(indent, comment);
            self.0.push_str(&format!("{key}: {}\n", flow(node)));
        } else {
            self.line(&format!("{indent}{key}: {}", flow(node)), comment, indent);
        }
    }

    fn sink(&mut self, mark: &str, target: &Target, common: &[&str], properties: &Json) {
        let Some(kind) = SinkTypeInfo::of(target.kind()) else { return };
        let (own, schema) = (yaml::tree(target), (kind.schema)());
        let own = own.entries().iter().map(|(key, _)| key.text.as_str()).filter(|key| !key.ends_with("_file"));
        for key in common.iter().copied().chain(own) {
            let property = if KEYS_OF_SINKS.contains(&key) { &properties[key] } else { &schema["properties"][key] };
            let value = match (key, &property["default"]) {
                ("name", _) => kind.example.to_owned(),
                ("type", _) => kind.kind.to_owned(),
                (_, Json::Null) => example(property),
                (_, default) => flow(&yaml::tree(default)),
            };
            let dash = if key == "name" { "- " } else { "  " };
            self.line(&format!("  {mark}{dash}{key}: {value}"), documentation(property), &format!("  {mark}  "));
        }
    }
}

fn example(schema: &Json) -> String {
    flow(&yaml::tree(&schema["examples"][0]))
}

/// The effective configuration: as YAML with the source of each value, and the same for programs.
#[derive(Debug, serde::Serialize)]
pub struct Shown {
    /// YAML; secrets are `***`.
    #[serde(skip)]
    pub yaml: String,
    /// The values alone.
    pub config: Json,
    /// The source of each value, by its path: a place in a file, with the variable if there is one, or `default`.
    pub sources: BTreeMap<String, String>,
}

impl Shown {
    pub(super) fn of(effective: &Config, tree: &Node) -> Self {
        let mut shown = Self { yaml: String::new(), config: Json::Null, sources: BTreeMap::new() };
        let mut config = yaml::tree(effective);
        let sinks = config.get_mut("sinks").into_iter().flat_map(Node::items_mut);
        for (node, SinkConfig { target, .. }) in sinks.zip(&effective.sinks) {
            yaml::tree(target).entries().iter().for_each(|(key, value)| node.set(&key.text, value.clone()));
            let place = node.place.clone();
            target.redacted().into_iter().for_each(|(key, text)| node.set(key, Node::text(&place, text)));
        }
        shown.config = shown.section(tree, &config, "", "");
        shown
    }

    fn section(&mut self, tree: &Node, node: &Node, path: &str, first: &str) -> Json {
        // Indented below the dash of a list item.
        let indent = " ".repeat(first.len());
        let (mut lead, mut json) = (first, serde_json::Map::new());
        for (key, node) in node.entries().iter().filter(|(_, node)| !node.says_nothing()) {
            let (key, path) = (&key.text, below(path, &key.text));
            let value = match &node.value {
                Value::Map(_) if !matches!(key.as_str(), "labels" | "keys") => {
                    self.yaml.push_str(&format!("{lead}{key}:\n"));
                    self.section(tree, node, &path, &format!("{indent}  "))
                }
                Value::List(items) if items.iter().any(|item| matches!(item.value, Value::Map(_))) => {
                    self.yaml.push_str(&format!("{lead}{key}:\n"));
                    let first = format!("{indent}  - ");
                    let items = items.iter().enumerate();
                    items.map(|(index, item)| self.section(tree, item, &format!("{path}[{index}]"), &first)).collect()
                }
                _ => {
                    let source = source(tree, &path);
                    let line = format!("{lead}{key}: {}", flow(&unexpanded(node)));
                    self.yaml.push_str(&format!("{line:<47} # {source}\n"));
                    self.sources.insert(path, source);
                    json_of(node)
                }
            };
            json.insert(key.clone(), value);
            lead = &indent;
        }
        Json::Object(json)
    }
}

fn source(tree: &Node, path: &str) -> String {
    match tree.find(path) {
        Some(Node { place: place @ Place { line: 1.., .. }, value: Value::Scalar(scalar) })
            if !scalar.text.is_empty() =>
        {
            // The variable is named, not shown: the text around it may be part of a secret.
            let variables = scalar.written.as_deref().map(variables).unwrap_or_default();
            if variables.is_empty() { place.to_string() } else { format!("{place}, {}", variables.join(", ")) }
        }
        Some(node) if !node.is_silent() && node.place.line > 0 => node.place.to_string(),
        _ => "default".to_owned(),
    }
}

/// The value as a config file writes it: `$$` for each dollar sign.
fn unexpanded(node: &Node) -> Node {
    let mut node = node.clone();
    match &mut node.value {
        Value::Scalar(scalar) => scalar.text = scalar.text.replace('$', "$$"),
        Value::List(items) => items.iter_mut().for_each(|item| *item = unexpanded(item)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| *value = unexpanded(value)),
        _ => {}
    }
    node
}

fn json_of(node: &Node) -> Json {
    match &node.value {
        Value::Scalar(scalar) if scalar.quoted => scalar.text.clone().into(),
        Value::Scalar(scalar) => serde_json::from_str(&scalar.text).unwrap_or_else(|_| scalar.text.clone().into()),
        Value::List(items) => items.iter().map(json_of).collect(),
        Value::Map(entries) => entries.iter().map(|(key, node)| (key.text.clone(), json_of(node))).collect(),
        _ => Json::Null,
    }
}

/// A value on one line.
fn flow(node: &Node) -> String {
    let joined = |parts: Vec<String>| parts.join(", ");
    match &node.value {
        Value::Scalar(scalar) if scalar.quoted => yaml::scalar(&scalar.text),
        Value::Scalar(scalar) => scalar.text.clone(),
        Value::List(items) => format!("[{}]", joined(items.iter().map(flow).collect())),
        Value::Map(entries) => {
            let entries = entries.iter().map(|(key, node)| format!("{}: {}", yaml::scalar(&key.text), flow(node)));
            format!("{{{}}}", joined(entries.collect()))
        }
        _ => String::new(),
    }
}
