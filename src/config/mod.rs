//! Configuration, from `config.yaml`, LiveKit's own config, or the `LIVEKIT_CONFIG` environment variable.
//!
//! A file is parsed into a tree that keeps the place of each value (`yaml`, `tree`). Variables in it are expanded
//! (`expand`), and other ways to write a setting are brought into our own form (`livekit`, `arrange`). serde reads the tree
//! (`reader`) into one struct per section (`sections`, and the options of other modules). Then the checks that involve
//! several keys run (`check`). Every problem is reported with source, line, column, path and what is allowed. The same
//! structs give the schema (`schema`), the documented default file and the output of `config show` (`show`).
//!
//! Uses `document`, `flush`, `ingest`, `logging`, `printable`, `record`, `secret`, `setting`, `sink`, `spool`, `units`.

mod admin;
mod arrange;
mod check;
mod expand;
mod files;
mod livekit;
mod problem;
mod reader;
mod schema;
mod sections;
mod show;
mod sinks;
mod tree;
mod words;
mod yaml;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use admin::AdminConfig;
pub use expand::Environment;
pub use problem::{Place, Problem};
pub use schema::schema;
pub use sections::Config;
pub use show::{Shown, default_file};
pub use sinks::{SinkConfig, SinkType, Target};

pub use crate::{
    ingest::{IngestConfig, Listen},
    logging::{LogConfig, LogFormat, LogLevel},
    spool::SpoolOptions,
    units,
};

use arrange::arrange;
use check::Check;
use livekit::Livekit;
use reader::read;
use sections::OWN_KEYS;
use sinks::{KEYS_OF_SINKS, SinkTypeInfo};
use tree::{Key, Node, Value};
use words::unknown_key;

use crate::printable::one_line;

/// The file that is used if none is named.
pub const DEFAULT_FILE: &str = "config.yaml";

/// The environment variable that may hold LiveKit's configuration.
pub const LIVEKIT_VARIABLE: &str = "LIVEKIT_CONFIG";

/// Why there is no configuration to run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {}: {source}", one_line(&path.to_string_lossy()))]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file has problems: all of them, in order.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
    /// There is no sink.
    #[error(
        "{}: no sink: {reason}. Add one under sinks:, for example `sinks: [{{name: files, type: file}}]`",
        one_line(source_name)
    )]
    NoSink {
        /// Where the configuration came from.
        source_name: String,
        /// Why none of the places that can define a sink does.
        reason: &'static str,
    },
}

/// Loads the configuration: from `file`, else from `./config.yaml` if it exists, else the defaults. `LIVEKIT_CONFIG` of the
/// environment adds to what a LiveKit config says, or replaces it.
///
/// # Errors
/// When a file cannot be read, when it has a problem, or when there is no sink.
pub fn load(file: Option<&Path>, environment: Environment<'_>) -> Result<Config, ConfigError> {
    load_parsed(file, environment).map(|parsed| parsed.config)
}

fn load_parsed(file: Option<&Path>, environment: Environment<'_>) -> Result<Parsed, ConfigError> {
    let default_file = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
    let Some(path) = file.map(Path::to_owned).or_else(default_file) else { return parse_all(None, environment) };
    let text = fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    let mut parsed = parse_all(Some((&path.display().to_string(), &text)), environment)?;
    parsed.config.file = Some(path);
    Ok(parsed)
}

/// Like [`load`], from a text (with its name) instead of a file.
///
/// # Errors
/// When the text has a problem, or when there is no sink.
pub fn parse(file: Option<(&str, &str)>, environment: Environment<'_>) -> Result<Config, ConfigError> {
    parse_all(file, environment).map(|parsed| parsed.config)
}

/// The effective configuration, as [`load`] finds it: every value, and where it comes from.
///
/// # Errors
/// As [`load`].
pub fn show(file: Option<&Path>, environment: Environment<'_>) -> Result<Shown, ConfigError> {
    load_parsed(file, environment).map(|parsed| Shown::of(&parsed.config, &parsed.tree))
}

/// Like [`show`], from a text (with its name) instead of a file.
///
/// # Errors
/// As [`parse`].
pub fn show_text(file: Option<(&str, &str)>, environment: Environment<'_>) -> Result<Shown, ConfigError> {
    parse_all(file, environment).map(|parsed| Shown::of(&parsed.config, &parsed.tree))
}

/// A configuration, and what was written for it and where.
struct Parsed {
    config: Config,
    tree: Node,
}

fn parse_all(file: Option<(&str, &str)>, environment: Environment<'_>) -> Result<Parsed, ConfigError> {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let mut document = |name: &str, text: &str| {
        let wrong = match yaml::parse(name, text) {
            Ok(root) if matches!(root.value, Value::Map(_)) => return root,
            Ok(root) if root.is_null() => return Node::map(&root.place),
            Ok(root) => Problem::new(&root.place, "", format!("expected keys and values, found {}", root.kind())),
            Err(problem) => problem,
        };
        let nothing = Node::map(&wrong.place);
        problems.push(wrong);
        nothing
    };
    let variable = environment(LIVEKIT_VARIABLE).filter(|text| !text.trim().is_empty());
    let variable_tree = variable.as_deref().map(|text| document(LIVEKIT_VARIABLE, text));
    let (name, text) = file.unwrap_or(("defaults", ""));
    let mut tree = document(name, text);
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems));
    }
    let file_is_blank = file.is_some() && tree.entries().is_empty();

    // LiveKit expands no variables: a password with a dollar sign must mean the same to both.
    let from_variable = variable_tree.map(|mut tree| Livekit::read(&mut tree, &mut problems, &mut warnings));
    let style = Style::of(&tree);
    complain_about_keys(&tree, &style, &mut problems);
    if let Value::Map(entries) = &mut tree.value {
        for (Key { text: key, .. }, node) in entries {
            let is_ours_to_read = livekit::READ_KEYS.contains(&key.as_str()) && !style.is_livekits;
            if OWN_KEYS.contains(&key.as_str()) || is_ours_to_read {
                node.expand(environment);
            }
        }
    }
    let of_file = Livekit::read(&mut tree, &mut problems, &mut warnings);
    let from_variable_given = from_variable.is_some();
    let livekit = from_variable.unwrap_or_default().over(of_file);
    if let Value::Map(entries) = &mut tree.value {
        entries.retain(|(key, _)| OWN_KEYS.contains(&key.text.as_str()));
    }
    let use_default_sink = style.has_own || !(style.is_livekits || from_variable_given);
    let openvidu = arrange(&mut tree, &livekit, use_default_sink, &mut problems);
    let config = read_config(&mut tree, &mut problems);
    if let Some(config) = config.as_ref().filter(|_| problems.is_empty()) {
        Check { root: &tree, problems: &mut problems, warnings: &mut warnings, openvidu }.config(config);
    }
    let Some(mut config) = config.filter(|_| problems.is_empty()) else {
        sort(&mut problems);
        return Err(ConfigError::Invalid(problems));
    };

    config.file_is_blank = file_is_blank;
    let name = one_line(name);
    config.source = match (file.is_some(), from_variable_given) {
        (true, true) => format!("{name} and {LIVEKIT_VARIABLE}"),
        (false, true) => LIVEKIT_VARIABLE.to_owned(),
        _ => name.into_owned(),
    };
    if config.sinks.is_empty() {
        let reason = match &livekit.sink {
            Some(None) => "openvidu.analytics.enabled is not true, and sinks: names none",
            _ if style.has_sinks => "sinks: is empty",
            _ => "it is a LiveKit config without openvidu.analytics",
        };
        return Err(ConfigError::NoSink { source_name: config.source, reason });
    }
    sort(&mut warnings);
    config.warnings = warnings.iter().map(ToString::to_string).collect();
    Ok(Parsed { config, tree })
}

/// In the order of the documents: LiveKit's variable, then the file.
fn sort(problems: &mut [Problem]) {
    problems.sort_by_key(|Problem { place, .. }| (&*place.source != LIVEKIT_VARIABLE, place.line, place.column));
}

/// Reads the tree into the structs: for each sink first the keys of all sinks, then those of its type.
fn read_config(tree: &mut Node, problems: &mut Vec<Problem>) -> Option<Config> {
    let mut typed = Vec::new();
    for item in tree.get_mut("sinks").into_iter().flat_map(Node::items_mut) {
        // It is reported even if the name is missing too.
        if !item.has("type") {
            item.set("type", Node::new(&item.place.clone(), Value::Missing));
        }
        let kind = item.text_of("type").map(str::to_owned);
        typed.push((kind, item.split_off(&KEYS_OF_SINKS)));
    }
    let config: Option<Config> = read(tree, "", &[], problems);
    let mut targets = Vec::new();
    for (index, (kind, own)) in typed.iter_mut().enumerate() {
        let path = format!("sinks[{index}]");
        // Without a type, no other key can be checked.
        let kind = kind.as_deref().and_then(SinkTypeInfo::of);
        targets.push(kind.and_then(|kind| (kind.read)(own, &path, problems)));
    }
    let mut config = config.filter(|config| problems.is_empty() && config.sinks.len() == targets.len())?;
    for (sink, target) in config.sinks.iter_mut().zip(targets) {
        sink.target = target?;
        sink.target.set_common(sink.labels.clone(), sink.streams.clone(), sink.flush.timeout);
    }
    config.set_shutdown_timeout(config.shutdown_timeout);
    // Checks and `config show` look for every key in the tree.
    let items = tree.get_mut("sinks").into_iter().flat_map(Node::items_mut);
    items.zip(typed).for_each(|(item, (_, own))| item.inherit(&own));
    Some(config)
}

/// Whose file it is, according to its top-level keys.
struct Style {
    has_own: bool,
    has_sinks: bool,
    is_livekits: bool,
}

impl Style {
    fn of(root: &Node) -> Self {
        let has_own = root.entries().iter().any(|(key, _)| OWN_KEYS.contains(&key.text.as_str()));
        Self { has_own, has_sinks: root.has("sinks"), is_livekits: livekit::is_livekits(root, has_own) }
    }
}

/// In LiveKit's own file, LiveKit's keys are ignored. If the file is only LiveKit's, so are all other keys, unless they
/// look like a misspelt key of ours. In a file of ours LiveKit's keys have no effect, and are refused because the user
/// would expect one.
fn complain_about_keys(root: &Node, style: &Style, problems: &mut Vec<Problem>) {
    for (Key { place, text: key }, _) in root.entries() {
        let key = key.as_str();
        let is_of_livekit = livekit::OTHER_KEYS.contains(&key);
        let known =
            OWN_KEYS.contains(&key) || livekit::READ_KEYS.contains(&key) || (is_of_livekit && style.is_livekits);
        let foreign = style.is_livekits && !style.has_own && words::nearest(key, &OWN_KEYS).is_none();
        if known || foreign {
            continue;
        }
        let allowed = [&OWN_KEYS[..], &livekit::READ_KEYS].concat();
        let unknown = match livekit::counterpart(key).filter(|_| is_of_livekit) {
            Some(ours) => {
                format!("unknown key; it is LiveKit's: did you mean {ours}? (allowed here: {})", allowed.join(", "))
            }
            None => unknown_key(key, &allowed),
        };
        problems.push(Problem::new(place, key, unknown));
    }
}
