//! TLS of the PostgreSQL sink, as `sslmode` and `sslrootcert` want it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use livekit_spool::sink::SinkErrorKind;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

use crate::{
    pipeline::postgresql_sink,
    support::{self, postgres::Postgres},
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// A certificate for a name, and its key, in files.
fn certificate(authority: &Authority, name: &str, directory: &Path, file: &str) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    fs::write(directory.join(format!("{file}.crt")), certificate.pem()).expect("written");
    let path = directory.join(format!("{file}.key"));
    fs::write(&path, key.serialize_pem()).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its mode");
}

/// A server whose certificate is for `localhost`; `lines` are its pg_hba.conf.
async fn server(authority: &Authority, lines: &str) -> Postgres {
    let mut postgres = Postgres::start().await;
    postgres.stop();
    let data = postgres.data();
    certificate(authority, "localhost", &data, "server");
    fs::write(data.join("ca.crt"), authority.pem()).expect("written");
    let settings = "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'ca.crt'\n";
    fs::write(data.join("postgresql.auto.conf"), settings).expect("written");
    // The test itself comes without TLS.
    fs::write(data.join("pg_hba.conf"), format!("host all postgres 127.0.0.1/32 scram-sha-256\n{lines}\n"))
        .expect("written");
    if rustix::process::geteuid().is_root() {
        assert!(Command::new("chown").args(["-R", "65534:65534"]).arg(&data).status().expect("chown").success());
    }
    postgres.restart().await;
    postgres
}

async fn result(url: &str) -> Result<(), (SinkErrorKind, String)> {
    let sink = postgresql_sink(url);
    let result = sink.initialize().await.map(drop).map_err(|error| (error.kind, error.message));
    sink.close().await;
    result
}

#[tokio::test]
async fn the_servers_certificate_is_checked_as_sslmode_says() {
    let (own, other) = (authority(), authority());
    let postgres =
        server(&own, "hostssl all livekit 127.0.0.1/32 scram-sha-256\nhostssl all livekit ::1/128 scram-sha-256").await;
    let directory = support::directory("tls");
    let (right, wrong) = (directory.path().join("own.pem"), directory.path().join("other.pem"));
    fs::write(&right, own.pem()).expect("written");
    fs::write(&wrong, other.pem()).expect("written");
    let url = |host: &str, parameters: &str| {
        format!(
            "postgresql://livekit:livekit@{host}:{}/livekit?{parameters}",
            postgres.address().rsplit(':').next().expect("a port")
        )
    };
    let root = |path: &Path| format!("sslrootcert={}", path.display());
    for (host, parameters, expected) in [
        ("localhost", format!("sslmode=verify-full&{}", root(&right)), None),
        ("127.0.0.1", format!("sslmode=verify-full&{}", root(&right)), Some("TLS")),
        ("127.0.0.1", format!("sslmode=verify-ca&{}", root(&right)), None),
        ("localhost", format!("sslmode=verify-ca&{}", root(&wrong)), Some("TLS")),
        ("localhost", format!("sslmode=require&{}", root(&wrong)), Some("TLS")),
        ("127.0.0.1", "sslmode=require".to_owned(), None),
        ("127.0.0.1", "sslmode=require&channel_binding=require".to_owned(), None),
        ("127.0.0.1", "sslmode=prefer".to_owned(), None),
        ("127.0.0.1", "sslmode=allow".to_owned(), None),
        ("127.0.0.1", String::new(), None),
        ("127.0.0.1", "sslmode=disable".to_owned(), Some("28000")),
        ("localhost", "sslmode=verify-full&sslrootcert=/nowhere.pem".to_owned(), Some("sslrootcert /nowhere.pem")),
        ("localhost", "sslrootcert=system".to_owned(), Some("TLS")),
    ] {
        let result = result(&url(host, &parameters)).await;
        match (expected, &result) {
            (None, Ok(())) => {}
            (Some(text), Err((_, message))) if message.contains(text) => {}
            _ => panic!("{host} {parameters}: {result:?}, expected {expected:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_certificate_takes_the_place_of_a_password() {
    let own = authority();
    let postgres = server(&own, "hostssl all livekit 127.0.0.1/32 cert").await;
    let directory = support::directory("tls");
    certificate(&own, "livekit", directory.path(), "client");
    let files = directory.path().join("client").display().to_string();
    let url = format!("postgresql://livekit@{}/livekit?sslmode=require", postgres.address());
    assert_eq!(result(&format!("{url}&sslcert={files}.crt&sslkey={files}.key")).await, Ok(()));
    let error = result(&url).await.expect_err("it has no certificate");
    assert_eq!(error.0, SinkErrorKind::Unauthorized, "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_used_where_the_url_allows_it() {
    let postgres = Postgres::start().await;
    for (parameters, works) in
        [("", true), ("sslmode=prefer", true), ("sslmode=allow", true), ("sslmode=require", false)]
    {
        let result = result(&format!("{}?{parameters}", postgres.url())).await;
        assert_eq!(result.is_ok(), works, "{parameters}: {result:?}");
    }
}
