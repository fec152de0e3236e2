//! What the configuration understands, and how it complains.

mod errors;
mod ingest;
mod livekit;
mod secrets;
mod shipped;
mod shown;
mod sinks;

use std::collections::BTreeMap;

use livekit_spool::config::{self, Config, ConfigError, Target};

pub(crate) fn with_environment(text: Option<&str>, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    config::parse(text.map(|text| ("c.yaml", text)), &|name| variables.get(name).map(|value| (*value).to_owned()))
}

pub(crate) fn parse(text: &str) -> Result<Config, ConfigError> {
    with_environment(Some(text), &[])
}

pub(crate) fn errors(text: &str) -> String {
    parse(text).expect_err("the config was accepted").to_string()
}

#[track_caller]
pub(crate) fn assert_error(text: &str, parts: &[&str]) {
    let message = errors(text);
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in:\n{message}");
    }
}

pub(crate) fn mongo(config: &Config, sink: usize) -> &livekit_spool::sink::mongodb::MongoOptions {
    match &config.sinks[sink].target {
        Target::Mongodb(options) => options,
        other => panic!("{other:?} is no MongoDB sink"),
    }
}

pub(crate) const KEY: &str = "4242424242424242424242424242424242424242424242424242424242424242";

pub(crate) const OPENVIDU: &str =
    "openvidu:\n  analytics:\n    enabled: true\n    mongo_url: mongodb://user:hunter2@db:27017/\n";
