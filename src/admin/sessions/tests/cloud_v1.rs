//! The second generation of LiveKit Cloud's API.

use super::*;

const RANGE: &str = "filter.range.startTime=2026-11-21T00:00:00Z&filter.range.endTime=2026-11-22T00:00:00Z";

fn list(more: &str) -> String {
    format!("/v1/projects/p_any/sessions?{RANGE}&{more}")
}

fn of(sid: &str, rest: &str) -> String {
    format!("/v1/projects/p_any/sessions/{sid}{rest}")
}

/// All items of a list, page by page.
async fn paged(routes: &Router, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut next = String::new();
    loop {
        let page = get(routes, &format!("{path}{next}")).await;
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        assert_eq!(page["pageInfo"]["hasMore"].as_bool().unwrap(), page["pageInfo"]["nextCursor"].is_string());
        match page["pageInfo"]["nextCursor"].as_str() {
            Some(cursor) => next = format!("&page.cursor={cursor}"),
            None => return items,
        }
    }
}

fn texts(items: &[Value], field: &str) -> Vec<String> {
    items.iter().map(|item| item[field].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn sessions_are_listed_the_newest_first_in_the_documented_shape() {
    let (routes, sids) = (real(), Memory::real().sids());
    let answer = get(&routes, &list("")).await;
    assert_eq!(fields(&answer), ["items", "pageInfo"]);
    assert_eq!(answer["pageInfo"], serde_json::json!({ "hasMore": false }));
    let items = answer["items"].as_array().unwrap();
    assert_eq!(texts(items, "sessionId"), sids);
    for item in items {
        assert_eq!(
            fields(item),
            sorted(["sessionId", "roomName", "status", "numParticipants", "startedAt", "endedAt"])
        );
        assert_eq!(item["status"], "SESSION_STATUS_CLOSED");
        assert_eq!(item["numParticipants"], 3);
        assert!(is_time(&item["startedAt"]) && is_time(&item["endedAt"]), "{item}");
    }
}

#[tokio::test]
async fn filters_and_orders_are_those_of_the_documentation() {
    let (routes, mut sids) = (real(), Memory::real().sids());
    let ids = async |more: &str| texts(get(&routes, &list(more)).await["items"].as_array().unwrap(), "sessionId");
    assert_eq!(ids("filter.statuses=SESSION_STATUS_CLOSED").await, sids);
    assert_eq!(ids("filter.statuses=SESSION_STATUS_ACTIVE&filter.statuses=SESSION_STATUS_CLOSED").await, sids);
    assert_eq!(ids("filter.statuses=SESSION_STATUS_UNSPECIFIED").await, sids);
    assert!(ids("filter.statuses=SESSION_STATUS_ACTIVE").await.is_empty());
    assert_eq!(ids("filter.roomName=room3").await.len(), 1);
    assert_eq!(ids("filter.roomName=room").await.len(), 7);
    assert!(ids("filter.roomName=oom3").await.is_empty(), "it is a prefix");
    assert!(ids("filter.tags=a").await.is_empty(), "rooms of the open server have no tags");
    assert_eq!(ids("sortOrder=SORT_ORDER_DESC&aNewParameter=1").await, sids);
    sids.reverse();
    assert_eq!(ids("sortOrder=SORT_ORDER_ASC").await, sids);
}

#[tokio::test]
async fn pages_hold_every_session_once_in_both_orders() {
    let (routes, mut sids) = (real(), Memory::real().sids());
    for size in [1, 2, 3, 6, 7, 8] {
        let items = paged(&routes, &list(&format!("page.pageSize={size}"))).await;
        assert_eq!(texts(&items, "sessionId"), sids, "{size}");
    }
    sids.reverse();
    for size in [1, 3] {
        let items = paged(&routes, &list(&format!("sortOrder=SORT_ORDER_ASC&page.pageSize={size}"))).await;
        assert_eq!(texts(&items, "sessionId"), sids, "{size}");
    }
    let closed = paged(&routes, &list("filter.statuses=SESSION_STATUS_CLOSED&page.pageSize=2")).await;
    assert_eq!(closed.len(), 7);
}

#[tokio::test]
async fn a_session_without_an_end_is_active_by_its_last_records_only() {
    let routes = routes(Sinks::one("files", Memory::without_end()));
    let items = get(&routes, &list("")).await["items"].clone();
    assert_eq!((&items[0]["status"], items[0].get("endedAt")), (&"SESSION_STATUS_CLOSED".into(), None));
    assert_eq!(get(&routes, &list("filter.statuses=SESSION_STATUS_CLOSED")).await["items"], items);
}

#[tokio::test]
async fn wrong_parameters_are_invalid_arguments() {
    let routes = real();
    let cursor = get(&routes, &list("page.pageSize=1")).await["pageInfo"]["nextCursor"].as_str().unwrap().to_owned();
    let sid = &Memory::real().sids()[0];
    for path in [
        "/v1/projects/p/sessions?filter.range.startTime=2026-10-01T00:00:00Z&filter.range.endTime=2026-11-21T00:00:00Z"
            .to_owned(),
        "/v1/projects/p/sessions?filter.range.startTime=2026-11-21T00:00:00Z&filter.range.endTime=2026-11-21T00:00:00Z"
            .to_owned(),
        "/v1/projects/p/sessions?filter.range.startTime=yesterday".to_owned(),
        list("page.pageSize=0"),
        list("page.pageSize=-1"),
        list("page.pageSize=many"),
        list("page.cursor=next"),
        list(&format!("page.pageSize=1&sortOrder=SORT_ORDER_ASC&page.cursor={cursor}")),
        list(&format!("filter.roomName=room&page.cursor={cursor}")),
        list("sortOrder=asc"),
        list("sortOrder=SORT_ORDER_ASC&sortOrder=SORT_ORDER_DESC"),
        list("filter.statuses=active"),
        of(sid, "/participants?sortBy=name"),
        of(sid, "/participants?page.cursor=x"),
        of(sid, &format!("/participants?page.cursor={cursor}")),
        of(sid, "/events?types=JOINED"),
        of(sid, "/events?participantSessionId=user0"),
        of(sid, "/events?sortOrder=newest"),
        of(sid, &format!("/events?page.cursor={cursor}")),
    ] {
        let (status, _, body) = ask(&routes, "GET", &path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {body}");
        assert_eq!(fields(&body), ["code", "details", "message"]);
        assert_eq!((&body["code"], &body["details"]), (&3.into(), &serde_json::json!([])), "{path}");
    }
    let longest = "filter.range.startTime=2026-10-08T00:00:00Z&filter.range.endTime=2026-11-22T00:00:00Z";
    get(&routes, &format!("/v1/projects/p/sessions?{longest}")).await;
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let routes = real();
    for path in [of("RM_unknown", ""), of("RM_unknown", "/participants"), of("RM_unknown", "/events"), of("room0", "")]
    {
        let (status, _, body) = ask(&routes, "GET", &path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(body, serde_json::json!({ "code": 5, "message": "session not found", "details": [] }));
    }
    let (status, _, body) = ask(&routes, "GET", "/v1/projects").await;
    assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &5.into()));
    let (status, _, body) = ask(&routes, "POST", &list("")).await;
    assert_eq!((status, &body["code"]), (StatusCode::METHOD_NOT_ALLOWED, &12.into()));
}

#[tokio::test]
async fn a_session_has_its_figures_and_timelines_on_one_grid() {
    let (routes, sids) = (real(), Memory::real().sids());
    for sid in sids {
        let answer = get(&routes, &of(&sid, "")).await;
        assert_eq!(fields(&answer), ["detail", "session"]);
        assert_eq!(answer["session"]["sessionId"], sid.as_str());
        let detail = &answer["detail"];
        assert_eq!(
            fields(detail),
            sorted([
                "bandwidthIn",
                "bandwidthOut",
                "connectionSeconds",
                "quality",
                "publishBps",
                "subscribeBps",
                "publishFps",
                "subscribeFps",
                "participants",
                "participantsPage",
            ])
        );
        for field in ["bandwidthIn", "bandwidthOut", "connectionSeconds"] {
            assert!(is_decimal(&detail[field]), "{field}: {}", detail[field]);
        }
        let seconds: u64 = detail["connectionSeconds"].as_str().unwrap().parse().unwrap();
        assert!((75..=304).contains(&seconds), "{seconds}");
        let grid: Vec<&Value> = detail["quality"].as_array().unwrap().iter().map(|point| &point["timestamp"]).collect();
        assert!(!grid.is_empty() && grid.iter().all(|at| is_time(at)));
        for line in ["publishBps", "subscribeBps", "publishFps", "subscribeFps"] {
            let points = detail[line].as_array().unwrap();
            assert_eq!(points.iter().map(|point| &point["timestamp"]).collect::<Vec<_>>(), grid, "{line}");
            assert!(points.iter().any(|point| point["value"].as_f64().unwrap() > 0.0), "{line}");
        }
        let quality = detail["quality"].as_array().unwrap().iter().map(|point| point["value"].as_f64().unwrap());
        assert!(quality.clone().all(|value| (0.0..=1.0).contains(&value)) && quality.clone().any(|value| value > 0.5));
        // The points of 30 s add up to what the tracks sent; the rest of the bytes is data and signalling.
        let sent: f64 =
            detail["publishBps"].as_array().unwrap().iter().map(|point| point["value"].as_f64().unwrap()).sum();
        let own = get(&routes, &format!("/api/v1/sessions/{sid}")).await["session"].clone();
        let list = |value: &Value, field: &str| value[field].as_array().unwrap().clone();
        let connections =
            list(&own, "participants").into_iter().flat_map(|participant| list(&participant, "connections"));
        let tracks = connections.flat_map(|connection| list(&connection, "published"));
        let bytes: u64 = tracks.map(|track| track["upstream"]["bytes"].as_u64().unwrap()).sum();
        assert!((sent * 30.0 / 8.0 - bytes as f64).abs() < 1.0, "{sent} {bytes}");
        assert!(detail["bandwidthIn"].as_str().unwrap().parse::<u64>().unwrap() >= bytes);
        assert_eq!(detail["participants"].as_array().unwrap().len(), 3);
        assert_eq!(detail["participantsPage"], serde_json::json!({ "hasMore": false }));
    }
}

#[tokio::test]
async fn participants_have_their_sessions_and_can_be_ordered_and_paged() {
    let (routes, sid) = (real(), Memory::real().sids()[0].clone());
    let answer = get(&routes, &of(&sid, "/participants")).await;
    let items = answer["items"].as_array().unwrap();
    for item in items {
        let mut expected = vec!["participantIdentity", "joinedAt", "leftAt", "publishedSources", "sessions"];
        expected.extend(item.get("participantName").map(|_| "participantName"));
        expected.sort_unstable();
        assert_eq!(fields(item), expected);
        let sources = &item["publishedSources"];
        assert_eq!(fields(sources), sorted(["cameraTrack", "microphoneTrack", "screenShareTrack", "screenShareAudio"]));
        assert_eq!((&sources["cameraTrack"], &sources["screenShareTrack"]), (&true.into(), &false.into()));
        let session = &item["sessions"][0];
        let known = [
            "participantSessionId",
            "joinedAt",
            "leftAt",
            "durationSeconds",
            "os",
            "browser",
            "deviceModel",
            "sdkVersion",
            "connectionType",
            "connectionTimeMs",
        ];
        assert!(fields(session).iter().all(|field| known.contains(field)), "{session}");
        assert!(session["participantSessionId"].as_str().unwrap().starts_with("PA_"));
        assert!(is_decimal(&session["durationSeconds"]));
        assert_eq!(session["connectionType"], "UDP");
        assert!(session["connectionTimeMs"].as_i64().is_some_and(|millis| (25..=105).contains(&millis)), "{session}");
    }
    let joined = texts(items, "joinedAt");
    assert!(joined.is_sorted(), "{joined:?}");
    for (sort, field) in [("JOINED_AT", "joinedAt"), ("LEFT_AT", "leftAt")] {
        let path =
            format!("/participants?sortBy=PARTICIPANT_SORT_FIELD_{sort}&sortOrder=SORT_ORDER_DESC&page.pageSize=1");
        let items = paged(&routes, &of(&sid, &path)).await;
        let times: Vec<_> = texts(&items, field).into_iter().rev().collect();
        assert!(times.is_sorted() && times.len() == 3, "{sort}: {times:?}");
    }
}

#[tokio::test]
async fn events_have_livekits_types_and_only_the_fields_that_are_allowed() {
    let (routes, sid) = (real(), Memory::real().sids()[0].clone());
    let all = paged(&routes, &of(&sid, "/events?page.pageSize=7")).await;
    assert!(texts(&all, "timestamp").iter().all(|time| is_time(&Value::from(time.as_str()))));
    assert_eq!(get(&routes, &of(&sid, "/events?page.pageSize=1000")).await["items"].as_array().unwrap(), &all);
    let mut backwards = paged(&routes, &of(&sid, "/events?sortOrder=SORT_ORDER_DESC&page.pageSize=11")).await;
    backwards.reverse();
    assert_eq!(backwards, all);
    let allowed = [
        "participantKind",
        "connectionType",
        "isMigration",
        "trackId",
        "trackType",
        "trackSource",
        "mimeType",
        "muted",
        "service",
        "method",
        "status",
        "durationNs",
        "reason",
    ];
    for event in &all {
        let known = ["type", "timestamp", "participantIdentity", "participantSessionId", "payload"];
        assert!(fields(event).iter().all(|field| known.contains(field)), "{event}");
        if let Some(payload) = event.get("payload") {
            assert!(fields(payload).iter().all(|field| allowed.contains(field)), "{event}");
        }
    }
    let joined = paged(&routes, &of(&sid, "/events?types=PARTICIPANT_JOINED&types=PARTICIPANT_LEFT")).await;
    assert_eq!(joined.len(), 6);
    let participant = joined[0]["participantSessionId"].as_str().unwrap();
    assert_eq!(
        (&joined[0]["type"], &joined[0]["payload"]["participantKind"]),
        (&"PARTICIPANT_JOINED".into(), &"STANDARD".into())
    );
    assert_eq!(joined[5]["payload"]["reason"], "CLIENT_INITIATED");
    let own =
        paged(&routes, &of(&sid, &format!("/events?participantSessionId={participant}&types=TRACK_PUBLISHED"))).await;
    assert_eq!(own.len(), 2);
    for event in own {
        assert_eq!(event["participantSessionId"], participant);
        assert!(event["payload"]["trackId"].as_str().unwrap().starts_with("TR_"), "{event}");
        assert!(["AUDIO", "VIDEO"].contains(&event["payload"]["trackType"].as_str().unwrap()), "{event}");
    }
}

/// An event of the room RM_a, some seconds after 2026-11-22.
fn event(kind: &str, seconds: u64, more: Value) -> Value {
    let mut event = serde_json::json!({
        "id": format!("AE_{kind}_{seconds}_{more}"), "type": kind, "room_id": "RM_a",
        "timestamp": { "seconds": 1_795_305_600 + seconds, "nanos": 1 }, "room": { "sid": "RM_a", "name": "a" },
    });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

#[tokio::test]
async fn pages_hold_every_participant_once_whatever_they_have_in_common() {
    // Their identities were removed, all joined at the same time, and nobody has left.
    let joined = |n: usize| {
        let sid = format!("PA_{n}");
        let participant = serde_json::json!({ "sid": sid, "joined_at_ms": 1_795_305_601_000_u64 });
        event("PARTICIPANT_JOINED", 1, serde_json::json!({ "participant_id": sid, "participant": participant }))
    };
    let routes = routes(Sinks::one("files", Memory::of((0..7).map(joined).collect(), Vec::new())));
    for sort in ["JOINED_AT", "LEFT_AT"] {
        for order in ["ASC", "DESC"] {
            let path = format!(
                "/participants?sortBy=PARTICIPANT_SORT_FIELD_{sort}&sortOrder=SORT_ORDER_{order}&page.pageSize=2"
            );
            let items = paged(&routes, &of("RM_a", &path)).await;
            let mut sids: Vec<&str> =
                items.iter().map(|item| item["sessions"][0]["participantSessionId"].as_str().unwrap()).collect();
            sids.sort_unstable();
            assert_eq!(sids, ["PA_0", "PA_1", "PA_2", "PA_3", "PA_4", "PA_5", "PA_6"], "{sort} {order}");
        }
    }
}

#[tokio::test]
async fn a_call_of_the_api_is_in_the_payload_of_its_own_event() {
    // LiveKit sends the event when it has answered.
    let call = |method: &str, seconds: u64| {
        let report = serde_json::json!({
            "service": "RoomService", "method": method, "status": 200, "duration_ns": 7_000_000,
            "started_at": { "seconds": 1_795_305_600 + seconds - 1 }, "room_id": "RM_a",
        });
        event("API_CALL", seconds, serde_json::json!({ "api_call": report }))
    };
    // Two at the same time.
    let calls = [("ListRooms", 5), ("MutePublishedTrack", 9), ("RemoveParticipant", 9)];
    let calls = calls.map(|(method, seconds)| call(method, seconds)).to_vec();
    let routes = routes(Sinks::one("files", Memory::of(calls, Vec::new())));
    let items = get(&routes, &of("RM_a", "/events")).await["items"].as_array().unwrap().clone();
    let mut methods: Vec<&str> =
        items.iter().map(|item| item["payload"]["method"].as_str().unwrap_or("none")).collect();
    methods.sort_unstable();
    assert_eq!(methods, ["ListRooms", "MutePublishedTrack", "RemoveParticipant"]);
    let expected = serde_json::json!({
        "service": "RoomService", "method": "ListRooms", "status": 200, "durationNs": "7000000"
    });
    assert_eq!(items[0]["payload"], expected);
}

#[tokio::test]
async fn parameters_may_have_the_names_of_protobuf_too() {
    let (routes, sids) = (real(), Memory::real().sids());
    let range = "filter.range.start_time=2026-11-21T00:00:00Z&filter.range.end_time=2026-11-22T00:00:00Z";
    let path =
        format!("/v1/projects/p/sessions?{range}&page.page_size=2&sort_order=SORT_ORDER_ASC&filter.room_name=room");
    let page = get(&routes, &path).await;
    let expected: Vec<&String> = sids.iter().rev().take(2).collect();
    assert_eq!(texts(page["items"].as_array().unwrap(), "sessionId").iter().collect::<Vec<_>>(), expected);
    let twice = format!("{path}&page.pageSize=3");
    assert_eq!(ask(&routes, "GET", &twice).await.0, StatusCode::BAD_REQUEST);
}
