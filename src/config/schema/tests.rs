//! The schema accepts the documents that the parser accepts.

use std::{cell::RefCell, collections::HashMap, path::Path};

use regex::Regex;
use serde_json::{Number, Value, json};

use super::schema;
use crate::config::{
    self,
    tree::{Node, Value as Tree},
    yaml,
};

#[path = "../../../tests/data/config_cases.rs"]
#[expect(dead_code, reason = "shared with tests/config_acceptance.rs")]
mod cases;

/// The document as an editor sees it: plain scalars are numbers and booleans as in YAML 1.2.
fn as_json(node: &Node) -> Value {
    match &node.value {
        Tree::List(items) => items.iter().map(as_json).collect(),
        Tree::Map(entries) => entries.iter().map(|(key, node)| (key.text.clone(), as_json(node))).collect(),
        Tree::Scalar(scalar) if scalar.quoted => scalar.text.clone().into(),
        Tree::Scalar(_) if node.is_null() => Value::Null,
        Tree::Scalar(scalar) => match scalar.text.as_str() {
            "true" | "True" | "TRUE" => true.into(),
            "false" | "False" | "FALSE" => false.into(),
            text => match (text.parse::<i64>(), text.parse::<f64>().ok().and_then(Number::from_f64)) {
                (Ok(number), _) => number.into(),
                (_, Some(number)) if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
                    Value::Number(number)
                }
                _ => text.into(),
            },
        },
        _ => Value::Null,
    }
}

/// Tells whether the schema accepts the value. It knows the keywords of JSON Schema that are used here, and no others.
fn accepts(schema: &Value, value: &Value) -> bool {
    let Value::Object(words) = schema else { return schema != &json!(false) };
    words.iter().all(|(word, rule)| {
        let schemas = || rule.as_array().into_iter().flatten();
        match word.as_str() {
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is_of(kind, value)),
                kind => is_of(kind, value),
            },
            "enum" => schemas().any(|allowed| allowed == value),
            "const" => rule == value,
            "anyOf" => schemas().any(|schema| accepts(schema, value)),
            "oneOf" => schemas().filter(|schema| accepts(schema, value)).count() == 1,
            "allOf" => schemas().all(|schema| accepts(schema, value)),
            "not" => !accepts(rule, value),
            "if" => !accepts(rule, value) || accepts(&words["then"], value),
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap()),
            "pattern" => value.as_str().is_none_or(|text| matches(rule.as_str().unwrap(), text)),
            "required" => schemas().all(|key| value.get(key.as_str().unwrap()).is_some() || !value.is_object()),
            "items" => value.as_array().into_iter().flatten().all(|item| accepts(rule, item)),
            "properties" => value.as_object().into_iter().flatten().all(|(key, value)| match rule.get(key) {
                Some(schema) => accepts(schema, value),
                None => true,
            }),
            "additionalProperties" => {
                let known = |key: &String| words.get("properties").is_some_and(|known| known.get(key).is_some());
                value.as_object().into_iter().flatten().all(|(key, value)| known(key) || accepts(rule, value))
            }
            "then" | "title" | "description" | "default" | "examples" | "$schema" | "writeOnly" => true,
            // For numbers: the bounds say it already.
            "format" => true,
            other => panic!("the schema uses {other:?}, which this test does not know"),
        }
    })
}

fn matches(pattern: &str, text: &str) -> bool {
    thread_local!(static PATTERNS: RefCell<HashMap<String, Regex>> = RefCell::default());
    PATTERNS.with_borrow_mut(|patterns| {
        patterns.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).unwrap()).is_match(text)
    })
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type {other:?}"),
    }
}

fn accepts_text(schema: &Value, text: &str) -> bool {
    accepts(schema, &as_json(&yaml::parse("", text).unwrap_or_else(|error| panic!("{}\n{text}", error.message))))
}

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Every configuration that the repository shows: files, ConfigMaps, code blocks in docs.
fn shown() -> Vec<(String, String)> {
    let mut all = vec![("config.yaml".to_owned(), file("config.yaml"))];
    for name in ["deploy/debian/config.yaml", "deploy/compose/livekit-spool.yaml"] {
        all.push((name.to_owned(), file(name)));
    }
    for name in ["deploy/kubernetes/config.yaml", "deploy/kubernetes/sidecar.yaml"] {
        let text = file(name);
        let (_, map) = text.split_once("config.yaml: |\n").unwrap();
        let lines: Vec<_> = map.lines().map_while(|line| line.strip_prefix("    ")).collect();
        all.push((name.to_owned(), lines.join("\n")));
    }
    let documents = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap();
    let names = documents.map(|entry| format!("docs/{}", entry.unwrap().file_name().display()));
    for name in names.filter(|name| name.ends_with(".md")).chain(["README.md".to_owned()]) {
        for block in file(&name).split("```yaml\n").skip(1) {
            all.push((name.clone(), block.split("```").next().unwrap().to_owned()));
        }
    }
    all
}

#[test]
fn every_key_has_a_description() {
    fn check(path: &str, schema: &Value) {
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            let description = property["description"].as_str().unwrap_or_default();
            assert!(!description.is_empty(), "{path} has no description");
            assert!(!description.contains('\n'), "{path}: {description:?}");
            check(&path, property);
        }
        if schema["items"].is_object() {
            check(&format!("{path}[]"), &schema["items"]);
        }
    }
    check("", &schema());
}

#[test]
fn the_schema_in_the_repository_is_what_config_schema_prints() {
    let printed = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
    assert!(file(super::FILE) == printed, "run `livekit-spool config schema > {}`", super::FILE);
}

#[test]
fn config_yaml_in_the_repository_is_what_config_default_prints() {
    let printed = config::default_file();
    assert!(file("config.yaml") == printed, "run `livekit-spool config default > config.yaml`");
    assert!(printed.lines().all(|line| line.chars().count() <= 140 && line == line.trim_end()), "{printed}");
}

#[test]
fn the_schema_accepts_every_configuration_that_the_repository_shows() {
    let schema = schema();
    let shown = shown();
    assert!(shown.len() > 5);
    for (name, text) in shown {
        assert!(accepts_text(&schema, &text), "{name}:\n{text}");
    }
}

#[test]
fn the_schema_accepts_what_the_parser_accepts_and_refuses_most_of_what_it_refuses() {
    let schema = schema();
    let (mut wrong, mut refused, mut refused_by_both) = (Vec::new(), 0, 0);
    // Words that only the reader knows: the schema cannot say anything about a file that is only LiveKit's.
    let known = |node: &Node| node.entries().iter().all(|(key, _)| schema["properties"].get(&key.text).is_some());
    let table = file("tests/data/config_acceptance.txt");
    for ((key, document), line) in cases::KEYS.iter().zip(table.lines()) {
        for (value, mark) in cases::VALUES.iter().zip(line.chars()) {
            let text = cases::case(document, value);
            let Ok(node) = yaml::parse("", &text) else { continue };
            let accepted = mark == 'a';
            let by_schema = accepts(&schema, &as_json(&node));
            if accepted && !by_schema && known(&node) && !node.is_null() {
                wrong.push(format!("{key}: {text}"));
            }
            refused += usize::from(!accepted);
            refused_by_both += usize::from(!accepted && !by_schema);
        }
    }
    assert!(wrong.is_empty(), "{} such as {:#?}", wrong.len(), &wrong[..wrong.len().min(60)]);
    assert!(refused_by_both * 10 >= refused * 8, "{refused_by_both} of {refused}");
}
