//! `/api/v1`: what the page, the CLI and programs use. `openapi.json` describes it; a test holds the two together.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
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
    status::{SinkStatus, Snapshot},
};

/// So long an answer waits for a status of now; whoever looks whether a process is alive waits for 5 s and longer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Statuses made at once.
static AT_ONCE: Semaphore = Semaphore::const_new(8);
const DESCRIPTION: &str = include_str!("openapi.json");

pub(super) fn routes() -> Router<Arc<App>> {
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
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this is there, but not for this method: see Allow")
        })
        .layer(middleware::from_fn(to_its_end))
}

/// Does what changes something to its end, also where the caller goes away: a connection takes its handler with it, and
/// half a reload would leave a sink stopped.
async fn to_its_end(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    tokio::spawn(next.run(request))
        .await
        .unwrap_or_else(|panic| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()).into_response())
}

/// Everything now, made off the async threads: what a disk holds up may hold that up too, and is told by the last one then.
pub(super) async fn snapshot(app: Arc<App>) -> Snapshot {
    let now = Arc::clone(&app);
    let making = async {
        // Those that wait for a disk must not take up ever more threads.
        let place = AT_ONCE.acquire().await;
        tokio::task::spawn_blocking(move || (now.snapshot(), drop(place)).0).await
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

/// A snapshot a second, and one at once when a sink's state changes; until a reload takes away the token that opened it.
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
        .filter_map(|snapshot| std::future::ready(Event::default().event("status").json_data(&*snapshot).ok()))
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
    Ok(done("paused: records go on coming in and wait; resume delivers them"))
}

async fn resume(State(app): State<Arc<App>>, Name(name): Name) -> Result<Response, Problem> {
    app.resume(&name).await?;
    Ok(done("resumed"))
}

async fn flush(State(app): State<Arc<App>>, Name(name): Name) -> Result<Response, Problem> {
    app.flush(&name).await?;
    Ok(done(match app.is_paused(&name)? {
        true => "it is paused: nothing goes out before resume",
        false => "what waits is on its way",
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

    /// Whether a handler of this method comes to its end although its caller goes away first.
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
    async fn what_changes_something_comes_to_its_end_without_its_caller() {
        assert!(ends("POST").await);
        assert!(!ends("GET").await, "nobody reads on for nobody");
    }
}
