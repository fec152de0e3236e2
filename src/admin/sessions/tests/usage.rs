//! `/api/v1/usage`: what sessions used, by day.

use serde_json::json;

use super::*;

/// Midnight of 2026-11-22, seconds since 1970.
const MIDNIGHT: i64 = 1_795_305_600;
const HOUR: i64 = 3600;

/// A room of one participant; seconds from that midnight.
fn room(name: &str, from: i64, to: Option<i64>) -> Memory {
    let event = |kind: &str, at: i64, more: Value| {
        let mut event = json!({
            "id": format!("AE_{kind}"), "type": kind, "room_id": "RM_a", "room": { "sid": "RM_a", "name": name },
            "timestamp": { "seconds": MIDNIGHT + at, "nanos": 0 },
        });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let of_ann = json!({ "participant_id": "PA_1", "participant": { "sid": "PA_1", "identity": "ann" } });
    let mut events = vec![event("ROOM_CREATED", from, json!({})), event("PARTICIPANT_JOINED", from, of_ann.clone())];
    events.extend(to.map(|to| event("PARTICIPANT_LEFT", to, of_ann)));
    events.extend(to.map(|to| event("ROOM_ENDED", to, json!({}))));
    // A minute of media, with midnight in it.
    let stat = |kind: &str, bytes: u64| {
        let at = |seconds: i64| json!({ "seconds": MIDNIGHT + seconds });
        json!({
            "id": format!("AS_{kind}"), "room_id": "RM_a", "participant_id": "PA_1", "track_id": format!("TR_{kind}"),
            "kind": kind, "time_stamp": at(32),
            "streams": [{ "start_time": at(-29), "end_time": at(31), "primary_bytes": bytes }],
        })
    };
    Memory::of(events, vec![stat("UPSTREAM", 1001), stat("DOWNSTREAM", 2000)])
}

async fn rows(memory: Memory, query: &str) -> Value {
    get(&routes(Sinks::one("files", memory)), &format!("/api/v1/usage?{query}")).await["usage"].clone()
}

fn row(day: &str, prefix: &str, minutes: f64, bytes: (u64, u64)) -> Value {
    json!({
        "day": day, "prefix": prefix, "sessions": 1, "connections": 1, "connection_minutes": minutes,
        "bytes_in": bytes.0, "bytes_out": bytes.1,
    })
}

#[tokio::test]
async fn the_days_of_all_rooms_and_of_each_prefix_add_up_to_the_sessions() {
    let routes = real();
    let day = "since=2026-11-21&until=2026-11-22";
    let sessions = get(&routes, &format!("/api/v1/sessions?{day}")).await["sessions"].as_array().unwrap().clone();
    for query in ["", "&by=m", "&by=0", "&prefix=room", "&prefix=room1&prefix=room&prefix=room12&prefix=other"] {
        let answer = get(&routes, &format!("/api/v1/usage?{day}{query}")).await;
        assert_eq!(
            (&answer["complete_from"], &answer["cut"], &answer["unread"]),
            (&Value::Null, &json!([]), &json!([]))
        );
        let rows = answer["usage"].as_array().unwrap();
        assert!(rows.iter().all(|row| row["day"] == DAY), "{query}: {rows:?}");
        let sum = |rows: &[Value], field: &str| rows.iter().map(|row| row[field].as_u64().unwrap()).sum::<u64>();
        assert_eq!(sum(rows, "sessions"), 7, "{query}");
        for field in ["bytes_in", "bytes_out"] {
            assert_eq!(sum(rows, field), sum(&sessions, field), "{query}: {field}");
        }
        let real = |rows: &[Value], field: &str| rows.iter().map(|row| row[field].as_f64().unwrap()).sum::<f64>();
        let (minutes, seconds) = (real(rows, "connection_minutes"), real(&sessions, "connection_seconds"));
        assert!((minutes - seconds / 60.0).abs() < 1e-6, "{query}: {minutes} {seconds}");
    }
    let one = get(&routes, &format!("/api/v1/usage?{day}&prefix=room3")).await["usage"].clone();
    assert_eq!(
        (one.as_array().unwrap().len(), &one[0]["prefix"], &one[0]["sessions"]),
        (1, &"room3".into(), &1.into())
    );
}

#[tokio::test]
async fn a_session_of_three_days_is_in_each_of_them_and_a_range_has_its_part() {
    let days = || room("acme-1", -6 * HOUR, Some(30 * HOUR));
    let expected = json!([
        row("2026-11-21", "acme", 360.0, (483, 966)),
        row("2026-11-22", "acme", 1440.0, (518, 1034)),
        row("2026-11-23", "acme", 360.0, (0, 0)),
    ]);
    assert_eq!(rows(days(), "since=2026-11-01&until=2026-12-01&by=-").await, expected);
    assert_eq!(rows(days(), "since=2026-11-22&until=2026-11-23&by=-").await, json!([expected[1]]));
    let hours = "since=2026-11-21T23:00:00Z&until=2026-11-22T01:00:00%2B00:00";
    let expected = json!([row("2026-11-21", "", 60.0, (483, 966)), row("2026-11-22", "", 60.0, (518, 1034)),]);
    assert_eq!(rows(days(), hours).await, expected);
    assert_eq!(rows(days(), "since=2026-11-24&until=2026-11-25").await, json!([]));
    assert_eq!(rows(days(), "since=2026-11-01&until=2026-12-01&prefix=acme-2").await, json!([]));
}

#[tokio::test]
async fn a_session_without_an_end_counts_until_its_last_record() {
    // The last interval may end a second after the participant has left.
    let expected = json!([row("2026-11-21", "", 360.0, (483, 966)), row("2026-11-22", "", 0.5, (518, 1034)),]);
    assert_eq!(rows(room("a", -6 * HOUR, None), "since=2026-11-21&until=2026-12-01").await, expected);
}

#[tokio::test]
async fn csv_has_the_same_rows_and_no_name_of_a_room_is_a_formula() {
    let routes = routes(Sinks::one("files", room("=1+2\"x", -HOUR, Some(HOUR))));
    let path = "/api/v1/usage?since=2026-11-21&until=2026-11-23&by=x&format=csv";
    let (status, headers, body) = ask(&routes, "GET", path).await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (StatusCode::OK, "text/csv; charset=utf-8"));
    let lines = "day,prefix,sessions,connections,connection_minutes,bytes_in,bytes_out\r\n\
                 2026-11-21,\"'=1+2\"\"\",1,1,60,483,966\r\n2026-11-22,\"'=1+2\"\"\",1,1,60,518,1034\r\n";
    assert_eq!(body, lines);
}

#[tokio::test]
async fn wrong_parameters_are_refused() {
    let routes = real();
    for wrong in [
        "by=ab",
        "by=-&prefix=a",
        "by=-&by=_",
        "format=xml",
        "since=2026-11-22&until=2026-11-21",
        "since=2026-11-22&until=2026-11-22",
        "since=yesterday",
        "until=2026-02-30",
    ] {
        let (status, _, body) = ask(&routes, "GET", &format!("/api/v1/usage?{wrong}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {body}");
        assert!(body["error"].is_string(), "{wrong}: {body}");
    }
    assert_eq!(ask(&routes, "GET", "/api/v1/usage?sink=other").await.0, StatusCode::NOT_FOUND);
}
