//! What LiveKit Cloud's answers cannot say is in a header of theirs.

use super::*;

const HEADER: &str = "livekit-spool-incomplete";

/// Every path of both generations that answers with sessions.
fn paths(sid: &str) -> [String; 7] {
    let range = format!("filter.range.startTime={DAY}T00:00:00Z&filter.range.endTime={NEXT_DAY}T00:00:00Z");
    [
        format!("/api/project/p_any/sessions?start={DAY}"),
        format!("/api/project/p_any/sessions/{sid}"),
        format!("/v1/projects/p_any/sessions?{range}"),
        format!("/v1/projects/p_any/sessions?{range}&sortOrder=SORT_ORDER_ASC&page.pageSize=1"),
        format!("/v1/projects/p_any/sessions/{sid}"),
        format!("/v1/projects/p_any/sessions/{sid}/participants"),
        format!("/v1/projects/p_any/sessions/{sid}/events"),
    ]
}

async fn headers(memory: Memory) -> Vec<Option<String>> {
    let sid = memory.sids()[0].clone();
    let routes = routes(Sinks::one("files", memory));
    let mut headers = Vec::new();
    for path in paths(&sid) {
        let (status, head, body) = ask(&routes, "GET", &path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        headers.push(head.get(HEADER).map(|value| value.to_str().unwrap().to_owned()));
    }
    headers
}

#[tokio::test]
async fn a_whole_answer_has_no_such_header() {
    assert_eq!(headers(Memory::real()).await, vec![None; 7]);
}

#[tokio::test]
async fn every_answer_tells_what_could_not_be_read() {
    let mut memory = Memory::real();
    memory.unread = vec!["events-ü.jsonl.gz: broken\r\nhere".to_owned()];
    assert_eq!(headers(memory).await, vec![Some("events-?.jsonl.gz: broken??here".to_owned()); 7]);
    let mut memory = Memory::real();
    memory.unread = vec!["x".repeat(100_000), "another".to_owned()];
    assert!(headers(memory).await.iter().flatten().all(|value| value.len() == 1_024));
}

#[tokio::test]
async fn every_answer_tells_of_sessions_that_have_too_many_records() {
    let mut memory = Memory::real();
    memory.cut = vec![memory.sids()[0].clone()];
    let said = "sessions with too many records, of which some were left out: 1";
    // Of the page of one the session is another.
    let expected: Vec<_> = (0..7).map(|path| (path != 3).then(|| said.to_owned())).collect();
    assert_eq!(headers(memory).await, expected);
}
