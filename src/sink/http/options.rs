//! The destination of the HTTP sink.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use crate::{
    record::Stream,
    secret::Secret,
    setting::{Is, KIB, MIB, Size, Text, kind},
    sink::url::{address, without_secrets},
};

/// The address of an HTTP server.
struct HttpUrl;

kind!([] HttpUrl => String, @SECRET, "http://… or https://…",
    |text| address(text, &["http", "https"]),
    |url| without_secrets(url),
    json_schema!({ "type": "string", "pattern": r"^\s*https?://." }));

/// Where and how the HTTP sink delivers.
#[serde_as]
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpOptions {
    /// http: where the requests go, or url_file; https:// for TLS
    #[serde_as(as = "Is<HttpUrl>")]
    #[schemars(example = "https://collector.example.com/livekit")]
    pub url: String,
    /// http: a file that holds the url
    #[serde_as(as = "Option<Is<Text>>")]
    pub url_file: Option<PathBuf>,
    /// http: POST or PUT
    pub method: HttpMethod,
    /// http: the body of a request: ndjson (one document per line), array (one JSON array), record (one document, one request each)
    pub format: HttpFormat,
    /// http: headers added to each request; their values are never shown
    #[serde_as(as = "BTreeMap<_, Is<Text>>")]
    #[schemars(example = serde_json::json!({ "X-Api-Key": "${API_KEY}" }))]
    pub headers: BTreeMap<String, Secret>,
    /// http: a bearer token, or token_file
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "${COLLECTOR_TOKEN}")]
    pub token: Option<Secret>,
    /// http: a file that holds the token
    #[serde_as(as = "Option<Is<Text>>")]
    pub token_file: Option<PathBuf>,
    /// http: the user of basic authentication
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = &"spool")]
    pub user: Option<String>,
    /// http: the user's password, or password_file
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "${COLLECTOR_PASSWORD}")]
    pub password: Option<Secret>,
    /// http: a file that holds the password
    #[serde_as(as = "Option<Is<Text>>")]
    pub password_file: Option<PathBuf>,
    /// http: PEM files: ca (trusted instead of the system's CAs), certificate and key (shown to the server), and server_name
    /// (expected in the server's certificate instead of the url's host)
    #[schemars(example = serde_json::json!({ "ca": "/etc/ssl/collector-ca.pem" }))]
    pub tls: Option<HttpTlsOptions>,
    /// http: how bodies are compressed: none, gzip, zstd
    #[serde(rename = "compress")]
    pub compression: HttpCompression,
    /// http: a batch is split into requests of at most this size, before compression
    #[serde_as(as = "Is<Size<KIB, { 8 * MIB }>>")]
    pub max_body_bytes: usize,
    /// http: livekit: events are sent as LiveKit's webhooks, signed with api_key and api_secret; needs streams: [events]
    #[schemars(example = &"livekit")]
    pub sign: Option<HttpSignature>,
    /// http: the LiveKit API key that signs
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = &"APIxxxxxxxxxxxx")]
    pub api_key: Option<String>,
    /// http: its secret, or api_secret_file
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "${LIVEKIT_API_SECRET}")]
    pub api_secret: Option<Secret>,
    /// http: a file that holds the secret
    #[serde_as(as = "Option<Is<Text>>")]
    pub api_secret_file: Option<PathBuf>,
    /// Static fields added to each document.
    #[serde(skip)]
    pub labels: BTreeMap<String, String>,
    /// The streams of this sink.
    #[serde(skip)]
    pub streams: Vec<Stream>,
    /// The timeout of a batch, all its requests included.
    #[serde(skip)]
    pub timeout: Duration,
}

/// The method of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// POST
    #[default]
    Post,
    /// PUT
    Put,
}

/// The body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HttpFormat {
    /// One document per line.
    #[default]
    Ndjson,
    /// One JSON array of documents.
    Array,
    /// One document; one request per record.
    Record,
}

/// How bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HttpCompression {
    /// Not at all.
    #[default]
    None,
    /// `Content-Encoding: gzip`
    Gzip,
    /// `Content-Encoding: zstd`
    Zstd,
}

/// Whose webhooks the requests are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HttpSignature {
    /// LiveKit's.
    Livekit,
}

/// TLS as a client.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpTlsOptions {
    /// the CAs that the server's certificate may be signed by; left out: the system's
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "/etc/ssl/collector-ca.pem")]
    pub ca: Option<PathBuf>,
    /// the certificate shown to the server, with its chain
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "/etc/livekit-spool/client.pem")]
    pub certificate: Option<PathBuf>,
    /// the certificate's key
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "/etc/livekit-spool/client.key")]
    pub key: Option<PathBuf>,
    /// the name expected in the server's certificate; left out: the url's host
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "collector.internal")]
    pub server_name: Option<String>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8080".to_owned(),
            url_file: None,
            method: HttpMethod::default(),
            format: HttpFormat::default(),
            headers: BTreeMap::new(),
            token: None,
            token_file: None,
            user: None,
            password: None,
            password_file: None,
            tls: None,
            compression: HttpCompression::default(),
            max_body_bytes: 4 << 20,
            sign: None,
            api_key: None,
            api_secret: None,
            api_secret_file: None,
            labels: BTreeMap::new(),
            streams: Stream::ALL.to_vec(),
            timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpOptions")
            .field("url", &without_secrets(&self.url))
            .field("method", &self.method)
            .field("format", &self.format)
            .field("headers", &self.headers.keys())
            .field("user", &self.user)
            .field("tls", &self.tls)
            .field("compression", &self.compression)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("sign", &self.sign)
            .field("labels", &self.labels)
            .field("streams", &self.streams)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
