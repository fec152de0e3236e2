//! LiveKit Cloud's API of sessions, first generation ("Analytics API"): `/api/project/{project}/sessions…`. There is one
//! project: its name in the path is not looked at.
//!
//! 64-bit numbers are strings, as protobuf's JSON has them: LiveKit Cloud's answers are such, and programs exist that refuse
//! bytes in numbers.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use super::{
    incomplete::Incomplete,
    parameters::{Parameters, bad, before, day, now},
    reader::{Reader, too_many},
    shapes::{ClientInfo, PublishedSources, connection_type, joined_at, left_at},
};
use crate::{
    admin::problem::Problem,
    archive::{Query, Room},
    ingest::Json,
    session::{Connection, Job, Participant, Session, State as SessionState, Summary, Time},
    tasks,
};

const DAY: i64 = 24 * 60 * 60 * 1_000_000_000;
/// The range if no start is given.
const RANGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Sessions on a page, if it is not said, and at most.
const LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

pub(super) fn routes() -> Router<Arc<Reader>> {
    Router::new()
        .route("/api/project/{project}/sessions", get(list))
        .route("/api/project/{project}/sessions/", get(list))
        .route("/api/project/{project}/sessions/{session}", get(show))
}

#[derive(Debug, Serialize)]
struct Sessions {
    sessions: Vec<Row>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    session_id: String,
    room_name: String,
    created_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Time>,
    last_active: Time,
    /// Bytes.
    bandwidth_in: String,
    bandwidth_out: String,
    egress: u8,
    num_participants: usize,
    num_active_participants: usize,
    connection_counts: ConnectionCounts,
}

#[derive(Debug, Serialize)]
struct ConnectionCounts {
    attempts: usize,
    /// Those that became active.
    success: usize,
}

impl Row {
    fn of(session: &Session) -> Self {
        let summary = Summary::of(session);
        Self {
            session_id: summary.room_sid,
            room_name: summary.room_name,
            created_at: summary.started_at,
            ended_at: summary.ended_at,
            last_active: summary.last_at,
            bandwidth_in: summary.totals.bytes_in.to_string(),
            bandwidth_out: summary.totals.bytes_out.to_string(),
            egress: egress(session),
            num_participants: summary.totals.participants,
            num_active_participants: summary.present,
            connection_counts: ConnectionCounts {
                attempts: connections(session).count(),
                success: connections(session).filter(|connection| connection.active_at.is_some()).count(),
            },
        }
    }
}

fn connections(session: &Session) -> impl Iterator<Item = &Connection> {
    session.participants.iter().flat_map(|participant| &participant.connections)
}

/// 0: there was none, 1: one is active, 2: all have ended.
fn egress(session: &Session) -> u8 {
    let is_active = |egress: &Job| egress.ended_at.is_none() && session.state == SessionState::Active;
    match &session.egresses[..] {
        [] => 0,
        egresses if egresses.iter().any(is_active) => 1,
        _ => 2,
    }
}

async fn list(
    State(reader): State<Arc<Reader>>,
    parameters: Parameters,
) -> Result<(Incomplete, Json<Sessions>), Problem> {
    let limit = parameters.number("limit", LIMIT, 1, usize::MAX)?;
    if limit > MAX_LIMIT {
        // A smaller page than asked for would shift all the next ones.
        return Err(bad("limit", format!("is more than {MAX_LIMIT}")));
    }
    let page = parameters.number("page", 0, 0, usize::MAX)?;
    let date = |name: &str| {
        let date = |text: &str| day(text).ok_or_else(|| bad(name, format!("{text:?} is not a date (YYYY-MM-DD)")));
        parameters.one(name)?.map(date).transpose()
    };
    // The last day counts.
    let to = date("end")?.map_or_else(now, |end| Time(end.0.saturating_add(DAY)));
    let from = date("start")?.unwrap_or_else(|| before(to, RANGE));
    if from >= to {
        return Err(bad("start", "is after end"));
    }
    let source = reader.open(None)?;
    let listing = source.rooms(&Query { from, to, room_name: None, room_prefix: None }).await?;
    let began_in_range = listing.rooms.iter().filter(|room| room.started_at >= from);
    let rooms: Vec<Room> = began_in_range.skip(page.saturating_mul(limit)).take(limit).cloned().collect();
    if rooms.len() < limit && listing.complete_from.is_some() {
        return Err(too_many("fewer days (start, end)"));
    }
    let (sessions, mut read) = source.sessions(&rooms, from, Row::of).await?;
    if read.complete_from.is_some() {
        return Err(too_many("fewer (limit)"));
    }
    read.add((&*listing).into());
    Ok((Incomplete::of(&read), Json(Sessions { sessions })))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    room_id: String,
    room_name: String,
    /// Bytes, both ways.
    bandwidth: String,
    start_time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<Time>,
    num_participants: usize,
    connection_minutes: u64,
    participants: Vec<ParticipantInfo>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ParticipantInfo {
    participant_identity: String,
    participant_name: String,
    /// Of the session: `RM_…`.
    room_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_at: Option<Time>,
    is_active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_time_ms: Option<u64>,
    /// Of the newest connection.
    #[serde(flatten)]
    client: Option<ClientInfo>,
    published_sources: PublishedSources,
    sessions: Vec<ParticipantSession>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ParticipantSession {
    /// `PA_…`.
    participant_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_at: Option<Time>,
}

impl ParticipantInfo {
    fn of(participant: &Participant, session: &Session) -> Self {
        let connections = &participant.connections;
        let newest = connections.last();
        let left_at = left_at(participant);
        Self {
            participant_identity: participant.identity.clone(),
            participant_name: participant.name.clone(),
            room_id: session.room_sid.clone(),
            joined_at: joined_at(participant),
            left_at,
            is_active: session.state == SessionState::Active && left_at.is_none(),
            region: newest.and_then(|connection| connection.region.clone()),
            connection_type: newest.and_then(connection_type),
            connection_time_ms: newest.and_then(|connection| connection.connect_ms),
            client: newest.map(ClientInfo::of),
            published_sources: PublishedSources::of(connections),
            sessions: connections.iter().map(ParticipantSession::of).collect(),
        }
    }
}

impl ParticipantSession {
    fn of(connection: &Connection) -> Self {
        Self { participant_id: connection.sid.clone(), joined_at: connection.joined_at, left_at: connection.left_at }
    }
}

impl Shown {
    fn of(session: &Session) -> Self {
        let participants = session.participants.iter();
        Self {
            room_id: session.room_sid.clone(),
            room_name: session.room_name.clone(),
            bandwidth: session.totals.bytes_in.saturating_add(session.totals.bytes_out).to_string(),
            start_time: session.started_at,
            end_time: session.ended_at,
            num_participants: session.totals.participants,
            connection_minutes: connection_minutes(session),
            participants: participants.map(|participant| ParticipantInfo::of(participant, session)).collect(),
        }
    }
}

/// Each connection's minutes, begun ones counted whole, as LiveKit Cloud bills them.
fn connection_minutes(session: &Session) -> u64 {
    connections(session).map(|connection| (connection.seconds / 60.0).ceil() as u64).sum()
}

async fn show(
    State(reader): State<Arc<Reader>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Problem> {
    let Path((_, sid)) = path?;
    let shown = reader.open(None)?.session(&sid).await?;
    let shown = shown.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "session not found"))?;
    let answer =
        tasks::run_blocking(move || (Incomplete::of(&shown.read), Json(Shown::of(&shown.session))).into_response());
    answer.await.map_err(|panic| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()))
}
