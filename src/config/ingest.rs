//! The `ingest:` section: where records come in, within which limits, from whom.

use std::time::Duration;

use super::{
    kinds::{Kind, Listen, api_keys, choice, duration, listen, path, secret, secret_file, text},
    model::{GIB, IngestConfig, MIB},
    read::{HOUR, KIB, MS, TIB, YEAR, bytes, count, read_file, warn_of_short_secrets},
    reader::Section,
    units::human_size,
};
use crate::ingest::{
    AuthOptions, ConnectionOptions, GrpcOptions, HttpOptions, LivekitKeys, MIN_TOKEN_LENGTH, MemoryOptions, ServeError,
    TlsOptions,
};

pub(super) fn ingest(mut section: Section<'_>) -> IngestConfig {
    let memory = read_memory(section.section("memory"));
    let tls = section.has("tls").then(|| read_tls(section.section("tls"))).flatten();
    let (auth, keys) = read_auth(section.section_or_value("auth", "mode"), tls.as_ref());
    let (grpc_listen, grpc) = read_grpc(section.section("grpc"), &memory, &auth);
    let (http_listen, http) = read_http(section.section("http"), &memory, &auth);
    section.finish();
    IngestConfig { grpc_listen, grpc, http_listen, http, memory, auth, keys, tls }
}

fn read_memory(mut section: Section<'_>) -> MemoryOptions {
    let defaults = MemoryOptions::default();
    let memory = MemoryOptions {
        max_bytes: bytes(&mut section, "max_bytes", defaults.max_bytes, MIB, TIB),
        wait: section.get_or("wait", defaults.wait, &duration(Duration::ZERO, HOUR)),
    };
    section.finish();
    memory
}

fn read_grpc(mut section: Section<'_>, memory: &MemoryOptions, auth: &AuthOptions) -> (Option<Listen>, GrpcOptions) {
    let listen = section.get_or("listen", Some(Listen::local(7890)), &listen_or_none());
    let defaults = GrpcOptions::default();
    let most = 1_000_000;
    let options = GrpcOptions {
        connections: connections(&mut section, &defaults.connections),
        max_message_bytes: bytes(&mut section, "max_message_bytes", defaults.max_message_bytes, KIB, GIB),
        max_message_records: count(&mut section, "max_message_records", defaults.max_message_records, 1, 10_000_000),
        stream_window: bytes(&mut section, "stream_window", defaults.stream_window, KIB, GIB),
        max_streams_per_connection: {
            count(&mut section, "max_streams_per_connection", defaults.max_streams_per_connection, 1, most)
        },
        max_streams: count(&mut section, "max_streams", defaults.max_streams, 1, most),
        message_timeout: section.get_or("message_timeout", defaults.message_timeout, &duration(MS, HOUR)),
        idle_stream_timeout: section.get_or("idle_stream_timeout", defaults.idle_stream_timeout, &duration(MS, YEAR)),
        keepalive_interval: section.get_or("keepalive_interval", defaults.keepalive_interval, &duration(MS, HOUR)),
        keepalive_timeout: section.get_or("keepalive_timeout", defaults.keepalive_timeout, &duration(MS, HOUR)),
    };
    if let Some(listen) = &listen {
        check_fits(&section, "max_message_bytes", options.max_message_bytes, memory);
        check_exposed(&section, listen, auth);
    }
    section.finish();
    (listen, options)
}

fn read_http(mut section: Section<'_>, memory: &MemoryOptions, auth: &AuthOptions) -> (Option<Listen>, HttpOptions) {
    let listen = section.get_or("listen", Some(Listen::local(7891)), &listen_or_none());
    let defaults = HttpOptions::default();
    let options = HttpOptions {
        connections: connections(&mut section, &defaults.connections),
        max_body_bytes: bytes(&mut section, "max_body_bytes", defaults.max_body_bytes, KIB, GIB),
        max_request_records: count(&mut section, "max_request_records", defaults.max_request_records, 1, 100_000_000),
        body_timeout: section.get_or("body_timeout", defaults.body_timeout, &duration(MS, HOUR)),
        idle_timeout: section.get_or("idle_timeout", defaults.idle_timeout, &duration(MS, HOUR)),
        hosts: section.list("hosts", &text()).unwrap_or_default(),
    };
    if let Some(listen) = &listen {
        check_fits(&section, "max_body_bytes", options.max_body_bytes, memory);
        check_exposed(&section, listen, auth);
    }
    section.finish();
    (listen, options)
}

fn listen_or_none() -> Kind<Option<Listen>> {
    listen().or_word(&["none"])
}

/// What never gets the memory it takes would be answered "try again later" for ever.
fn check_fits(section: &Section<'_>, key: &'static str, limit: usize, memory: &MemoryOptions) {
    if limit <= memory.largest_share() {
        return;
    }
    let size = |bytes: usize| human_size(bytes as u64);
    let enough = MemoryOptions::enough_for(limit).next_multiple_of(MIB as usize);
    section.problem(
        key,
        format!(
            "{}{} never fits: of ingest.memory.max_bytes ({}) one sender gets {} at most; lower {key}, or raise \
             ingest.memory.max_bytes to {} or more",
            size(limit),
            if section.has(key) { "" } else { " (the default)" },
            size(memory.max_bytes),
            size(memory.largest_share()),
            size(enough),
        ),
    );
}

/// Refused here too, so that `check-config` tells what `run` would.
fn check_exposed(section: &Section<'_>, listen: &Listen, auth: &AuthOptions) {
    if *auth == AuthOptions::None && !listen.is_local() {
        section.problem("listen", ServeError::Exposed { listener: listen.to_string() }.to_string());
    }
}

fn connections(section: &mut Section<'_>, defaults: &ConnectionOptions) -> ConnectionOptions {
    ConnectionOptions {
        max_connections: count(section, "max_connections", defaults.max_connections, 1, 1_000_000),
        handshake_timeout: section.get_or("handshake_timeout", defaults.handshake_timeout, &duration(MS, HOUR)),
        header_timeout: section.get_or("header_timeout", defaults.header_timeout, &duration(MS, HOUR)),
        drain_timeout: defaults.drain_timeout,
    }
}

fn read_tls(mut section: Section<'_>) -> Option<TlsOptions> {
    let certificate = section.get("certificate", &path());
    let key = section.get("key", &path());
    for name in ["certificate", "key"] {
        if !section.has(name) {
            section.problem(name, "missing: TLS needs a certificate and its key, as paths of PEM files");
        }
    }
    let client_ca = section.get("client_ca", &path());
    section.finish();
    Some(TlsOptions { certificate: certificate?, key: key?, client_ca })
}

#[derive(Clone, Copy, PartialEq)]
enum AuthMode {
    None,
    Livekit,
    Tokens,
    MutualTls,
}

fn read_auth(mut section: Section<'_>, tls: Option<&TlsOptions>) -> (AuthOptions, LivekitKeys) {
    let modes = [
        ("none", AuthMode::None),
        ("livekit", AuthMode::Livekit),
        ("tokens", AuthMode::Tokens),
        ("mtls", AuthMode::MutualTls),
    ];
    let mode = section.get_or("mode", AuthMode::None, &choice(&modes));
    let mut tokens = section.list("tokens", &secret()).unwrap_or_default();
    tokens.extend(
        section
            .list("token_files", &secret_file())
            .unwrap_or_default()
            .iter()
            .filter_map(|file| read_file(&section, "token_files", file, &secret())),
    );
    let keys = read_keys(&mut section);
    warn_of_short_secrets(&section, "keys", &keys);
    if mode == AuthMode::Tokens && tokens.is_empty() {
        section.problem("tokens", "missing: mode tokens needs at least one, in tokens or token_files");
    }
    if mode == AuthMode::Tokens && tokens.iter().any(|token| token.expose().len() < MIN_TOKEN_LENGTH) {
        let key = if section.has("tokens") { "tokens" } else { "token_files" };
        section.problem(key, format!("one is shorter than {MIN_TOKEN_LENGTH} characters: too easily guessed"));
    }
    if mode == AuthMode::MutualTls && tls.and_then(|tls| tls.client_ca.as_ref()).is_none() {
        section.problem("mode", "mtls needs ingest.tls with a client_ca that signs the senders' certificates");
    }
    section.finish();
    let auth = match mode {
        AuthMode::None => AuthOptions::None,
        AuthMode::Livekit => AuthOptions::Livekit,
        AuthMode::Tokens => AuthOptions::Tokens(tokens),
        AuthMode::MutualTls => AuthOptions::MutualTls,
    };
    (auth, keys)
}

/// API keys as a map, as LiveKit's `LIVEKIT_KEYS` has them (`key: secret`, one a line), or from a file of such lines.
fn read_keys(section: &mut Section<'_>) -> LivekitKeys {
    let lines = api_keys();
    let mut keys = match section.is_value("keys") {
        true => section.get("keys", &lines).unwrap_or_default(),
        false => section.map("keys", &secret()),
    };
    if let Some(file) = section.get("keys_file", &secret_file()) {
        keys.extend(read_file(section, "keys_file", &file, &lines).unwrap_or_default());
    }
    keys
}
