//! Log lines on stderr: for people on a terminal, otherwise JSON. An event is always one line, whatever text from outside it
//! contains. The level can change while running.
//!
//! Logging never waits for the reader of stderr (`lines`), and the rate of each kind of line is limited (`kinds`).
//!
//! Uses `printable`.

mod config;
mod kinds;
mod lines;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal},
    panic,
    sync::{Arc, LazyLock, OnceLock},
    thread,
    time::Duration,
};

use tracing::Level;
use tracing_subscriber::{Registry, filter::Targets, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use self::{
    kinds::{Kinds, Limited},
    lines::{Line, Lines},
};
use crate::printable::PrintableLines;

pub use self::config::{LogConfig, LogFormat, LogLevel};

/// Overrides the configured level, as in every Rust program.
const VARIABLE: &str = "RUST_LOG";

/// How long the end of the process waits until lines are read.
const TIMEOUT: Duration = Duration::from_millis(500);

static LINES: OnceLock<Arc<Lines>> = OnceLock::new();
static KINDS: LazyLock<Kinds> = LazyLock::new(Kinds::default);

/// The log while it runs.
#[derive(Debug, Clone)]
pub struct Logging(reload::Handle<Targets, Registry>);

/// Starts logging; once per process.
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
    let lines = Lines::start(io::stderr(), |dropped| {
        if dropped > 0 {
            tracing::warn!(dropped, "log lines were dropped: stderr was not read in time");
        }
        KINDS.sum_up();
    })?;
    let registry = tracing_subscriber::registry().with(filter).with(Limited(&KINDS));
    let colours = human && io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let to_write = Arc::clone(&lines);
    let layer = fmt::layer().with_writer(move || PrintableLines::new(Line(Arc::clone(&to_write)), colours));
    let result = if human {
        registry.with(layer.with_target(false).with_ansi(colours)).try_init()
    } else {
        registry.with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false)).try_init()
    };
    result.map_err(io::Error::other)?;
    LINES.get_or_init(|| lines);
    panic::set_hook(Box::new(log_panic));
    Ok(Logging(handle))
}

/// Waits for a moment until all log lines are written: before the process ends, or writes to stderr itself.
pub(crate) fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush(TIMEOUT);
    }
}

/// Logs panics. The default hook writes to stderr directly and would block if nobody reads it.
fn log_panic(panic: &panic::PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed");
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(thread = name, %backtrace, "{panic}");
    } else {
        tracing::error!(thread = name, "{panic}");
    }
    if name == "main" {
        flush();
    }
}

impl Logging {
    /// Changes the level; `RUST_LOG` still overrides it.
    pub fn set_level(&self, level: LogLevel) {
        // Fails only once the subscriber is gone, at the end of the process.
        let _ = self.0.reload(filter(level));
    }
}

/// Our own lines from `level` on, other crates' from warnings on.
fn filter(level: LogLevel) -> Targets {
    let configured = || Targets::new().with_default(quiet(level)).with_target("livekit_spool", tracing_level(level));
    match std::env::var(VARIABLE).ok().filter(|directives| !directives.trim().is_empty()) {
        Some(directives) => directives.parse().unwrap_or_else(|error| {
            // No logger runs yet.
            eprintln!("livekit-spool: {VARIABLE}={directives} is ignored: {error}");
            configured()
        }),
        None => configured(),
    }
}

const fn tracing_level(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    }
}

/// The level of other crates' lines.
const fn quiet(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Trace => Level::DEBUG,
        _ => Level::WARN,
    }
}
