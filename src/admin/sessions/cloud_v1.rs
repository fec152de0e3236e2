//! LiveKit Cloud's API of sessions, second generation: `/v1/projects/{project}/sessions…`. There is one project: its name in
//! the path is not looked at. Errors are google.rpc.Status.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use super::{
    cursor::Cursor,
    incomplete::Incomplete,
    parameters::{Parameters, bad, before, now, rfc3339},
    reader::{self, Reader, too_many},
    shapes::{Detail, Event, ParticipantInfo, Row, Status, is_event_type, joined_at, left_at},
};
use crate::{
    admin::problem::{Problem, RpcStatus},
    archive::{Query, Read, Room},
    ingest::Json,
    session::{Participant, Session, Time},
    tasks,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest range, days.
const MAX_DAYS: u32 = 45;
/// Items on a page, if it is not said, and at most.
const PAGE: usize = 50;
const MAX_PAGE: usize = 100;
const MAX_EVENTS_PAGE: usize = 1_000;

const ORDERS: [(&str, Option<Order>); 3] = [
    ("SORT_ORDER_UNSPECIFIED", None),
    ("SORT_ORDER_ASC", Some(Order::Ascending)),
    ("SORT_ORDER_DESC", Some(Order::Descending)),
];
const STATUSES: [(&str, Option<Status>); 3] = [
    ("SESSION_STATUS_UNSPECIFIED", None),
    ("SESSION_STATUS_ACTIVE", Some(Status::Active)),
    ("SESSION_STATUS_CLOSED", Some(Status::Closed)),
];
const SORTS: [(&str, SortBy); 3] = [
    ("PARTICIPANT_SORT_FIELD_UNSPECIFIED", SortBy::JoinedAt),
    ("PARTICIPANT_SORT_FIELD_JOINED_AT", SortBy::JoinedAt),
    ("PARTICIPANT_SORT_FIELD_LEFT_AT", SortBy::LeftAt),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Ascending,
    Descending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SortBy {
    JoinedAt,
    LeftAt,
}

pub(super) fn routes() -> Router<Arc<Reader>> {
    Router::new()
        .route("/v1/projects/{project}/sessions", get(list))
        .route("/v1/projects/{project}/sessions/{session}", get(show))
        .route("/v1/projects/{project}/sessions/{session}/participants", get(participants))
        .route("/v1/projects/{project}/sessions/{session}/events", get(events))
        .route("/v1/{*other}", get(nothing))
        .method_not_allowed_fallback(|| async {
            RpcStatus(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path supports GET only"))
        })
}

async fn nothing() -> RpcStatus {
    RpcStatus(Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct PageInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
    has_more: bool,
}

impl PageInfo {
    fn of(next_cursor: Option<String>) -> Self {
        Self { has_more: next_cursor.is_some(), next_cursor }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<T> {
    items: Vec<T>,
    page_info: PageInfo,
}

async fn list(
    State(reader): State<Arc<Reader>>,
    parameters: Parameters,
) -> Result<(Incomplete, Json<Page<Row>>), RpcStatus> {
    let statuses = parameters.words("filter.statuses", &STATUSES)?;
    let statuses: Vec<Status> = statuses.into_iter().flatten().collect();
    let order = parameters.word("sortOrder", &ORDERS)?.flatten().unwrap_or(Order::Descending);
    let prefix = parameters.one("filter.roomName")?;
    let has_tags = parameters.all("filter.tags").next().is_some();
    let size = parameters.number("page.pageSize", PAGE, 1, MAX_PAGE)?;
    let name = format!("sessions {statuses:?} {order:?} {prefix:?} {has_tags}");
    let cursor = parameters.one("page.cursor")?.map(|text| Cursor::decode(text, &name)).transpose()?;
    let (from, to) = match &cursor {
        Some(cursor) => (cursor.from, cursor.to),
        None => range(&parameters)?,
    };
    if has_tags {
        // The open server's rooms have none.
        let nothing = Page { items: Vec::new(), page_info: PageInfo::default() };
        return Ok((Incomplete::default(), Json(nothing)));
    }
    let source = reader.open(None)?;
    let query = Query { from, to, room_name: None, room_prefix: prefix.map(str::to_owned) };
    let listing = source.rooms(&query).await?;
    if order == Order::Ascending && listing.complete_from.is_some() {
        return Err(too_many("a shorter one (filter.range)").into());
    }
    let rooms: Vec<&Room> = match order {
        Order::Descending => listing.rooms.iter().collect(),
        Order::Ascending => listing.rooms.iter().rev().collect(),
    };
    let is_over = |room: &Room, cursor: &Cursor| match order {
        Order::Descending => (cursor.at, room.sid.as_str()) > (room.started_at, cursor.tie.as_str()),
        Order::Ascending => (room.started_at, cursor.tie.as_str()) > (cursor.at, room.sid.as_str()),
    };
    let is_wanted = |status: Status| statuses.is_empty() || statuses.contains(&status);
    // A room with an end is closed, whatever else is known of it.
    let may_be_wanted = |room: &&Room| room.ended_at.is_none() || is_wanted(Status::Closed);
    let rest = rooms.into_iter().skip_while(|room| cursor.as_ref().is_some_and(|cursor| !is_over(room, cursor)));
    let rest: Vec<Room> = rest.filter(may_be_wanted).cloned().collect();
    let mut items: Vec<Row> = Vec::new();
    let mut lacks = Read::from(&*listing);
    // One more than the page has, to know whether there is a next one.
    for rooms in rest.chunks(size + 1) {
        let (rows, read) = source.sessions(rooms, from, Row::of).await?;
        if read.complete_from.is_some() {
            return Err(too_many("fewer (page.pageSize)").into());
        }
        lacks.add(read);
        items.extend(rows.into_iter().filter(|row| is_wanted(row.status)));
        if items.len() > size {
            break;
        }
    }
    let has_more = items.len() > size;
    items.truncate(size);
    if !has_more && listing.complete_from.is_some() {
        return Err(too_many("a shorter one (filter.range)").into());
    }
    let started: HashMap<&str, Time> = rest.iter().map(|room| (room.sid.as_str(), room.started_at)).collect();
    let next = items.last().filter(|_| has_more).and_then(|last| {
        let at = *started.get(last.session_id.as_str())?;
        Some(Cursor { from, to, at, tie: last.session_id.clone() }.encode(&name))
    });
    Ok((Incomplete::of(&lacks), Json(Page { items, page_info: PageInfo::of(next) })))
}

/// The range: a day up to its end, which is now if it is not given; at most 45 days.
fn range(parameters: &Parameters) -> Result<(Time, Time), Problem> {
    let time = |name: &str| {
        let time = |text: &str| rfc3339(text).ok_or_else(|| bad(name, format!("{text:?} is not a time (RFC 3339)")));
        parameters.one(name)?.map(time).transpose()
    };
    let to = time("filter.range.endTime")?.unwrap_or_else(now);
    let from = time("filter.range.startTime")?.unwrap_or_else(|| before(to, DAY));
    if from >= to {
        return Err(bad("filter.range", "startTime is not before endTime"));
    }
    // The end is rounded up if it is now.
    if to.since(from) > (DAY * MAX_DAYS).as_secs_f64() + 60.0 {
        return Err(bad("filter.range", format!("is longer than {MAX_DAYS} days")));
    }
    Ok((from, to))
}

type SessionPath = Result<Path<(String, String)>, PathRejection>;

/// The session that a path names.
async fn named(reader: &Reader, path: SessionPath) -> Result<Arc<reader::Shown>, Problem> {
    let Path((_, sid)) = path?;
    let missing = || Problem::new(StatusCode::NOT_FOUND, "session not found");
    if !sid.starts_with("RM_") {
        return Err(missing());
    }
    reader.open(None)?.session(&sid).await?.ok_or_else(missing)
}

/// Makes an answer about a session on a thread for blocking work: it may have tens of thousands of events.
async fn answer<T: Serialize>(
    shown: Arc<reader::Shown>,
    make: impl FnOnce(&Session) -> Result<T, Problem> + Send + 'static,
) -> Result<Response, RpcStatus> {
    let made = tasks::run_blocking(move || {
        let answer = make(&shown.session)?;
        Ok::<_, Problem>((Incomplete::of(&shown.read), Json(answer)).into_response())
    });
    let made = made.await.map_err(|panic| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()));
    Ok(made??)
}

#[derive(Debug, Serialize)]
struct Shown {
    session: Row,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<WithParticipants>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WithParticipants {
    #[serde(flatten)]
    detail: Detail,
    participants: Vec<ParticipantInfo>,
    participants_page: PageInfo,
}

async fn show(State(reader): State<Arc<Reader>>, path: SessionPath) -> Result<Response, RpcStatus> {
    let shown = named(&reader, path).await?;
    answer(shown, |session| {
        let detail = Detail::of(session).map(|detail| {
            let page = participants_page(session, SortBy::JoinedAt, Order::Ascending, PAGE, None);
            WithParticipants { detail, participants: page.items, participants_page: page.page_info }
        });
        Ok(Shown { session: Row::of(session), detail })
    })
    .await
}

async fn participants(
    State(reader): State<Arc<Reader>>,
    path: SessionPath,
    parameters: Parameters,
) -> Result<Response, RpcStatus> {
    let sort = parameters.word("sortBy", &SORTS)?.unwrap_or(SortBy::JoinedAt);
    let order = parameters.word("sortOrder", &ORDERS)?.flatten().unwrap_or(Order::Ascending);
    let size = parameters.number("page.pageSize", PAGE, 1, MAX_PAGE)?;
    let cursor = parameters.one("page.cursor")?.map(str::to_owned);
    let shown = named(&reader, path).await?;
    answer(shown, move |session| {
        let name = participants_name(session, sort, order);
        let cursor = cursor.map(|text| Cursor::decode(&text, &name)).transpose()?;
        Ok(participants_page(session, sort, order, size, cursor.as_ref()))
    })
    .await
}

fn participants_name(session: &Session, sort: SortBy, order: Order) -> String {
    format!("participants {} {sort:?} {order:?}", session.room_sid)
}

/// A page of participants; one without the time comes last.
fn participants_page(
    session: &Session,
    sort: SortBy,
    order: Order,
    size: usize,
    cursor: Option<&Cursor>,
) -> Page<ParticipantInfo> {
    let key = |participant: &Participant| {
        let at = match sort {
            SortBy::JoinedAt => joined_at(participant),
            SortBy::LeftAt => left_at(participant),
        };
        let at = at.map(|time| if order == Order::Ascending { time.0 } else { -time.0 });
        // Several may have no identity, and an identity may be of any length.
        let tie = participant.connections.first().map(|connection| connection.sid.clone());
        (Time(at.unwrap_or(i64::MAX)), tie.unwrap_or_default())
    };
    let mut participants: Vec<_> =
        session.participants.iter().map(|participant| (key(participant), participant)).collect();
    participants.sort_by(|(a, _), (b, _)| a.cmp(b));
    let is_over = |key: &(Time, String)| cursor.is_none_or(|cursor| (key.0, &key.1) > (cursor.at, &cursor.tie));
    let rest: Vec<_> = participants.into_iter().filter(|(key, _)| is_over(key)).collect();
    let has_more = rest.len() > size;
    let next = rest.get(size.saturating_sub(1)).filter(|_| has_more).map(|((at, tie), _)| {
        let (from, to) = (session.started_at, session.last_at);
        Cursor { from, to, at: *at, tie: tie.clone() }.encode(&participants_name(session, sort, order))
    });
    let items = rest.iter().take(size).map(|(_, participant)| ParticipantInfo::of(participant)).collect();
    Page { items, page_info: PageInfo::of(next) }
}

async fn events(
    State(reader): State<Arc<Reader>>,
    path: SessionPath,
    parameters: Parameters,
) -> Result<Response, RpcStatus> {
    let types: Vec<String> = parameters.all("types").map(str::to_owned).collect();
    if let Some(unknown) = types.iter().find(|name| !is_event_type(name)) {
        return Err(bad("types", format!("{unknown:?} is not the name of an AnalyticsEventType")).into());
    }
    let participant = parameters.one("participantSessionId")?.map(str::to_owned);
    if participant.as_ref().is_some_and(|sid| !sid.starts_with("PA_")) {
        return Err(bad("participantSessionId", "does not begin with PA_").into());
    }
    let order = parameters.word("sortOrder", &ORDERS)?.flatten().unwrap_or(Order::Ascending);
    let size = parameters.number("page.pageSize", MAX_PAGE, 1, MAX_EVENTS_PAGE)?;
    let cursor = parameters.one("page.cursor")?.map(str::to_owned);
    let shown = named(&reader, path).await?;
    answer(shown, move |session| {
        let name = format!("events {} {types:?} {participant:?} {order:?}", session.room_sid);
        let cursor = cursor.map(|text| Cursor::decode(&text, &name)).transpose()?;
        let mut moments: Vec<_> = session
            .moments
            .iter()
            .filter(|moment| types.is_empty() || types.contains(&moment.kind))
            .filter(|moment| participant.is_none() || moment.connection_sid == participant)
            .collect();
        if order == Order::Descending {
            moments.reverse();
        }
        // Events of one time are distinguished by their place among them.
        let mut places = Vec::with_capacity(moments.len());
        for (index, moment) in moments.iter().enumerate() {
            let is_another = index > 0 && moments[index - 1].at == moment.at;
            places.push(if is_another { places[index - 1] + 1 } else { 0_usize });
        }
        let begin = cursor.map_or(0, |cursor| {
            let place = cursor.tie.parse().unwrap_or(usize::MAX);
            moments
                .iter()
                .zip(&places)
                .take_while(|(moment, other)| match moment.at.cmp(&cursor.at) {
                    std::cmp::Ordering::Equal => **other <= place,
                    // In this order before it.
                    other => (other == std::cmp::Ordering::Less) == (order == Order::Ascending),
                })
                .count()
        });
        let end = moments.len().min(begin + size);
        let next = (end < moments.len() && end > begin).then(|| {
            let (from, to) = (session.started_at, session.last_at);
            Cursor { from, to, at: moments[end - 1].at, tie: places[end - 1].to_string() }.encode(&name)
        });
        let items: Vec<_> = moments[begin..end].iter().map(|moment| Event::of(session, moment)).collect();
        Ok(Page { items, page_info: PageInfo::of(next) })
    })
    .await
}
