//! `/api/v1/sessions…`: sessions for the page and for programs.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use super::{parameters::Parameters, reader::Reader, usage};
use crate::{
    admin::problem::Problem,
    archive::Query,
    ingest::Json,
    session::{Session, Summary, Time},
    tasks,
};

/// Sessions in an answer, if it is not said, and at most.
const LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;
/// The worst are looked for among this many, the newest.
const WORST_OF: usize = 500;

pub(super) fn routes() -> Router<Arc<Reader>> {
    Router::new().route("/sessions", get(list)).route("/sessions/{room}", get(show)).route("/usage", get(usage::show))
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

async fn list(State(reader): State<Arc<Reader>>, parameters: Parameters) -> Result<Json<Sessions>, Problem> {
    let (from, to) = parameters.range()?;
    let query = Query {
        from,
        to,
        room_name: parameters.one("room")?.map(str::to_owned),
        room_prefix: parameters.one("room_prefix")?.map(str::to_owned),
    };
    let limit = parameters.number("limit", LIMIT, 1, MAX_LIMIT)?;
    let worst = parameters.flag("worst")?;
    let source = reader.open(parameters.one("sink")?)?;
    let listing = source.rooms(&query).await?;
    let looked_at = listing.rooms.len().min(if worst { WORST_OF } else { limit });
    let (mut sessions, mut read) = source.sessions(&listing.rooms[..looked_at], query.from, Summary::of).await?;
    let more = sessions.len() > limit || looked_at < listing.rooms.len() || read.complete_from.is_some();
    read.add((&*listing).into());
    if worst {
        sessions.sort_by(Summary::worst_first);
        if looked_at < listing.rooms.len() {
            let last = listing.rooms[..looked_at].last().map(|room| room.started_at);
            read.complete_from = read.complete_from.max(last);
        }
    }
    sessions.truncate(limit);
    let listed = |summary: Summary| Listed { cut: read.cut.contains(&summary.room_sid), summary };
    Ok(Json(Sessions {
        address: source.address(),
        sinks: reader.sinks(),
        sink: source.sink,
        from: query.from,
        to: query.to,
        sessions: sessions.into_iter().map(listed).collect(),
        more,
        complete_from: read.complete_from,
        unread: read.unread,
    }))
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    sink: &'a str,
    address: String,
    /// A limit left records out: the figures are too low.
    cut: bool,
    /// What could not be read, and why: records may be missing. One line each.
    unread: &'a [String],
    session: &'a Session,
}

async fn show(
    State(reader): State<Arc<Reader>>,
    path: Result<Path<String>, PathRejection>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let Path(room) = path?;
    let source = reader.open(parameters.one("sink")?)?;
    let shown = source.session(&room).await?.ok_or_else(|| no_session(&room, &source.sink))?;
    let (sink, address) = (source.sink.clone(), source.address());
    let answer = tasks::run_blocking(move || {
        let read = &shown.read;
        let cut = !read.cut.is_empty();
        Json(Shown { sink: &sink, address, cut, unread: &read.unread, session: &shown.session }).into_response()
    });
    answer.await.map_err(|panic| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()))
}

fn no_session(room: &str, sink: &str) -> Problem {
    // A SID has 15 characters: what is longer is not repeated.
    let room: String = room.chars().take(40).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("sink {sink} has no records of room {room}"))
}
