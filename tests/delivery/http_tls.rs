//! The HTTP sink over TLS, with CAs of the test's own, and over HTTP/2, with a server that gives up streams.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::{Request, Response};
use livekit_spool::sink::{
    BatchOutcome, Outcome, Sink, SinkErrorKind, SinkOptions,
    http::{HttpOptions, HttpTlsOptions},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::{http::batch, pipeline::http_sink_with, support};

/// A CA, and the files of what it signs.
struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        let ca = Self { issuer, directory: support::directory("ca") };
        std::fs::write(ca.file("ca.pem"), ca.issuer.pem()).expect("a file");
        ca
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A certificate for a name, in `NAME.pem` and `NAME.key`.
    fn sign(&self, name: &str, is_expired: bool) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        if is_expired {
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let (certificate, private) = (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")));
        std::fs::write(&certificate, params.signed_by(&key, &self.issuer).expect("signed").pem()).expect("a file");
        std::fs::write(&private, key.serialize_pem()).expect("a file");
        (certificate, private)
    }
}

fn config((certificate, key): &(PathBuf, PathBuf), client_ca: Option<&Ca>, alpn: &[&str]) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().expect("TLS");
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(ca.file("ca.pem")).expect("a CA")).expect("a CA");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let chain = vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let mut config = builder.with_single_cert(chain, key).expect("they belong together");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// A TLS server; `serve` gets each connection. Ends when dropped.
struct Server {
    port: u16,
    end: CancellationToken,
}

impl Server {
    async fn start<F: Future<Output = ()> + Send + 'static>(
        config: ServerConfig,
        serve: impl Fn(TlsStream<TcpStream>) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (port, end) = (listener.local_addr().expect("its address").port(), CancellationToken::new());
        let (acceptor, serve, ended) = (TlsAcceptor::from(Arc::new(config)), Arc::new(serve), end.clone());
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, serve) = (acceptor.clone(), Arc::clone(&serve));
                tokio::spawn(ended.clone().run_until_cancelled_owned(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream).await;
                    }
                }));
            }
        }));
        Self { port, end }
    }

    fn options(&self, ca: &Ca) -> HttpOptions {
        HttpOptions {
            url: format!("https://127.0.0.1:{}/in", self.port),
            tls: Some(HttpTlsOptions { ca: Some(ca.file("ca.pem")), ..HttpTlsOptions::default() }),
            timeout: Duration::from_secs(3),
            ..HttpOptions::default()
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Answers every request with 200, over HTTP/1.1.
async fn http1(mut stream: TlsStream<TcpStream>) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(1..) = stream.read(&mut buffer).await {
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
            return;
        }
    }
}

fn delivered(outcome: &BatchOutcome) -> bool {
    outcome.records.iter().all(|outcome| *outcome == Outcome::Delivered)
}

/// What both the first contact and a batch come to: kind and text.
async fn refused(options: HttpOptions) -> (SinkErrorKind, String) {
    let sink = http_sink_with(options);
    let outcome = sink.send_batch(batch("refused", 3)).await;
    assert!(outcome.records.iter().all(|outcome| *outcome == Outcome::Retry), "{outcome:?}");
    let error = outcome.error.expect("an error");
    (error.kind, error.message)
}

#[tokio::test]
async fn a_server_is_trusted_by_its_ca_and_name_and_while_it_is_valid() {
    let (ca, other) = (Ca::new("ours"), Ca::new("other"));
    let server = Server::start(config(&ca.sign("127.0.0.1", false), None, &[]), http1).await;
    let sink = http_sink_with(server.options(&ca));
    assert_eq!(sink.initialize().await.expect("reached"), Vec::<String>::new());
    assert!(delivered(&sink.send_batch(batch("tls", 3)).await));
    assert!(http_sink_with(server.options(&other)).initialize().await.is_err());
    let (kind, text) = refused(server.options(&other)).await;
    assert!(kind == SinkErrorKind::Unavailable && text.contains("check tls.ca"), "{text}");
    let system = HttpOptions { tls: None, ..server.options(&ca) };
    // Either the machine has CAs, and none of them is this one, or it has none.
    if system.check().is_ok() {
        assert!(refused(system).await.1.contains("check tls.ca"));
    }

    let named = Server::start(config(&ca.sign("collector.internal", false), None, &[]), http1).await;
    assert!(refused(named.options(&ca)).await.1.contains("tls.server_name"));
    let mut options = named.options(&ca);
    options.tls.as_mut().expect("TLS").server_name = Some("collector.internal".to_owned());
    assert!(delivered(&http_sink_with(options).send_batch(batch("named", 3)).await));

    let expired = Server::start(config(&ca.sign("127.0.0.1", true), None, &[]), http1).await;
    let (_, text) = refused(expired.options(&ca)).await;
    assert!(text.to_lowercase().contains("expired"), "{text}");
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_it_and_says_when_it_does_not() {
    let (ca, strangers) = (Ca::new("ours"), Ca::new("strangers"));
    let server = Server::start(config(&ca.sign("127.0.0.1", false), Some(&ca), &[]), http1).await;
    let with = |(certificate, key): (PathBuf, PathBuf)| {
        let mut options = server.options(&ca);
        let tls = options.tls.as_mut().expect("TLS");
        (tls.certificate, tls.key) = (Some(certificate), Some(key));
        options
    };
    assert!(delivered(&http_sink_with(with(ca.sign("spool", false))).send_batch(batch("mtls", 3)).await));
    for options in [server.options(&ca), with(strangers.sign("spool", false))] {
        let (kind, text) = refused(options).await;
        // The server's alert may be lost behind the end of the connection.
        assert!(kind == SinkErrorKind::Unauthorized && text.contains("check tls.certificate"), "{kind:?} {text}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let (ca, strangers) = (Ca::new("ours"), Ca::new("strangers"));
    let server = Server::start(config(&ca.sign("127.0.0.1", false), Some(&ca), &[]), http1).await;
    let (certificate, key) = strangers.sign("spool", false);
    let mut options = server.options(&ca);
    let tls = options.tls.as_mut().expect("TLS");
    (tls.certificate, tls.key) = (Some(certificate.clone()), Some(key.clone()));
    let sink = http_sink_with(options);
    assert!(!delivered(&sink.send_batch(batch("before", 3)).await));
    let (right, its_key) = ca.sign("spool", false);
    // One file at first: they do not fit together, and the old ones stay.
    std::fs::copy(right, &certificate).expect("replaced");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(!delivered(&sink.send_batch(batch("half", 3)).await));
    std::fs::copy(its_key, &key).expect("replaced");
    support::eventually("it is shown", || async { delivered(&sink.send_batch(batch("renewed", 3)).await) }).await;
}

#[test]
fn files_that_cannot_be_used_are_named_when_the_configuration_is_checked() {
    let ca = Ca::new("ours");
    let (certificate, key) = ca.sign("spool", false);
    let (_, other) = ca.sign("other", false);
    let of = |tls: HttpTlsOptions| {
        let options = HttpOptions { url: "https://host".to_owned(), tls: Some(tls), ..HttpOptions::default() };
        options.check().map_err(|error| (error.key, error.message))
    };
    let trusted = HttpTlsOptions { ca: Some(ca.file("ca.pem")), ..HttpTlsOptions::default() };
    assert_eq!(of(trusted.clone()), Ok(()));
    let both = |certificate: &PathBuf, key: &PathBuf| HttpTlsOptions {
        certificate: Some(certificate.clone()),
        key: Some(key.clone()),
        ..trusted.clone()
    };
    assert_eq!(of(both(&certificate, &key)), Ok(()));
    for (tls, named) in [
        (HttpTlsOptions { ca: Some("/nowhere/ca.pem".into()), ..trusted.clone() }, "/nowhere/ca.pem"),
        (HttpTlsOptions { ca: Some(key.clone()), ..trusted.clone() }, "no CERTIFICATE block"),
        (both(&certificate, &certificate), "no usable private key"),
        (both(&certificate, &other), "cannot be used together"),
        (HttpTlsOptions { certificate: Some(certificate.clone()), ..trusted.clone() }, "without key"),
        (HttpTlsOptions { key: Some(key.clone()), ..trusted.clone() }, "without certificate"),
        (HttpTlsOptions { server_name: Some("a b".to_owned()), ..trusted.clone() }, "server_name"),
    ] {
        let (key, message) = of(tls).expect_err(named);
        assert!(key == "tls" && message.contains(named), "{message}");
    }
}

/// What an HTTP/2 server does with a request.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Answer(u16),
    /// The stream is refused before anything was done.
    Refuse,
    /// The stream is cancelled in the middle of the request.
    Cancel,
    /// An answer, and its body is cut off.
    CutBody,
    /// An answer, and the announcement that no more requests are taken here.
    GoAway,
    /// The end of the connection without one.
    HangUp,
    /// Nothing, ever; the connection lives.
    Silence,
}

struct Http2 {
    server: Server,
    ca: Ca,
    requests: Arc<Mutex<Vec<Request<()>>>>,
    connections: Arc<Mutex<usize>>,
}

impl Http2 {
    /// Does these deeds, one per request; answers 200 after them.
    async fn start(deeds: &[Deed]) -> Self {
        let ca = Ca::new("ours");
        let deeds = Arc::new(Mutex::new(deeds.iter().copied().collect::<VecDeque<_>>()));
        let requests: Arc<Mutex<Vec<Request<()>>>> = Arc::default();
        let connections: Arc<Mutex<usize>> = Arc::default();
        let (seen, count) = (Arc::clone(&requests), Arc::clone(&connections));
        let config = config(&ca.sign("127.0.0.1", false), None, &["h2", "http/1.1"]);
        let server = Server::start(config, move |stream| {
            let (deeds, seen, count) = (Arc::clone(&deeds), Arc::clone(&seen), Arc::clone(&count));
            async move {
                // Of the first contact nothing but the handshake is seen.
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                let mut is_first = true;
                while let Some(Ok((request, mut answer))) = connection.accept().await {
                    *count.lock().expect("no panic under this lock") += usize::from(std::mem::take(&mut is_first));
                    let deed = deeds.lock().expect("no panic under this lock").pop_front().unwrap_or(Deed::Answer(200));
                    let (head, body) = request.into_parts();
                    seen.lock().expect("no panic under this lock").push(Request::from_parts(head, ()));
                    match deed {
                        Deed::HangUp => return,
                        Deed::GoAway => connection.graceful_shutdown(),
                        _ => {}
                    }
                    tokio::spawn(async move { respond(deed, body, &mut answer).await });
                }
            }
        })
        .await;
        Self { server, ca, requests, connections }
    }

    fn sink(&self) -> Arc<dyn Sink> {
        http_sink_with(self.server.options(&self.ca))
    }
}

async fn respond(deed: Deed, mut body: h2::RecvStream, answer: &mut SendResponse<Bytes>) {
    match deed {
        Deed::Refuse => return answer.send_reset(Reason::REFUSED_STREAM),
        Deed::Cancel => return answer.send_reset(Reason::CANCEL),
        Deed::Silence => return std::future::pending().await,
        _ => {}
    }
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    let status = if let Deed::Answer(status) = deed { status } else { 200 };
    let head = Response::builder().status(status).body(()).expect("a response");
    let Ok(mut stream) = answer.send_response(head, false) else { return };
    let _ = stream.send_data(Bytes::from_static(b"{}"), !matches!(deed, Deed::CutBody));
    if matches!(deed, Deed::CutBody) {
        // A reset at once would overtake the answer.
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.send_reset(Reason::INTERNAL_ERROR);
    }
}

#[tokio::test]
async fn http2_is_spoken_where_it_is_offered_and_its_connection_is_shared() {
    let server = Http2::start(&[]).await;
    let sink = server.sink();
    assert!(sink.initialize().await.is_ok());
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|prefix| sink.send_batch(batch(prefix, 500)));
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    assert!([a, b, c, d].iter().all(delivered));
    assert!(delivered(&sink.send_batch(batch("e", 3)).await));
    let requests = server.requests.lock().expect("no panic under this lock");
    assert_eq!(requests.len(), 5);
    for request in requests.iter() {
        assert_eq!(request.version(), http::Version::HTTP_2);
        assert_eq!((request.uri().path(), request.uri().scheme_str()), ("/in", Some("https")));
        assert!(request.headers().contains_key("idempotency-key") && !request.headers().contains_key("host"));
    }
    assert!(*server.connections.lock().expect("no panic under this lock") <= 4, "one, once it is known to be HTTP/2");
}

#[tokio::test]
async fn streams_that_are_refused_cut_or_abandoned_are_retried_and_the_next_batch_arrives() {
    for (deed, may_deliver, must_deliver) in [
        (Deed::Answer(200), true, true),
        (Deed::Answer(503), false, false),
        // Nothing was done with it: the client may send it again by itself.
        (Deed::Refuse, true, false),
        (Deed::Cancel, false, false),
        (Deed::CutBody, true, true),
        (Deed::GoAway, true, true),
        (Deed::HangUp, false, false),
    ] {
        let server = Http2::start(&[Deed::Answer(200), deed]).await;
        let sink = server.sink();
        assert!(delivered(&sink.send_batch(batch("first", 3)).await));
        let outcome = sink.send_batch(batch("second", 3)).await;
        let is_retry = outcome.records.iter().all(|outcome| *outcome == Outcome::Retry);
        assert!(if delivered(&outcome) { may_deliver } else { is_retry && !must_deliver }, "{deed:?}: {outcome:?}");
        let third = sink.send_batch(batch("third", 3)).await;
        assert!(delivered(&third), "{deed:?}: {third:?}");
    }
}

#[tokio::test]
async fn a_connection_that_answers_nothing_is_left_for_another_one() {
    let server = Http2::start(&[Deed::Answer(200), Deed::Silence]).await;
    let sink = http_sink_with(HttpOptions { timeout: Duration::from_secs(1), ..server.server.options(&server.ca) });
    assert!(delivered(&sink.send_batch(batch("first", 3)).await));
    assert!(!delivered(&sink.send_batch(batch("second", 3)).await));
    assert!(delivered(&sink.send_batch(batch("third", 3)).await));
    assert_eq!(*server.connections.lock().expect("no panic under this lock"), 2, "the first one may be stuck for good");
}
