//! A client: sends records to any `livekit.AnalyticsRecorderService`, as bytes, with a stream per batch so that each is
//! acknowledged.

use std::{path::PathBuf, time::Duration};

use bytes::{BufMut, Bytes};
use http::uri::PathAndQuery;
use serde_json::json;
use tonic::{
    Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{AUDIENCE, Dropped, Secret};
use crate::{
    hs256,
    record::{RecordBatch, RecordBatchBuilder, Stream, schema::SERVICE_NAME, wall_millis},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for an answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a token is valid that is created for one call.
const TOKEN_SECONDS: i64 = 120;

/// How a client authenticates.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// No credentials.
    #[default]
    None,
    /// A token of `ingest.auth.tokens`.
    Token(Secret),
    /// A JWT, created for each call and signed with a LiveKit API secret.
    Livekit {
        /// The API key.
        key: String,
        /// Its secret.
        secret: Secret,
    },
}

/// The address, and the credentials.
#[derive(Debug, Clone)]
pub struct Target {
    /// `http://host:port`, `https://host:port` or `unix:/path`.
    pub url: String,
    /// PEM: the CA of the server's certificate, for `https`.
    pub ca: Option<PathBuf>,
    /// The credentials.
    pub credentials: Credentials,
}

/// Why a client cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not valid.
    #[error("{url:?} is not an address to send to: use http://host:port, https://host:port or unix:/path")]
    Address {
        /// What was given.
        url: String,
    },
    /// The CA cannot be read.
    #[error("{path}: {source}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// TLS is not possible with these options.
    #[error("TLS to {url}: {problem}")]
    Tls {
        /// The address.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The secret cannot sign.
    #[error("the API secret cannot sign a token")]
    Secret,
}

/// Sends batches; connects when it first needs to, and again after a failure.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    credentials: Credentials,
}

impl Client {
    /// A client for this target; it does not connect yet.
    ///
    /// # Errors
    /// When the address or the certificate cannot be used.
    pub fn new(target: &Target) -> Result<Self, ClientError> {
        let bad_address = || ClientError::Address { url: target.url.clone() };
        if !["http://", "https://", "unix:"].iter().any(|scheme| target.url.starts_with(scheme)) {
            return Err(bad_address());
        }
        let mut endpoint = Endpoint::from_shared(target.url.clone()).map_err(|_| bad_address())?;
        if target.url.starts_with("https://") {
            let mut tls = ClientTlsConfig::new();
            if let Some(path) = &target.ca {
                let pem = std::fs::read(path).map_err(|source| ClientError::Ca { path: path.clone(), source })?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            let problem = |error: tonic::transport::Error| ClientError::Tls {
                url: target.url.clone(),
                problem: error.to_string(),
            };
            endpoint = endpoint.tls_config(tls).map_err(problem)?;
        }
        let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT).connect_lazy();
        Ok(Self { channel, credentials: target.credentials.clone() })
    }

    /// Sends a batch, `per_message` records per message, and returns when it is acknowledged, with what the receiver
    /// reports as dropped.
    ///
    /// # Errors
    /// When it was not acknowledged: part of it may have been kept, and a resend is harmless.
    pub async fn send(&self, batch: &RecordBatch, per_message: usize) -> Result<Dropped, Status> {
        let method = format!("/{SERVICE_NAME}/{}", batch.stream.method_name());
        let method = PathAndQuery::try_from(method).map_err(|error| Status::internal(error.to_string()))?;
        let mut request = Request::new(futures::stream::iter(messages(batch, per_message)));
        if let Some(header) = self.authorization().map_err(|error| Status::unauthenticated(error.to_string()))? {
            let header =
                header.parse().map_err(|_| Status::unauthenticated("the token is not a valid header value"))?;
            request.metadata_mut().insert("authorization", header);
        }
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
        let answer = grpc.client_streaming(request, method, BytesCodec).await?;
        Ok(Dropped::of_trailers(answer.metadata()))
    }

    fn authorization(&self) -> Result<Option<String>, ClientError> {
        let token = match &self.credentials {
            Credentials::None => return Ok(None),
            Credentials::Token(token) => token.expose().to_owned(),
            Credentials::Livekit { key, secret } => {
                let now = wall_millis() / 1000;
                let claims = json!({ "iss": key, "aud": AUDIENCE, "nbf": now, "exp": now + TOKEN_SECONDS });
                hs256::sign(&claims, secret.expose().as_bytes()).map_err(|_| ClientError::Secret)?
            }
        };
        Ok(Some(format!("Bearer {token}")))
    }
}

/// The causes of tonic's transport errors; the errors themselves say little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The records of a batch as messages of their method.
fn messages(batch: &RecordBatch, per_message: usize) -> Vec<Bytes> {
    let records: Vec<&[u8]> = batch.iter().collect();
    let wrapped = |records: &[&[u8]]| {
        let mut message = RecordBatchBuilder::new(batch.stream);
        records.iter().for_each(|record| message.push(record));
        message.build(batch.received_at).bytes().clone()
    };
    match batch.stream {
        Stream::NodeRooms => records.into_iter().map(Bytes::copy_from_slice).collect(),
        Stream::Events | Stream::Stats => records.chunks(per_message.max(1)).map(wrapped).collect(),
    }
}

/// For calls whose messages are already bytes, and whose answer is empty.
#[derive(Debug, Clone, Copy)]
pub struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }
}
