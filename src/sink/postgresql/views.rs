//! The views over the tables, for people and dashboards: who was in which room when, how long, and how good it was.
//!
//! A view's comment has the hash of its text, so that a view of another livekit-spool's is made again, and one of the user's
//! with the same name is left alone. What a document says is never cast without a look at it first: one strange record must
//! not make a whole view fail. Neither are times subtracted: an interval does not hold the difference of any two.

use livekit_protocol::DisconnectReason;

use super::columns::{literal, table};
use crate::record::Stream;

/// The beginning of the comment of our views.
const MARK: &str = "livekit-spool view ";

/// A view as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    schema: String,
    name: &'static str,
    query: String,
}

impl View {
    /// `"livekit"."sessions"`
    pub(super) fn name(&self) -> String {
        table(&self.schema, self.name)
    }

    /// The comment that it should have.
    pub(super) fn version(&self) -> String {
        format!("{MARK}{}", &blake3::hash(self.query.as_bytes()).to_hex()[..16])
    }

    /// True if the comment is one of livekit-spool's.
    pub(super) fn is_ours(&self, comment: &str) -> bool {
        comment.starts_with(MARK)
    }

    /// Asks for the comment of what has its name; no row: nothing has it.
    pub(super) fn ask(&self) -> String {
        format!(
            "SELECT pg_catalog.obj_description(c.oid, 'pg_class') FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
             ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relname = {}",
            literal(&self.schema),
            literal(self.name)
        )
    }

    /// Makes it, in place of an older one. Columns may have gone, so the older one is dropped; what depends on it keeps it.
    pub(super) fn create(&self) -> String {
        let (name, query) = (self.name(), &self.query);
        let comment = literal(&self.version());
        format!("DROP VIEW IF EXISTS {name}; CREATE VIEW {name} AS {query}; COMMENT ON VIEW {name} IS {comment}")
    }
}

/// The views over the tables of these streams.
pub(super) fn all(schema: &str, streams: &[Stream]) -> Vec<View> {
    let mut views = Vec::new();
    let (events, stats) = (table(schema, "events"), table(schema, "stats"));
    let has = |stream| streams.contains(&stream);
    let mut add = |name, query: String| views.push(View { schema: schema.to_owned(), name, query });
    if has(Stream::Events) {
        add("sessions", SESSIONS.replace("{events}", &events).replace("{created}", &creation()));
        add("participants", PARTICIPANTS.replace("{events}", &events).replace("{reason}", &reason()));
    }
    if has(Stream::Stats) {
        let (columns, joins) = if has(Stream::Events) {
            ("p.participant_identity, t.name AS track_name, t.source,", TRACKS.replace("{events}", &events))
        } else {
            ("NULL::text AS participant_identity, NULL::text AS track_name, NULL::text AS source,", String::new())
        };
        add(
            "track_quality",
            TRACK_QUALITY.replace("{stats}", &stats).replace("{columns}", columns).replace("{joins}", &joins),
        );
    }
    views
}

/// When a room was created: ROOM_CREATED itself has whole seconds.
fn creation() -> String {
    let at = "doc #>> '{room,creation_time_ms}'";
    format!("CASE WHEN {at} ~ '^[0-9]{{12,14}}$' THEN to_timestamp(({at})::bigint / 1000.0) END")
}

/// A reason by name, whether documents have its number or its name.
fn reason() -> String {
    let reason = "doc #>> '{participant,disconnect_reason}'";
    let names = (1..100).filter_map(|number| {
        let name = DisconnectReason::try_from(number).ok()?.as_str_name();
        Some(format!("WHEN '{number}' THEN '{name}'"))
    });
    format!("CASE {reason} {} ELSE {reason} END", names.collect::<Vec<_>>().join(" "))
}

/// A room from its creation to its end. `ended_at` is NULL while it lasts, and where its node died; `last_at` is the time of
/// its last event so far.
const SESSIONS: &str = r"
SELECT s.room_sid, s.room_name, s.node_id, s.started_at, s.ended_at, s.last_at,
    (extract(epoch FROM coalesce(s.ended_at, s.last_at)) - extract(epoch FROM s.started_at))::double precision AS seconds,
    s.participants, s.identities, s.aborted_joins
FROM (
    SELECT room_sid,
        max(room_name) AS room_name,
        max(node_id) AS node_id,
        coalesce(min({created}) FILTER (WHERE type = 'ROOM_CREATED'), min(time)) AS started_at,
        max(time) FILTER (WHERE type = 'ROOM_ENDED') AS ended_at,
        max(time) AS last_at,
        count(DISTINCT participant_sid) FILTER (WHERE type = 'PARTICIPANT_JOINED') AS participants,
        count(DISTINCT participant_identity) FILTER (WHERE type = 'PARTICIPANT_JOINED') AS identities,
        count(*) FILTER (WHERE type = 'PARTICIPANT_CONNECTION_ABORTED') AS aborted_joins
    FROM {events}
    WHERE room_sid IS NOT NULL AND type IN ('ROOM_CREATED', 'ROOM_ENDED', 'PARTICIPANT_JOINED', 'PARTICIPANT_ACTIVE',
        'PARTICIPANT_RESUMED', 'RECONNECTED', 'PARTICIPANT_LEFT', 'PARTICIPANT_CONNECTION_ABORTED')
    GROUP BY room_sid
) s";

/// One stay of a participant in a room: who joins again has another `participant_sid`. `seconds` ends where it left, or the
/// room did, or else with its last event so far.
const PARTICIPANTS: &str = r"
SELECT p.room_sid, p.room_name, p.participant_sid, p.participant_identity, p.name, p.node_id,
    p.joined_at, p.active_at, p.left_at,
    greatest((extract(epoch FROM coalesce(p.left_at, r.ended_at, p.last_at)) - extract(epoch FROM p.joined_at))::double precision, 0)
        AS seconds,
    p.aborted, p.reconnects, p.connect_ms, p.connection_type, p.disconnect_reason,
    p.sdk, p.sdk_version, p.os, p.browser, p.device, p.region, p.country
FROM (
    SELECT room_sid, participant_sid,
        max(room_name) AS room_name,
        max(participant_identity) AS participant_identity,
        max(doc #>> '{participant,name}') AS name,
        max(node_id) AS node_id,
        coalesce(min(time) FILTER (WHERE type = 'PARTICIPANT_JOINED'), min(time)) AS joined_at,
        min(time) FILTER (WHERE type = 'PARTICIPANT_ACTIVE') AS active_at,
        max(time) FILTER (WHERE type = 'PARTICIPANT_LEFT') AS left_at,
        max(time) AS last_at,
        bool_or(type = 'PARTICIPANT_CONNECTION_ABORTED') AS aborted,
        count(*) FILTER (WHERE type IN ('PARTICIPANT_RESUMED', 'RECONNECTED')) AS reconnects,
        max(CASE WHEN doc #>> '{client_meta,client_connect_time}' ~ '^[0-9]{1,10}$'
            THEN (doc #>> '{client_meta,client_connect_time}')::bigint END)
            FILTER (WHERE type = 'PARTICIPANT_ACTIVE') AS connect_ms,
        max(doc #>> '{client_meta,connection_type}') AS connection_type,
        max({reason}) FILTER (WHERE type = 'PARTICIPANT_LEFT') AS disconnect_reason,
        max(doc #>> '{client_info,sdk}') AS sdk,
        max(doc #>> '{client_info,version}') AS sdk_version,
        max(doc #>> '{client_info,os}') AS os,
        max(doc #>> '{client_info,browser}') AS browser,
        max(doc #>> '{client_info,device_model}') AS device,
        max(doc #>> '{client_meta,region}') AS region,
        max(doc #>> '{client_meta,country}') AS country
    FROM {events}
    WHERE participant_sid IS NOT NULL AND room_sid IS NOT NULL AND type IN ('PARTICIPANT_JOINED', 'PARTICIPANT_ACTIVE',
        'PARTICIPANT_RESUMED', 'RECONNECTED', 'PARTICIPANT_LEFT', 'PARTICIPANT_CONNECTION_ABORTED')
    GROUP BY room_sid, participant_sid
) p
LEFT JOIN (SELECT room_sid, max(time) AS ended_at FROM {events} WHERE type = 'ROOM_ENDED' GROUP BY room_sid) r USING (room_sid)";

/// A track as its publisher sent it (`UPSTREAM`), or as one subscriber got it (`DOWNSTREAM`). `score` is LiveKit's, from 1 to
/// 4.5, by the packets of each interval.
const TRACK_QUALITY: &str = r"
SELECT q.room_sid, q.room_name, q.participant_sid, {columns} q.track_sid, q.direction, q.mime, q.node_id,
    q.started_at, q.ended_at, q.bytes, q.packets, q.lost,
    100.0 * q.lost / nullif(q.lost + q.packets, 0) AS loss_percent,
    (8 * q.bytes / nullif(extract(epoch FROM q.ended_at) - extract(epoch FROM q.started_at), 0))::double precision AS bits_per_second,
    q.frames, q.score, q.min_score, q.max_rtt_ms, q.max_jitter_us, q.nacks, q.plis, q.firs
FROM (
    SELECT room_id AS room_sid, participant_id AS participant_sid, track_id AS track_sid, kind AS direction,
        max(room_name) AS room_name, max(mime) AS mime, max(node_id) AS node_id,
        min(coalesce(started, time)) AS started_at, max(coalesce(ended, time)) AS ended_at,
        sum(bytes) AS bytes, sum(packets) AS packets, sum(lost) AS lost, sum(frames) AS frames,
        sum(score * greatest(packets, 1)) FILTER (WHERE score > 0)
            / sum(greatest(packets, 1)) FILTER (WHERE score > 0) AS score,
        min(min_score) FILTER (WHERE min_score > 0) AS min_score,
        max(rtt_ms) AS max_rtt_ms, max(jitter_us) AS max_jitter_us,
        sum(nacks) AS nacks, sum(plis) AS plis, sum(firs) AS firs
    FROM {stats}
    GROUP BY room_id, participant_id, track_id, kind
) q{joins}";

const TRACKS: &str = r"
LEFT JOIN (
    SELECT participant_sid, max(participant_identity) AS participant_identity
    FROM {events} WHERE type = 'PARTICIPANT_JOINED' GROUP BY participant_sid
) p USING (participant_sid)
LEFT JOIN (
    SELECT track_sid, max(doc #>> '{track,name}') AS name, max(doc #>> '{track,source}') AS source
    FROM {events} WHERE type = 'TRACK_PUBLISHED' GROUP BY track_sid
) t USING (track_sid)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_views_for_what_the_sink_has() {
        let names = |streams: &[Stream]| all("s", streams).iter().map(|view| view.name).collect::<Vec<_>>();
        assert_eq!(names(&Stream::ALL), ["sessions", "participants", "track_quality"]);
        assert_eq!(names(&[Stream::Stats]), ["track_quality"]);
        assert_eq!(names(&[Stream::NodeRooms]), [""; 0]);
    }

    #[test]
    fn another_text_is_another_version_and_a_view_of_the_users_is_not_ours() {
        let [one, other] = ["a", "b"].map(|schema| all(schema, &Stream::ALL).remove(0));
        assert_ne!(one.version(), other.version());
        assert!(one.is_ours(&other.version()) && !one.is_ours("") && !one.is_ours("my view"));
        assert!(one.create().contains(&one.version()));
        assert!(!one.query.contains('{') || one.query.contains("'{room"), "{}", one.query);
    }
}
