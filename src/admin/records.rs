//! The part of the API that reads, imports and removes records: peek, export, import, purge, dead letters.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    extract::{Extension, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    answer::{self, Answer},
    extract::{Name, Parameters},
    guard::Access,
    problem::Problem,
};
use crate::{
    app::{App, OperateError, Removed, Retried, batches},
    document::Encoder,
    ingest::{
        Accepted, Json, MemoryOptions,
        body::{self, BodyLimits},
        memory::Budget,
    },
    inspect::{self, Inspected, Query, Source},
    record::{Stream, UnixMillis},
    spool::{DeadFilter, VerifyReport},
    tasks,
};

/// Maximum number of records in an answer of `peek`; `records` has no limit.
const PEEK: usize = 500;
/// Size at which an answer that is one JSON document ends, after the record that exceeds it: documents are much larger than
/// their records. Such an answer has fewer records than requested.
const ANSWER_BYTES: usize = 8 << 20;
/// Inspections at once: each has a thread, reads the disk, and holds a block, a document and the next piece of its answer.
/// Those of the command line are counted separately from those over the port.
static INSPECTIONS_OVER_TCP: Semaphore = Semaphore::const_new(4);
static INSPECTIONS_OVER_SOCKET: Semaphore = Semaphore::const_new(16);
/// How long one more inspection waits for a slot.
const SLOT_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of dead letters in an answer.
const DEAD_LETTERS: usize = 1_000;

/// Which records: the query part of `peek` and `records`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Which {
    stream: Option<Stream>,
    n: Option<usize>,
    #[serde(default)]
    newest: bool,
    #[serde(default)]
    raw: bool,
    /// `FIELD=VALUE`, one per line.
    r#where: Option<String>,
    /// `STREAM:SEQ`, separated by commas.
    from: Option<String>,
}

impl Which {
    fn query(self) -> Result<Query, Problem> {
        let bad = |message: String| Problem::new(StatusCode::BAD_REQUEST, message);
        let filters = self.r#where.iter().flat_map(|lines| lines.lines()).map(str::parse);
        let mut from = BTreeMap::new();
        for part in self.from.iter().flat_map(|parts| parts.split(',')) {
            let parsed = part
                .split_once(':')
                .and_then(|(stream, seq)| Some((stream.parse::<Stream>().ok()?, seq.parse::<u64>().ok()?)));
            let (stream, seq) = parsed.ok_or_else(|| bad(format!("from: {part:?} is not STREAM:SEQ")))?;
            from.insert(stream, seq);
        }
        Ok(Query {
            streams: self.stream.map_or_else(|| Stream::ALL.to_vec(), |stream| vec![stream]),
            from,
            newest: self.newest,
            limit: self.n,
            filters: filters.collect::<Result<_, _>>().map_err(|error| bad(format!("where: {error}")))?,
            raw: self.raw,
        })
    }
}

/// Some records, as one JSON document.
pub(super) async fn peek(
    State(app): State<Arc<App>>,
    Extension(access): Extension<Access>,
    Name(name): Name,
    Parameters(which): Parameters<Which>,
) -> Result<Response, Problem> {
    let limit = which.n.unwrap_or(20).min(PEEK);
    let query = Which { n: Some(limit), raw: false, ..which }.query()?;
    inspect(&app, (&name, access), "application/json", move |source, encoder, answer| {
        list(answer, "records", |over, add| {
            inspect::inspect(source, encoder, &query, over, &mut |record| add(&record)).map_err(OperateError::from)
        })
    })
    .await
}

/// All records, one per line; raw ones only over the socket. If a record cannot be read, the last line says why.
pub(super) async fn records(
    State(app): State<Arc<App>>,
    Extension(access): Extension<Access>,
    Name(name): Name,
    Parameters(which): Parameters<Which>,
) -> Result<Response, Problem> {
    if which.raw && access != Access::Socket {
        let message = "raw records are for the command line only: they are not redacted";
        return Err(Problem::new(StatusCode::FORBIDDEN, message));
    }
    let query = which.query()?;
    inspect(&app, (&name, access), "application/x-ndjson", move |source, encoder, answer| {
        let over = answer.is_over();
        let mut line = |record: &Inspected| answer.add(record) && answer.add_text("\n");
        let inspected = inspect::inspect(source, encoder, &query, &over, &mut |record| line(&record));
        if let Err(error) = inspected {
            // If the reader has gone, the line is not needed.
            let _ = answer.add(&json!({ "failed": error.to_string() })) && answer.add_text("\n");
        }
        Ok(())
    })
    .await
}

/// Inspects a sink's records in one of the limited slots, on a thread of its own.
async fn inspect(
    app: &Arc<App>,
    (name, access): (&str, Access),
    media: &'static str,
    inspect: impl FnOnce(&Source, &Encoder, &mut Answer) -> Result<(), Problem> + Send + 'static,
) -> Result<Response, Problem> {
    let slot = slot(access).await?;
    let source = app.source(name).await?;
    let encoder = Arc::clone(app.encoder());
    answer::make(media, timeout(access), move |answer| {
        let _slot = slot;
        inspect(&source, &encoder, answer)
    })
    .await
}

/// Adds an item; returns false when there are enough, or the reader has gone.
type Add<'a, T> = &'a mut dyn FnMut(&T) -> bool;

/// A JSON document with a list under this name, and `failed` if the list is not complete.
fn list<T: Serialize>(
    answer: &mut Answer,
    name: &str,
    fill: impl FnOnce(&dyn Fn() -> bool, Add<'_, T>) -> Result<(), OperateError>,
) -> Result<(), Problem> {
    let over = answer.is_over();
    let mut between = "";
    answer.add_text(&format!("{{\"{name}\":["));
    let filled = fill(&over, &mut |item| {
        let added = answer.add_text(between) && answer.add(item);
        between = ",";
        added && answer.bytes() < ANSWER_BYTES
    });
    let end = match filled {
        // Nothing has been sent yet: the answer can still be an error.
        Err(error) if answer.is_new() => return Err(error.into()),
        Err(error) => format!("],\"failed\":{}}}", json!(error.to_string())),
        Ok(()) => "]}".to_owned(),
    };
    answer.add_text(&end);
    Ok(())
}

/// Waits for a moment for a slot; the slot is free again when the result is dropped.
async fn slot(access: Access) -> Result<SemaphorePermit<'static>, Problem> {
    let slots = match access {
        Access::Socket => &INSPECTIONS_OVER_SOCKET,
        Access::Tcp { .. } => &INSPECTIONS_OVER_TCP,
    };
    match tokio::time::timeout(SLOT_TIMEOUT, slots.acquire()).await {
        Ok(Ok(slot)) => Ok(slot),
        _ => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests read records at the moment: try again shortly",
        )),
    }
}

/// How long a reader can pause. The owner of the data directory can leave a pager open.
const fn timeout(access: Access) -> Duration {
    match access {
        Access::Socket => Duration::from_secs(24 * 60 * 60),
        Access::Tcp { .. } => Duration::from_secs(30),
    }
}

/// Which dead letters: the query part.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct WhichDeadLetters {
    stream: Option<Stream>,
    id: Option<String>,
    reason: Option<String>,
    before: Option<UnixMillis>,
    #[serde(default)]
    skip: usize,
    n: Option<usize>,
}

impl WhichDeadLetters {
    fn filter(&self) -> DeadFilter {
        DeadFilter { stream: self.stream, id: self.id.clone(), reason: self.reason.clone(), before: self.before }
    }
}

/// Dead letters with their reasons and documents.
pub(super) async fn dead_letters(
    State(app): State<Arc<App>>,
    Extension(access): Extension<Access>,
    Name(name): Name,
    Parameters(which): Parameters<WhichDeadLetters>,
) -> Result<Response, Problem> {
    inspect(&app, (&name, access), "application/json", move |source, encoder, answer| {
        list(answer, "dead_letters", |over, add| {
            let limit = which.n.unwrap_or(100).min(DEAD_LETTERS);
            source
                .contents()
                .each_dead_letter(&which.filter(), (which.skip, limit), over, &mut |dead_letter| {
                    add(&inspect::dead_letter(dead_letter, encoder))
                })
                .map_err(OperateError::from)
        })
    })
    .await
}

/// The answer to `dead/retry`: the message that the page shows, and the figures.
#[derive(Debug, Serialize)]
pub(super) struct RetryAnswer {
    message: String,
    #[serde(flatten)]
    retried: Retried,
}

/// Sends dead letters again.
pub(super) async fn retry(
    State(app): State<Arc<App>>,
    Name(name): Name,
    Parameters(which): Parameters<WhichDeadLetters>,
) -> Result<Json<RetryAnswer>, Problem> {
    let retried = app.retry_dead_letters(&name, which.filter()).await?;
    let mut message = format!("{} delivered, {} rejected again", retried.delivered, retried.rejected);
    if let Some(reason) = &retried.stopped_by {
        message.push_str(&format!("; the rest was not tried: {reason}"));
    }
    Ok(Json(RetryAnswer { message, retried }))
}

/// Removes dead letters for good.
pub(super) async fn drop(
    State(app): State<Arc<App>>,
    Name(name): Name,
    Parameters(which): Parameters<WhichDeadLetters>,
) -> Result<Response, Problem> {
    let dropped = app.drop_dead_letters(&name, which.filter()).await?;
    Ok(Json(json!({ "dropped": dropped, "message": format!("{dropped} dropped") })).into_response())
}

/// The query part of `purge`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PurgeWhat {
    #[serde(default)]
    dead: bool,
}

/// Removes the backlog.
pub(super) async fn purge(
    State(app): State<Arc<App>>,
    Name(name): Name,
    Parameters(what): Parameters<PurgeWhat>,
) -> Result<Json<Removed>, Problem> {
    Ok(Json(app.purge(&name, what.dead).await?))
}

/// Checks every checksum of a sink's spool.
pub(super) async fn verify(
    State(app): State<Arc<App>>,
    Extension(access): Extension<Access>,
    Name(name): Name,
) -> Result<Json<VerifyReport>, Problem> {
    let slot = slot(access).await?;
    // The check continues without its reader, and keeps its slot.
    let verified = tasks::spawn(async move {
        let _slot = slot;
        app.verify(&name).await
    });
    let verified =
        verified.await.map_err(|panic| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()))?;
    Ok(Json(verified?))
}

/// The query part of `import`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ImportInto {
    sink: Option<String>,
}

/// Maximum size of one part of an imported file: a record of the largest size, and the records before it.
const IMPORT_BYTES: usize = 80 << 20;
/// How long a part can take to arrive.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(60);
/// The memory for all imports at a time: one part of the maximum size, or several smaller ones.
static IMPORTS: LazyLock<Budget> = LazyLock::new(|| {
    Budget::new(&MemoryOptions { max_bytes: MemoryOptions::enough_for(IMPORT_BYTES), wait: Duration::from_secs(10) })
});

/// Imports records in the framed format of `export --raw`, over the socket; answers when they are durable.
pub(super) async fn import(
    State(app): State<Arc<App>>,
    Extension(access): Extension<Access>,
    Parameters(into): Parameters<ImportInto>,
    request: Request,
) -> Result<Response, Problem> {
    if access != Access::Socket {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "import is for the command line only: senders use the ingest ports",
        ));
    }
    let (head, body) = request.into_parts();
    let limits = BodyLimits { max_bytes: IMPORT_BYTES, timeout: IMPORT_TIMEOUT };
    let (body, _share) = body::read(body, &head.headers, &limits, &IMPORTS).await?;
    let batches = batches(&body.join()).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error))?;
    let dropped = app.import(into.sink.as_deref(), &batches).await?;
    let records = batches.iter().map(|batch| u64::from(batch.count())).sum();
    Ok(Json(Accepted { records, dropped }).into_response())
}
