//! Configuration: from `config.yaml`, from LiveKit's own config, from the `LIVEKIT_CONFIG` environment variable.
//!
//! A file is parsed into a tree that knows its lines ([`yaml`]), read section by section ([`read`], [`livekit`]) into
//! plain values ([`model`]); everything wrong is reported at once, each with source, line, path and what is allowed.

mod expand;
mod ingest;
mod kinds;
mod livekit;
mod model;
mod read;
mod reader;
pub mod units;
mod yaml;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

pub use expand::Environment;
pub use model::{
    AdminConfig, CompressionConfig, Config, EncryptionConfig, EncryptionKey, IngestConfig, Listen, LogConfig,
    LogFormat, LogLevel, SinkConfig, SpoolConfig, Target, WhenFull,
};
pub use reader::Problem;

use crate::{flush::FlushOptions, record::SinkName, sink::mongodb::MongoOptions};
use livekit::{Analytics, Livekit};
use reader::{Reader, Section, unknown_key};

/// The file that is taken where none is named.
pub const DEFAULT_FILE: &str = "config.yaml";

/// The environment variable that may hold LiveKit's configuration.
pub const LIVEKIT_VARIABLE: &str = "LIVEKIT_CONFIG";

/// The sink that `openvidu.analytics` defines.
const OPENVIDU_SINK: &str = "mongo";

/// The sink that runs where nothing else is said.
const DEFAULT_SINK: &str = "files";

/// Why there is no configuration to run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something in it is wrong: all of it, in order.
    #[error("{}", Listed(.0))]
    Invalid(Vec<Problem>),
    /// There is nowhere to deliver to.
    #[error(
        "{source_name}: no sink: {reason}. Add one under sinks:, for example `sinks: [{{name: files, type: file}}]`"
    )]
    NoSink {
        /// Where the configuration came from.
        source_name: String,
        /// Why none of the places that may define a sink does.
        reason: &'static str,
    },
}

struct Listed<'a>(&'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

/// Loads the configuration: from `file`, else from `./config.yaml` if there is one, else the defaults; `LIVEKIT_CONFIG`
/// of the environment adds (or replaces) what a LiveKit config says.
///
/// # Errors
/// When a file cannot be read, when anything in it is wrong, or when no sink is left.
pub fn load(file: Option<&Path>, environment: Environment<'_>) -> Result<Config, ConfigError> {
    let path = match file {
        Some(path) => Some(path.to_owned()),
        None => Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()),
    };
    let text = match &path {
        Some(path) => {
            Some(fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?)
        }
        None => None,
    };
    let named = path.as_ref().map(|path| path.display().to_string());
    let config = parse(text.as_deref().map(|text| (named.as_deref().unwrap_or_default(), text)), environment)?;
    Ok(Config { file: path, ..config })
}

/// As [`load`], from a text (with its name) instead of a file.
///
/// # Errors
/// When anything in it is wrong, or when no sink is left.
pub fn parse(file: Option<(&str, &str)>, environment: Environment<'_>) -> Result<Config, ConfigError> {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let variable = environment(LIVEKIT_VARIABLE).filter(|text| !text.trim().is_empty());
    let from_variable = variable.as_deref().map(|text| {
        // LiveKit expands nothing in it: a password with a dollar must mean the same to both.
        let found = (&mut problems, &mut warnings);
        read_document(LIVEKIT_VARIABLE, text, None, found, |root, _| Livekit::read(root, true)).unwrap_or_default()
    });
    let from_variable_given = from_variable.is_some();

    let (name, text) = file.unwrap_or(("defaults", ""));
    let config = read_document(name, text, Some(environment), (&mut problems, &mut warnings), |root, reader| {
        let style = Style::of(root);
        let livekit = merge(Livekit::read(root, style.is_livekits), from_variable);
        let use_default_sink = style.has_own || !(style.is_livekits || from_variable_given);
        let parts = read_own(root, &livekit, use_default_sink);
        complain_about_keys(root, reader, &style);
        (parts, livekit, style)
    });
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems));
    }
    let Some((mut config, livekit, style)) = config else { return Err(ConfigError::Invalid(problems)) };

    let source = match (file.is_some(), from_variable_given) {
        (true, true) => format!("{name} and {LIVEKIT_VARIABLE}"),
        (false, true) => LIVEKIT_VARIABLE.to_owned(),
        _ => name.to_owned(),
    };
    if config.sinks.is_empty() {
        let reason = match &livekit.analytics {
            Some(analytics) if !analytics.enabled => "openvidu.analytics.enabled is not true, and sinks: names none",
            _ if style.has_sinks => "sinks: is empty",
            _ => "it is a LiveKit config without openvidu.analytics",
        };
        return Err(ConfigError::NoSink { source_name: source, reason });
    }
    config.source = source;
    config.warnings = warnings.iter().map(ToString::to_string).collect();
    Ok(config)
}

/// Parses one document and runs `read` over its root; problems and warnings are added, the result of a broken document is
/// dropped.
fn read_document<T>(
    name: &str,
    text: &str,
    environment: Option<Environment<'_>>,
    (problems, warnings): (&mut Vec<Problem>, &mut Vec<Problem>),
    read: impl for<'r> FnOnce(&mut Section<'r>, &Reader<'_>) -> T,
) -> Option<T> {
    let reader = Reader::new(name, environment);
    let value = match yaml::parse(text) {
        Ok(node) => Some(read(&mut Section::new(&reader, "", &node), &reader)),
        Err(error) => {
            reader.problem(error.line, "", error.message);
            None
        }
    };
    let (its_problems, its_warnings) = reader.into_found();
    problems.extend(its_problems);
    warnings.extend(its_warnings);
    value
}

/// Whose file it is, by its top-level keys.
struct Style {
    has_own: bool,
    has_sinks: bool,
    is_livekits: bool,
}

impl Style {
    fn of(root: &Section<'_>) -> Self {
        let has = |keys: &[&str]| root.keys().any(|key| keys.contains(&key));
        let has_own = has(&read::OWN_KEYS);
        Self { has_own, has_sinks: root.has("sinks"), is_livekits: livekit::is_livekits(root, has_own) }
    }
}

/// LiveKit's keys are LiveKit's business in a file of LiveKit's; where that is only LiveKit's so is all the rest, as long as
/// it does not look like a misspelt key of ours. In a file of ours they do nothing, and would be taken to do something.
fn complain_about_keys(root: &Section<'_>, reader: &Reader<'_>, style: &Style) {
    for (key, line) in root.keys_and_lines() {
        let is_of_livekit = livekit::OTHER_KEYS.contains(&key);
        let known =
            read::OWN_KEYS.contains(&key) || livekit::READ_KEYS.contains(&key) || (is_of_livekit && style.is_livekits);
        let foreign = style.is_livekits && !style.has_own && reader::nearest(key, &read::OWN_KEYS).is_none();
        if known || foreign {
            continue;
        }
        let allowed = [&read::OWN_KEYS[..], &livekit::READ_KEYS].concat();
        let unknown = match livekit::counterpart(key).filter(|_| is_of_livekit) {
            Some(ours) => {
                format!("unknown key; it is LiveKit's: did you mean {ours}? (allowed here: {})", allowed.join(", "))
            }
            None => unknown_key(key, &allowed),
        };
        reader.problem(line, key, unknown);
    }
}

fn merge(file: Livekit, variable: Option<Livekit>) -> Livekit {
    let Some(variable) = variable else { return file };
    Livekit {
        analytics: variable.analytics.or(file.analytics),
        redis: variable.redis.or(file.redis),
        keys: if variable.keys.is_empty() { file.keys } else { variable.keys },
    }
}

fn read_own(root: &mut Section<'_>, livekit: &Livekit, use_default_sink: bool) -> Config {
    let data_dir = root.get_or("data_dir", PathBuf::from("./data"), &kinds::path());
    let shutdown_timeout = root.get_or("shutdown_timeout", Duration::from_secs(10), &read::shutdown_timeout());
    let mut ingest = ingest::ingest(root.section("ingest"));
    if ingest.keys.is_empty() {
        ingest.keys.clone_from(&livekit.keys);
    }
    if matches!(ingest.auth, crate::ingest::AuthOptions::Livekit) && ingest.keys.is_empty() {
        root.problem("ingest", "auth mode livekit needs API keys: ingest.auth.keys, or LiveKit's keys:");
    }
    let admin = read::admin(root.section("admin"));
    let documents = read::documents(root.section("documents"));
    let log = read::log(root.section("log"));
    let spool = read::spool(root.section("spool"), SpoolConfig::default());
    let flush = read::flush(root.section("flush"), &FlushOptions::default());
    let defaults = read::SinkDefaults { spool: &spool, flush: &flush, livekit };

    let mut sinks: Vec<SinkConfig> = Vec::new();
    let has_list = root.has("sinks");
    for section in root.sections("sinks").unwrap_or_default() {
        let line = section.line();
        let path = section.path_of("name");
        let Some(sink) = read::sink(section, &defaults) else { continue };
        if sinks.iter().any(|other| other.name == sink.name) {
            root.problem_at(
                line,
                path,
                format!("{:?} stands here twice: a sink's name is its identity", sink.name.as_str()),
            );
        }
        sinks.push(sink);
    }
    match &livekit.analytics {
        Some(analytics) => {
            if let Some(sink) = openvidu_sink(root, analytics, &spool, &flush, &sinks) {
                sinks.push(sink);
            }
        }
        None if use_default_sink && !has_list => {
            sinks.extend(SinkName::new(DEFAULT_SINK).ok().map(|name| read::default_sink(name, &spool, &flush)));
        }
        None => {}
    }
    let default_encryption = spool.encryption;
    let (source, warnings) = (String::new(), Vec::new());
    let mut config = Config {
        source,
        file: None,
        warnings,
        data_dir,
        ingest,
        admin,
        documents,
        sinks,
        default_encryption,
        log,
        shutdown_timeout,
    };
    config.set_shutdown_timeout(shutdown_timeout);
    config
}

/// The MongoDB sink of `openvidu.analytics`.
fn openvidu_sink(
    root: &Section<'_>,
    analytics: &Analytics,
    spool: &SpoolConfig,
    flush: &FlushOptions,
    others: &[SinkConfig],
) -> Option<SinkConfig> {
    let uri = analytics.mongo_url.as_ref().filter(|_| analytics.enabled)?;
    let name = SinkName::new(OPENVIDU_SINK).ok()?;
    if others.iter().any(|sink| sink.name == name) {
        root.problem("openvidu", format!("defines a sink named {OPENVIDU_SINK:?}, and so does sinks: rename that one"));
        return None;
    }
    let flush = FlushOptions { interval: analytics.interval.unwrap_or(flush.interval), ..flush.clone() };
    let defaults = MongoOptions::default();
    let options = MongoOptions {
        uri: uri.expose().to_owned(),
        database: analytics.database.clone().unwrap_or(defaults.database),
        expiration: analytics.expiration.unwrap_or(defaults.expiration),
        timeout: flush.timeout,
        ..defaults
    };
    if let Err(error) = options.check() {
        root.problem("openvidu", error.to_string());
        return None;
    }
    let files = read::default_sink(name, spool, &flush);
    Some(SinkConfig { target: Target::Mongodb(options), ..files })
}
