//! How archives are read: rarely, a few at once, and without one.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use axum::http::header::RETRY_AFTER;
use tokio::sync::Semaphore;

use super::*;

const LIST: &str = "/api/v1/sessions?since=2026-11-21&until=2026-11-22";

#[tokio::test(start_paused = true)]
async fn a_request_that_was_just_answered_reads_nothing_new() {
    let memory = Arc::new(Memory::real());
    let sid = memory.sids()[0].clone();
    let routes = routes(Sinks::one("files", Arc::clone(&memory)));
    let requests = || memory.requests.load(Relaxed);
    for path in ["", "/participants", "/events"] {
        get(&routes, &format!("/v1/projects/p/sessions/{sid}{path}")).await;
        assert_eq!(requests(), 2, "the room, and its records");
    }
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    get(&routes, &format!("/v1/projects/p/sessions/{sid}")).await;
    assert_eq!(requests(), 4);
}

#[tokio::test(start_paused = true)]
async fn more_reads_than_two_at_once_are_told_to_come_back() {
    let mut memory = Memory::real();
    memory.answers = Semaphore::new(0);
    let memory = Arc::new(memory);
    let routes = routes(Sinks::one("files", Arc::clone(&memory)));
    let waiting: Vec<_> = (0..2)
        .map(|room| {
            let routes = routes.clone();
            tokio::spawn(async move { get(&routes, &format!("{LIST}&room=room{room}")).await })
        })
        .collect();
    tokio::task::yield_now().await;
    for (path, code) in [(format!("{LIST}&room=room3"), "error"), ("/v1/projects/p/sessions".to_owned(), "message")] {
        let (status, headers, body) = ask(&routes, "GET", &path).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(headers[RETRY_AFTER], "2");
        assert!(body[code].as_str().unwrap().contains("too many requests read sessions"), "{body}");
    }
    memory.answers.add_permits(100);
    for waiting in waiting {
        assert!(waiting.await.unwrap()["sessions"].is_array());
    }
    get(&routes, &format!("{LIST}&room=room3")).await;
}

#[tokio::test]
async fn an_unavailable_archive_and_a_configuration_without_one_are_said() {
    let mut memory = Memory::real();
    memory.is_unavailable = true;
    let away = routes(Sinks::one("files", memory));
    for path in [LIST, "/api/v1/sessions/RM_x", "/api/project/p/sessions", "/api/project/p/sessions/RM_x"] {
        let (status, headers, body) = ask(&away, "GET", path).await;
        assert_eq!((status, &body["error"]), (StatusCode::SERVICE_UNAVAILABLE, &"memory: away".into()), "{path}");
        assert!(headers.contains_key(RETRY_AFTER));
    }
    let (status, _, body) = ask(&away, "GET", "/v1/projects/p/sessions").await;
    assert_eq!((status, &body["code"]), (StatusCode::SERVICE_UNAVAILABLE, &14.into()));
    let none = routes(Sinks::none());
    assert_eq!(ask(&none, "GET", LIST).await.0, StatusCode::NOT_FOUND);
    let (status, _, body) = ask(&none, "GET", "/v1/projects/p/sessions").await;
    assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &5.into()));
}

#[tokio::test]
async fn a_listing_that_is_not_whole_is_no_answer_of_the_cloud_apis() {
    let mut memory = Memory::real();
    memory.complete_from = Some(crate::session::Time(0));
    let routes = routes(Sinks::one("files", memory));
    let range = "filter.range.startTime=2026-11-21T00:00:00Z&filter.range.endTime=2026-11-22T00:00:00Z";
    get(&routes, &format!("/v1/projects/p/sessions?{range}&page.pageSize=6")).await;
    for path in [
        format!("/v1/projects/p/sessions?{range}&page.pageSize=7"),
        format!("/v1/projects/p/sessions?{range}&page.pageSize=1&sortOrder=SORT_ORDER_ASC"),
        "/api/project/p/sessions?start=2026-11-21".to_owned(),
    ] {
        assert_eq!(ask(&routes, "GET", &path).await.0, StatusCode::GATEWAY_TIMEOUT, "{path}");
    }
}

#[tokio::test]
async fn sessions_that_were_not_read_in_time_are_missing_in_no_answer_that_looks_whole() {
    let mut memory = Memory::real();
    let sids = memory.sids();
    (memory.cut, memory.is_slow_alone) = (vec![sids[2].clone()], true);
    let routes = routes(Sinks::one("files", memory));
    let range = "filter.range.startTime=2026-11-21T00:00:00Z&filter.range.endTime=2026-11-22T00:00:00Z";
    for path in [
        format!("/v1/projects/p/sessions?{range}"),
        format!("/v1/projects/p/sessions?{range}&sortOrder=SORT_ORDER_ASC"),
        "/api/project/p/sessions?start=2026-11-21".to_owned(),
        "/api/v1/usage?since=2026-11-21&until=2026-11-22&format=csv".to_owned(),
        format!("/api/v1/sessions/{}", sids[0]),
    ] {
        let (status, _, body) = ask(&routes, "GET", &path).await;
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{path}: {body}");
    }
    let own = get(&routes, LIST).await;
    assert_eq!(own["sessions"].as_array().unwrap().len(), 2);
    assert_eq!((&own["more"], &own["complete_from"]), (&true.into(), &own["sessions"][1]["started_at"]));
    let usage = get(&routes, "/api/v1/usage?since=2026-11-21&until=2026-11-22").await;
    assert_eq!((&usage["usage"][0]["sessions"], &usage["complete_from"]), (&2.into(), &own["complete_from"]));
}
