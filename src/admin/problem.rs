//! Error answers of the API: `{"error": "…"}`, with the HTTP status that fits the cause.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

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
        let mut response = (self.status, Json(json!({ "error": self.message }))).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
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
