//! Reads secrets from separate files into the tree, at the place of the value itself.

use std::fs;

use super::{
    problem::{Place, Problem},
    tree::{Node, Scalar, Value, below},
    yaml,
};

/// Replaces references to files (as Docker and Kubernetes provide secrets) by what the files hold: a value, the items of a
/// list, or lines of API keys.
pub(super) fn take_files(root: &mut Node, path: &str, keys: &[(&str, &str)], problems: &mut Vec<Problem>) {
    for (file_key, key) in keys {
        let file_path = below(path, file_key);
        let place = root.place_of(&file_path);
        let Some(section) = root.find_mut(path) else { return };
        let Some(file) = section.get(file_key).filter(|file| !file.is_null()) else { continue };
        let (is_list, is_keys) = (file_key.ends_with('s'), *key == "keys");
        if !is_list && !is_keys && section.has(key) {
            let message = format!("is given together with {key}: keep one of them");
            problems.push(Problem::new(&place, &file_path, message));
        }
        let found = match &file.value {
            Value::List(files) if is_list => {
                let files = files.iter().enumerate();
                let found = files.filter_map(|(index, file)| {
                    content(&file.value, &file.place, &format!("{file_path}[{index}]"), problems)
                });
                Some(Node::new(&file.place, Value::List(found.collect())))
            }
            // It is reported when the section is read.
            _ if is_list => None,
            file => content(file, &place, &file_path, problems),
        };
        let Some(mut found) = found else { continue };
        if is_keys && let Value::Scalar(Scalar { written: Some(what), .. }) = &found.value {
            found = lines(&file_path, &found, what, problems);
        }
        match section.get_mut(key).filter(|own| !own.is_silent()) {
            Some(own) => add(own, found),
            None => section.set(key, found),
        }
    }
}

/// Adds to a list or to keys; a single value stays.
fn add(own: &mut Node, found: Node) {
    match (&mut own.value, found.value) {
        (Value::List(own), Value::List(found)) => own.extend(found),
        (Value::Map(_), Value::Map(found)) => found.into_iter().for_each(|(key, node)| own.set(&key.text, node)),
        _ => {}
    }
}

/// The content of a file; one that cannot be read is reported, and one that is no path will be when the section is read.
fn content(file: &Value, place: &Place, path: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    let scalar = match file {
        Value::Scalar(scalar) => scalar,
        Value::List(_) | Value::Map(_) => return Some(Node::new(place, Value::Reported)),
        _ => return None,
    };
    if scalar.fault.is_some() || scalar.text.trim().is_empty() {
        return None;
    }
    // The value of the variable is not shown: it may be the secret itself.
    let shown = scalar.written();
    let value = match fs::read_to_string(&scalar.text) {
        Ok(content) => Value::Scalar(Scalar {
            text: content.trim().to_owned(),
            written: Some(format!("what {shown} holds")),
            ..Scalar::default()
        }),
        Err(error) => {
            let hint = if shown.contains("${") { "; give a path, not the secret itself" } else { "" };
            problems.push(Problem::new(place, path, format!("cannot read {shown}: {error}{hint}")));
            Value::Reported
        }
    };
    Some(Node::new(place, value))
}

/// LiveKit API keys and their secrets as text, which LiveKit reads as YAML.
pub(super) fn lines(path: &str, node: &Node, what: &str, problems: &mut Vec<Problem>) -> Node {
    let keys = yaml::parse("", node.as_text().unwrap_or_default()).ok();
    let is_secret = |secret: &Node| !secret.is_null() && secret.as_text().is_some_and(|text| !text.is_empty());
    let keys = keys.filter(|keys| !keys.entries().is_empty() && keys.entries().iter().all(|(_, node)| is_secret(node)));
    let Some(keys) = keys else {
        let message = format!("{what} is not valid; expected `key: secret`, one a line, as in LIVEKIT_KEYS");
        problems.push(Problem::new(&node.place, path, message));
        return Node::new(&node.place, Value::Reported);
    };
    let mut found = Node::map(&node.place);
    for (key, secret) in keys.entries() {
        found.set(&key.text, Node::text(&node.place, secret.as_text().unwrap_or_default()));
    }
    found
}
