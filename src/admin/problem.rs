//! Error answers of the API: `{"error": "…"}`, with the HTTP status that fits the cause; and the same as LiveKit Cloud's
//! second API has them.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    app::{NoSuchSink, OperateError, ReloadError, RemoveError},
    ingest::{Json, Refusal, Refused},
};

const RETRY_AFTER_SECONDS: &str = "2";

/// An error answer: `{"error": "…"}`.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        answer(self.status, &json!({ "error": self.message }))
    }
}

/// An error answer as google.rpc.Status: `{"code": 5, "message": "…", "details": []}`.
#[derive(Debug)]
pub(super) struct RpcStatus(pub(super) Problem);

impl RpcStatus {
    /// The code of google.rpc.Code for this HTTP status, by the mapping that its documentation gives.
    fn code(&self) -> u8 {
        match self.0.status.as_u16() {
            400 | 414 | 431 => 3,
            401 => 16,
            403 => 7,
            404 => 5,
            405 | 501 => 12,
            421 => 9,
            429 => 8,
            503 => 14,
            504 => 4,
            _ => 13,
        }
    }
}

impl From<Problem> for RpcStatus {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for RpcStatus {
    fn into_response(self) -> Response {
        let body = json!({ "code": self.code(), "message": self.0.message, "details": [] });
        answer(self.0.status, &body)
    }
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let mut response = (status, Json(body)).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    response
}

impl From<NoSuchSink> for Problem {
    fn from(error: NoSuchSink) -> Self {
        Self::new(StatusCode::NOT_FOUND, error.to_string())
    }
}

impl From<ReloadError> for Problem {
    fn from(error: ReloadError) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    }
}

impl From<OperateError> for Problem {
    fn from(error: OperateError) -> Self {
        let status = match &error {
            OperateError::NoSuchSink(_) => StatusCode::NOT_FOUND,
            OperateError::Append(refusal) if !refusal.is_retryable() => StatusCode::PAYLOAD_TOO_LARGE,
            OperateError::Append(_)
            | OperateError::Closed(_)
            | OperateError::NotOpen { .. }
            | OperateError::Unread { .. }
            | OperateError::Remove(RemoveError::InUse { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.reason {
            Refused::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refused::Timeout => StatusCode::REQUEST_TIMEOUT,
            Refused::Memory => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, refusal.message)
    }
}
