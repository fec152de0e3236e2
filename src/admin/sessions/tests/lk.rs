//! What `lk`, LiveKit's command line, asks and reads: its requests as it encodes them, its answers as its structs decode them.
//! `lk analytics --experimental session …` (livekit-cli 2.18.3) uses the first generation, `--user-auth` (2.19) the second.

use super::*;

/// How a field is decoded; an absent one is empty.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Go's `string`.
    Text,
    /// Go's `int` or `int32`.
    Int,
    /// Go's `bool`.
    Bool,
    /// A number, or a string that holds one.
    Figure,
    /// A 64-bit number, which is a string.
    Decimal,
}

fn decodes(value: &Value, fields: &[(&str, Kind)]) {
    for (field, kind) in fields {
        let Some(value) = value.get(field) else { continue };
        let fits = match kind {
            Kind::Text => value.is_string(),
            Kind::Int => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
            Kind::Bool => value.is_boolean(),
            Kind::Figure => value.is_u64() || is_decimal(value),
            Kind::Decimal => is_decimal(value),
        };
        assert!(fits, "{field}: {value} is no {kind:?}");
    }
}

#[tokio::test]
async fn lk_lists_sessions_with_every_flag() {
    let (routes, sids) = (real(), Memory::real().sids());
    // Without flags: of the last days.
    get(&routes, "/api/project/p_spool/sessions?limit=10").await;
    for (query, listed) in [
        (format!("end={DAY}&limit=10&start={DAY}"), &sids[..]),
        (format!("end={NEXT_DAY}&limit=3&page=0&start={DAY}"), &sids[..3]),
        (format!("end={DAY}&limit=3&page=2&start={DAY}"), &sids[6..]),
        (format!("limit=3&page=3&start={DAY}"), &[]),
    ] {
        let answer = get(&routes, &format!("/api/project/p_spool/sessions?{query}")).await;
        let sessions = answer["sessions"].as_array().unwrap();
        let ids: Vec<&str> = sessions.iter().map(|session| session["sessionId"].as_str().unwrap()).collect();
        assert_eq!(ids, listed, "{query}");
        for session in sessions {
            decodes(
                session,
                &[
                    ("sessionId", Kind::Text),
                    ("roomName", Kind::Text),
                    ("createdAt", Kind::Text),
                    ("endedAt", Kind::Text),
                    ("lastActive", Kind::Text),
                    ("bandwidthIn", Kind::Figure),
                    ("bandwidthOut", Kind::Figure),
                    ("egress", Kind::Figure),
                    ("numParticipants", Kind::Int),
                    ("numActiveParticipants", Kind::Int),
                ],
            );
        }
    }
}

#[tokio::test]
async fn lk_shows_a_session_with_its_participants() {
    let (routes, sids) = (real(), Memory::real().sids());
    for sid in sids {
        let answer = get(&routes, &format!("/api/project/p_spool/sessions/{sid}")).await;
        decodes(
            &answer,
            &[
                ("roomId", Kind::Text),
                ("roomName", Kind::Text),
                ("bandwidth", Kind::Figure),
                ("startTime", Kind::Text),
                ("endTime", Kind::Text),
                ("numParticipants", Kind::Int),
                ("connectionMinutes", Kind::Figure),
            ],
        );
        let participants = answer["participants"].as_array().unwrap();
        assert_eq!(participants.len(), 3);
        for participant in participants {
            decodes(
                participant,
                &[
                    ("participantIdentity", Kind::Text),
                    ("participantName", Kind::Text),
                    ("joinedAt", Kind::Text),
                    ("leftAt", Kind::Text),
                    ("region", Kind::Text),
                    ("connectionType", Kind::Text),
                    ("sdkVersion", Kind::Text),
                ],
            );
        }
    }
}

#[tokio::test]
async fn lk_asks_the_second_generation_with_every_flag() {
    let (routes, sid) = (real(), Memory::real().sids()[0].clone());
    let range = "filter.range.endTime=2026-11-22T00%3A00%3A00Z&filter.range.startTime=2026-11-21T00%3A00%3A00Z";
    for (path, items) in [
        (format!("?{range}"), 7),
        (format!("?page.pageSize=5&{range}"), 5),
        (format!("?filter.statuses=SESSION_STATUS_ACTIVE&filter.statuses=SESSION_STATUS_CLOSED&{range}"), 7),
        (format!("?filter.roomName=room3&{range}&filter.tags=a&filter.tags=b"), 0),
        (format!("?{range}&sortOrder=SORT_ORDER_ASC"), 7),
        (format!("/{sid}/participants"), 3),
        (format!("/{sid}/participants?page.pageSize=2"), 2),
        (format!("/{sid}/participants?sortBy=PARTICIPANT_SORT_FIELD_JOINED_AT&sortOrder=SORT_ORDER_ASC"), 3),
        (format!("/{sid}/participants?sortBy=PARTICIPANT_SORT_FIELD_LEFT_AT"), 3),
    ] {
        let answer = get(&routes, &format!("/v1/projects/p_spool/sessions{path}")).await;
        assert_eq!(answer["items"].as_array().unwrap().len(), items, "{path}");
        decodes(&answer["pageInfo"], &[("nextCursor", Kind::Text), ("hasMore", Kind::Bool)]);
        for item in answer["items"].as_array().unwrap() {
            decodes(
                item,
                &[
                    ("sessionId", Kind::Text),
                    ("roomName", Kind::Text),
                    ("status", Kind::Text),
                    ("numParticipants", Kind::Int),
                    ("participantIdentity", Kind::Text),
                    ("participantName", Kind::Text),
                    ("location", Kind::Text),
                    ("region", Kind::Text),
                ],
            );
            for session in item["sessions"].as_array().into_iter().flatten() {
                decodes(
                    session,
                    &[
                        ("participantSessionId", Kind::Text),
                        ("durationSeconds", Kind::Decimal),
                        ("os", Kind::Text),
                        ("browser", Kind::Text),
                        ("deviceModel", Kind::Text),
                        ("sdkVersion", Kind::Text),
                        ("connectionType", Kind::Text),
                        ("connectionTimeMs", Kind::Int),
                    ],
                );
            }
        }
    }
    let shown = get(&routes, &format!("/v1/projects/p_spool/sessions/{sid}")).await;
    let figures = ["bandwidthIn", "bandwidthOut", "connectionSeconds"].map(|field| (field, Kind::Decimal));
    decodes(&shown["detail"], &figures);
    // Without this, lk says that the participants could not be read.
    assert!(shown["detail"]["participantsPage"].is_object(), "{shown}");
}
