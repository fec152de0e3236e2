//! The first generation of LiveKit Cloud's API.

use super::*;

const SESSIONS: &str = "/api/project/p_any/sessions";

#[tokio::test]
async fn sessions_are_listed_in_the_documented_shape_with_and_without_a_slash() {
    let (routes, sids) = (real(), Memory::real().sids());
    let answer = get(&routes, &format!("{SESSIONS}?start={DAY}&end={DAY}")).await;
    assert_eq!(get(&routes, &format!("{SESSIONS}/?start={DAY}&end={DAY}")).await, answer);
    assert_eq!(fields(&answer), ["sessions"]);
    let sessions = answer["sessions"].as_array().unwrap();
    assert_eq!(sessions.iter().map(|session| session["sessionId"].as_str().unwrap()).collect::<Vec<_>>(), sids);
    for session in sessions {
        assert_eq!(
            fields(session),
            sorted([
                "sessionId",
                "roomName",
                "createdAt",
                "endedAt",
                "lastActive",
                "bandwidthIn",
                "bandwidthOut",
                "egress",
                "numParticipants",
                "numActiveParticipants",
                "connectionCounts",
            ])
        );
        assert!(["createdAt", "endedAt", "lastActive"].iter().all(|field| is_time(&session[*field])), "{session}");
        for field in ["bandwidthIn", "bandwidthOut"] {
            assert!(is_decimal(&session[field]) && session[field] != "0", "{session}");
        }
        assert_eq!((&session["numParticipants"], &session["numActiveParticipants"]), (&3.into(), &0.into()));
        assert_eq!(session["egress"], 0);
        assert_eq!(session["connectionCounts"], serde_json::json!({ "attempts": 3, "success": 3 }));
    }
}

/// As a program that bills does: it asks for pages until one is empty.
#[tokio::test]
async fn pages_count_from_zero_and_the_one_behind_the_last_is_empty() {
    let (routes, sids) = (real(), Memory::real().sids());
    let mut read = Vec::new();
    for page in 0.. {
        let answer = get(&routes, &format!("{SESSIONS}?start={DAY}&page={page}&limit=3")).await;
        let sessions = answer["sessions"].as_array().unwrap();
        if sessions.is_empty() {
            assert_eq!(page, 3);
            break;
        }
        read.extend(sessions.iter().map(|session| session["sessionId"].as_str().unwrap().to_owned()));
    }
    assert_eq!(read, sids);
}

#[tokio::test]
async fn days_are_of_utc_and_both_ends_count() {
    let routes = real();
    let count =
        async |query: &str| get(&routes, &format!("{SESSIONS}?{query}")).await["sessions"].as_array().unwrap().len();
    assert_eq!(count(&format!("start={DAY}&end={DAY}")).await, 7);
    assert_eq!(count(&format!("start=2026-11-01&end={DAY}")).await, 7);
    assert_eq!(count("start=2026-11-20&end=2026-11-20").await, 0);
    assert_eq!(count(&format!("start={NEXT_DAY}&end={NEXT_DAY}")).await, 0);
    for query in
        ["start=yesterday", "end=2026-11", "start=2026-11-22&end=2026-11-21", "limit=0", "limit=1001", "page=-1"]
    {
        let (status, _, body) = ask(&routes, "GET", &format!("{SESSIONS}?{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {body}");
        assert_eq!(fields(&body), ["error"]);
    }
}

#[tokio::test]
async fn a_session_has_its_participants_in_the_documented_shape() {
    let (routes, sid) = (real(), Memory::real().sids()[0].clone());
    let answer = get(&routes, &format!("{SESSIONS}/{sid}")).await;
    assert_eq!(
        fields(&answer),
        sorted([
            "roomId",
            "roomName",
            "bandwidth",
            "startTime",
            "endTime",
            "numParticipants",
            "connectionMinutes",
            "participants",
        ])
    );
    assert_eq!((&answer["roomId"], &answer["numParticipants"]), (&sid.as_str().into(), &3.into()));
    assert!(is_decimal(&answer["bandwidth"]), "{answer}");
    let minutes = answer["connectionMinutes"].as_u64().unwrap();
    assert!((3..=9).contains(&minutes), "begun minutes of three connections of at most two: {minutes}");
    for participant in answer["participants"].as_array().unwrap() {
        for field in ["participantIdentity", "participantName", "roomId", "joinedAt", "leftAt"] {
            assert!(participant[field].is_string(), "{field}: {participant}");
        }
        assert_eq!((&participant["roomId"], &participant["isActive"]), (&sid.as_str().into(), &false.into()));
        assert_eq!(
            fields(&participant["publishedSources"]),
            sorted(["cameraTrack", "microphoneTrack", "screenShareTrack", "screenShareAudio"])
        );
        assert_eq!(participant["connectionType"], "UDP");
        assert_eq!(fields(&participant["sessions"][0]), ["joinedAt", "leftAt", "participantId"]);
        assert!(participant["sessions"][0]["participantId"].as_str().unwrap().starts_with("PA_"));
        assert_eq!(participant.get("region"), None, "the open server does not know it");
    }
    let (status, _, body) = ask(&routes, "GET", &format!("{SESSIONS}/RM_unknown")).await;
    assert_eq!((status, body), (StatusCode::NOT_FOUND, serde_json::json!({ "error": "session not found" })));
}

#[tokio::test]
async fn a_session_without_an_end_has_none() {
    let memory = Memory::without_end();
    let sid = memory.sids()[0].clone();
    let routes = routes(Sinks::one("files", memory));
    let answer = get(&routes, &format!("{SESSIONS}?start={DAY}")).await;
    assert_eq!(answer["sessions"][0].get("endedAt"), None);
    assert!(is_time(&answer["sessions"][0]["lastActive"]));
    assert_eq!(get(&routes, &format!("{SESSIONS}/{sid}")).await.get("endTime"), None);
}
