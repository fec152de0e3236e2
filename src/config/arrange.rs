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
        *auth = Node::section(&auth.place, "mode", auth.clone());
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
    let own_keys = tree.find("ingest.auth.keys").filter(|keys| !keys.says_nothing());
    if let Some(keys) = livekit.keys.as_ref().filter(|_| own_keys.is_none()) {
        let nowhere = Place { line: 0, ..tree.place.clone() };
        let sections = ["keys", "auth", "ingest"].into_iter();
        tree.inherit(&sections.fold(keys.clone(), |node, key| Node::section(&nowhere, key, node)));
    }
    take_files(tree, "admin", &[("token_file", "token")], problems);
    take_files(tree, "documents", &[("pii_key_file", "pii_key")], problems);
    take_files(tree, "spool.encryption", &KEY_FILES, problems);

    let mut common = Node::map(&tree.place);
    for key in ["spool", "flush"] {
        if let Some(node) = tree.get(key).filter(|node| !node.is_silent()) {
            common.set(key, node.clone());
        }
    }
    let count = tree.get_mut("sinks").map_or(0, |sinks| sinks.items_mut().len());
    for path in (0..count).map(|index| format!("sinks[{index}]")) {
        let kind = tree.find(&path).and_then(|sink| sink.text_of("type"));
        let files = kind.and_then(SinkTypeInfo::of).map_or(&[][..], |kind| kind.files);
        take_files(tree, &path, files, problems);
        take_files(tree, &below(&path, "spool.encryption"), &KEY_FILES, problems);
        if let Some(sink) = tree.find_mut(&path) {
            sink.inherit(&common);
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
        Some(Some(sink)) if items.iter().any(|item| item.text_of("name") == Some(OPENVIDU_SINK)) => {
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
        let is_redis = item.text_of("type") == Some("redis");
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
