//! Reads secrets from separate files into the tree, at the place of the value itself.

use std::fs;

use super::{
    problem::Problem,
    tree::{Node, Scalar, Value, below},
    yaml,
};

/// Replaces references to files (as Docker and Kubernetes provide secrets) by what the files hold: a value, the items of a
/// list, or lines of API keys.
pub(super) fn take_files(root: &mut Node, path: &str, keys: &[(&str, &str)], problems: &mut Vec<Problem>) {
    for (file_key, key) in keys {
        let Some(section) = root.find(path).filter(|section| section.has(file_key)) else { continue };
        let (file, file_path) = (section.get(file_key).cloned(), below(path, file_key));
        let is_list = file_key.ends_with('s');
        if section.has(key) && *key != "keys" && !is_list {
            let message = format!("is given together with {key}: keep one of them");
            problems.push(Problem::new(&root.place_of(&file_path), &file_path, message));
        }
        let place = root.place_of(&file_path);
        let (Some(file), Some(section)) = (file, root.find_mut(path)) else { continue };
        let is_written = section.get(key).is_some_and(|node| !node.is_silent());
        match &file.value {
            Value::List(files) if is_list => {
                let contents = files
                    .iter()
                    .enumerate()
                    .filter_map(|(index, file)| content(file, &below(&file_path, &format!("[{index}]")), problems));
                let contents = contents.collect();
                match section.get_mut(key) {
                    Some(Node { value: Value::List(items), .. }) => items.extend(contents),
                    _ if !is_written => section.set(key, Node::new(&file.place, Value::List(contents))),
                    _ => {}
                }
            }
            _ if is_list => {}
            _ => {
                let file = Node { place, ..file };
                let Some(mut content) = content(&file, &file_path, problems) else { continue };
                if *key == "keys"
                    && let Value::Scalar(Scalar { written: Some(what), .. }) = &content.value
                {
                    content = lines(&file_path, &content, what, problems);
                }
                match section.get_mut(key) {
                    Some(keys @ Node { value: Value::Map(_), .. }) => {
                        content.entries().iter().for_each(|(name, secret)| keys.set(&name.text, secret.clone()));
                    }
                    _ if !is_written => section.set(key, content),
                    _ => {}
                }
            }
        }
    }
}

/// The content of a file; one that cannot be read is reported, and one that is no path will be when the section is read.
fn content(file: &Node, path: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    let scalar = match &file.value {
        Value::Scalar(scalar) => scalar,
        Value::List(_) | Value::Map(_) => return Some(Node::new(&file.place, Value::Reported)),
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
            problems.push(Problem::new(&file.place, path, format!("cannot read {shown}: {error}{hint}")));
            Value::Reported
        }
    };
    Some(Node::new(&file.place, value))
}

/// LiveKit API keys and their secrets as text, which LiveKit reads as YAML.
pub(super) fn lines(path: &str, node: &Node, what: &str, problems: &mut Vec<Problem>) -> Node {
    let keys = yaml::parse("", node.as_text().unwrap_or_default()).ok();
    let is_secret = |secret: &Node| !secret.is_null() && secret.as_text().is_some_and(|text| !text.is_empty());
    let keys = keys.filter(|keys| !keys.entries().is_empty() && keys.entries().iter().all(|(_, node)| is_secret(node)));
    let mut found = Node::map(&node.place);
    let Some(keys) = keys else {
        let message = format!("{what} is not valid; expected `key: secret`, one a line, as in LIVEKIT_KEYS");
        problems.push(Problem::new(&node.place, path, message));
        found.value = Value::Reported;
        return found;
    };
    for (key, secret) in keys.entries() {
        found.set(&key.text, Node::text(&node.place, secret.as_text().unwrap_or_default()));
    }
    found
}
