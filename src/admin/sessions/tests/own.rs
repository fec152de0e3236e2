//! The API of the page.

use super::*;

const RANGE: &str = "since=2026-11-21&until=2026-11-22";

fn list(more: &str) -> String {
    format!("/api/v1/sessions?{RANGE}&{more}")
}

fn rooms(answer: &Value) -> Vec<&str> {
    answer["sessions"].as_array().unwrap().iter().map(|session| session["room_sid"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn sessions_are_listed_the_newest_first_or_the_worst() {
    let (routes, sids) = (real(), Memory::real().sids());
    let answer = get(&routes, &list("")).await;
    assert_eq!(fields(&answer), sorted(["address", "from", "more", "sessions", "sink", "sinks", "to"]));
    assert_eq!(
        (&answer["sink"], &answer["address"], &answer["more"]),
        (&"files".into(), &"memory".into(), &false.into())
    );
    assert_eq!(rooms(&answer), sids);
    let some = get(&routes, &list("limit=2")).await;
    assert_eq!((rooms(&some), &some["more"]), (sids[..2].iter().map(String::as_str).collect(), &true.into()));
    assert_eq!(rooms(&get(&routes, &list("room=room3")).await).len(), 1);
    assert_eq!(rooms(&get(&routes, &list("room=room")).await).len(), 0);
    assert_eq!(rooms(&get(&routes, &list("room_prefix=room")).await).len(), 7);
    let worst = get(&routes, &list("worst=true")).await;
    let marks: Vec<_> = worst["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| (session["problems"].as_u64().unwrap(), session["warnings"].as_u64().unwrap()))
        .collect();
    assert!(marks.is_sorted_by(|a, b| a >= b) && marks.len() == 7, "{marks:?}");
    for wrong in ["limit=0", "worst=yes", "since=then", "since=2026-11-22", "room=a&room=b"] {
        let (status, _, body) = ask(&routes, "GET", &format!("/api/v1/sessions?until=2026-11-22&{wrong}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {body}");
    }
}

#[tokio::test]
async fn one_session_comes_whole_with_where_it_was_read() {
    let (routes, sid) = (real(), Memory::real().sids()[0].clone());
    let answer = get(&routes, &format!("/api/v1/sessions/{sid}")).await;
    assert_eq!(fields(&answer), sorted(["address", "cut", "session", "sink", "unread"]));
    assert_eq!(answer["session"]["room_sid"], sid.as_str());
    assert_eq!(answer["session"]["participants"].as_array().unwrap().len(), 3);
    let (status, _, body) = ask(&routes, "GET", "/api/v1/sessions/RM_unknown").await;
    assert_eq!(
        (status, &body["error"]),
        (StatusCode::NOT_FOUND, &"sink files has no records of room RM_unknown".into())
    );
}

#[tokio::test]
async fn what_a_limit_left_out_is_said() {
    let mut memory = Memory::real();
    let sid = memory.sids()[0].clone();
    (memory.cut, memory.complete_from) = (vec![sid.clone()], Some(crate::session::Time(0)));
    let routes = routes(Sinks::one("files", memory));
    let answer = get(&routes, &list("")).await;
    assert_eq!(answer["complete_from"], "1970-01-01T00:00:00Z");
    let cut: Vec<_> = answer["sessions"].as_array().unwrap().iter().map(|session| session["cut"] == true).collect();
    assert_eq!(cut, [true, false, false, false, false, false, false]);
    assert_eq!(get(&routes, &format!("/api/v1/sessions/{sid}")).await["cut"], true);
}

#[tokio::test]
async fn what_could_not_be_read_is_said_once() {
    let mut memory = Memory::real();
    let sid = memory.sids()[0].clone();
    memory.unread = vec!["a: broken".to_owned(), "b: broken".to_owned()];
    let routes = routes(Sinks::one("files", memory));
    for path in [list(""), list("worst=true"), format!("/api/v1/sessions/{sid}"), format!("/api/v1/usage?since={DAY}")]
    {
        assert_eq!(get(&routes, &path).await["unread"], serde_json::json!(["a: broken", "b: broken"]), "{path}");
    }
}

#[tokio::test]
async fn the_first_sink_is_read_unless_another_is_named() {
    let sinks = Sinks::one("empty", Memory::default()).and("full", Memory::real());
    let routes = routes(sinks);
    let answer = get(&routes, &list("")).await;
    assert_eq!((&answer["sink"], &answer["sinks"]), (&"empty".into(), &serde_json::json!(["empty", "full"])));
    assert_eq!(rooms(&answer).len(), 0);
    assert_eq!(rooms(&get(&routes, &list("sink=full")).await).len(), 7);
    let sid = Memory::real().sids()[0].clone();
    get(&routes, &format!("/api/v1/sessions/{sid}?sink=full")).await;
    for path in [list("sink=other"), format!("/api/v1/sessions/{sid}")] {
        assert_eq!(ask(&routes, "GET", &path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}
