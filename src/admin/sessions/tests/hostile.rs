//! Documents in which anything stands anywhere: every answer is one of the API's own, and none a failure of the program.

use serde_json::json;

use super::*;

/// Values that a field does not expect.
fn values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(i64::MAX),
        json!(1e300),
        json!("NaN"),
        json!("\u{1B}[2J\u{202E}\u{2028}<script>'\"=cmd"),
        json!("+292277026596-12-04T15:30:08Z"),
        json!([]),
        json!([[1], "x", { "sid": 7 }]),
        json!({ "$numberLong": "x", "$date": "0000-01-01T00:00:00Z" }),
        json!({ "seconds": 253_402_300_799_i64, "nanos": u64::MAX }),
        json!({ "seconds": 1, "nanos": 1 }),
        json!({ "seconds": 9_223_372_036_i64, "nanos": 854_775_807 }),
    ]
}

/// The names of the fields of documents, at any depth.
fn names(document: &Value, into: &mut std::collections::BTreeSet<String>) {
    match document {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            into.insert(name.clone());
            names(value, into);
        }),
        Value::Array(values) => values.iter().for_each(|value| names(value, into)),
        _ => {}
    }
}

/// Sets every field of a name.
fn set(document: &mut Value, name: &str, to: &Value) {
    match document {
        Value::Object(fields) => fields.iter_mut().for_each(|(own, value)| {
            if own == name {
                value.clone_from(to);
            } else {
                set(value, name, to);
            }
        }),
        Value::Array(values) => values.iter_mut().for_each(|value| set(value, name, to)),
        _ => {}
    }
}

#[tokio::test]
async fn whatever_stands_in_a_field_every_request_is_answered() {
    let real = Memory::real();
    let sid = real.sids()[0].clone();
    let documents = real.documents(&sid);
    // One event of each type, and some stats of each direction.
    let mut types = std::collections::BTreeSet::new();
    let events: Vec<Value> =
        documents.events.iter().filter(|event| types.insert(event["type"].to_string())).cloned().collect();
    let stats: Vec<Value> = documents.stats.iter().take(8).cloned().collect();
    let mut fields = std::collections::BTreeSet::new();
    events.iter().chain(&stats).for_each(|document| names(document, &mut fields));
    assert!(events.len() > 10 && fields.len() > 60, "{} {}", events.len(), fields.len());
    let range = "since=2026-11-20&until=2030-01-01";
    for field in fields {
        for value in values() {
            let changed = |documents: &[Value]| {
                let mut documents = documents.to_vec();
                documents.iter_mut().for_each(|document| set(document, &field, &value));
                documents
            };
            let memory = Memory::of_room(&sid, changed(&events), changed(&stats));
            let routes = routes(Sinks::one("files", memory));
            for path in [
                format!("/api/v1/sessions/{sid}"),
                format!("/api/v1/usage?{range}&by=_"),
                format!("/v1/projects/p/sessions/{sid}"),
            ] {
                let (status, _, body) = ask(&routes, "GET", &path).await;
                let is_answer = status == StatusCode::OK || status == StatusCode::NOT_FOUND;
                assert!(is_answer, "{field}: {value}: {path}: {status} {body}");
            }
        }
    }
}
