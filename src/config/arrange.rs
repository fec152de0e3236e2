//! Writes in the tree, as a file of ours would, what it says in other ways: one word for who may send, secrets in files of
//! their own, LiveKit's sections, what sinks inherit, the sink that runs where nothing else is said.

use std::fs;

use super::{
    livekit::Livekit,
    reader::Problem,
    tree::{Node, Place, Scalar, Value, below},
    yaml,
};

/// The sink that `openvidu.analytics` defines.
const OPENVIDU_SINK: &str = "mongo";

/// What holds an encryption's keys.
const KEY_FILES: [(&str, &str); 2] = [("key_file", "key"), ("old_key_files", "old_keys")];

/// Brings a file into our form. The path of the sink of `openvidu.analytics`, if there is one.
pub(super) fn arrange(
    tree: &mut Node,
    livekit: &Livekit,
    use_default_sink: bool,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    if let Some(auth) = tree.find_mut("ingest.auth").filter(|auth| !auth.is_null())
        && matches!(auth.value, Value::Scalar(_) | Value::Empty)
    {
        let mode = std::mem::replace(auth, Node::map(&auth.place));
        auth.set("mode", mode);
    }
    let openvidu = arrange_sinks(tree, livekit, use_default_sink, problems);
    if let Some(node) = tree.find_mut("ingest.auth.keys") {
        match &node.value {
            Value::Empty => node.value = Value::Scalar(Scalar::default()),
            Value::Scalar(scalar) if scalar.fault.is_none() && !node.is_null() => {
                *node = lines("ingest.auth.keys", node, "the value", problems);
            }
            _ => {}
        }
    }
    take_files(tree, "ingest.auth", &[("token_files", "tokens"), ("keys_file", "keys")], problems);
    let own_keys = tree.find("ingest.auth.keys").filter(|keys| !keys.is_silent() && !is_empty(keys));
    if let Some(keys) = livekit.keys.as_ref().filter(|_| own_keys.is_none()) {
        let nowhere = Node::map(&Place { line: 0, ..tree.place.clone() });
        for (section, key, node) in [("", "ingest", &nowhere), ("ingest", "auth", &nowhere), ("ingest.auth", "keys", keys)] {
            if let Some(section) = tree.find_mut(section).filter(|section| key == "keys" || !section.has(key)) {
                section.set(key, node.clone());
            }
        }
    }
    take_files(tree, "admin", &[("token_file", "token")], problems);
    take_files(tree, "documents", &[("pii_key_file", "pii_key")], problems);
    take_files(tree, "spool.encryption", &KEY_FILES, problems);

    let common = ["spool", "flush"].map(|key| (key, tree.get(key).filter(|node| !node.is_silent()).cloned()));
    let count = tree.get_mut("sinks").map_or(0, |sinks| sinks.items_mut().len());
    for path in (0..count).map(|index| format!("sinks[{index}]")) {
        take_files(tree, &path, &[("uri_file", "uri"), ("url_file", "url")], problems);
        take_files(tree, &below(&path, "spool.encryption"), &KEY_FILES, problems);
        let Some(sink) = tree.find_mut(&path) else { continue };
        for (key, common) in &common {
            let Some(common) = common else { continue };
            let mut own = sink.get(key).cloned().unwrap_or_else(|| Node::map(&common.place));
            own.inherit(common);
            sink.set(key, own);
        }
    }
    openvidu
}

fn arrange_sinks(
    tree: &mut Node,
    livekit: &Livekit,
    use_default_sink: bool,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    let is_written = tree.has("sinks");
    if !is_written {
        let none = Node::new(&tree.place, Value::List(Vec::new()));
        tree.set("sinks", none);
    }
    let place = tree.place.clone();
    let Some(Node { value: Value::List(items), .. }) = tree.get_mut("sinks") else { return None };
    let mut openvidu = None;
    match &livekit.sink {
        Some(Some(sink)) if items.iter().any(|item| name(item) == Some(OPENVIDU_SINK)) => {
            let message = format!("defines a sink named {OPENVIDU_SINK:?}, and so does sinks: rename that one");
            problems.push(Problem::new(&sink.place, "openvidu", message));
        }
        Some(Some(sink)) => {
            openvidu = Some(format!("sinks[{}]", items.len()));
            let mut sink = sink.clone();
            sink.set("name", Node::text(&sink.place, OPENVIDU_SINK));
            items.push(sink);
        }
        None if use_default_sink && !is_written => {
            let mut sink = Node::map(&place);
            sink.set("name", Node::text(&place, "files"));
            sink.set("type", Node::text(&place, "file"));
            items.push(sink);
        }
        _ => {}
    }
    for (index, item) in items.iter_mut().enumerate() {
        let is_redis = item.get("type").and_then(Node::as_text) == Some("redis");
        match &livekit.redis {
            Some(url) if is_redis && !item.has("url") && !item.has("url_file") => match url {
                Ok(url) => item.set("url", url.clone()),
                Err(why) => {
                    let message = format!("missing, and LiveKit's redis: section does not do: {why}");
                    problems.push(Problem::new(&item.place, format!("sinks[{index}].url"), message));
                }
            },
            _ => {}
        }
    }
    openvidu
}

fn is_empty(node: &Node) -> bool {
    matches!(&node.value, Value::Map(entries) if entries.is_empty())
}

fn name(sink: &Node) -> Option<&str> {
    sink.get("name")?.as_text()
}

/// Takes what stands in files of their own (as Docker and Kubernetes hand out secrets) for what would stand here: a value, a
/// list's items, or lines of API keys.
pub(super) fn take_files(root: &mut Node, path: &str, keys: &[(&str, &str)], problems: &mut Vec<Problem>) {
    for (file_key, key) in keys {
        let Some(section) = root.find(path).filter(|section| section.has(file_key)) else { continue };
        let (file, file_path) = (section.get(file_key).cloned(), below(path, file_key));
        if section.has(key) && *key != "keys" && !file_key.ends_with('s') {
            let message = format!("is given beside {key}: keep one of them");
            problems.push(Problem::new(&root.place_of(&file_path), &file_path, message));
        }
        let place = root.place_of(&file_path);
        let (Some(file), Some(section)) = (file, root.find_mut(path)) else { continue };
        let is_written = section.get(key).is_some_and(|node| !node.is_silent());
        match &file.value {
            Value::List(files) => {
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
            _ if file_key.ends_with('s') => {}
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

/// What a file holds; skipped where it cannot be read.
fn content(file: &Node, path: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    let Value::Scalar(scalar) = &file.value else { return None };
    if scalar.fault.is_some() || scalar.text.trim().is_empty() {
        return None;
    }
    // The variable's value is not shown: it may be the secret itself.
    let shown = scalar.written();
    let value = match fs::read_to_string(&scalar.text) {
        Ok(content) => Value::Scalar(Scalar {
            text: content.trim().to_owned(),
            written: Some(format!("what {shown} holds")),
            ..Scalar::default()
        }),
        Err(error) => {
            let hint = if shown.contains("${") { "; it has to be a path, not the secret itself" } else { "" };
            problems.push(Problem::new(&file.place, path, format!("cannot read {shown}: {error}{hint}")));
            Value::Skipped
        }
    };
    Some(Node::new(&file.place, value))
}

/// LiveKit API keys and their secrets as text, which LiveKit reads as YAML.
fn lines(path: &str, node: &Node, what: &str, problems: &mut Vec<Problem>) -> Node {
    let keys = yaml::parse("", node.as_text().unwrap_or_default()).ok();
    let is_secret = |secret: &Node| !secret.is_null() && secret.as_text().is_some_and(|text| !text.is_empty());
    let keys = keys.filter(|keys| !keys.entries().is_empty() && keys.entries().iter().all(|(_, node)| is_secret(node)));
    let mut found = Node::map(&node.place);
    let Some(keys) = keys else {
        let message = format!("{what} is something else; expected `key: secret`, one a line, as in LIVEKIT_KEYS");
        problems.push(Problem::new(&node.place, path, message));
        found.value = Value::Skipped;
        return found;
    };
    for (key, secret) in keys.entries() {
        found.set(&key.text, Node::text(&node.place, secret.as_text().unwrap_or_default()));
    }
    found
}
