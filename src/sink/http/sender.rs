//! Sends requests, and reads what becomes of them.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::Service;

use super::{
    answer::{Meaning, described, first_line, retry_after},
    body::Body,
    connection::{self, Client, Connector, with_causes},
    endpoint::{Endpoint, MIN_SECRET},
    options::{HttpCompression, HttpFormat, HttpOptions, HttpSignature},
    request::{self, Content, Entry},
    tls::Tls,
    webhook::Signer,
};
use crate::{
    record::Stream,
    secret::Secret,
    sink::{InvalidOption, SinkErrorKind, encoding::run_blocking},
};

/// Redirections that are followed with one request.
const MAX_REDIRECTIONS: usize = 5;
/// What is read of an answer's body, so that the connection can be reused; of a longer one the connection is closed.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long it is read.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// What is kept of it.
const KEPT_BYTES: usize = 4 * 1024;
/// A receiver's limit is assumed not to be below this, whatever it answers.
const MIN_BODY_BYTES: usize = 16 * 1024;

/// Sends requests to one endpoint.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) endpoint: Endpoint,
    connector: Connector,
    client: Mutex<Client>,
    signer: Option<Signer>,
    format: HttpFormat,
    compression: HttpCompression,
    /// Of a batch.
    pub(super) timeout: Duration,
    /// The size of a body that the receiver accepts, as far as it is known.
    max_body_bytes: AtomicUsize,
    /// Until when the receiver does not want to be asked.
    not_before: Mutex<Option<Instant>>,
}

/// What a request came to.
pub(super) enum Answer {
    /// The receiver answered.
    Status { status: StatusCode, text: String },
    /// It did not, or not so that it can be read.
    Failed(SinkErrorKind, String),
}

impl Sender {
    /// # Errors
    /// When an option cannot work.
    pub(super) fn new(options: &HttpOptions) -> Result<Self, InvalidOption> {
        let endpoint = Endpoint::of(options)?;
        let tls = match endpoint.is_tls() {
            true => Some(Tls::load(&options.tls.clone().unwrap_or_default())?),
            false => None,
        };
        let signer = match (options.sign, &options.api_key, &options.api_secret) {
            (Some(HttpSignature::Livekit), Some(key), Some(secret)) => Some(Signer::new(key.clone(), secret.clone())),
            _ => None,
        };
        let connector = Connector::new(tls, options.timeout);
        Ok(Self {
            client: Mutex::new(connection::client(connector.clone())),
            // A webhook is one event.
            format: if signer.is_some() { HttpFormat::Record } else { options.format },
            compression: options.compression,
            timeout: options.timeout,
            max_body_bytes: AtomicUsize::new(options.max_body_bytes),
            not_before: Mutex::default(),
            endpoint,
            connector,
            signer,
        })
    }

    pub(super) const fn format(&self) -> HttpFormat {
        self.format
    }

    pub(super) const fn content(&self) -> Content {
        if self.signer.is_some() { Content::Webhook } else { Content::Document }
    }

    pub(super) fn not_before(&self) -> Option<Instant> {
        *self.not_before.lock()
    }

    pub(super) fn max_body_bytes(&self) -> usize {
        self.max_body_bytes.load(Ordering::Relaxed)
    }

    /// The receiver refused a body of this size: the next ones are smaller.
    pub(super) fn learn_limit(&self, refused: usize) {
        self.max_body_bytes.fetch_min((refused / 2).max(MIN_BODY_BYTES), Ordering::Relaxed);
    }

    /// Connects, and shakes hands if it is TLS.
    ///
    /// # Errors
    /// Says why it cannot.
    pub(super) async fn connect(&self) -> Result<(), (SinkErrorKind, String)> {
        let connecting = self.connector.clone().call(self.endpoint.uri.clone());
        match tokio::time::timeout(self.timeout, connecting).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(explained(&format!("cannot connect: {}", with_causes(&*error)))),
            Err(_) => Err((SinkErrorKind::Unavailable, format!("cannot connect within {:?}", self.timeout))),
        }
    }

    /// Sends some entries in one request.
    pub(super) async fn send(&self, stream: Stream, entries: &[&Entry], until: Instant) -> Answer {
        let body = match self.compress(request::body(entries, self.format)).await {
            Ok(body) => Bytes::from(body),
            Err(problem) => return Answer::Failed(SinkErrorKind::Unnamed, format!("compression failed: {problem}")),
        };
        let mut headers = self.endpoint.headers.clone();
        headers.extend(request::headers(stream, entries, self.format));
        if let Some(signer) = &self.signer {
            let signature =
                signer.sign(&body).and_then(|token| HeaderValue::try_from(token).map_err(|e| e.to_string()));
            match signature {
                Ok(mut signature) => {
                    signature.set_sensitive(true);
                    headers.insert(header::AUTHORIZATION, signature);
                }
                Err(problem) => return Answer::Failed(SinkErrorKind::Unnamed, format!("cannot sign: {problem}")),
            }
        }
        match tokio::time::timeout_at(until, self.request(&headers, &body, until)).await {
            Ok(answer) => answer,
            Err(_) => {
                // An HTTP/2 connection outlives its requests: what is behind it may never answer, and another one may.
                *self.client.lock() = connection::client(self.connector.clone());
                let text = format!("no answer to {} records within {:?}", entries.len(), self.timeout);
                Answer::Failed(SinkErrorKind::Timeout, text)
            }
        }
    }

    /// Off the async threads, if there is something to do.
    async fn compress(&self, body: Vec<u8>) -> Result<Vec<u8>, String> {
        let compression = self.compression;
        if compression == HttpCompression::None {
            return Ok(body);
        }
        let compressed = run_blocking(move |_| request::compressed(body, compression)).await;
        compressed.map_err(|panic| panic.to_string())?.map_err(|error| error.to_string())
    }

    /// Sends a request, and again where it is redirected to.
    async fn request(&self, headers: &HeaderMap, body: &Bytes, until: Instant) -> Answer {
        let mut uri = self.endpoint.uri.clone();
        for _ in 0..=MAX_REDIRECTIONS {
            let (sent, progress) = Body::new(body.clone());
            let mut request = Request::new(sent);
            *request.method_mut() = self.endpoint.method.clone();
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            let client = self.client.lock().clone();
            let response = match client.request(request).await {
                Ok(response) => response,
                Err(error) => {
                    let (kind, text) = explained(&with_causes(&error));
                    return Answer::Failed(kind, text);
                }
            };
            let (head, body) = response.into_parts();
            // Whatever becomes of the body: the status line was the answer.
            let line = first_line(&read(body, until).await, &self.secrets(headers));
            let text = described(head.status, &line);
            let waits = head.headers.get_all(header::RETRY_AFTER).iter();
            let wait = waits.filter_map(|value| retry_after(value.as_bytes(), SystemTime::now())).max();
            match Meaning::of(head.status) {
                Meaning::Delivered if !progress.is_complete() => {
                    let text = format!("{text}, before the request was sent to its end");
                    return Answer::Failed(SinkErrorKind::Unavailable, text);
                }
                Meaning::Redirected => match self.redirected(&uri, &head.headers) {
                    Ok(target) => uri = target,
                    Err(why) => return Answer::Failed(SinkErrorKind::Unsuitable, format!("{text}{why}")),
                },
                Meaning::Retry(_) => {
                    if let Some(wait) = wait {
                        *self.not_before.lock() = Some(Instant::now() + wait);
                        return Answer::Status { status: head.status, text: format!("{text} (Retry-After: {wait:?})") };
                    }
                    return Answer::Status { status: head.status, text };
                }
                _ => return Answer::Status { status: head.status, text },
            }
        }
        let text = format!("more than {MAX_REDIRECTIONS} redirections; check the url");
        Answer::Failed(SinkErrorKind::Unsuitable, text)
    }

    /// What must not be shown if an answer repeats it.
    fn secrets(&self, headers: &HeaderMap) -> Vec<Secret> {
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        // Without its scheme: `Basic`, `Bearer`.
        let credentials =
            authorization.and_then(|value| value.rsplit(' ').next()).filter(|text| text.len() >= MIN_SECRET);
        self.endpoint.secrets.iter().cloned().chain(credentials.map(Secret::new)).collect()
    }

    fn redirected(&self, from: &Uri, headers: &HeaderMap) -> Result<Uri, String> {
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let target = self.endpoint.redirected(from, location.ok_or("; it has no Location: check the url")?);
        target.map_err(|elsewhere| format!("; it leads to {elsewhere}, where nothing is sent: check the url"))
    }
}

/// What a failure without an answer means, and what can be done.
fn explained(text: &str) -> (SinkErrorKind, String) {
    if text.contains("invalid peer certificate") {
        return (SinkErrorKind::Unavailable, format!("{text}; check tls.ca and tls.server_name"));
    }
    // The server's word about our certificate; it may come after the handshake.
    let of_certificate = ["CertificateRequired", "BadCertificate", "UnknownCA", "AccessDenied", "CertificateExpired"];
    let is_ours = text.split_once("received fatal alert: ").is_some_and(|(_, alert)| {
        of_certificate.iter().any(|name| alert.starts_with(name)) || alert.starts_with("CertificateUn")
    });
    if is_ours {
        return (SinkErrorKind::Unauthorized, format!("{text}; check tls.certificate and tls.key"));
    }
    (SinkErrorKind::Unavailable, text.to_owned())
}

/// The beginning of a body. It is read on to its end if that is near, so that its connection can be reused.
async fn read(mut body: Incoming, until: Instant) -> Vec<u8> {
    let (mut kept, mut left) = (Vec::new(), MAX_BODY_BYTES);
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let Some(bytes) = frame.data_ref() else { continue };
            let more = bytes.len().min(KEPT_BYTES - kept.len());
            kept.extend_from_slice(&bytes[..more]);
            left = left.saturating_sub(bytes.len().max(1));
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout_at(until.min(Instant::now() + BODY_TIMEOUT), reading).await;
    kept
}
