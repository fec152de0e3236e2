//! Log lines: for people on a terminal, JSON otherwise, to stderr, an event a line, whatever text of strangers is in it; the
//! level can change while running.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::{
    config::{LogConfig, LogFormat, LogLevel},
    printable::PrintableLines,
};

/// Overrides the configured level, as in every Rust program.
const VARIABLE: &str = "RUST_LOG";

/// The log while it runs.
#[derive(Debug, Clone)]
pub struct Logging(reload::Handle<EnvFilter, Registry>);

/// Starts logging; once a process.
///
/// # Errors
/// When a logger runs already.
pub fn start(config: &LogConfig, format: Option<LogFormat>) -> Result<Logging, io::Error> {
    let (filter, handle) = reload::Layer::new(filter(config.level));
    let human = match format.unwrap_or(config.format) {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let colours = human && io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer = fmt::layer().with_writer(move || PrintableLines::new(io::stderr(), colours));
    let result = if human {
        registry.with(layer.with_target(false).with_ansi(colours)).try_init()
    } else {
        registry.with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false)).try_init()
    };
    result.map_err(io::Error::other)?;
    Ok(Logging(handle))
}

impl Logging {
    /// Changes the level; `RUST_LOG` still overrides it.
    pub fn set_level(&self, level: LogLevel) {
        // Fails only after the subscriber is gone, with the process.
        let _ = self.0.reload(filter(level));
    }
}

/// Our own lines from `level` on, other crates' from warnings on.
fn filter(level: LogLevel) -> EnvFilter {
    let configured = format!("{},livekit_spool={}", quiet(level).as_str(), level.as_str());
    match std::env::var(VARIABLE).ok().filter(|directives| !directives.trim().is_empty()) {
        Some(directives) => EnvFilter::try_new(&directives).unwrap_or_else(|error| {
            // No logger runs yet that could carry it.
            eprintln!("livekit-spool: {VARIABLE}={directives} is ignored: {error}");
            EnvFilter::new(configured)
        }),
        None => EnvFilter::new(configured),
    }
}

const fn quiet(level: LogLevel) -> LogLevel {
    match level {
        LogLevel::Error => LogLevel::Error,
        LogLevel::Trace => LogLevel::Debug,
        _ => LogLevel::Warn,
    }
}
