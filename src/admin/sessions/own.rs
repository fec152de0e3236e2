//! `/api/v1/sessions…`: sessions for the page and for programs.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use super::{
    parameters::{Parameters, before, now},
    reader::{Read, Reader},
};
use crate::{
    admin::problem::Problem,
    archive::Query,
    ingest::Json,
    session::{Session, Summary, Time},
    tasks,
};

/// The range if none is given.
const RANGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Sessions in an answer, if it is not said, and at most.
const LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;
/// The worst are looked for among this many, the newest.
const WORST_OF: usize = 500;

pub(super) fn routes() -> Router<Arc<Reader>> {
    Router::new().route("/sessions", get(list)).route("/sessions/{room}", get(show))
}

/// Some sessions of a range.
#[derive(Debug, Serialize)]
struct Sessions {
    /// The sink that they are read from.
    sink: String,
    /// Its address.
    address: String,
    /// The sinks that they can be read from.
    sinks: Vec<String>,
    from: Time,
    to: Time,
    sessions: Vec<Listed>,
    /// There are more in the range.
    more: bool,
    /// Set where a limit ended the search: it was complete only for sessions that began at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    complete_from: Option<Time>,
    /// What could not be read, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    summary: Summary,
    /// A limit left records out: the figures are too low.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

impl Listed {
    fn of(read: Read) -> Self {
        Self { summary: Summary::of(&read.session), cut: read.is_cut }
    }

    /// The worst first; among equals the newest.
    fn worst_first(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.summary, &other.summary);
        let low = |score: Option<f64>| score.unwrap_or(f64::INFINITY);
        (b.problems, b.warnings)
            .cmp(&(a.problems, a.warnings))
            .then_with(|| low(a.min_score).total_cmp(&low(b.min_score)))
            .then_with(|| b.max_loss.unwrap_or(0.0).total_cmp(&a.max_loss.unwrap_or(0.0)))
            .then_with(|| b.started_at.cmp(&a.started_at))
    }
}

async fn list(State(reader): State<Arc<Reader>>, parameters: Parameters) -> Result<Json<Sessions>, Problem> {
    let query = range(&parameters)?;
    let query = Query {
        room_name: parameters.one("room")?.map(str::to_owned),
        room_prefix: parameters.one("room_prefix")?.map(str::to_owned),
        ..query
    };
    let limit = parameters.number("limit", LIMIT, 1, MAX_LIMIT)?;
    let worst = parameters.flag("worst")?;
    let source = reader.open(parameters.one("sink")?)?;
    let listing = source.rooms(&query).await?;
    let looked_at = listing.rooms.len().min(if worst { WORST_OF } else { limit });
    let read = source.sessions(&listing.rooms[..looked_at], query.from, Listed::of).await?;
    let mut sessions = read.made;
    let mut complete_from = listing.complete_from;
    if worst {
        sessions.sort_by(Listed::worst_first);
        if looked_at < listing.rooms.len() {
            complete_from = listing.rooms[..looked_at].last().map(|room| room.started_at).max(complete_from);
        }
    }
    let more = sessions.len() > limit || looked_at < listing.rooms.len() || read.left > 0;
    sessions.truncate(limit);
    let unread = listing.unread.iter().cloned().chain(read.unread).collect();
    Ok(Json(Sessions {
        address: source.address(),
        sinks: reader.sinks(),
        sink: source.sink,
        from: query.from,
        to: query.to,
        sessions,
        more,
        complete_from,
        unread,
    }))
}

/// A range: `since` (24 hours before its end if it is not given) and `until` (now).
pub(super) fn range(parameters: &Parameters) -> Result<Query, Problem> {
    let to = parameters.time("until")?.unwrap_or_else(now);
    let from = parameters.time("since")?.unwrap_or_else(|| before(to, RANGE));
    if from >= to {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "since: is not before until"));
    }
    Ok(Query { from, to, room_name: None, room_prefix: None })
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    sink: &'a str,
    address: String,
    /// A limit left records out: the figures are too low.
    cut: bool,
    session: &'a Session,
}

async fn show(
    State(reader): State<Arc<Reader>>,
    path: Result<Path<String>, PathRejection>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let Path(room) = path?;
    let source = reader.open(parameters.one("sink")?)?;
    let read = source.session(&room).await?.ok_or_else(|| no_session(&room, &source.sink))?;
    let (sink, address) = (source.sink.clone(), source.address());
    let shown = tasks::run_blocking(move || {
        Json(Shown { sink: &sink, address, cut: read.is_cut, session: &read.session }).into_response()
    });
    shown.await.map_err(|panic| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()))
}

fn no_session(room: &str, sink: &str) -> Problem {
    // A SID has 15 characters: what is longer is not repeated.
    let room: String = room.chars().take(40).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("sink {sink} has no records of room {room}"))
}
