//! `check-config`: what will run, without running it.

use serde_json::{Value, json};

use super::{Common, Outcome, output};
use crate::{
    config::{
        Config, SinkConfig, SpoolConfig, WhenFull,
        units::{human_count, human_duration, human_size},
    },
    flush::FlushOptions,
    ingest::AuthOptions,
    record::Stream,
};

/// Arguments of `check-config`.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub(super) fn run(common: &Common, _args: &Args) -> Outcome {
    let config = common.load_config()?;
    if common.json {
        return output::json(&as_json(&config));
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
    Ok(())
}

fn overview(config: &Config) -> Vec<(&'static str, String)> {
    let at = |listen: Option<String>| listen.unwrap_or_else(|| "switched off".to_owned());
    let tls = if config.ingest.tls.is_some() { ", TLS" } else { "" };
    let auth = auth(&config.ingest.auth);
    let admin_token = if config.admin.token.is_some() { "with a token" } else { "no token: no actions over TCP" };
    vec![
        ("gRPC", format!("{} (auth {auth}{tls})", at(config.ingest.grpc_listen.as_ref().map(ToString::to_string)))),
        ("HTTP", format!("{} (auth {auth}{tls})", at(config.ingest.http_listen.as_ref().map(ToString::to_string)))),
        ("admin", format!("{} ({admin_token})", at(config.admin.listen.map(|address| address.to_string())))),
        ("data", config.data_dir.display().to_string()),
        ("documents", format!("redact {}, enums {}", word(&config.documents.redact), word(&config.documents.enums))),
        ("log", format!("{}, {}", config.log.level.as_str(), word(&config.log.format))),
        ("stop", format!("within {}", human_duration(config.shutdown_timeout))),
    ]
}

fn details(sink: &SinkConfig) -> Vec<(&'static str, String)> {
    let mut lines = vec![("to", format!("{} {}", sink.target.kind(), sink.target.address())), ("takes", takes(sink))];
    lines.push(("spool", spool(&sink.spool)));
    lines.push(("flush", flush(&sink.flush)));
    lines
}

fn takes(sink: &SinkConfig) -> String {
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

fn spool(spool: &SpoolConfig) -> String {
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

/// An enum's word, as the config writes it.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

fn as_json(config: &Config) -> Value {
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
        "grpc": config.ingest.grpc_listen.as_ref().map(ToString::to_string),
        "http": config.ingest.http_listen.as_ref().map(ToString::to_string),
        "admin": config.admin.listen,
        "auth": auth(&config.ingest.auth),
        "tls": config.ingest.tls.is_some(),
        "sinks": sinks,
    })
}
