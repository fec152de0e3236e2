//! `sessions`: the list, one session, usage; from files, as any archive is read.

use livekit_protocol::{AnalyticsEvent, AnalyticsEventType, AnalyticsEvents, AnalyticsStats, Room};
use pbjson_types::Timestamp;
use prost::Message;
use serde_json::Value;

use super::{
    cli::{fails, ok},
    support::{
        eventually,
        process::{QUICK, Setup, Spool},
        records::{real_events, real_stats},
    },
};

/// The day of the real set.
const SINCE: [&str; 2] = ["--since", "2026-11-21"];
const ROOM: &str = "RM_AsAriw3HaLMK";

async fn post(spool: &Spool, path: &str, body: Vec<u8>) {
    let request = reqwest::Client::new()
        .post(format!("{}{path}", spool.http()))
        .header("content-type", "application/x-protobuf")
        .body(body);
    let answer = request.send().await.expect("an answer");
    assert!(answer.status().is_success(), "{}", answer.status());
}

/// Waits until the file sink has everything.
async fn delivered(spool: &Spool) {
    eventually("delivered", || async {
        let status: Value = serde_json::from_str(&ok(spool, &["backlog", "--json"])).expect("JSON");
        status["sinks"][0]["records"] == 0
    })
    .await;
}

/// A stopped process whose files have the real set and these events besides.
async fn with_sessions(more: Vec<AnalyticsEvent>) -> Spool {
    let mut spool = Setup::new().files("files").start().await;
    let events = real_events().into_iter().chain(more).collect();
    post(&spool, "/v1/events", AnalyticsEvents { events }.encode_to_vec()).await;
    post(&spool, "/v1/stats", AnalyticsStats { stats: real_stats() }.encode_to_vec()).await;
    delivered(&spool).await;
    spool.terminate();
    spool
}

fn json(spool: &Spool, words: &[&str]) -> Value {
    let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&ok(spool, &words)).expect("JSON")
}

fn sids(list: &Value) -> Vec<String> {
    let sessions = list["sessions"].as_array().expect("sessions").iter();
    sessions.map(|session| session["room_sid"].as_str().expect("a SID").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_shown_and_added_up_whether_it_runs_or_not() {
    let mut spool = with_sessions(Vec::new()).await;
    for is_live in [false, true] {
        if is_live {
            spool.start().await;
        }
        let all = json(&spool, &["sessions", SINCE[0], SINCE[1]]);
        assert_eq!(sids(&all).len(), 7);
        let text = ok(&spool, &["sessions", SINCE[0], SINCE[1]]);
        assert!(sids(&all).iter().all(|sid| text.contains(sid)), "{text}");
        let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 100).collect();
        assert!(wide.is_empty(), "{wide:#?}");
        assert_eq!(sids(&json(&spool, &["sessions", SINCE[0], SINCE[1], "-n", "2"])), sids(&all)[..2]);
        let mut worst = sids(&json(&spool, &["sessions", SINCE[0], SINCE[1], "--worst"]));
        worst.sort();
        let mut sorted = sids(&all);
        sorted.sort();
        assert_eq!(worst, sorted);
        let named = sids(&json(&spool, &["sessions", SINCE[0], SINCE[1], "--room", "room0"]));
        assert!(named.contains(&ROOM.to_owned()) && named.len() == 2, "two rooms had this name: {named:?}");
        assert_eq!(sids(&json(&spool, &["sessions", SINCE[0], SINCE[1], "--room", "room*"])).len(), 7);
        assert!(sids(&json(&spool, &["sessions", SINCE[0], SINCE[1], "--room", "roo"])).is_empty());
        assert!(ok(&spool, &["sessions", "--since", "2020-01-01", "--until", "2020-01-02"]).starts_with("no sessions"));

        let session = json(&spool, &["sessions", "show", ROOM]);
        assert_eq!(session["participants"].as_array().map(Vec::len), Some(3));
        let text = ok(&spool, &["sessions", "show", ROOM]);
        for user in ["user0", "user1", "user2", "connected in", "█"] {
            assert!(text.contains(user), "{user}: {text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(ok(&spool, &["sessions", "show", ROOM, "--events"]).contains("PARTICIPANT_JOINED user0"));
        assert!(ok(&spool, &["sessions", "show", ROOM, "--all"]).contains("↓ user"));

        let usage = json(&spool, &["sessions", "usage", SINCE[0], SINCE[1]]);
        let sum = |key: &str| -> f64 {
            let rows = usage["usage"].as_array().expect("rows").iter();
            rows.map(|row| row[key].as_f64().expect("a number")).sum()
        };
        let of_sessions = |key: &str| -> f64 {
            let sessions = all["sessions"].as_array().expect("sessions").iter();
            sessions.map(|session| session[key].as_f64().expect("a number")).sum()
        };
        assert!((sum("connection_minutes") * 60.0 - of_sessions("connection_seconds")).abs() < 0.001, "{usage}");
        assert_eq!(sum("bytes_in"), of_sessions("bytes_in"));
        assert_eq!(sum("bytes_out"), of_sessions("bytes_out"));
        let by = json(&spool, &["sessions", "usage", SINCE[0], SINCE[1], "--prefix", "room0", "--prefix", "room1"]);
        let prefixes: Vec<&str> =
            by["usage"].as_array().expect("rows").iter().filter_map(|row| row["prefix"].as_str()).collect();
        assert_eq!(prefixes, ["room0", "room1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_has_a_line_for_each_session_connection_event_and_day() {
    let spool = with_sessions(Vec::new()).await;
    let lines = |words: &[&str]| {
        let text = ok(&spool, words);
        let lines: Vec<String> = text.split_terminator("\r\n").map(str::to_owned).collect();
        let columns = lines[0].split(',').count();
        assert!(lines.len() == 1 || lines[1].matches(',').count() + 1 >= columns, "{text}");
        lines.len() - 1
    };
    assert_eq!(lines(&["sessions", SINCE[0], SINCE[1], "--csv"]), 7);
    assert_eq!(lines(&["sessions", "show", ROOM, "--csv"]), 3);
    assert!(lines(&["sessions", "show", ROOM, "--csv", "--events"]) > 90);
    assert_eq!(lines(&["sessions", "usage", SINCE[0], SINCE[1], "--csv", "--by", "r"]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_from_records_neither_steer_a_terminal_nor_become_formulas() {
    let names = [
        "=cmd|' /C calc'!A0",
        "\u{1b}[2J\u{1b}]0;owned\u{7}",
        "two\nlines,\"quoted\"",
        "\u{202e}gnp.exe",
        &"x".repeat(5000),
    ];
    let event = |(i, name): (usize, &&str)| {
        let room = Room { sid: format!("RM_hostile{i}"), name: (*name).to_owned(), ..Default::default() };
        AnalyticsEvent {
            id: format!("AE_hostile{i}"),
            r#type: AnalyticsEventType::RoomCreated.into(),
            timestamp: Some(Timestamp { seconds: 1_795_302_000, nanos: 0 }),
            room: Some(room),
            ..Default::default()
        }
    };
    let spool = with_sessions(names.iter().enumerate().map(event).collect()).await;
    for words in [
        &["sessions", SINCE[0], SINCE[1]][..],
        &["sessions", SINCE[0], SINCE[1], "--csv"],
        &["sessions", "show", "RM_hostile1"],
        &["sessions", "show", "RM_hostile2", "--csv", "--events"],
        &["sessions", "usage", SINCE[0], SINCE[1], "--by", "_"],
        &["sessions", "usage", SINCE[0], SINCE[1], "--by", "_", "--csv"],
    ] {
        let text = ok(&spool, words);
        let steers = |c: &char| (c.is_control() && !matches!(c, '\n' | '\r')) || *c == '\u{202e}';
        assert_eq!(text.chars().find(steers), None, "{words:?}: {text:?}");
        assert!(
            !text.lines().any(|line| line.split(',').any(|cell| cell.starts_with('='))) || !words.contains(&"--csv")
        );
    }
    assert!(ok(&spool, &["sessions", SINCE[0], SINCE[1], "--csv"]).contains("\"'=cmd|' /C calc'!A0\""));
    let listed = json(&spool, &["sessions", SINCE[0], SINCE[1]]);
    let listed: Vec<&str> =
        listed["sessions"].as_array().expect("sessions").iter().filter_map(|room| room["room_name"].as_str()).collect();
    // But for what is longer than any name of LiveKit's.
    assert!(names.iter().all(|name| listed.contains(&&name[..name.len().min(1024)])), "JSON keeps names as they are");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_with_the_exit_code_of_other_commands() {
    let spool = with_sessions(Vec::new()).await;
    fails(&spool, &["sessions", "show", "RM_nosuch"], 1, "no records of a session \"RM_nosuch\" in out");
    fails(&spool, &["sessions", "show", &ROOM[..8]], 1, "`livekit-spool sessions --since 7d` lists the SIDs");
    fails(&spool, &["sessions", "show", "room0"], 1, "give the SID of the room, RM_…");
    fails(&spool, &["sessions", "-n", "0"], 2, "invalid value '0' for '-n <N>'");
    fails(&spool, &["sessions", "--sink", "nosuch"], 2, "there is no sink \"nosuch\"; there are files");
    fails(&spool, &["sessions", "--since", "1h", "--until", "2h"], 2, "--since has to be before --until");
    fails(&spool, &["sessions", "--since", "yesterday"], 2, "neither a duration");
    fails(&spool, &["sessions", "--csv", "--json"], 2, "cannot be used with");
    fails(&spool, &["sessions", "usage", "--by", "_", "--prefix", "x"], 2, "cannot be used with");
    fails(&spool, &["sessions", SINCE[0], SINCE[1], "--timeout", "0s"], 4, "began at");
    let broken = spool.directory().join("out/events-20261121T000000.000Z.ndjson.zst");
    std::fs::write(&broken, b"not compressed").expect("written");
    fails(&spool, &["sessions", SINCE[0], SINCE[1]], 4, "events-20261121T000000.000Z.ndjson.zst: ");

    let redis = Setup::new()
        .sink(&format!("name: cache, type: redis, url: \"redis://127.0.0.1:9/\", flush: {QUICK}"))
        .sink(&format!("name: hook, type: http, url: \"http://127.0.0.1:9/\", flush: {QUICK}"))
        .prepare();
    let readable = "sessions are read from sinks of type mongodb, postgresql or file";
    fails(&redis, &["sessions"], 2, readable);
    fails(&redis, &["sessions", "--sink", "cache"], 2, "sink cache is of type redis, which cannot be read");
    let away = super::nowhere("mongo").prepare();
    fails(&away, &["sessions"], 1, "cannot be reached: connection refused");
    fails(&away, &["sessions", "show", ROOM], 1, "cannot be reached: connection refused");
    // The first that can be read is taken.
    let both = Setup::new()
        .sink(&format!("name: hook, type: http, url: \"http://127.0.0.1:9/\", flush: {QUICK}"))
        .files("files")
        .prepare();
    std::fs::create_dir(both.directory().join("out")).expect("a directory");
    ok(&both, &["sessions"]);
}
