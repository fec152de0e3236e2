//! Checks what involves several keys. It runs after all keys are read, and reports every problem.

use std::collections::HashSet;

use super::{
    problem::{Problem, shown_key},
    sections::Config,
    sinks::{SinkConfig, SinkTypeInfo},
    tree::{Node, below},
};
use crate::{
    document::Labels,
    flush::FlushOptions,
    ingest::{AuthMode, IngestConfig, LivekitKeys, MIN_TOKEN_LENGTH, MemoryOptions, ServeError},
    setting::MIB,
    sink::InvalidOption,
    units::human_size,
};

/// LiveKit's warning has the same bound: "secret is too short, should be at least 32 characters for security".
const ENOUGH_API_SECRET_LENGTH: usize = 32;

/// A document during the checks that involve several keys.
pub(super) struct Check<'a> {
    pub(super) root: &'a Node,
    pub(super) problems: &'a mut Vec<Problem>,
    pub(super) warnings: &'a mut Vec<Problem>,
    /// The sink that `openvidu.analytics` asks for.
    pub(super) openvidu: Option<String>,
}

impl Check<'_> {
    /// True if the path is written with a value.
    pub(super) fn is_written(&self, path: &str) -> bool {
        self.root.find(path).is_some_and(|node| !node.is_silent())
    }

    fn found(&self, path: &str, message: String) -> Problem {
        let is_openvidus = self.openvidu.as_ref().is_some_and(|sink| path.starts_with(sink));
        Problem::new(&self.root.place_of(path), if is_openvidus { "openvidu.analytics" } else { path }, message)
    }

    pub(super) fn problem(&mut self, path: &str, message: impl Into<String>) {
        let found = self.found(path, message.into());
        self.problems.push(found);
    }

    /// Warns of a secret that is in use and can be guessed.
    fn warn_if_short(&mut self, path: &str, secret: &str, enough: usize, because: &str) {
        if secret.chars().count() < enough {
            let found = self.found(path, format!("shorter than {enough} characters: {because}"));
            // LiveKit's keys are used here only if there are no others.
            let is_known = |old: &Problem| (&old.place.source, &old.message) == (&found.place.source, &found.message);
            if !self.warnings.iter().any(is_known) {
                self.warnings.push(found);
            }
        }
    }

    /// Warns of short API secrets, as LiveKit does: a secret signs tokens that let anyone send, here and to LiveKit.
    pub(super) fn warn_of_short_secrets(&mut self, path: &str, keys: &LivekitKeys) {
        for (name, secret) in keys {
            let because = format!("whoever guesses the secret of {:?} can sign tokens", shown_key(name));
            self.warn_if_short(path, secret.expose(), ENOUGH_API_SECRET_LENGTH, &because);
        }
    }

    /// Runs all checks.
    pub(super) fn config(&mut self, config: &Config) {
        self.ingest(&config.ingest);
        self.warn_of_short_secrets("ingest.auth.keys", &config.ingest.auth.keys);
        if let Some(token) = &config.admin.token {
            let because = "whoever guesses it may read and purge records";
            self.warn_if_short("admin.token", token.expose(), MIN_TOKEN_LENGTH, because);
        }
        // The options hold only a hash of the key.
        if let Some(key) = self.root.find("documents.pii_key").and_then(Node::as_text).filter(|key| !key.is_empty()) {
            self.warn_if_short("documents.pii_key", key, MIN_TOKEN_LENGTH, "whoever guesses it can undo the hashes");
        }
        self.backoff("flush", &config.flush);
        let mut names = HashSet::new();
        for (index, sink) in config.sinks.iter().enumerate() {
            let path = format!("sinks[{index}]");
            let name = sink.name.as_str();
            if !names.insert(name) {
                let message = format!("{name:?} is the name of two sinks: a sink's name is its identity");
                self.problem(&below(&path, "name"), message);
            }
            self.sink(&path, sink);
        }
    }

    fn backoff(&mut self, path: &str, flush: &FlushOptions) {
        if flush.backoff.initial > flush.backoff.max {
            self.problem(&below(path, "backoff.max"), "is shorter than initial");
        }
    }

    fn ingest(&mut self, ingest: &IngestConfig) {
        let auth = &ingest.auth;
        match auth.mode {
            AuthMode::Livekit if auth.keys.is_empty() => {
                self.problem("ingest", "auth mode livekit needs API keys: ingest.auth.keys, or LiveKit's keys:");
            }
            AuthMode::Tokens if auth.tokens.is_empty() => {
                let message = "missing: mode tokens needs at least one, in tokens or token_files";
                self.problem("ingest.auth.tokens", message);
            }
            AuthMode::Tokens if auth.tokens.iter().any(|token| token.expose().len() < MIN_TOKEN_LENGTH) => {
                let message = format!("one is shorter than {MIN_TOKEN_LENGTH} characters: too easily guessed");
                self.problem("ingest.auth.tokens", message);
            }
            AuthMode::Mtls if ingest.tls.as_ref().and_then(|tls| tls.client_ca.as_ref()).is_none() => {
                let message = "mtls needs ingest.tls with a client_ca that signs the senders' certificates";
                self.problem("ingest.auth.mode", message);
            }
            _ => {}
        }
        for (path, listen, key, limit) in [
            ("ingest.grpc", &ingest.grpc.listen, "max_message_bytes", ingest.grpc.max_message_bytes),
            ("ingest.http", &ingest.http.listen, "max_body_bytes", ingest.http.max_body_bytes),
        ] {
            let Some(listen) = listen else { continue };
            self.fits(path, key, limit, &ingest.memory);
            // Refused here too, so that `check-config` reports what `run` would.
            if auth.mode == AuthMode::None && !listen.is_local() {
                let message = ServeError::Exposed { listener: listen.to_string() }.to_string();
                self.problem(&below(path, "listen"), message);
            }
        }
    }

    /// Without this check, a request that can never get its memory would be answered "try again later" forever.
    fn fits(&mut self, section: &str, key: &str, limit: usize, memory: &MemoryOptions) {
        if limit <= memory.largest_share() {
            return;
        }
        let path = below(section, key);
        let size = |bytes: usize| human_size(bytes as u64);
        let message = format!(
            "{}{} never fits: of ingest.memory.max_bytes ({}) one sender gets {} at most; lower {key}, or raise \
             ingest.memory.max_bytes to {} or more",
            size(limit),
            if self.is_written(&path) { "" } else { " (the default)" },
            size(memory.max_bytes),
            size(memory.largest_share()),
            size(MemoryOptions::enough_for(limit).next_multiple_of(MIB as usize)),
        );
        self.problem(&path, message);
    }

    fn sink(&mut self, path: &str, sink: &SinkConfig) {
        self.backoff(&below(path, "flush"), &sink.flush);
        let labels = sink.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        if let Err(reason) = Labels::new(labels) {
            self.problem(&below(path, "labels"), reason.to_string());
        }
        if sink.streams.is_empty() {
            let message = "is empty: this sink would get nothing; leave it out for all";
            self.problem(&below(path, "streams"), message);
        }
        let required = SinkTypeInfo::of(sink.target.kind()).and_then(|kind| kind.required);
        if let Some((key, missing)) = required.filter(|(key, _)| !self.is_written(&below(path, key))) {
            self.problem(&below(path, key), missing);
        } else if let Err(InvalidOption { key, message }) = sink.target.check() {
            self.problem(&below(path, key), message);
        }
    }
}
