//! The API, health, metrics, and who may reach them.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use super::{TOKEN, event, nowhere, send, support, with_token};
use support::process::{Setup, Spool};

async fn ask(spool: &Spool, method: Method, path: &str, token: Option<&str>) -> (StatusCode, String) {
    let mut request = Client::new().request(method, format!("{}{path}", spool.admin()));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.expect("an answer");
    (response.status(), response.text().await.expect("a text"))
}

async fn get(spool: &Spool, path: &str) -> Value {
    let (status, text) = ask(spool, Method::GET, path, None).await;
    assert_eq!(status, StatusCode::OK, "{path}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_shows_what_the_command_line_shows() {
    let mut spool = with_token(nowhere("mongo"));
    spool.start().await;
    send(&spool, (0..9).map(|i| event(&format!("AE_{i}"), "a room")).collect()).await;
    let status = get(&spool, "/api/v1/status").await;
    let figures = |backlog: &Value| Spool::stream_of(backlog, "mongo", "events")["records"].clone();
    assert_eq!((figures(&status), figures(&spool.backlog())), (Value::from(9), Value::from(9)));
    assert_eq!(get(&spool, "/api/v1/sinks/mongo").await["records"], 9);
    let peeked = get(&spool, "/api/v1/sinks/mongo/peek?n=2&newest=true").await;
    assert_eq!(peeked["records"][0]["document"]["_id"], "AE_8");
    assert_eq!(get(&spool, "/api/v1/sinks/mongo/dead").await["dead_letters"], Value::from(Vec::<Value>::new()));
    assert_eq!(ask(&spool, Method::GET, "/api/v1/sinks/nosuch", None).await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask(&spool, Method::GET, "/api/v1/sinks/mongo/peek?where=x", None).await.0, StatusCode::BAD_REQUEST);
    support::eventually("history has the backlog and why it grows", || async {
        let history = get(&spool, "/api/v1/history").await;
        let (points, changes) = (&history["sinks"]["mongo"]["points"], &history["sinks"]["mongo"]["changes"]);
        let is_there = |change: &Value| change["state"] == "unavailable" && change["reason"] == status_error(&spool);
        points.as_array().is_some_and(|all| all.iter().any(|point| point["records"] == 9))
            && changes.as_array().is_some_and(|all| all.iter().any(is_there))
            && history["step_millis"] == 10_000
    })
    .await;
}

/// What the sink's last error is.
fn status_error(spool: &Spool) -> Value {
    Spool::sink_of(&spool.backlog(), "mongo")["last_error"].clone()
}

/// Events that each become a document of hundreds of kilobytes.
fn large_events(count: usize) -> Vec<livekit_protocol::AnalyticsEvent> {
    let outputs = vec![livekit_protocol::ImageOutput::default(); 5000];
    let request = livekit_protocol::RoomCompositeEgressRequest { image_outputs: outputs, ..Default::default() };
    let request = livekit_protocol::egress_info::Request::RoomComposite(request);
    let egress = livekit_protocol::EgressInfo { request: Some(request), ..Default::default() };
    let large = |i| livekit_protocol::AnalyticsEvent { egress: Some(egress.clone()), ..event(&format!("AE_{i}"), "r") };
    (0..count).map(large).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_read_records_at_a_time_and_one_that_leaves_frees_its_place() {
    use tokio::io::AsyncWriteExt;
    let mut spool = with_token(nowhere("mongo"));
    spool.start().await;
    // More than what is on its way to a reader.
    send(&spool, large_events(200)).await;
    let peek = "/api/v1/sinks/mongo/peek?n=1";
    let address = spool.admin().trim_start_matches("http://").to_owned();
    let mut idle_readers = Vec::new();
    for path in ["records", "records?newest=true", "records?stream=events", "records?where=room.name=r"] {
        let mut reader = tokio::net::TcpStream::connect(&address).await.expect("a connection");
        let request = format!("GET /api/v1/sinks/mongo/{path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        reader.write_all(request.as_bytes()).await.expect("a request");
        idle_readers.push(reader);
    }
    support::eventually("there is no turn for one more", || async {
        let response = Client::new().get(format!("{}{peek}", spool.admin())).send().await.expect("an answer");
        response.status() == StatusCode::SERVICE_UNAVAILABLE && response.headers().contains_key("retry-after")
    })
    .await;
    for path in ["/metrics", "/readyz", "/api/v1/status"] {
        assert_eq!(ask(&spool, Method::GET, path, None).await.0, StatusCode::OK, "{path}");
    }
    for path in ["/api/v1/sinks/mongo/dead", "/api/v1/sinks/mongo/verify"] {
        assert_eq!(ask(&spool, Method::GET, path, None).await.0, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    assert!(spool.command(&["peek", "mongo", "-n", "1"]).status.success(), "the command line has turns of its own");
    drop(idle_readers);
    support::eventually("their turns are over", || async {
        ask(&spool, Method::GET, peek, None).await.0 == StatusCode::OK
    })
    .await;
    for _ in 0..40 {
        let request = Client::new().get(format!("{}/api/v1/sinks/mongo/peek?where=type=nosuch", spool.admin()));
        let _ = request.timeout(Duration::from_millis(20)).send().await;
    }
    assert_eq!(ask(&spool, Method::GET, peek, None).await.0, StatusCode::OK, "those that left look no further");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_bounded_in_bytes_however_much_its_records_become() {
    let mut spool = with_token(nowhere("mongo"));
    spool.start().await;
    send(&spool, large_events(100)).await;
    let (status, peeked) = ask(&spool, Method::GET, "/api/v1/sinks/mongo/peek?n=500", None).await;
    assert_eq!(status, StatusCode::OK);
    assert!((8 << 20..10 << 20).contains(&peeked.len()), "{} bytes", peeked.len());
    // Streamed, there are all of them.
    let (_, all) = ask(&spool, Method::GET, "/api/v1/sinks/mongo/records", None).await;
    assert_eq!(all.lines().count(), 100, "{} bytes", all.len());
    assert!(all.len() > 20 << 20, "{} bytes", all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_said_in_json_too() {
    let mut spool = with_token(nowhere("mongo"));
    spool.start().await;
    for (method, path, expected, named) in [
        (Method::GET, "/api/v1/sinks/mongo/peek?n=abc", StatusCode::BAD_REQUEST, "n: "),
        (Method::GET, "/api/v1/sinks/mongo/peek?stream=nosuch", StatusCode::BAD_REQUEST, "nosuch"),
        (Method::GET, "/api/v1/sinks/mongo/records?newest=7", StatusCode::BAD_REQUEST, "newest"),
        (Method::GET, "/api/v1/sinks/mongo/dead?skip=-1", StatusCode::BAD_REQUEST, "skip"),
        (Method::POST, "/api/v1/sinks/mongo/purge?dead=maybe", StatusCode::BAD_REQUEST, "dead"),
        (Method::GET, "/api/v1/sinks/%FF", StatusCode::BAD_REQUEST, "UTF-8"),
        (Method::GET, "/api/v1/nosuch", StatusCode::NOT_FOUND, "nothing at this path"),
        (Method::GET, "/api/v1/sinks/mongo/pause", StatusCode::METHOD_NOT_ALLOWED, "method"),
    ] {
        let (status, text) = ask(&spool, method, path, Some(TOKEN)).await;
        assert_eq!(status, expected, "{path}: {text}");
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"));
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(named)), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_need_the_token_and_unredacted_records_never_leave_over_tcp() {
    let mut spool = with_token(nowhere("mongo"));
    spool.start().await;
    let pause = "/api/v1/sinks/mongo/pause";
    assert_eq!(ask(&spool, Method::POST, pause, None).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&spool, Method::POST, pause, Some("wrong")).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&spool, Method::POST, pause, Some(TOKEN)).await.0, StatusCode::OK);
    let raw = "/api/v1/sinks/mongo/records?raw=true";
    assert_eq!(ask(&spool, Method::GET, raw, Some(TOKEN)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(&spool, Method::POST, "/api/v1/import", Some(TOKEN)).await.0, StatusCode::FORBIDDEN);

    let mut tokenless = nowhere("mongo").prepare();
    tokenless.start().await;
    let (status, text) = ask(&tokenless, Method::POST, pause, None).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(text.contains("admin.token"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_that_is_not_ours_is_refused() {
    let spool = nowhere("mongo").start().await;
    let request = |path: &str| Client::new().get(format!("{}{path}", spool.admin())).header("host", "evil.example");
    for path in ["/", "/api/v1/status", "/api/v1/history", "/metrics"] {
        let status = request(path).send().await.expect("an answer").status();
        assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{path}");
    }
    assert!(request("/healthz").send().await.expect("an answer").status().is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_of_another_site_has_nothing_done() {
    let spool = nowhere("mongo").start().await;
    let history = "/api/v1/history";
    for path in ["/api/v1/sinks/mongo/records", "/api/v1/sinks/mongo/peek", "/api/v1/status", history, "/metrics"] {
        for (header, value) in [("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site"), ("origin", "null")] {
            let request = Client::new().get(format!("{}{path}", spool.admin())).header(header, value);
            assert_eq!(
                request.send().await.expect("an answer").status(),
                StatusCode::FORBIDDEN,
                "{path} {header}: {value}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_it_does_not_start_without_a_token() {
    let mut spool = nowhere("mongo").prepare();
    let config = spool.directory().join("config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let admin = text.lines().find(|line| line.starts_with("admin:")).unwrap().to_owned();
    std::fs::write(&config, text.replace(&admin, &admin.replace("127.0.0.1", "0.0.0.0"))).unwrap();
    spool.launch();
    let (status, output) = spool.wait_for_its_end();
    assert!(!status.success() && output.contains("set admin.token"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_says_why_no_records_are_accepted() {
    let setup = Setup::new().sink(
        "name: mongo, type: mongodb, uri: \"mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200&directConnection=true\", \
         spool: { max_bytes: 4MiB, compression: { codec: none } }",
    );
    let spool = setup.start().await;
    assert_eq!(ask(&spool, Method::GET, "/readyz", None).await, (StatusCode::OK, "accepting records\n".to_owned()));
    assert_eq!(ask(&spool, Method::GET, "/healthz", None).await, (StatusCode::OK, "alive\n".to_owned()));
    let big = |id: usize| event(&format!("AE_{id}"), &"x".repeat(100_000));
    let mut id = 0;
    support::eventually("the spool is full", || {
        id += 1;
        let body = prost::Message::encode_to_vec(&livekit_protocol::AnalyticsEvents { events: vec![big(id)] });
        let request = Client::new().post(format!("{}/v1/events", spool.http()));
        let request = request.header("content-type", "application/x-protobuf").body(body);
        async { request.send().await.expect("an answer").status() == StatusCode::SERVICE_UNAVAILABLE }
    })
    .await;
    let (status, text) = ask(&spool, Method::GET, "/readyz", None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.starts_with("sink mongo: ") && text.contains("full"), "{text}");
    let by_another_name = Client::new().get(format!("{}/readyz", spool.admin())).header("host", "evil.example");
    let text = by_another_name.send().await.expect("an answer").text().await.expect("a text");
    assert!(text.starts_with("not accepting records") && !text.contains("mongo") && !text.contains("full"), "{text}");
    assert_eq!(spool.command(&["ready"]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_come_as_server_sent_events_and_a_change_comes_at_once() {
    let mut spool = with_token(nowhere("mongo"));
    spool.start().await;
    let mut response = Client::new().get(format!("{}/api/v1/stream", spool.admin())).send().await.expect("an answer");
    let mut text = String::new();
    send(&spool, vec![event("AE_1", "r")]).await;
    let read = async {
        while let Some(piece) = response.chunk().await.expect("more of the stream") {
            text.push_str(&String::from_utf8_lossy(&piece));
            if text.contains("\"state\":\"unavailable\"") {
                return;
            }
        }
        panic!("the stream ended");
    };
    tokio::time::timeout(support::TIMEOUT, read).await.expect("the outage in the stream");
    assert!(text.starts_with("event: status\ndata: {"), "{}", &text[..100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_snapshots_ends_with_the_token_that_opened_it() {
    let mut spool = with_token(nowhere("mongo"));
    spool.start().await;
    let request = Client::new().get(format!("{}/api/v1/stream", spool.admin())).bearer_auth(TOKEN);
    let mut response = request.send().await.expect("an answer");
    assert!(response.chunk().await.expect("a snapshot").is_some());
    let config = spool.directory().join("config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains(TOKEN));
    std::fs::write(&config, text.replace(TOKEN, "another-token-for-the-tests")).unwrap();
    assert!(spool.command(&["reload"]).status.success());
    let ended = async { while response.chunk().await.expect("more of the stream").is_some() {} };
    tokio::time::timeout(support::TIMEOUT, ended).await.expect("its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_silence_on_the_admin_port_hurt_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let spool = nowhere("mongo").start().await;
    let address = spool.admin().trim_start_matches("http://").to_owned();
    let mut garbage = tokio::net::TcpStream::connect(&address).await.expect("a connection");
    garbage.write_all(&[0xFF; 1_000]).await.expect("garbage goes out");
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(30), garbage.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "the connection is closed");
    let _silent = tokio::net::TcpStream::connect(&address).await.expect("a connection");
    assert_eq!(get(&spool, "/api/v1/status").await["process"]["ready"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_idle_for_as_long_as_a_load_balancer_keeps_it() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut spool = nowhere("mongo").start().await;
    let mut connections = Vec::new();
    for address in [spool.http(), spool.admin()] {
        let address = address.trim_start_matches("http://").to_owned();
        connections.push(tokio::net::TcpStream::connect(&address).await.expect("a connection"));
    }
    // Longer than a first request may take; the promise is 75 s.
    for pause in [Duration::from_secs(15), Duration::ZERO] {
        for connection in &mut connections {
            connection.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it is open");
            let mut answer = vec![0; 4096];
            let read = connection.read(&mut answer).await.expect("an answer");
            let answer = String::from_utf8_lossy(&answer[..read]);
            assert!(answer.starts_with("HTTP/1.1 404"), "{answer:?}");
        }
        tokio::time::sleep(pause).await;
    }
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_to_import_is_bounded_before_it_is_read() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut spool = nowhere("mongo").start().await;
    let socket = std::fs::read_dir(spool.data()).expect("a directory").map(|entry| entry.expect("an entry").path());
    let socket = socket.into_iter().find(|path| path.extension().is_some_and(|end| end == "sock"));
    let mut connection = tokio::net::UnixStream::connect(socket.expect("a socket")).await.expect("a connection");
    let head = "POST /api/v1/import HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n";
    connection.write_all(head.as_bytes()).await.expect("it is open");
    let mut answer = vec![0; 4096];
    let read = connection.read(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    spool.terminate();
}
