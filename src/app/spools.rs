//! The options with which a sink's spool is inspected: the sink's own or, for an orphaned spool, all keys that the
//! configuration has. Every command and every API handler uses these, so that `peek` and `export` can read what `backlog`
//! counts.

use crate::{
    config::Config,
    record::SinkName,
    spool::{Keys, SpoolOptions},
};

/// The options of a sink's spool for inspecting it.
#[must_use]
pub fn spool_options(config: &Config, sink: &SinkName) -> SpoolOptions {
    match config.sinks.iter().find(|other| other.name == *sink) {
        Some(named) => named.spool.for_sink(sink),
        None => SpoolOptions { encryption: keys(config), ..SpoolOptions::default().for_sink(sink) },
    }
}

/// All keys that the configuration has: for bytes whose sink is not known.
#[must_use]
pub fn keys(config: &Config) -> Option<Keys> {
    let sinks = config.sinks.iter().filter_map(|sink| sink.spool.encryption.as_ref());
    let mut all = sinks.chain(&config.spool.encryption).cloned();
    let mut keys = all.next()?;
    for more in all {
        keys.previous.push(more.current);
        keys.previous.extend(more.previous);
    }
    Some(keys)
}
