//! Who may send: tokens and LiveKit's keys, and what is refused to start.

use std::{sync::Arc, time::Duration};

use livekit_protocol::{AnalyticsEvent, AnalyticsEvents};
use livekit_spool::{
    ingest::{
        AuthOptions, Authenticator, GrpcOptions, HttpOptions, Listener, LivekitKeys, MemoryOptions, Refused, Secret,
        ServeError,
        client::{Client, Credentials, Target},
        grpc,
    },
    record::{RecordBatch, RecordBatchBuilder, Stream, now_millis},
};
use serde_json::{Value, json};
use tonic::Code;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};

use crate::{
    jwt::signed,
    support::{
        Running, eventually, ingester, open_authenticator, serve_grpc, serve_grpc_through, serve_http,
        serve_http_through, within,
    },
};

const KEY: &str = "APIkey";

const SECRET: &str = "a secret of at least thirty-two bytes";

pub(crate) const TOKEN: &str = "sixteen characters or more";

pub(crate) fn keys() -> LivekitKeys {
    LivekitKeys::from([(KEY.to_owned(), Secret::new(SECRET)), ("APIother".to_owned(), Secret::new("other"))])
}

fn authenticator(auth: AuthOptions) -> Authenticator {
    Authenticator::new(auth, keys(), None)
}

pub(crate) fn tokens() -> AuthOptions {
    AuthOptions::Tokens(vec![Secret::new("another token of enough length"), Secret::new(TOKEN)])
}

pub(crate) fn event() -> RecordBatch {
    let mut batch = RecordBatchBuilder::new(Stream::Events);
    batch.push(&[0x08, 1]);
    batch.build(0)
}

pub(crate) async fn send(server: &Running, credentials: Credentials) -> Result<(), tonic::Status> {
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
        let listener = Listener::tcp(address.parse().unwrap()).unwrap();
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
