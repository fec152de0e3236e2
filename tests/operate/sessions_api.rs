//! Sessions at the admin port: who can read them, the demo's rooms, LiveKit Cloud's APIs as a client sees them.

use livekit_protocol::{AnalyticsEvent, AnalyticsStat, AnalyticsStats};
use livekit_spool::{demo::Playback, record::Stream};
use prost::Message;
use reqwest::{Client, StatusCode, header::AUTHORIZATION};
use serde_json::{Value, json};

use super::{TOKEN, send, support, with_token};
use support::{
    jwt::signed,
    process::{Setup, Spool},
};

const KEY: &str = "APIkey";
const SECRET: &str = "a secret of thirty-two characters";

/// A file sink and an API key.
pub(crate) fn with_files() -> Setup {
    Setup::new().files("files").auth(&format!("keys: {{ {KEY}: \"{SECRET}\" }}"))
}

/// Sends the real records of seven rooms, with times of the last minutes; returns when the file sink has them.
pub(crate) async fn send_rooms(spool: &Spool) {
    let mut playback = Playback::new();
    let round = playback.round();
    let (mut events, mut stats) = (Vec::new(), Vec::new());
    for (stream, record) in playback.by_ref().take(round) {
        match stream {
            Stream::Events => events.push(AnalyticsEvent::decode(&record[..]).expect("an event")),
            _ => stats.push(AnalyticsStat::decode(&record[..]).expect("a stat")),
        }
    }
    send(spool, events).await;
    let request = Client::new()
        .post(format!("{}/v1/stats", spool.http()))
        .header("content-type", "application/x-protobuf")
        .body(AnalyticsStats { stats }.encode_to_vec());
    assert!(request.send().await.expect("an answer").status().is_success());
    delivered(spool).await;
}

/// Returns when the file sink has everything.
pub(crate) async fn delivered(spool: &Spool) {
    support::eventually("the file sink has all", || async {
        spool.records("files", "events") + spool.records("files", "stats") == 0
    })
    .await;
}

/// The sessions of the last day, the newest first.
pub(crate) async fn listed(spool: &Spool) -> Vec<Value> {
    let text = reqwest::get(format!("{}/api/v1/sessions", spool.admin())).await.unwrap().text().await.unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    answer["sessions"].as_array().unwrap_or_else(|| panic!("{text}")).clone()
}

/// A token of the API key.
fn token(video: &Value, secret: &str, valid_seconds: i64) -> String {
    let now = livekit_spool::record::now_millis() / 1000;
    let claims = json!({ "iss": KEY, "sub": "billing", "nbf": now, "exp": now + valid_seconds, "video": video });
    format!("Bearer {}", signed(&claims, secret))
}

/// The answer at a path, with this in its `Authorization`.
async fn ask(spool: &Spool, path: &str, authorization: Option<&str>) -> (StatusCode, Value) {
    let request = Client::new().get(format!("{}{path}", spool.admin()));
    let request = authorization.iter().fold(request, |request, value| request.header(AUTHORIZATION, *value));
    let response = request.send().await.expect("an answer");
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::from(text)))
}

#[tokio::test(flavor = "multi_thread")]
async fn livekit_clouds_apis_need_a_key_that_lists_rooms_or_the_admin_token() {
    let mut spool = with_token(with_files());
    spool.start().await;
    let (lists, day) = (json!({ "roomList": true }), 86_400);
    let valid = token(&lists, SECRET, day);
    let admin = format!("Bearer {TOKEN}");
    for path in ["/api/project/p_x/sessions", "/v1/projects/p_x/sessions"] {
        for authorization in [&valid, &admin] {
            let (status, body) = ask(&spool, path, Some(authorization)).await;
            assert_eq!(status, StatusCode::OK, "{path}: {body}");
        }
        for (authorization, expected) in [
            (None, StatusCode::UNAUTHORIZED),
            (Some("Bearer nothing".to_owned()), StatusCode::UNAUTHORIZED),
            (Some(token(&lists, "another secret of some characters", day)), StatusCode::UNAUTHORIZED),
            (Some(token(&lists, SECRET, -120)), StatusCode::UNAUTHORIZED),
            (Some(token(&json!({ "roomJoin": true, "room": "r" }), SECRET, day)), StatusCode::FORBIDDEN),
        ] {
            let (status, body) = ask(&spool, path, authorization.as_deref()).await;
            assert_eq!(status, expected, "{path} {authorization:?}: {body}");
            let (field, code) = match (path.starts_with("/v1/"), expected) {
                (true, StatusCode::FORBIDDEN) => ("message", json!(7)),
                (true, _) => ("message", json!(16)),
                (false, _) => ("error", Value::Null),
            };
            assert!(body[field].is_string() && body["code"] == code, "{body}");
        }
    }
    // The key opens nothing else: what it may not do on this port is as without it.
    let (status, _) = ask(&spool, "/api/v1/sessions", Some(&valid)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let pause = format!("{}/api/v1/sinks/files/pause", spool.admin());
    let paused = Client::new().post(pause).header(AUTHORIZATION, &valid).send().await.unwrap();
    assert_eq!(paused.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_apis_tell_the_same_of_the_same_rooms() {
    let spool = with_files().start().await;
    send_rooms(&spool).await;
    let own = listed(&spool).await;
    assert_eq!(own.len(), 7);
    let (status, unknown) = ask(&spool, "/api/v1/sessions?sink=nosuch", None).await;
    assert!(status == StatusCode::NOT_FOUND && unknown.to_string().contains("; there are files"), "{unknown}");
    let valid = token(&json!({ "roomList": true }), SECRET, 60);
    let (_, v0) = ask(&spool, "/api/project/p_x/sessions", Some(&valid)).await;
    let (_, v1) = ask(&spool, "/v1/projects/p_x/sessions", Some(&valid)).await;
    let ids = |list: &Value, field: &str| -> Vec<Value> {
        list.as_array().expect("a list").iter().map(|session| session[field].clone()).collect()
    };
    let sids: Vec<Value> = own.iter().map(|session| session["room_sid"].clone()).collect();
    assert_eq!(ids(&v0["sessions"], "sessionId"), sids);
    assert_eq!(ids(&v1["items"], "sessionId"), sids);
    for (session, (v0, v1)) in
        own.iter().zip(v0["sessions"].as_array().unwrap().iter().zip(v1["items"].as_array().unwrap()))
    {
        let bytes = json!(session["bytes_in"].to_string());
        assert_eq!((&v0["bandwidthIn"], &v0["createdAt"]), (&bytes, &session["started_at"]));
        assert_eq!((&v1["startedAt"], &v1["endedAt"]), (&session["started_at"], &session["ended_at"]));
        assert_eq!(session["state"], "ended");
        let sid = session["room_sid"].as_str().unwrap();
        let (status, detail) = ask(&spool, &format!("/v1/projects/p_x/sessions/{sid}"), Some(&valid)).await;
        assert_eq!((status, detail["detail"]["participants"].as_array().unwrap().len()), (StatusCode::OK, 3));
    }
}

/// The demo replays calls as they were: sessions of it make sense.
#[tokio::test(flavor = "multi_thread")]
async fn the_demos_rooms_are_sessions_with_what_they_had() {
    let spool = with_files().start().await;
    send_rooms(&spool).await;
    for listed in listed(&spool).await {
        let sid = listed["room_sid"].as_str().unwrap();
        let (_, answer) = ask(&spool, &format!("/api/v1/sessions/{sid}"), None).await;
        let session = &answer["session"];
        assert_eq!(session["totals"]["participants"], 3);
        let seconds = session["totals"]["connection_seconds"].as_f64().unwrap();
        assert!((75.5..304.0).contains(&seconds), "{seconds}");
        assert!(!session["webhooks"].as_array().unwrap().is_empty(), "webhooks name this round's rooms");
        for participant in session["participants"].as_array().unwrap() {
            for connection in participant["connections"].as_array().unwrap() {
                let connect = connection["connect_ms"].as_u64().unwrap();
                assert!((25..=105).contains(&connect), "{connect}");
                for track in connection["published"].as_array().unwrap() {
                    let intervals = track["upstream"]["intervals"].as_array().unwrap();
                    assert!(!intervals.is_empty(), "{track}");
                    for interval in intervals {
                        let times = [&session["started_at"], &interval["from"], &interval["to"], &session["last_at"]];
                        let times = times.map(|time| humantime::parse_rfc3339(time.as_str().unwrap()).unwrap());
                        assert!(times.is_sorted(), "{times:?}");
                    }
                }
            }
        }
    }
}
