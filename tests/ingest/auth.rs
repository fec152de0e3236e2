//! Who may send: tokens, LiveKit's keys, client certificates, and what is refused to start.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use livekit_protocol::{AnalyticsEvent, AnalyticsEvents};
use livekit_spool::{
    ingest::{
        AuthOptions, Authenticator, GrpcOptions, HttpOptions, Listener, LivekitKeys, MemoryOptions, Refused, Secret,
        ServeError, Tls, TlsOptions,
        client::{Client, Credentials, Target},
        grpc,
    },
    record::{RecordBatch, RecordBatchBuilder, Stream, now_millis},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};

use crate::{
    jwt::signed,
    limits::{http2, status_of, unfinished},
    support::{
        Running, eventually, ingester, open_authenticator, serve_grpc, serve_grpc_through, serve_http,
        serve_http_through, within,
    },
};

const KEY: &str = "APIkey";
const SECRET: &str = "a secret of at least thirty-two bytes";
const TOKEN: &str = "sixteen characters or more";

fn keys() -> LivekitKeys {
    LivekitKeys::from([(KEY.to_owned(), Secret::new(SECRET)), ("APIother".to_owned(), Secret::new("other"))])
}

fn authenticator(auth: AuthOptions) -> Authenticator {
    Authenticator::new(auth, keys(), None)
}

fn tokens() -> AuthOptions {
    AuthOptions::Tokens(vec![Secret::new("another token of enough length"), Secret::new(TOKEN)])
}

fn event() -> RecordBatch {
    let mut batch = RecordBatchBuilder::new(Stream::Events);
    batch.push(&[0x08, 1]);
    batch.build(0)
}

async fn send(server: &Running, credentials: Credentials) -> Result<(), tonic::Status> {
    let target = Target { url: format!("http://{}", server.address), ca: None, credentials };
    Client::new(&target).unwrap().send(&event(), 1).await.map(drop)
}

async fn post(server: &Running, authorization: Option<String>) -> u16 {
    let mut request = reqwest::Client::new().post(format!("http://{}/v1/events", server.address));
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    request.header("content-type", "application/json").body(r#"{"id": "AE_1"}"#).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_known_token_passes_and_all_else_is_unauthenticated() {
    let grpc = serve_grpc(GrpcOptions::default(), authenticator(tokens())).await;
    send(&grpc, Credentials::Token(Secret::new(TOKEN))).await.unwrap();
    for credentials in [Credentials::None, Credentials::Token(Secret::new("sixteen characters or morE"))] {
        assert_eq!(send(&grpc, credentials).await.unwrap_err().code(), Code::Unauthenticated);
    }
    assert_eq!((grpc.spool.records(Stream::Events).len(), grpc.refused(Refused::Unauthenticated)), (1, 2));

    let http = serve_http(HttpOptions::default(), authenticator(tokens())).await;
    assert_eq!(post(&http, Some(format!("Bearer {TOKEN}"))).await, 200);
    for wrong in [None, Some(TOKEN.to_owned()), Some("Bearer ".to_owned()), Some(format!("Basic {TOKEN}"))] {
        assert_eq!(post(&http, wrong).await, 401);
    }
    assert_eq!((http.spool.records(Stream::Events).len(), http.refused(Refused::Unauthenticated)), (1, 4));
}

/// A token as a sender makes it, some claims replaced (null: left out).
fn jwt(changes: Value) -> String {
    let now = now_millis() / 1000;
    let mut claims = json!({"iss": KEY, "aud": "livekit-spool", "nbf": now, "exp": now + 600});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    format!("Bearer {}", signed(&claims, SECRET))
}

#[tokio::test]
async fn a_short_lived_token_signed_with_an_api_secret_for_this_audience_passes() {
    let credentials = Credentials::Livekit { key: KEY.into(), secret: Secret::new(SECRET) };
    let grpc = serve_grpc(GrpcOptions::default(), authenticator(AuthOptions::Livekit)).await;
    send(&grpc, credentials).await.unwrap();
    let wrong = Credentials::Livekit { key: KEY.into(), secret: Secret::new("another secret") };
    assert_eq!(send(&grpc, wrong).await.unwrap_err().code(), Code::Unauthenticated);

    let http = serve_http(HttpOptions::default(), authenticator(AuthOptions::Livekit)).await;
    let now = now_millis() / 1000;
    for good in [json!({}), json!({"nbf": null, "iat": now, "exp": now + 600}), json!({"aud": ["x", "livekit-spool"]})]
    {
        assert_eq!(post(&http, Some(jwt(good.clone()))).await, 200, "{good}");
    }
    // RFC 7519: a NumericDate may have a fraction, and be in any form of a JSON number
    let at = now as f64;
    for good in [
        json!({"exp": at + 300.75}),
        json!({"nbf": at - 1.5, "iat": at - 0.25, "exp": at + 599.5}),
        json!({"exp": at + 300.0}),
    ] {
        assert_eq!(post(&http, Some(jwt(good.clone()))).await, 200, "{good}");
    }
}

#[tokio::test]
async fn a_participants_join_token_and_all_other_tokens_of_the_same_secret_are_refused() {
    let http = serve_http(HttpOptions::default(), authenticator(AuthOptions::Livekit)).await;
    let now = now_millis() / 1000;
    let join = json!({"aud": null, "sub": "user0", "exp": now + 300, "video": {"room": "r", "roomJoin": true}});
    for (what, bad) in [
        ("a join token", join),
        ("another audience", json!({"aud": "livekit"})),
        ("valid for more than ten minutes", json!({"exp": now + 601})),
        (
            "valid for ten years, issued at its end",
            json!({"nbf": null, "iat": now + 315_360_000, "exp": now + 315_360_300}),
        ),
        ("valid for ten years, from now on", json!({"iat": now + 315_360_000, "exp": now + 315_360_300})),
        ("issued in the future", json!({"iat": now + 100})),
        ("a time that is no number", json!({"iat": "now"})),
        ("an hour old, about to expire", json!({"nbf": now - 3000, "exp": now + 60})),
        ("no beginning", json!({"nbf": null})),
        ("no end", json!({"exp": null})),
        ("expired", json!({"nbf": now - 700, "exp": now - 100})),
        ("not yet valid", json!({"nbf": now + 100})),
        ("an unknown key", json!({"iss": "APIunknown"})),
        ("another key's name", json!({"iss": "APIother"})),
        ("no key", json!({"iss": null})),
    ] {
        assert_eq!(post(&http, Some(jwt(bad))).await, 401, "{what}");
    }
    assert_eq!(http.spool.batches(), 0);
}

/// How an open stream, and an open body, of a sender with these credentials end.
async fn ends(authenticator: &Arc<Authenticator>, authorization: &str, end: impl Future<Output = ()>) {
    let grpc = serve_grpc_through(Arc::clone(authenticator)).await;
    let http = serve_http_through(Arc::clone(authenticator)).await;
    let (events, messages) = tokio::sync::mpsc::channel(4);
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(messages));
    request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    let mut client = grpc.client().await;
    let call = tokio::spawn(async move { client.ingest_events(request).await });
    let one = |id: &str| AnalyticsEvents { events: vec![AnalyticsEvent { id: id.to_owned(), ..Default::default() }] };
    events.send(one("AE_1")).await.unwrap();
    let mut reflection = tonic::Request::new(futures::stream::pending::<ServerReflectionRequest>());
    reflection.metadata_mut().insert("authorization", authorization.parse().unwrap());
    let mut reflected = ServerReflectionClient::new(grpc.channel().await);
    let reflected = reflected.server_reflection_info(reflection);

    let body = reqwest::Body::wrap_stream(futures::stream::pending::<Result<&str, std::io::Error>>());
    let post = reqwest::Client::new().post(format!("http://{}/v1/events", http.address)).body(body);
    let post = post.header("authorization", authorization).header("content-type", "application/json").send();
    let post = tokio::spawn(post);
    eventually("the first message is kept", || async { grpc.spool.records(Stream::Events).len() == 1 }).await;
    let mut reflected = within(reflected).await.unwrap().into_inner();
    assert!(!call.is_finished() && !post.is_finished());

    end.await;
    let ended = within(call).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    assert_eq!(within(reflected.message()).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(within(post).await.unwrap().unwrap().status(), 401);
    // the server reads no further, so what comes now may or may not go out
    let _ = events.send(one("AE_2")).await;
    assert_eq!(grpc.spool.records(Stream::Events).len(), 1, "whole messages before the end are kept, none after it");
    assert_eq!((grpc.refused(Refused::Unauthenticated), http.refused(Refused::Unauthenticated)), (2, 1));
}

#[tokio::test]
async fn what_is_open_ends_when_its_token_expires() {
    let now = now_millis() as f64 / 1000.0;
    let authorization = jwt(json!({"nbf": now - 100.0, "exp": now + 2.5}));
    ends(&Arc::new(authenticator(AuthOptions::Livekit)), &authorization, async {}).await;
    assert!(now_millis() as f64 / 1000.0 >= now + 2.5, "not before");
}

#[tokio::test]
async fn what_is_open_ends_when_a_reload_removes_its_token_or_key_and_no_other() {
    let gates = || Arc::new(authenticator(tokens()));
    let others = AuthOptions::Tokens(vec![Secret::new("another token of enough length")]);
    let authenticator = gates();
    ends(&authenticator, &format!("Bearer {TOKEN}"), async { assert!(authenticator.replace(others, keys()).unwrap()) })
        .await;
    let authenticator = gates();
    let by_keys = async { assert!(authenticator.replace(AuthOptions::Livekit, keys()).unwrap()) };
    ends(&authenticator, &format!("bearer {TOKEN}"), by_keys).await;

    let authenticator = Arc::new(Authenticator::new(AuthOptions::Livekit, keys(), None));
    let without = LivekitKeys::from([("APIother".to_owned(), Secret::new("other"))]);
    let removed = async { assert!(authenticator.replace(AuthOptions::Livekit, without).unwrap()) };
    ends(&authenticator, &jwt(json!({})), removed).await;

    let authenticator = Arc::new(Authenticator::new(AuthOptions::Livekit, keys(), None));
    let changed = LivekitKeys::from([(KEY.to_owned(), Secret::new("the same key, with a secret that is new"))]);
    ends(&authenticator, &jwt(json!({})), async {
        assert!(authenticator.replace(AuthOptions::Livekit, changed).unwrap())
    })
    .await;

    let authenticator = gates();
    let server = serve_grpc_through(Arc::clone(&authenticator)).await;
    let (events, messages) = tokio::sync::mpsc::channel::<AnalyticsEvents>(4);
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(messages));
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.ingest_events(request).await });
    eventually("it is open", || async { server.ingester.snapshot().streams == 1 }).await;
    let kept = AuthOptions::Tokens(vec![Secret::new(TOKEN)]);
    assert!(authenticator.replace(kept, keys()).unwrap());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!call.is_finished());
    drop(events);
    within(call).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_case_of_the_scheme_does_not_matter() {
    let http = serve_http(HttpOptions::default(), authenticator(tokens())).await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert_eq!(post(&http, Some(format!("{scheme} {TOKEN}"))).await, 200, "{scheme}");
    }
}

#[tokio::test]
async fn health_needs_no_credentials_and_reflection_does() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let server = serve_grpc(GrpcOptions::default(), authenticator(tokens())).await;
    let channel = server.channel().await;
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    let request = futures::stream::iter([ServerReflectionRequest::default()]);
    let status = ServerReflectionClient::new(channel).server_reflection_info(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn without_authentication_only_this_machine_may_be_listened_to() {
    let (ingester, _) = ingester(&MemoryOptions::default());
    let serve = async |address: &str, authenticator: Authenticator| {
        let listener = Listener::tcp(address.parse().unwrap()).await.unwrap();
        let stopped = std::future::ready(());
        grpc::serve(listener, Arc::clone(&ingester), Arc::new(authenticator), GrpcOptions::default(), stopped).await
    };
    let refused = serve("0.0.0.0:0", open_authenticator()).await.unwrap_err();
    assert!(matches!(refused, ServeError::Exposed { .. }));
    assert!(refused.to_string().contains("listen on 127.0.0.1 or a Unix socket, or set `ingest.auth`"), "{refused}");
    within(serve("127.0.0.1:0", open_authenticator())).await.unwrap();
    within(serve("0.0.0.0:0", authenticator(tokens()))).await.unwrap();
    let incomplete = [
        (AuthOptions::Tokens(vec![]), "at least one"),
        (AuthOptions::Tokens(vec![Secret::new("short")]), "16 characters"),
        (AuthOptions::MutualTls, "client_ca"),
    ];
    for (auth, words) in incomplete {
        let refused = serve("127.0.0.1:0", authenticator(auth)).await.unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
    }
    let no_keys = Authenticator::new(AuthOptions::Livekit, LivekitKeys::new(), None);
    assert!(matches!(serve("127.0.0.1:0", no_keys).await, Err(ServeError::NoKeys)));
}

#[tokio::test]
async fn a_unix_socket_accepts_records() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ingest.sock");
    let (ingester, spool) = ingester(&MemoryOptions::default());
    let listener = Listener::unix(&path).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let serving =
        tokio::spawn(grpc::serve(listener, ingester, Arc::new(open_authenticator()), GrpcOptions::default(), shutdown));
    let target = Target { url: format!("unix:{}", path.display()), ca: None, credentials: Credentials::None };
    Client::new(&target).unwrap().send(&event(), 1).await.unwrap();
    assert_eq!(spool.records(Stream::Events).len(), 1);
    stop.send(()).unwrap();
    within(serving).await.unwrap().unwrap();
    assert!(!path.exists(), "the socket file is removed");
}

/// A CA, and what it signs, as PEM files in a directory.
struct Authority {
    directory: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
        Self { directory, ca }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A certificate for loopback and its key, as PEM.
    fn sign(&self) -> (String, String) {
        self.sign_for(Duration::from_secs(24 * 60 * 60))
    }

    /// The same, valid from now on for so long.
    fn sign_for(&self, validity: Duration) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        params.not_after = date_time_ymd(1970, 1, 1) + now + validity;
        (params.signed_by(&key, &self.ca).unwrap().pem(), key.serialize_pem())
    }

    fn write_server_files(&self) {
        let (certificate, key) = self.sign();
        fs::write(self.path("server.pem"), certificate).unwrap();
        fs::write(self.path("server.key"), key).unwrap();
    }

    fn tls(&self, client_ca: bool) -> Arc<Tls> {
        let options = TlsOptions {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: client_ca.then(|| self.path("ca.pem")),
        };
        Arc::new(Tls::load(options).unwrap())
    }
}

async fn send_tls(server: &Running, authority: &Authority) -> Result<(), tonic::Status> {
    let url = format!("https://{}", server.address);
    let target =
        Target { url, ca: Some(authority.path("ca.pem")), credentials: Credentials::Token(Secret::new(TOKEN)) };
    Client::new(&target).unwrap().send(&event(), 1).await.map(drop)
}

#[tokio::test]
async fn tls_serves_both_ports_and_plain_text_is_refused() {
    let authority = Authority::new();
    authority.write_server_files();
    let tls = authority.tls(false);
    let grpc = serve_grpc(GrpcOptions::default(), Authenticator::new(tokens(), keys(), Some(Arc::clone(&tls)))).await;
    send_tls(&grpc, &authority).await.unwrap();
    send(&grpc, Credentials::Token(Secret::new(TOKEN))).await.unwrap_err();
    assert_eq!((grpc.spool.records(Stream::Events).len(), grpc.refused(Refused::Handshake)), (1, 1));

    let http = serve_http(HttpOptions::default(), Authenticator::new(AuthOptions::None, keys(), Some(tls))).await;
    let answer = tls_connect(&authority, http.address, None).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test]
async fn a_tls_handshake_that_takes_too_long_is_ended_and_counted() {
    let authority = Authority::new();
    authority.write_server_files();
    let options = GrpcOptions { handshake_timeout: Duration::from_millis(50), ..GrpcOptions::default() };
    let server = serve_grpc(options, Authenticator::new(tokens(), keys(), Some(authority.tls(false)))).await;
    let mut silent = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut answer = Vec::new();
    // a reset is a way of closing, too
    let _ = within(tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut answer)).await;
    assert_eq!((answer.len(), server.refused(Refused::Handshake)), (0, 1));
}

#[tokio::test]
async fn a_changed_certificate_is_used_without_a_restart_and_a_broken_one_is_not() {
    let authority = Authority::new();
    authority.write_server_files();
    let authenticator = Authenticator::new(tokens(), keys(), Some(authority.tls(false)));
    let server = serve_grpc(GrpcOptions::default(), authenticator).await;
    let first = served_certificate(&authority, &server).await;

    fs::write(authority.path("server.pem"), "half written").unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(served_certificate(&authority, &server).await, first, "the old one stays in use");

    authority.write_server_files();
    for _ in 0..600 {
        if served_certificate(&authority, &server).await != first {
            send_tls(&server, &authority).await.unwrap();
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the new certificate is never served");
}

#[tokio::test]
async fn with_mtls_a_client_needs_a_certificate_of_the_ca() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.write_server_files();
    let authenticator = Authenticator::new(AuthOptions::MutualTls, keys(), Some(authority.tls(true)));
    let server = serve_http(HttpOptions::default(), authenticator).await;
    let answer = tls_connect(&authority, server.address, Some(authority.sign())).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(tls_connect(&authority, server.address, None).await.is_err());
    assert!(tls_connect(&authority, server.address, Some(stranger.sign())).await.is_err());
    assert_eq!(server.refused(Refused::Handshake), 2);
}

/// How what is open over mTLS ends: a stream, an open body, a connection between two requests.
async fn ends_with_its_certificate(authority: &Authority, client: (String, String), end: impl Future<Output = ()>) {
    let tls = authority.tls(true);
    let authenticator = || Arc::new(Authenticator::new(AuthOptions::MutualTls, keys(), Some(Arc::clone(&tls))));
    let (grpc, http) = (serve_grpc_through(authenticator()).await, serve_http_through(authenticator()).await);
    let connect = async |address| within(handshake(authority, address, Some(client.clone()))).await.unwrap();
    let (mut stream, mut idle) = (connect(http.address).await, connect(http.address).await);
    let (mut connection, task) = http2(connect(grpc.address).await).await;
    let recorder = "livekit.AnalyticsRecorderService/IngestEvents";
    let call = tokio::spawn(connection.send_request(unfinished(recorder, &[0, 0, 0, 0, 4, 10, 2, 8, 1])));
    eventually("the first message is kept", || async { grpc.spool.records(Stream::Events).len() == 1 }).await;
    let head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{";
    stream.write_all(head).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!call.is_finished());

    end.await;
    let answer = within(call).await.unwrap().unwrap();
    assert_eq!(status_of(answer).await, Code::Unauthenticated as i32);
    let mut answers = [String::new(), String::new()];
    for (connection, answer) in [&mut stream, &mut idle].into_iter().zip(&mut answers) {
        let _ = within(connection.read_to_string(answer)).await;
    }
    assert!(answers[0].starts_with("HTTP/1.1 401") && answers[1].starts_with("HTTP/1.1 404"), "{answers:?}");
    assert_eq!((grpc.refused(Refused::Unauthenticated), http.refused(Refused::Unauthenticated)), (1, 2));
    task.abort();
}

#[tokio::test]
async fn what_is_open_over_mtls_ends_when_its_certificate_expires_or_its_ca_is_replaced() {
    let authority = Authority::new();
    authority.write_server_files();
    let began = Instant::now();
    let expires = authority.sign_for(Duration::from_secs(4));
    ends_with_its_certificate(&authority, expires, async {}).await;
    assert!(began.elapsed() > Duration::from_secs(3), "not before");

    let other = Authority::new();
    let replaced = async { fs::write(authority.path("ca.pem"), other.ca.pem()).unwrap() };
    ends_with_its_certificate(&authority, authority.sign(), replaced).await;
}

#[test]
fn unusable_tls_files_are_named() {
    let authority = Authority::new();
    authority.write_server_files();
    let options = |certificate: &str, key: &str| TlsOptions {
        certificate: authority.path(certificate),
        key: authority.path(key),
        client_ca: None,
    };
    fs::write(authority.path("other.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    for (options, words) in [
        (options("missing.pem", "server.key"), "missing.pem: no usable certificate"),
        (options("server.key", "server.key"), "server.key: no usable certificate"),
        (options("server.pem", "server.pem"), "server.pem: no usable private key"),
        (options("server.pem", "other.key"), "cannot be used together"),
    ] {
        let error = Tls::load(options).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

fn client_config(authority: &Authority, identity: Option<(String, String)>) -> rustls::ClientConfig {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.ca.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    }
}

async fn handshake(
    authority: &Authority,
    address: std::net::SocketAddr,
    identity: Option<(String, String)>,
) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(authority, identity)));
    let stream = tokio::net::TcpStream::connect(address).await?;
    connector.connect("127.0.0.1".try_into().unwrap(), stream).await
}

/// The first bytes of the answer to a plain request inside TLS.
async fn tls_connect(
    authority: &Authority,
    address: std::net::SocketAddr,
    identity: Option<(String, String)>,
) -> std::io::Result<String> {
    let mut stream = within(handshake(authority, address, identity)).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut answer = vec![0; 64];
    let read = within(stream.read(&mut answer)).await?;
    answer.truncate(read);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn served_certificate(authority: &Authority, server: &Running) -> Vec<u8> {
    let stream = within(handshake(authority, server.address, None)).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}
