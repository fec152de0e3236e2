//! The recipes for HTTP sinks in docs/sinks.md, run as they stand, with the real binary: webhooks for LiveKit's own
//! receivers, rows for ClickHouse's engine. And what holds for it whoever is killed.
//!
//! `tests/servers` gets the receivers and the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use livekit_protocol::{AnalyticsEvent, AnalyticsEventType, AnalyticsEvents};
use livekit_spool::record::now_millis;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{
    eventually,
    jwt::signed,
    process::{QUICK, Setup, Spool},
    receiver::{Answer, Receiver, Request, answer},
    records::real_events,
    test_server,
};

mod kills;
#[path = "../support/mod.rs"]
mod support;

const KEY: &str = "APIkey";
const SECRET: &str = "a secret of at least thirty-two bytes";

/// The code block of docs/sinks.md that follows a line with this mark.
fn recipe(mark: &str) -> String {
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sinks.md")).expect("the docs");
    let (_, after) = docs.split_once(mark).unwrap_or_else(|| panic!("docs/sinks.md has no {mark}"));
    let block = after
        .lines()
        .skip_while(|line| !line.starts_with("    "))
        .map_while(|line| line.strip_prefix("    ").or_else(|| line.is_empty().then_some("")));
    block.collect::<Vec<_>>().join("\n")
}

/// A sink of the docs, with what is different in a test.
fn sink(mark: &str, changes: &[(&str, &str)]) -> String {
    let mut text = recipe(mark);
    for (before, after) in changes {
        assert!(text.contains(before), "{before} is not in:\n{text}");
        text = text.replace(before, after);
    }
    let keys = text.lines().map(|line| line.trim().trim_start_matches("- ")).filter(|line| !line.is_empty());
    let keys = keys.filter(|line| *line != "sinks:").map(|line| line.split(" #").next().expect("a part").trim());
    let (flush, keys): (Vec<&str>, Vec<&str>) = keys.partition(|line| line.starts_with("flush:"));
    // The recipe's own, and what spares the test waiting.
    let flush = flush.first().map_or("", |line| line.trim_start_matches("flush: {").trim_end_matches('}'));
    let quick = QUICK.replacen('{', &format!("{{ {flush}{} ", if flush.is_empty() { "" } else { "," }), 1);
    format!("{}, flush: {quick}", keys.join(", "))
}

/// Runs a program on an input; what it says.
fn run(program: &Path, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    let _ = writer.join().expect("written");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {args:?}: {said}", program.display());
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn script(name: &str) -> String {
    format!("{}/tests/http_recipes/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What LiveKit's receivers read from requests: that for Python, and that for Node where `tests/servers` could get it.
fn judged(requests: &[Request]) -> Vec<Value> {
    let webhook = |request: &Request| {
        let body = String::from_utf8(request.body.clone()).expect("UTF-8");
        json!({ "body": body, "token": request.header("authorization") }).to_string()
    };
    let input = requests.iter().map(webhook).collect::<Vec<_>>().join("\n");
    let read =
        |said: String| -> Vec<Value> { said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect() };
    let python = read(run(&test_server("venv/bin/python"), &[&script("receive.py"), KEY, SECRET], &input));
    if Command::new("npm").arg("--version").output().is_ok() {
        let directory = test_server("webhooks");
        let directory = directory.to_str().expect("UTF-8");
        let node = read(run(Path::new("node"), &[&script("receive.mjs"), directory, KEY, SECRET], &input));
        assert_eq!(python, node, "both read the same");
    }
    python
}

/// A spool that takes LiveKit's webhooks and sends them on.
async fn relay(receiver: &Receiver) -> Spool {
    let url = format!("url: \"{}\"", receiver.url());
    let secret = format!("api_secret: \"{SECRET}\"");
    let changes = [
        ("url: https://app.example.com/livekit-webhook", &*url),
        ("api_key: APIxxxxxxxxxxxx", "api_key: APIkey"),
        ("api_secret: ${LIVEKIT_API_SECRET}", &*secret),
    ];
    let setup = Setup::new().sink(&sink("<!-- recipe: webhooks -->", &changes));
    setup.section(&format!("keys: {{ {KEY}: \"{SECRET}\" }}")).start().await
}

async fn post_webhook(spool: &Spool, body: &str) {
    let now = now_millis() / 1000;
    let hash = BASE64_STANDARD.encode(Sha256::digest(body));
    let token = signed(&json!({ "iss": KEY, "nbf": now, "exp": now + 300, "sha256": hash }), SECRET);
    let request = reqwest::Client::new().post(format!("{}/webhook", spool.http())).body(body.to_owned());
    let request = request.header("content-type", "application/webhook+json").header("authorization", token);
    let answer = request.send().await.expect("an answer");
    assert!(answer.status().is_success(), "{body}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn livekits_webhooks_come_out_with_the_same_bytes_and_livekits_receivers_accept_them() {
    let mut receiver = Receiver::start(|_| Answer::Bytes(answer(200, "", "ok"))).await;
    let mut spool = relay(&receiver).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/livekit-1.11/webhooks.ndjson");
    let recorded = fs::read_to_string(path).expect("recorded webhooks");
    // The application is away while they come in, and livekit-spool is killed meanwhile.
    receiver.take_away().await;
    let odd = r#"{"event":"agent_job_started", "id":"EV_odd",  "new": [1, "ä"]}"#;
    for body in recorded.lines().chain([odd]) {
        post_webhook(&spool, body).await;
    }
    spool.kill();
    spool.start().await;
    receiver.bring_back().await;
    spool.wait_until_drained().await;

    let requests = receiver.requests();
    let bodies: Vec<&str> = requests.iter().map(|one| std::str::from_utf8(&one.body).expect("UTF-8")).collect();
    let expected: Vec<&str> = recorded.lines().chain([odd]).collect();
    // One whose answer was cut off comes again.
    let mut seen = BTreeSet::new();
    let once: Vec<&str> = bodies.iter().copied().filter(|body| seen.insert(*body)).collect();
    assert_eq!(once, expected, "the same bytes, in the same order");
    for request in &requests {
        assert_eq!(request.header("content-type"), "application/webhook+json");
        assert_eq!(request.method, "POST");
    }
    let judged = judged(&requests);
    assert_eq!(judged.len(), bodies.len());
    for (event, body) in judged.iter().zip(&bodies) {
        let sent: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!((&event["event"], &event["id"]), (&sent["event"], &sent["id"]));
    }
    assert!(spool.dead_letters("webhooks").is_empty());
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorders_events_come_out_as_the_webhooks_that_say_the_same() {
    let receiver = Receiver::start(|_| Answer::Bytes(answer(200, "", "ok"))).await;
    let mut spool = relay(&receiver).await;
    let events: Vec<AnalyticsEvent> = real_events();
    let message = AnalyticsEvents { events: events.clone() };
    spool.recorder().ingest_events(tokio_stream::iter([message])).await.expect("accepted");
    spool.wait_until_drained().await;

    let mut expected: BTreeMap<&str, (&str, &AnalyticsEvent)> = BTreeMap::new();
    for event in &events {
        let name = match event.r#type() {
            AnalyticsEventType::RoomCreated => "room_started",
            AnalyticsEventType::RoomEnded => "room_finished",
            AnalyticsEventType::ParticipantActive => "participant_joined",
            AnalyticsEventType::ParticipantLeft => "participant_left",
            AnalyticsEventType::TrackPublished => "track_published",
            AnalyticsEventType::TrackUnpublished => "track_unpublished",
            _ => continue,
        };
        expected.insert(&event.id, (name, event));
    }
    assert!(expected.len() > 100, "{}", expected.len());
    let judged = judged(&receiver.requests());
    assert_eq!(judged.len(), expected.len());
    for webhook in &judged {
        let (name, event) = expected[webhook["id"].as_str().expect("an id")];
        assert_eq!(webhook["event"], name);
        assert_eq!(webhook["room"], event.room.as_ref().map_or("", |room| &room.name));
        if !name.starts_with("room_") {
            assert_eq!(webhook["sid"], event.participant_id);
        }
    }
    let all: String = receiver.requests().iter().map(|one| String::from_utf8_lossy(&one.body).into_owned()).collect();
    assert!(!all.contains("turnPassword"), "what documents do not have is not there either");
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_takes_what_is_sent_and_keeps_each_event_once() {
    let receiver = Receiver::start(|_| Answer::Bytes(answer(200, "", ""))).await;
    let changes = [
        ("http://127.0.0.1:8123", &*format!("http://{}", receiver.address())),
        ("password: ${CLICKHOUSE_PASSWORD}", "password: p"),
    ];
    let mut spool = Setup::new().sink(&sink("<!-- recipe: clickhouse -->", &changes)).start().await;
    let events = real_events();
    let message = AnalyticsEvents { events: events.clone() };
    spool.recorder().ingest_events(tokio_stream::iter([message])).await.expect("accepted");
    spool.wait_until_drained().await;
    spool.terminate();

    let requests = receiver.requests();
    let target = requests.first().expect("a request").target.clone();
    let url = reqwest::Url::parse(&format!("http://host{target}")).expect("a URL");
    let query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    let mut bodies: Vec<String> =
        requests.iter().map(|one| String::from_utf8(one.body.clone()).expect("UTF-8")).collect();
    // A resend.
    bodies.push(bodies[0].clone());
    let create = recipe("<!-- recipe: clickhouse tables -->");
    let create: Vec<&str> = create.split(';').map(str::trim).filter(|statement| !statement.is_empty()).collect();
    let select = "SELECT _id, type, toString(at) AS at, room.sid AS room_sid, room.name AS room_name, \
                  participant.identity AS identity, track.sid AS track_sid FROM livekit.events FINAL ORDER BY _id";
    let task = json!({ "create": create, "insert": query["query"], "bodies": bodies, "select": select });
    let rows = run(&test_server("venv/bin/python"), &[&script("clickhouse.py")], &task.to_string());
    let rows: Vec<Value> =
        rows.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).expect("a row")).collect();
    assert_eq!(rows.len(), events.len(), "each once");
    let by_id: BTreeMap<&str, &AnalyticsEvent> = events.iter().map(|event| (event.id.as_str(), event)).collect();
    for row in &rows {
        let event = by_id[row["_id"].as_str().expect("an id")];
        assert_eq!(row["type"], event.r#type().as_str_name());
        assert_eq!(row["room_sid"], event.room.as_ref().map_or("", |room| &room.sid), "{row}");
        assert_eq!(row["room_name"], event.room.as_ref().map_or("", |room| &room.name), "{row}");
        assert_eq!(row["identity"], event.participant.as_ref().map_or("", |one| &one.identity), "{row}");
        assert_eq!(row["track_sid"], event.track.as_ref().map_or("", |track| &track.sid), "{row}");
        assert!(row["at"].as_str().expect("a time").starts_with("2026-11-21 22:4"), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_where_and_how_records_are_sent_and_no_proxy_is_used() {
    let (old, new) =
        (Receiver::start(|_| Answer::Status(503, "closed")).await, Receiver::start(|_| Answer::Status(200, "")).await);
    let sink = |url: String, more: &str| format!("name: h, type: http, url: \"{url}\", flush: {QUICK}{more}");
    let mut spool = Setup::new().sink(&sink(old.url(), "")).env("HTTP_PROXY", "http://127.0.0.1:1").start().await;
    let events: Vec<AnalyticsEvent> = real_events().into_iter().take(50).collect();
    let message = AnalyticsEvents { events };
    spool.recorder().ingest_events(tokio_stream::iter([message])).await.expect("accepted");
    let error = || Spool::sink_of(&spool.backlog(), "h")["last_error"].to_string();
    eventually("it shows the answer", || async { error().contains("code 503") && error().contains("closed") }).await;
    let file = spool.directory().join("config.yaml");
    let config = fs::read_to_string(&file).expect("the config");
    let changed =
        config.replace(&old.url(), &new.url()).replace("type: http,", "type: http, format: array, token: hunter2,");
    fs::write(&file, changed).expect("written");
    let pid = rustix::process::Pid::from_raw(spool.process().pid().cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("signalled");
    spool.wait_until_drained().await;
    let request = new.requests().pop().expect("a request");
    assert_eq!(
        (request.header("authorization"), request.header("content-type")),
        ("Bearer hunter2", "application/json")
    );
    assert!(!spool.said().contains("hunter2"), "{}", spool.said());
    spool.terminate();
}
