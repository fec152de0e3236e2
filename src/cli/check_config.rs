//! `check-config`: what would run with this configuration, and whether the existing spools fit it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Common, Exit, Failure, Outcome, output};
use crate::{
    app,
    config::{
        Config, SinkConfig, SpoolOptions,
        units::{human_count, human_duration, human_size},
    },
    flush::FlushOptions,
    ingest::AuthOptions,
    record::{SinkName, Stream},
    spool::{self, OpenError, WhenFull},
    status::SinkStatus,
};

/// Arguments of `check-config`.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub(super) fn run(common: &Common, _args: &Args) -> Outcome {
    let config = match valid(common) {
        Ok(config) => config,
        Err(failure) => {
            if common.json {
                output::json(&json!({ "valid": false, "error": failure.message }))?;
            }
            return Err(failure);
        }
    };
    let (findings, refused) = (findings(&config), refused(&config));
    let outcome = if refused.is_empty() {
        Ok(())
    } else {
        let lines = refused.iter().map(|(sink, error)| format!("sink {sink} would not deliver: {error}"));
        Err(Failure::new(Exit::Partial, lines.collect::<Vec<_>>().join("\n")))
    };
    if common.json {
        output::json(&as_json(&config, &findings, &refused))?;
        return outcome;
    }
    output::line(format!("{}: valid\n", config.source))?;
    for (name, value) in overview(&config) {
        output::line(format!("{name:<10} {value}"))?;
    }
    for sink in &config.sinks {
        output::line(format!("\nsink {} ({})", sink.name, if sink.required { "required" } else { "optional" }))?;
        for (name, value) in details(sink) {
            output::line(format!("  {name:<8} {value}"))?;
        }
    }
    for finding in &findings {
        output::line(format!("\n! {finding}"))?;
    }
    outcome
}

/// The configuration, if `run` would accept it.
fn valid(common: &Common) -> Result<Config, Failure> {
    let config = common.load_config()?;
    app::check(&config).map_err(|error| {
        let failure = Failure::start(error);
        Failure { message: format!("{}: {}", config.source, failure.message), ..failure }
    })?;
    Ok(config)
}

/// What the operator should know about the existing spools before a start. None of it keeps a sink from running.
fn findings(config: &Config) -> Vec<String> {
    let running = if super::client::is_locked(&config.data_dir) {
        Some(
            "a livekit-spool process uses this data directory: `livekit-spool reload` (or SIGHUP) applies this configuration"
                .to_owned(),
        )
    } else {
        None
    };
    let spools = match app::of_stopped(config) {
        Ok(snapshot) => snapshot.sinks.iter().flat_map(finding).collect(),
        // While a process writes, a spool can change during the check.
        Err(_) if running.is_some() => Vec::new(),
        Err(error) => vec![error.to_string()],
    };
    config.warnings.iter().cloned().chain(running).chain(spools).collect()
}

/// The spools that `run` would not open, and why. Not checked while a process has them open: `livekit-spool ready` reports
/// them.
fn refused(config: &Config) -> BTreeMap<SinkName, OpenError> {
    if super::client::is_locked(&config.data_dir) {
        return BTreeMap::new();
    }
    let check = |sink: &SinkConfig| {
        let error = spool::check(&config.data_dir.join(sink.name.as_str()), sink.spool.for_sink(&sink.name)).err()?;
        Some((sink.name.clone(), error))
    };
    config.sinks.iter().filter_map(check).collect()
}

fn finding(sink: &SinkStatus) -> Option<String> {
    let name = &sink.name;
    let (records, dead) = (human_count(sink.records), human_count(sink.dead_letters));
    if !sink.configured {
        return Some(format!(
            "the spool of sink {name} ({records} records, {dead} dead letters, {}) is on disk, and the configuration does \
             not name it. It is kept: add the sink again to deliver its records, copy them with `livekit-spool export \
             {name}`, or remove the spool with `livekit-spool purge {name}`. A renamed sink is a new sink.",
            human_size(sink.disk_bytes)
        ));
    }
    (sink.max_bytes > 0 && sink.disk_bytes > sink.max_bytes).then(|| {
        format!(
            "the spool of sink {name} takes {}, more than its max_bytes of {}: it accepts no records until {records} are \
             delivered",
            human_size(sink.disk_bytes),
            human_size(sink.max_bytes)
        )
    })
}

fn overview(config: &Config) -> Vec<(&'static str, String)> {
    let at = |listen: Option<String>| listen.unwrap_or_else(|| "switched off".to_owned());
    let tls = if config.ingest.tls.is_some() { ", TLS" } else { "" };
    let auth = auth(&config.ingest.auth.options());
    let admin_token = if config.admin.token.is_some() { "with a token" } else { "no token: no actions over TCP" };
    vec![
        ("gRPC", format!("{} (auth {auth}{tls})", at(config.ingest.grpc.listen.as_ref().map(ToString::to_string)))),
        ("HTTP", format!("{} (auth {auth}{tls})", at(config.ingest.http.listen.as_ref().map(ToString::to_string)))),
        ("admin", format!("{} ({admin_token})", at(config.admin.listen.map(|address| address.to_string())))),
        ("data", config.data_dir.display().to_string()),
        ("documents", format!("redact {}, enums {}", word(&config.documents.redact), word(&config.documents.enums))),
        ("log", format!("{}, {}", config.log.level.as_str(), word(&config.log.format))),
        ("stop", format!("within {}", human_duration(config.shutdown_timeout))),
    ]
}

fn details(sink: &SinkConfig) -> Vec<(&'static str, String)> {
    let mut lines =
        vec![("to", format!("{} {}", sink.target.kind(), sink.target.address())), ("records", records(sink))];
    lines.push(("spool", spool(&sink.spool)));
    lines.push(("flush", flush(&sink.flush)));
    lines
}

fn records(sink: &SinkConfig) -> String {
    let mut text = if sink.streams.len() == Stream::ALL.len() {
        "all streams".to_owned()
    } else {
        sink.streams.iter().map(|stream| stream.as_str()).collect::<Vec<_>>().join(", ")
    };
    if !sink.event_types.is_empty() {
        text.push_str(&format!("; events {}", sink.event_types.join(", ")));
    }
    text
}

fn spool(spool: &SpoolOptions) -> String {
    let age = spool.max_age.map(|age| format!(", at most {} old", human_duration(age))).unwrap_or_default();
    let encrypted = if spool.encryption.is_some() { ", encrypted" } else { "" };
    let full = match spool.when_full {
        WhenFull::Block => format!("block for {}", human_duration(spool.block_timeout)),
        other => word(&other).replace('_', " "),
    };
    format!("at most {}{age}{encrypted}; when full: {full}", human_size(spool.max_bytes))
}

fn flush(flush: &FlushOptions) -> String {
    let rate = match flush.max_rate {
        0 => String::new(),
        rate => format!(", at most {}/s", human_count(rate)),
    };
    format!(
        "every {}, {} records or {}, {} in flight{rate}",
        human_duration(flush.interval),
        human_count(flush.batch_records as u64),
        human_size(flush.batch_bytes as u64),
        flush.max_in_flight
    )
}

const fn auth(auth: &AuthOptions) -> &'static str {
    match auth {
        AuthOptions::None => "none",
        AuthOptions::Livekit => "livekit",
        AuthOptions::Tokens(_) => "tokens",
        AuthOptions::MutualTls => "mtls",
    }
}

/// An enum's value, as the config writes it.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

fn as_json(config: &Config, findings: &[String], refused: &BTreeMap<SinkName, OpenError>) -> Value {
    let refused: serde_json::Map<String, Value> =
        refused.iter().map(|(sink, error)| (sink.to_string(), error.to_string().into())).collect();
    let sinks: serde_json::Map<String, Value> = config
        .sinks
        .iter()
        .map(|sink| {
            let value = json!({
                "type": sink.target.kind(),
                "address": sink.target.address(),
                "required": sink.required,
                "streams": sink.streams,
                "event_types": sink.event_types,
                "max_bytes": sink.spool.max_bytes,
                "when_full": sink.spool.when_full,
                "encrypted": sink.spool.encryption.is_some(),
            });
            (sink.name.to_string(), value)
        })
        .collect();
    json!({
        "valid": true,
        "source": config.source,
        "data_dir": config.data_dir,
        "grpc": config.ingest.grpc.listen.as_ref().map(ToString::to_string),
        "http": config.ingest.http.listen.as_ref().map(ToString::to_string),
        "admin": config.admin.listen,
        "auth": auth(&config.ingest.auth.options()),
        "tls": config.ingest.tls.is_some(),
        "sinks": sinks,
        "findings": findings,
        "refused": refused,
    })
}
