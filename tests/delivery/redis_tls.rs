//! Redis over TLS, with an ACL user from the URL: the real binary, a real server, a CA of the test's own.

use std::fs;

use livekit_protocol::{AnalyticsEvent, AnalyticsEvents};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::support::{
    self, eventually, free_port,
    process::{QUICK, Setup, Spool},
    records::numbered_events,
    redis::Redis,
};

/// All that the sink needs, and nothing else.
const RIGHTS: &str = "+json.set +json.type +expire +waitaof +ft.create";

async fn send(spool: &Spool, events: Vec<AnalyticsEvent>) {
    spool.recorder().ingest_events(tokio_stream::iter([AnalyticsEvents { events }])).await.expect("accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_over_tls_as_the_urls_user_once_the_servers_ca_is_trusted() {
    let directory = support::directory("tls");
    let path = |name: &str| directory.path().join(name).to_str().expect("a UTF-8 path").to_owned();
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    fs::write(path("ca.pem"), ca.pem()).expect("a file");
    fs::write(path("server.pem"), params.signed_by(&key, &ca).expect("signed").pem()).expect("a file");
    fs::write(path("server.key"), key.serialize_pem()).expect("a file");

    let tls_port = free_port().to_string();
    let (certificate, key) = (path("server.pem"), path("server.key"));
    let mut options = vec!["--tls-port", &tls_port, "--tls-auth-clients", "no"];
    options.extend(["--tls-cert-file", &certificate, "--tls-key-file", &key]);
    options.extend([
        "--user",
        "spool",
        "on",
        ">p@ss:w/rd",
        "resetkeys",
        "~event:*",
        "~stat:*",
        "~node_rooms:*",
        "~idx:*",
        "-@all",
    ]);
    options.extend(RIGHTS.split(' '));
    let redis = Redis::start_with(true, &options).await;

    let url = format!("rediss://spool:p%40ss%3Aw%2Frd@127.0.0.1:{tls_port}");
    let sink = format!("name: redis, type: redis, url: \"{url}\", flush: {QUICK}");
    let mut spool = Setup::new().sink(&sink).start().await;
    send(&spool, numbered_events("tls").take(100).collect()).await;
    let error = || Spool::sink_of(&spool.backlog(), "redis")["last_error"].to_string();
    eventually("the CA is not known", || async { error().to_lowercase().contains("certificate") }).await;
    assert!(!error().contains("p@ss") && !error().contains("p%40ss"), "{}", error());
    assert_eq!(spool.records("redis", "events"), 100);

    spool.terminate();
    spool.set_env("SSL_CERT_FILE", &path("ca.pem"));
    spool.start().await;
    spool.wait_until_drained().await;
    let mut connection = redis.connect().await;
    let keys: Vec<String> = ::redis::cmd("KEYS").arg("event:*").query_async(&mut connection).await.expect("keys");
    assert_eq!(keys.len(), 100);
    let indexes: Vec<String> = ::redis::cmd("FT._LIST").query_async(&mut connection).await.expect("indexes");
    assert_eq!(indexes.len(), 10, "{}", spool.process().output());
    assert!(!spool.process().output().contains("p@ss"));
    spool.terminate();
}
