//! Puts together what the records say about a room.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    connection::{Facts, connections},
    documents::Documents,
    field::Fields,
    job::{api_calls, egresses, ingresses, sip_calls, webhooks},
    model::{Connection, Participant, Quality, Session, State, Time, Totals},
    moment::moments,
    observation::observe,
    quality::{Flow, qualities},
    record::{Records, created_at},
    track::Tracks,
};

/// LiveKit's workers for stats live 3 minutes longer than what they measure.
const SETTLE_SECONDS: f64 = 210.0;
/// While anybody is connected there are stats every 30 s; the rest is for records that wait on their way.
const QUIET_SECONDS: f64 = 300.0;

/// The session that a room's documents describe; `None` if none of them is about the room.
///
/// `now`: what is open until then is still going on.
#[must_use]
pub fn fold(room_sid: &str, documents: &Documents, now: Time) -> Option<Session> {
    let records = Records::of(room_sid, documents);
    let (first_at, last_at) = records.span()?;
    let qualities = qualities(&records);
    let (ended_at, heard_at) = (ended_at(&records), heard_at(&records, now));
    let connections = connections(&records, &qualities, ended_at.or(heard_at).unwrap_or(last_at));
    let tracks = Tracks::of(&records, &qualities);
    let state = match ended_at {
        Some(_) => State::Ended,
        None if heard_at.is_some_and(|at| now.since(at) <= quiet_seconds(&records, &connections)) => State::Active,
        None => State::Lost,
    };
    let until = (state == State::Active).then_some(now);
    let identity_of = |sid: &str| connections.get(sid).and_then(|facts| facts.identity);
    let participants = participants(&connections, &tracks, &qualities, until, &identity_of);
    let mut session = Session {
        room_sid: room_sid.to_owned(),
        room_name: room_name(&records),
        node_ids: node_ids(&records),
        started_at: records.events.iter().filter_map(|event| created_at(event.document)).min().unwrap_or(first_at),
        ended_at,
        last_at,
        state,
        settled: match ended_at {
            Some(ended_at) => now.since(ended_at) >= SETTLE_SECONDS,
            // What is lost was quiet for longer than that.
            None => state == State::Lost,
        },
        totals: totals(&connections, &participants, until),
        participants,
        egresses: egresses(&records),
        ingresses: ingresses(&records),
        sip_calls: sip_calls(&records),
        webhooks: webhooks(&records),
        api_calls: api_calls(&records),
        observations: Vec::new(),
        moments: moments(&records, identity_of),
    };
    session.observations = observe(&session, now);
    Some(session)
}

fn ended_at(records: &Records<'_>) -> Option<Time> {
    let ends = || records.events.iter().filter(|event| event.kind == "ROOM_ENDED");
    ends().find(|event| event.is_exact()).or_else(|| ends().next()).map(|event| event.at)
}

/// The time of the last record. A clock may be ahead, by not much: what is later says nothing.
fn heard_at(records: &Records<'_>, now: Time) -> Option<Time> {
    records.times().filter(|at| at.since(now) <= QUIET_SECONDS).max()
}

/// How long no record may come before a room without an end counts as lost. A room that is empty sends none.
fn quiet_seconds(records: &Records<'_>, connections: &BTreeMap<&str, Facts<'_>>) -> f64 {
    let is_empty = connections.values().all(|facts| facts.left_at.is_some());
    let rooms = records.events.iter().map(|event| event.document.field("room"));
    let timeouts = rooms.map(|room| room.count("empty_timeout").max(room.count("departure_timeout")));
    QUIET_SECONDS + if is_empty { timeouts.max().unwrap_or(0) as f64 } else { 0.0 }
}

fn room_name(records: &Records<'_>) -> String {
    let of_events = records.events.iter().map(|event| {
        let (room, webhook) = (event.document.field("room"), event.document.field("webhook"));
        if room.text("name").is_empty() { webhook.text("room_name") } else { room.text("name") }
    });
    let names = of_events.chain(records.stats.iter().map(|stat| stat.document.text("room_name")));
    names.into_iter().find(|name| !name.is_empty()).unwrap_or_default().to_owned()
}

fn node_ids(records: &Records<'_>) -> Vec<String> {
    let of_events = records.events.iter().map(|event| event.document.text("node_id"));
    let nodes = of_events.chain(records.stats.iter().map(|stat| stat.document.text("node")));
    let nodes: BTreeSet<&str> = nodes.filter(|node| !node.is_empty()).collect();
    nodes.into_iter().map(str::to_owned).collect()
}

/// Connections by who has them; each alone where no record says so.
fn participants<'a>(
    connections: &BTreeMap<&'a str, Facts<'a>>,
    tracks: &Tracks<'a>,
    qualities: &BTreeMap<Flow<'a>, Quality>,
    until: Option<Time>,
    identity_of: &impl Fn(&str) -> Option<&'a str>,
) -> Vec<Participant> {
    let bytes = bytes(qualities);
    let mut participants: BTreeMap<(&str, &str), Participant> = BTreeMap::new();
    for (&sid, facts) in connections {
        let identity = facts.identity.unwrap_or_default();
        let participant = participants
            .entry((identity, if identity.is_empty() { sid } else { "" }))
            .or_insert_with(|| Participant::new(identity));
        let bytes = bytes.get(sid).copied().unwrap_or_default();
        participant.bytes_in = participant.bytes_in.saturating_add(bytes.up);
        participant.bytes_out = participant.bytes_out.saturating_add(bytes.down);
        if !facts.name.is_empty() {
            facts.name.clone_into(&mut participant.name);
        }
        if participant.kind.is_empty() || !matches!(facts.kind.as_str(), "" | "STANDARD") {
            participant.kind.clone_from(&facts.kind);
        }
        participant.connections.push(Connection {
            sid: sid.to_owned(),
            joined_at: facts.joined_at,
            active_at: facts.active_at,
            left_at: facts.left_at,
            resumed_at: facts.resumed_at.clone(),
            reconnected_at: facts.reconnected_at.clone(),
            aborted: facts.aborted,
            reason: facts.reason.clone(),
            client: facts.client.clone(),
            transport: facts.transport.clone(),
            connect_ms: facts.connect_ms,
            region: facts.region.clone(),
            seconds: facts.presence(until).map_or(0.0, |(from, to)| to.since(from)),
            data_bytes: bytes.data,
            published: tracks.published_by(sid, qualities),
            subscribed: tracks.received_by(sid, qualities, identity_of),
        });
    }
    let start = |sid: &str| connections.get(sid).and_then(|facts| facts.presence(None)).map(|(from, _)| from);
    let mut participants: Vec<Participant> = participants.into_values().collect();
    for participant in &mut participants {
        participant.connections.sort_by_cached_key(|connection| (start(&connection.sid), connection.sid.clone()));
        participant.connection_seconds = participant.connections.iter().map(|connection| connection.seconds).sum();
    }
    participants.sort_by_cached_key(|participant| {
        let first = participant.connections.first();
        (first.and_then(|first| start(&first.sid)), first.map(|first| first.sid.clone()))
    });
    participants
}

impl Participant {
    fn new(identity: &str) -> Self {
        Self {
            identity: identity.to_owned(),
            name: String::new(),
            kind: String::new(),
            connection_seconds: 0.0,
            bytes_in: 0,
            bytes_out: 0,
            connections: Vec::new(),
        }
    }
}

/// Bytes of one connection.
#[derive(Clone, Copy, Default)]
struct Bytes {
    up: u64,
    down: u64,
    /// Of both.
    data: u64,
}

fn bytes<'a>(qualities: &BTreeMap<Flow<'a>, Quality>) -> BTreeMap<&'a str, Bytes> {
    let mut bytes: BTreeMap<&'a str, Bytes> = BTreeMap::new();
    for (flow, quality) in qualities {
        let of_connection = bytes.entry(flow.connection).or_default();
        let way = if flow.is_downstream { &mut of_connection.down } else { &mut of_connection.up };
        *way = way.saturating_add(quality.bytes);
        if flow.is_data() {
            of_connection.data = of_connection.data.saturating_add(quality.bytes);
        }
    }
    bytes
}

fn totals(connections: &BTreeMap<&str, Facts<'_>>, participants: &[Participant], until: Option<Time>) -> Totals {
    // A connection whose participant is unknown may be another one of somebody who is counted; a redacted one counts.
    let people: BTreeSet<(&str, &str)> = connections.iter().filter_map(|(sid, facts)| person(sid, facts)).collect();
    let sum = |count: fn(&Participant) -> u64| participants.iter().map(count).fold(0, u64::saturating_add);
    Totals {
        participants: people.len(),
        peak_participants: peak(connections, until),
        connection_seconds: participants.iter().map(|participant| participant.connection_seconds).sum(),
        bytes_in: sum(|participant| participant.bytes_in),
        bytes_out: sum(|participant| participant.bytes_out),
    }
}

fn person<'a>(sid: &'a str, facts: &Facts<'a>) -> Option<(&'a str, &'a str)> {
    facts.identity.map(|identity| (identity, if identity.is_empty() { sid } else { "" }))
}

/// Most participants at the same time.
fn peak(connections: &BTreeMap<&str, Facts<'_>>, until: Option<Time>) -> usize {
    let (mut changes, mut most) = (Vec::new(), 0);
    for (sid, facts) in connections {
        if let (Some(person), Some((from, to))) = (person(sid, facts), facts.presence(until)) {
            most = 1;
            if from < to {
                changes.push((from, true, person));
                changes.push((to, false, person));
            }
        }
    }
    // Who leaves at the moment at which another one joins has left.
    changes.sort();
    let mut present: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (_, joins, person) in changes {
        if joins {
            *present.entry(person).or_default() += 1;
            most = most.max(present.len());
        } else if let Some(times) = present.get_mut(&person) {
            *times -= 1;
            if *times == 0 {
                present.remove(&person);
            }
        }
    }
    most
}
