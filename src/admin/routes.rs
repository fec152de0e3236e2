//! All routes: the page, the health checks, the metrics, the API.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{api, guard::MayKnow, metrics, page, problem::Problem, sessions};
use crate::app::App;

/// All routes, without [`guard`](super::guard).
pub(super) fn router(app: Arc<App>) -> Router {
    let sessions = sessions::routes(&app);
    Router::new()
        .route("/", get(page::show))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .nest("/api/v1", api::routes(sessions.own))
        .merge(sessions.cloud)
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .with_state(app)
}

/// 200 while records are accepted, else 503 and, for clients with access, the reasons.
async fn ready(State(app): State<Arc<App>>, Extension(may_know): Extension<MayKnow>) -> Response {
    let snapshot = api::snapshot(app).await;
    match snapshot.process.filter(|process| !process.ready) {
        None => "accepting records\n".into_response(),
        Some(_) if may_know == MayKnow(false) => {
            (StatusCode::SERVICE_UNAVAILABLE, "not accepting records: request this with the token to see the reason\n")
                .into_response()
        }
        Some(process) => (StatusCode::SERVICE_UNAVAILABLE, process.not_ready.join("\n") + "\n").into_response(),
    }
}

async fn show_metrics(State(app): State<Arc<App>>) -> Response {
    let text = metrics::render(&api::snapshot(app).await);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
