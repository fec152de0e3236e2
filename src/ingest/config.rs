//! The `ingest:` section of a config file: the options of both servers, and who can send.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use super::options::{AuthOptions, GrpcOptions, HttpOptions, LivekitKeys, MemoryOptions, Secret, TlsOptions};
use crate::setting::{Is, Text};

/// The servers that receive records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// livekit.AnalyticsRecorderService, as LiveKit calls it.
    pub grpc: GrpcOptions,
    /// POST /v1/events, /v1/stats and /v1/node_rooms (protobuf, JSON, NDJSON; gzip, zstd), POST /webhook (LiveKit's
    /// webhooks).
    pub http: HttpOptions,
    /// Memory for records of all senders that are not yet durable.
    pub memory: MemoryOptions,
    /// Who can send. `none` is accepted on loopback and Unix sockets only. Short form: `auth: livekit`.
    #[schemars(extend("type" = ["object", "string"], "pattern" = r"^(none|livekit|tokens|mtls)$|\$"))]
    pub auth: AuthConfig,
    /// TLS for both servers; the files are read again when they change.
    #[schemars(example = serde_json::json!({ "certificate": "/etc/livekit-spool/tls.crt", "key": "/etc/livekit-spool/tls.key" }))]
    pub tls: Option<TlsOptions>,
}

/// How senders authenticate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "`AuthOptions` says it")]
pub enum AuthMode {
    #[default]
    None,
    Livekit,
    Tokens,
    Mtls,
}

/// Who can send.
#[serde_as]
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// (reload) none, livekit, tokens or mtls
    pub mode: AuthMode,
    /// (reload) mode tokens: Authorization: Bearer …
    #[serde_as(as = "Vec<Is<Text>>")]
    #[schemars(example = ["${SPOOL_TOKEN}"])]
    pub tokens: Vec<Secret>,
    /// (reload) files that hold one token each
    #[serde_as(as = "Vec<Is<Text>>")]
    #[schemars(example = ["/run/secrets/spool_token"])]
    pub token_files: Vec<PathBuf>,
    /// (reload) for mode livekit, the signatures of webhooks, and tokens that read sessions; LiveKit's own `keys:` and
    /// `key_file:` at the top level are used too; also "key: secret" lines: ${LIVEKIT_KEYS}
    #[serde_as(as = "BTreeMap<_, Is<Text>>")]
    #[schemars(example = serde_json::json!({ "APIxxxxxxx": "${LIVEKIT_API_SECRET}" }), extend("type" = ["object", "string"]))]
    pub keys: LivekitKeys,
    /// (reload) a file of "key: secret" lines
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "/run/secrets/livekit_keys")]
    pub keys_file: Option<PathBuf>,
}

impl AuthConfig {
    /// The options of the servers.
    #[must_use]
    pub fn options(&self) -> AuthOptions {
        match self.mode {
            AuthMode::None => AuthOptions::None,
            AuthMode::Livekit => AuthOptions::Livekit,
            AuthMode::Tokens => AuthOptions::Tokens(self.tokens.clone()),
            AuthMode::Mtls => AuthOptions::MutualTls,
        }
    }
}
