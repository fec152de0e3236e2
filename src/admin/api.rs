//! `/api/v1`: the API for the page, the CLI and other programs. `openapi.json` describes it; a test checks that the two
//! agree.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use futures::{Stream, StreamExt};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::WatchStream;

use super::{
    extract::Name,
    guard::{self, Access},
    problem::Problem,
    records,
};
use crate::{
    app::{App, History, Reloaded},
    ingest::Json,
    status::{SinkStatus, Snapshot},
    tasks,
};

/// How long an answer waits for a new snapshot; liveness checks usually wait for 5 s or longer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Number of snapshots taken concurrently.
static AT_ONCE: Semaphore = Semaphore::const_new(8);
const DESCRIPTION: &str = include_str!("openapi.json");

/// `sessions`: the routes of sessions.
pub(super) fn routes(sessions: Router<Arc<App>>) -> Router<Arc<App>> {
    Router::new()
        .route("/openapi.json", get(describe))
        .route("/status", get(status))
        .route("/stream", get(stream))
        .route("/history", get(history))
        .route("/sinks", get(sinks))
        .route("/sinks/{sink}", get(sink))
        .route("/sinks/{sink}/pause", post(pause))
        .route("/sinks/{sink}/resume", post(resume))
        .route("/sinks/{sink}/flush", post(flush))
        .route("/sinks/{sink}/peek", get(records::peek))
        .route("/sinks/{sink}/records", get(records::records))
        .route("/sinks/{sink}/purge", post(records::purge))
        .route("/sinks/{sink}/verify", get(records::verify))
        .route("/sinks/{sink}/dead", get(records::dead_letters))
        .route("/sinks/{sink}/dead/retry", post(records::retry))
        .route("/sinks/{sink}/dead/drop", post(records::drop))
        .route("/import", post(records::import))
        .route("/reload", post(reload))
        .merge(sessions)
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not support this method: see the Allow header")
        })
        .layer(middleware::from_fn(to_its_end))
}

/// Completes a request that changes something even if the client disconnects: a closed connection drops its handler, and
/// half a reload would leave a sink stopped.
async fn to_its_end(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    tasks::spawn(next.run(request))
        .await
        .unwrap_or_else(|panic| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()).into_response())
}

/// A snapshot of now, taken outside the async threads because it can wait for a disk; if it does, the last snapshot is
/// returned.
pub(super) async fn snapshot(app: Arc<App>) -> Snapshot {
    let now = Arc::clone(&app);
    let making = async {
        // Requests that wait for a disk must not use up more and more threads.
        let place = AT_ONCE.acquire().await;
        tasks::run_blocking(move || (now.snapshot(), drop(place)).0).await
    };
    match tokio::time::timeout(TIMEOUT, making).await {
        Ok(Ok(snapshot)) => snapshot,
        Ok(Err(_)) | Err(_) => app.last_snapshot(),
    }
}

async fn describe() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}

async fn status(State(app): State<Arc<App>>) -> Json<Snapshot> {
    Json(snapshot(app).await)
}

/// A snapshot per second, and one at once when a sink's state changes; ends when a reload changes the token that opened it.
async fn stream(
    State(app): State<Arc<App>>,
    Extension(access): Extension<Access>,
    target: Uri,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let stopping = app.stopping().clone();
    let judge = Arc::clone(&app);
    let is_admitted = move || guard::admit(&judge, access, &Method::GET, &target, &headers).is_ok();
    let snapshots = WatchStream::new(app.subscribe())
        .take_while(move |_| std::future::ready(is_admitted()))
        .filter(|snapshot| std::future::ready(snapshot.process.is_some()))
        .filter_map(|snapshot| std::future::ready(serde_json::to_string(&*snapshot).ok()))
        .map(|snapshot| Event::default().event("status").data(snapshot))
        .map(Ok)
        .take_until(stopping.cancelled_owned());
    Sse::new(snapshots).keep_alive(KeepAlive::default())
}

async fn history(State(app): State<Arc<App>>) -> Json<History> {
    Json(app.history())
}

async fn sinks(State(app): State<Arc<App>>) -> Json<Vec<SinkStatus>> {
    Json(snapshot(app).await.sinks)
}

async fn sink(State(app): State<Arc<App>>, Name(name): Name) -> Result<Json<SinkStatus>, Problem> {
    let found = snapshot(Arc::clone(&app)).await.sinks.into_iter().find(|sink| sink.name == name);
    found.map(Json).ok_or_else(|| app.no_such_sink(&name).into())
}

fn done(message: impl Into<String>) -> Response {
    Json(json!({ "message": message.into() })).into_response()
}

async fn pause(State(app): State<Arc<App>>, Name(name): Name) -> Result<Response, Problem> {
    app.pause(&name).await?;
    Ok(done("paused: new records stay in the spool until you resume"))
}

async fn resume(State(app): State<Arc<App>>, Name(name): Name) -> Result<Response, Problem> {
    app.resume(&name).await?;
    Ok(done("resumed"))
}

async fn flush(State(app): State<Arc<App>>, Name(name): Name) -> Result<Response, Problem> {
    app.flush(&name).await?;
    Ok(done(match app.is_paused(&name)? {
        true => "the sink is paused: resume it to deliver",
        false => "delivering the backlog now",
    }))
}

async fn reload(State(app): State<Arc<App>>) -> Result<Json<Reloaded>, Problem> {
    Ok(Json(app.reload().await?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use tokio::sync::mpsc;
    use tower::ServiceExt;

    use super::*;

    /// Whether a handler of this method completes although its client disconnects first.
    async fn ends(method: &str) -> bool {
        let (begun, mut begin) = mpsc::channel(1);
        let (ended, mut end) = mpsc::channel(1);
        let work = move || async move {
            begun.send(()).await.expect("awaited");
            tokio::time::sleep(Duration::from_millis(50)).await;
            ended.send(()).await.expect("awaited");
        };
        let routes = Router::new().route("/", get(work.clone()).post(work)).layer(middleware::from_fn(to_its_end));
        let request = Request::builder().method(method).uri("/").body(Body::empty()).expect("a request");
        let caller = tokio::spawn(routes.oneshot(request));
        begin.recv().await.expect("begun");
        caller.abort();
        end.recv().await.is_some()
    }

    #[tokio::test]
    async fn a_request_that_changes_something_completes_without_its_client() {
        assert!(ends("POST").await);
        assert!(!ends("GET").await, "a read has no effect to complete");
    }
}
