//! Brings the parsed tree into the form that our own config file has. It rewrites the short form of `ingest.auth`, secrets
//! in separate files, LiveKit's sections, the settings that sinks inherit, and the default sink.

use super::{
    files::{lines, take_files},
    livekit::Livekit,
    problem::{Place, Problem},
    sinks::SinkTypeInfo,
    tree::{Node, Scalar, Value, below},
};

/// The sink that `openvidu.analytics` defines.
const OPENVIDU_SINK: &str = "mongo";

/// The keys of a section that hold encryption keys.
const KEY_FILES: [(&str, &str); 2] = [("key_file", "key"), ("old_key_files", "old_keys")];

/// Brings a file into our form. Returns the path of the sink of `openvidu.analytics`, if there is one.
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
        for (section, key, node) in
            [("", "ingest", &nowhere), ("ingest", "auth", &nowhere), ("ingest.auth", "keys", keys)]
        {
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
        let kind = tree.find(&path).and_then(|sink| sink.get("type")).and_then(Node::as_text);
        let files = kind.and_then(SinkTypeInfo::of).map_or(&[][..], |kind| kind.files);
        take_files(tree, &path, files, problems);
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
            let message = format!("defines a sink named {OPENVIDU_SINK:?}, and sinks does too: rename that one");
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
                    let message = format!("missing, and LiveKit's redis: section cannot be used: {why}");
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
