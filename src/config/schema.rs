//! The JSON Schema of a config file, for editors; it comes from the same structs that read the file.

use serde_json::{Map, Value, json};

use super::{livekit, sections::Config, sinks::SINK_TYPES};
use crate::setting::schema_of;

/// The path of the schema in the repository, next to `config.yaml`.
pub(super) const FILE: &str = "config.schema.json";

/// Keywords that describe a value and do not restrict it.
const ANNOTATIONS: [&str; 4] = ["title", "description", "default", "examples"];

/// The schema of a config file (draft 7, which editors know). Every key has a description.
///
/// The schema accepts what it cannot express: bounds of sizes and durations with a unit, checks that involve several keys,
/// and the content of environment variables.
#[must_use]
pub fn schema() -> Value {
    let mut schema = schema_of::<Config>();
    let livekits = schema_of::<livekit::File>();
    if let (Some(own), Value::Object(livekits)) = (schema["properties"].as_object_mut(), &livekits["properties"]) {
        own.extend(livekits.clone());
        let ignored = json!({ "description": "LiveKit's own, in a LiveKit config: it is ignored here" });
        own.extend(livekit::OTHER_KEYS.iter().map(|key| ((*key).to_owned(), ignored.clone())));
    }
    if let Some(text) = schema["description"].as_str() {
        schema["description"] = one_line(text).into();
    }
    schema["title"] = "livekit-spool's configuration".into();
    restrict_sinks(&mut schema["properties"]["sinks"]["items"]);
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.values_mut().for_each(relax);
    }
    schema
}

/// Each type of sink has its own keys; of the keys of other types, the schema says which type has them.
fn restrict_sinks(sink: &mut Value) {
    let kinds: Vec<(&str, Map<String, Value>)> = SINK_TYPES
        .iter()
        .map(|known| (known.kind, (known.schema)()["properties"].as_object().cloned().unwrap_or_default()))
        .collect();
    let mut rules = Vec::new();
    let mut all: Map<String, Value> = Map::new();
    for (word, own) in &kinds {
        for (key, schema) in own {
            let description = one_line(schema["description"].as_str().unwrap_or_default());
            let entry = all.entry(key.clone()).or_insert_with(|| json!({ "description": "" }));
            let before = entry["description"].as_str().unwrap_or_default();
            entry["description"] = match before {
                "" => description.into(),
                before if before == description => continue,
                before => format!("{before}; {description}").into(),
            };
        }
        let others = kinds.iter().flat_map(|(_, other)| other.keys()).filter(|key| !own.contains_key(*key));
        let mut properties: Map<String, Value> = others.map(|key| (key.clone(), false.into())).collect();
        properties.extend(own.clone());
        properties.values_mut().for_each(relax);
        rules.push(json!({
            "if": { "properties": { "type": { "const": word } }, "required": ["type"] },
            "then": { "properties": properties }
        }));
    }
    let mut words: Vec<_> = kinds.iter().map(|(word, _)| *word).collect();
    let last = words.pop().unwrap_or_default();
    sink["properties"]["type"]["description"] = format!("{} or {last}", words.join(", ")).into();
    if let Some(properties) = sink["properties"].as_object_mut() {
        properties.extend(all);
    }
    sink["allOf"] = json!(rules);
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Allows a key without a value, and a variable in place of any value. Removes defaults that are not one value, and the
/// line breaks of comments.
fn relax(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    if let Some(Value::String(description)) = object.get_mut("description") {
        *description = one_line(description);
    }
    if object.get("default").is_some_and(|default| default.is_null() || default.is_object() || default.is_array()) {
        object.remove("default");
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(relax);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key) {
            relax(inner);
        }
    }
    let is_collection = ["properties", "items", "additionalProperties"].iter().any(|key| object.contains_key(*key));
    if is_collection {
        match object.get_mut("type") {
            Some(Value::Array(types)) if !types.contains(&json!("null")) => types.push(json!("null")),
            Some(kind @ Value::String(_)) => *kind = json!([kind.take(), "null"]),
            _ => {}
        }
    } else if object.keys().any(|key| !ANNOTATIONS.contains(&key.as_str())) {
        let (annotations, restrictions): (Map<_, _>, Map<_, _>) =
            std::mem::take(object).into_iter().partition(|(key, _)| ANNOTATIONS.contains(&key.as_str()));
        let variable = json!({ "type": "string", "pattern": r"\$" });
        object.extend(annotations);
        object.insert("anyOf".to_owned(), json!([restrictions, { "type": "null" }, variable]));
    }
}

#[cfg(test)]
mod tests;
