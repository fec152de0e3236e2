//! Contract tests, written from the shapes that LiveKit documents, over real records in memory.

mod cloud_v0;
mod cloud_v1;
mod hostile;
mod incomplete;
mod lk;
mod memory;
mod own;
mod reading;
mod usage;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use serde_json::Value;
use tower::ServiceExt;

use self::memory::{Memory, Sinks};
use super::{over, reader::Reader};

/// The day of the recording.
const DAY: &str = "2026-11-21";
const NEXT_DAY: &str = "2026-11-22";

fn routes(sinks: Sinks) -> Router {
    let routes = over::<()>(Reader::new(sinks));
    Router::new().nest("/api/v1", routes.own).merge(routes.cloud)
}

async fn ask(routes: &Router, method: &str, path: &str) -> (StatusCode, HeaderMap, Value) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let response = routes.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let value =
        serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body).into_owned()));
    (head.status, head.headers, value)
}

/// The answer to a request that succeeds.
async fn get(routes: &Router, path: &str) -> Value {
    let (status, _, body) = ask(routes, "GET", path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

/// The names of an object's fields.
fn fields(value: &Value) -> Vec<&str> {
    let mut fields: Vec<_> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    fields.sort_unstable();
    fields
}

fn sorted<const N: usize>(mut names: [&str; N]) -> [&str; N] {
    names.sort_unstable();
    names
}

/// Whether it is a 64-bit number as protobuf's JSON has it.
fn is_decimal(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<i64>().is_ok())
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| bson::DateTime::parse_rfc3339_str(text).is_ok())
}

fn real() -> Router {
    routes(Sinks::one("files", Memory::real()))
}
