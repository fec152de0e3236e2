//! Sessions in the shapes of LiveKit Cloud's second API: camel case, 64-bit numbers as strings, times in RFC 3339. What the
//! records do not contain is left out.

use livekit_protocol::AnalyticsEventType;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::grid::Timelines;
use crate::session::{ApiCall, Connection, Moment, Participant, Session, State, Time};

/// SessionStatus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Status {
    #[serde(rename = "SESSION_STATUS_ACTIVE")]
    Active,
    #[serde(rename = "SESSION_STATUS_CLOSED")]
    Closed,
}

impl Status {
    pub(super) const fn of(state: State) -> Self {
        match state {
            State::Active => Self::Active,
            State::Ended | State::Lost => Self::Closed,
        }
    }
}

/// Session.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) session_id: String,
    room_name: String,
    pub(super) status: Status,
    num_participants: usize,
    started_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Time>,
}

impl Row {
    pub(super) fn of(session: &Session) -> Self {
        Self {
            session_id: session.room_sid.clone(),
            room_name: session.room_name.clone(),
            status: Status::of(session.state),
            num_participants: session.totals.participants,
            started_at: session.started_at,
            ended_at: session.ended_at,
        }
    }
}

/// SessionDetail, without the page of participants.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detail {
    bandwidth_in: String,
    bandwidth_out: String,
    connection_seconds: String,
    #[serde(flatten)]
    timelines: Timelines,
}

impl Detail {
    /// `None` while there are no figures yet: LiveKit sends the first stats of a track after some 30 seconds.
    pub(super) fn of(session: &Session) -> Option<Self> {
        let totals = &session.totals;
        (session.settled || totals.bytes_in > 0 || totals.bytes_out > 0).then(|| Self {
            bandwidth_in: totals.bytes_in.to_string(),
            bandwidth_out: totals.bytes_out.to_string(),
            connection_seconds: whole(totals.connection_seconds),
            timelines: Timelines::of(session),
        })
    }
}

/// Whole seconds, as a string.
fn whole(seconds: f64) -> String {
    // Saturates.
    (seconds as u64).to_string()
}

/// ParticipantInfo.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ParticipantInfo {
    participant_identity: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    participant_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    published_sources: PublishedSources,
    sessions: Vec<ParticipantSession>,
}

impl ParticipantInfo {
    pub(super) fn of(participant: &Participant) -> Self {
        let connections = &participant.connections;
        Self {
            participant_identity: participant.identity.clone(),
            participant_name: participant.name.clone(),
            joined_at: joined_at(participant),
            left_at: left_at(participant),
            region: connections.iter().find_map(|connection| connection.region.clone()),
            published_sources: PublishedSources::of(connections),
            sessions: connections.iter().map(ParticipantSession::of).collect(),
        }
    }
}

/// When a participant joined first.
pub(super) fn joined_at(participant: &Participant) -> Option<Time> {
    participant.connections.iter().filter_map(|connection| connection.joined_at).min()
}

/// When a participant left last; `None` while one of its connections is there.
pub(super) fn left_at(participant: &Participant) -> Option<Time> {
    let left = participant.connections.iter().map(|connection| connection.left_at);
    left.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// PublishedSources.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PublishedSources {
    camera_track: bool,
    microphone_track: bool,
    screen_share_track: bool,
    screen_share_audio: bool,
}

impl PublishedSources {
    pub(super) fn of(connections: &[Connection]) -> Self {
        let has = |source: &str| {
            connections.iter().flat_map(|connection| &connection.published).any(|track| track.source == source)
        };
        Self {
            camera_track: has("CAMERA"),
            microphone_track: has("MICROPHONE"),
            screen_share_track: has("SCREEN_SHARE"),
            screen_share_audio: has("SCREEN_SHARE_AUDIO"),
        }
    }
}

/// ParticipantSession: a connection.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ParticipantSession {
    participant_session_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_at: Option<Time>,
    duration_seconds: String,
    #[serde(flatten)]
    client: ClientInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_time_ms: Option<i32>,
}

impl ParticipantSession {
    fn of(connection: &Connection) -> Self {
        Self {
            participant_session_id: connection.sid.clone(),
            joined_at: connection.joined_at,
            left_at: connection.left_at,
            duration_seconds: whole(connection.seconds),
            client: ClientInfo::of(connection),
            connection_type: connection_type(connection),
            connection_time_ms: connection.connect_ms.map(|millis| i32::try_from(millis).unwrap_or(i32::MAX)),
        }
    }
}

/// What both generations say about a client.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClientInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    browser: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    device_model: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sdk_version: String,
}

impl ClientInfo {
    pub(super) fn of(connection: &Connection) -> Self {
        let client = &connection.client;
        let with_version = |name: &str, version: &str| format!("{name} {version}").trim().to_owned();
        Self {
            os: with_version(&client.os, &client.os_version),
            browser: with_version(&client.browser, &client.browser_version),
            device_model: client.device.clone(),
            sdk_version: client.sdk_version.clone(),
        }
    }
}

/// `UDP`, `TCP` or `TURN`.
pub(super) fn connection_type(connection: &Connection) -> Option<String> {
    connection.transport.as_ref().map(|transport| transport.to_uppercase())
}

/// SessionEvent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    r#type: String,
    timestamp: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    participant_identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    participant_session_id: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    payload: Map<String, Value>,
}

impl Event {
    pub(super) fn of(session: &Session, moment: &Moment) -> Self {
        Self {
            r#type: moment.kind.clone(),
            timestamp: moment.at,
            participant_identity: moment.identity.clone(),
            participant_session_id: moment.connection_sid.clone(),
            payload: payload(session, moment),
        }
    }
}

/// The fields that the API allows in a payload, as far as the session has them.
fn payload<'a>(session: &'a Session, moment: &Moment) -> Map<String, Value> {
    let mut payload = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            payload.insert(name.to_owned(), value);
        }
    };
    let owner = moment.connection_sid.as_deref().and_then(|sid| {
        let of = |participant: &'a Participant| {
            Some((participant, participant.connections.iter().find(|connection| connection.sid == sid)?))
        };
        session.participants.iter().find_map(of)
    });
    let kind = moment.kind.as_str();
    if let Some((participant, connection)) = owner.filter(|_| kind.starts_with("PARTICIPANT_")) {
        put("participantKind", Some(json!(participant.kind)));
        put("connectionType", connection_type(connection).map(Value::from));
        put("reason", connection.reason.clone().filter(|_| kind == "PARTICIPANT_LEFT").map(Value::from));
    }
    if let Some(sid) = moment.track_sid.as_deref().filter(|_| kind.starts_with("TRACK_")) {
        put("trackId", Some(json!(sid)));
        let connections = session.participants.iter().flat_map(|participant| &participant.connections);
        if let Some(track) = connections.flat_map(|connection| &connection.published).find(|track| track.sid == sid) {
            let text = |text: &str| Some(json!(text)).filter(|_| !text.is_empty());
            put("trackType", text(&track.kind));
            put("trackSource", text(&track.source));
            put("mimeType", text(&track.mime));
            put(
                "muted",
                match kind {
                    "TRACK_MUTED" => Some(json!(true)),
                    "TRACK_UNMUTED" => Some(json!(false)),
                    _ => None,
                },
            );
        }
    }
    let is_of_moment = |call: &&ApiCall| call.at == moment.at && call.method == moment.detail;
    if let Some(call) = session.api_calls.iter().filter(|_| kind == "API_CALL").find(is_of_moment) {
        put("service", Some(json!(call.service)));
        put("method", Some(json!(call.method)));
        put("status", Some(call.status.parse::<i64>().map_or_else(|_| json!(call.status), Value::from)));
        put("durationNs", Some(json!(((call.duration_ms * 1e6) as u64).to_string())));
    }
    payload
}

/// The names of event types: the API uses those of AnalyticsEventType.
pub(super) fn is_event_type(name: &str) -> bool {
    AnalyticsEventType::from_str_name(name).is_some()
}
