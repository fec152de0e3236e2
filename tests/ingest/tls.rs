//! TLS: certificates of servers and of clients, and when they change or end.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use livekit_spool::{
    ingest::{
        AuthOptions, Authenticator, GrpcOptions, HttpOptions, Refused, Secret, Tls, TlsOptions,
        client::{Client, Credentials, Target},
    },
    record::Stream,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use crate::{
    auth::{TOKEN, event, keys, send, tokens},
    limits::{http2, status_of, unfinished},
    support::{Running, eventually, serve_grpc, serve_grpc_through, serve_http, serve_http_through, within},
};

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
