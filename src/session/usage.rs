//! What sessions used by day, for billing: connection time and bytes, for all rooms or by the beginning of their names.
//!
//! Days are those of UTC; a session over midnight is split. A connection's time is split exactly. Bytes are counted by the
//! intervals of the stats, about 30 s each: one over midnight is split by time, and so are data and signalling, over the
//! participant's time. The days of a session add up to its totals.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::model::{Connection, Participant, Quality, Session, Time};

/// Nanoseconds of a day.
const DAY: i64 = 86_400_000_000_000;

/// Which rooms are added up together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grouping {
    /// All rooms.
    All,
    /// Rooms whose names begin with the same one of these (the longest that does); no others.
    Prefixes(Vec<String>),
    /// Rooms whose names are the same before the first of this character; a name without it is a group of its own.
    Separator(char),
}

impl Grouping {
    fn group<'a>(&'a self, room_name: &'a str) -> Option<&'a str> {
        match self {
            Self::All => Some(""),
            Self::Prefixes(prefixes) => {
                let fitting = prefixes.iter().filter(|prefix| room_name.starts_with(prefix.as_str()));
                fitting.max_by_key(|prefix| prefix.len()).map(String::as_str)
            }
            Self::Separator(separator) => room_name.split(*separator).next(),
        }
    }
}

/// A day of a group of rooms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UsageRow {
    /// `2026-11-22`, UTC.
    pub day: String,
    /// What the rooms' names begin with; empty: all rooms.
    pub prefix: String,
    /// Sessions that were there that day.
    pub sessions: usize,
    /// Connections of participants that were there that day.
    pub connections: u64,
    /// The time of all connections, in minutes; nothing is rounded up.
    pub connection_minutes: f64,
    /// From participants to LiveKit.
    pub bytes_in: u64,
    /// From LiveKit to participants.
    pub bytes_out: u64,
}

/// Adds up sessions.
#[derive(Debug)]
pub struct Usage {
    grouping: Grouping,
    from: Time,
    to: Time,
    /// By day since 1970, and group.
    days: BTreeMap<(i64, String), Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    sessions: BTreeSet<String>,
    connections: u64,
    nanos: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Usage {
    /// Counts what was used from one time to another, exclusive.
    #[must_use]
    pub fn new(grouping: Grouping, from: Time, to: Time) -> Self {
        Self { grouping, from, to, days: BTreeMap::new() }
    }

    /// Adds a session; each has to be added once.
    pub fn add(&mut self, session: &Session) {
        let Some(group) = self.grouping.group(&session.room_name).map(str::to_owned) else { return };
        let end = session.ended_at.unwrap_or(session.last_at);
        self.count(&group, &Part { from: session.started_at, to: end, amount: 0 }, |sums, _| {
            sums.sessions.insert(session.room_sid.clone());
        });
        for participant in &session.participants {
            let presence: Vec<Part> =
                participant.connections.iter().map(|connection| presence(connection, session)).collect();
            for part in &presence {
                self.count(&group, part, |sums, nanos| {
                    sums.connections += 1;
                    sums.nanos = sums.nanos.saturating_add(nanos);
                });
            }
            for part in parts(&upstream(participant), participant.bytes_in, &presence) {
                self.count(&group, &part, |sums, bytes| sums.bytes_in = sums.bytes_in.saturating_add(bytes));
            }
            for part in parts(&downstream(participant), participant.bytes_out, &presence) {
                self.count(&group, &part, |sums, bytes| sums.bytes_out = sums.bytes_out.saturating_add(bytes));
            }
        }
    }

    /// Splits a part at each midnight, and hands what is in the range to the sums of its day.
    fn count(&mut self, group: &str, part: &Part, mut add: impl FnMut(&mut Sums, u64)) {
        let mut add_to_day = |day: i64, amount| add(self.days.entry((day, group.to_owned())).or_default(), amount);
        if part.from == part.to {
            if self.from <= part.from && part.from < self.to {
                add_to_day(part.from.0.div_euclid(DAY), part.amount);
            }
            return;
        }
        let (mut from, end) = (part.from.max(self.from), part.to.min(self.to));
        while from < end {
            let day = from.0.div_euclid(DAY);
            let to = Time((day + 1).saturating_mul(DAY)).min(end);
            add_to_day(day, part.until(to) - part.until(from));
            from = to;
        }
    }

    /// By day, then by prefix.
    #[must_use]
    pub fn rows(&self) -> Vec<UsageRow> {
        let row = |((day, prefix), sums): (&(i64, String), &Sums)| UsageRow {
            day: Time(day * DAY).to_string().chars().take(10).collect(),
            prefix: prefix.clone(),
            sessions: sums.sessions.len(),
            connections: sums.connections,
            connection_minutes: sums.nanos as f64 / 60e9,
            bytes_in: sums.bytes_in,
            bytes_out: sums.bytes_out,
        };
        self.days.iter().map(row).collect()
    }
}

/// An amount that was used evenly over some time.
#[derive(Debug, Clone, Copy)]
struct Part {
    from: Time,
    to: Time,
    amount: u64,
}

impl Part {
    fn new(from: Time, to: Time, amount: u64) -> Self {
        Self { from, to: to.max(from), amount }
    }

    fn nanos(&self) -> i64 {
        self.to.0.saturating_sub(self.from.0)
    }

    /// How much of it was used until then. Rounded down: the differences add up to the amount.
    fn until(&self, at: Time) -> u64 {
        let passed = at.0.saturating_sub(self.from.0).clamp(0, self.nanos());
        let share = i128::from(self.amount) * i128::from(passed) / i128::from(self.nanos().max(1));
        u64::try_from(share).unwrap_or(self.amount)
    }
}

/// When a connection was there, in nanoseconds.
fn presence(connection: &Connection, session: &Session) -> Part {
    let nanos = (connection.seconds * 1e9).round() as i64;
    let from = connection.joined_at.or(connection.active_at);
    let from = from.or_else(|| connection.left_at.map(|left_at| Time(left_at.0.saturating_sub(nanos))));
    let from = from.or_else(|| first_media(connection)).unwrap_or(session.started_at);
    Part::new(from, Time(from.0.saturating_add(nanos)), u64::try_from(nanos).unwrap_or(0))
}

/// The beginning of the first track, of a connection whose own events are missing.
fn first_media(connection: &Connection) -> Option<Time> {
    let of_quality = |quality: &Quality| quality.intervals.first().map(|interval| interval.from);
    let published = connection.published.iter().flat_map(|track| [track.published_at, of_quality(&track.upstream)]);
    let received = connection.subscribed.iter();
    let received =
        received.flat_map(|track| [track.spans.first().map(|span| span.from), of_quality(&track.downstream)]);
    published.chain(received).flatten().min()
}

fn upstream(participant: &Participant) -> Vec<&Quality> {
    let tracks = participant.connections.iter().flat_map(|connection| &connection.published);
    tracks.map(|track| &track.upstream).collect()
}

fn downstream(participant: &Participant) -> Vec<&Quality> {
    let tracks = participant.connections.iter().flat_map(|connection| &connection.subscribed);
    tracks.map(|track| &track.downstream).collect()
}

/// The bytes of a participant in one direction: by the intervals of its tracks, and what these do not have (data, signalling)
/// over its connections.
fn parts(tracks: &[&Quality], total: u64, presence: &[Part]) -> Vec<Part> {
    let intervals = tracks.iter().flat_map(|quality| &quality.intervals);
    let (mut parts, mut left) = (Vec::new(), total);
    for interval in intervals {
        let bytes = interval.bytes.min(left);
        left -= bytes;
        parts.push(Part::new(interval.from, interval.to, bytes));
    }
    let all: i128 = presence.iter().map(|part| i128::from(part.nanos())).sum();
    let mut passed = 0;
    for (i, part) in presence.iter().enumerate() {
        let share = |nanos: i128| i128::from(left) * nanos / all.max(1);
        let before = share(passed);
        passed += i128::from(part.nanos());
        let is_last = i + 1 == presence.len();
        let until = if is_last { i128::from(left) } else { share(passed) };
        parts.push(Part::new(part.from, part.to, u64::try_from(until - before).unwrap_or(0)));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Client, Interval, State, Totals, Track};

    const NOON: i64 = 20_000 * DAY + DAY / 2;

    fn at(hours: f64) -> Time {
        Time(NOON + (hours * 3.6e12) as i64)
    }

    fn connection(from: Time, hours: f64) -> Connection {
        Connection {
            sid: "PA_1".to_owned(),
            joined_at: Some(from),
            active_at: None,
            left_at: None,
            resumed_at: Vec::new(),
            reconnected_at: Vec::new(),
            aborted: false,
            reason: None,
            client: Client::default(),
            transport: None,
            connect_ms: None,
            region: None,
            seconds: hours * 3600.0,
            data_bytes: 0,
            published: Vec::new(),
            subscribed: Vec::new(),
        }
    }

    fn publishes(from: Time, to: Time, bytes: u64) -> Track {
        let interval = Interval {
            from,
            to,
            bytes,
            packets: 0,
            lost: 0,
            frames: 0,
            bitrate: None,
            fps: None,
            loss: None,
            rtt_ms: None,
            jitter_us: None,
            nacks: 0,
            plis: 0,
            firs: 0,
            score: None,
        };
        Track {
            sid: "TR_1".to_owned(),
            name: String::new(),
            kind: String::new(),
            source: String::new(),
            mime: String::new(),
            width: 0,
            height: 0,
            layers: 0,
            published_at: None,
            unpublished_at: None,
            publish_ms: None,
            muted: Vec::new(),
            subscribers: Vec::new(),
            upstream: Quality { bytes, intervals: vec![interval], ..Quality::default() },
        }
    }

    fn session(name: &str, from: Time, to: Time, bytes: (u64, u64), connections: Vec<Connection>) -> Session {
        let participant = Participant {
            identity: "ann".to_owned(),
            name: String::new(),
            kind: String::new(),
            connection_seconds: connections.iter().map(|connection| connection.seconds).sum(),
            bytes_in: bytes.0,
            bytes_out: bytes.1,
            connections,
        };
        Session {
            room_sid: format!("RM_{name}"),
            room_name: name.to_owned(),
            node_ids: Vec::new(),
            started_at: from,
            ended_at: Some(to),
            last_at: to,
            state: State::Ended,
            settled: true,
            totals: Totals::default(),
            participants: vec![participant],
            egresses: Vec::new(),
            ingresses: Vec::new(),
            sip_calls: Vec::new(),
            webhooks: Vec::new(),
            api_calls: Vec::new(),
            observations: Vec::new(),
            moments: Vec::new(),
        }
    }

    fn counted(grouping: Grouping, range: (Time, Time), sessions: &[Session]) -> Vec<UsageRow> {
        let mut usage = Usage::new(grouping, range.0, range.1);
        sessions.iter().for_each(|session| usage.add(session));
        usage.rows()
    }

    const EVER: (Time, Time) = (Time(i64::MIN), Time(i64::MAX));

    fn row(day: &str, prefix: &str, numbers: (usize, u64), minutes: f64, bytes: (u64, u64)) -> UsageRow {
        UsageRow {
            day: day.to_owned(),
            prefix: prefix.to_owned(),
            sessions: numbers.0,
            connections: numbers.1,
            connection_minutes: minutes,
            bytes_in: bytes.0,
            bytes_out: bytes.1,
        }
    }

    #[test]
    fn a_session_over_midnight_is_split_and_its_days_add_up() {
        // An hour before midnight to two hours after it, with media in the last quarter before it and the first after it.
        let mut connected = connection(at(11.0), 3.0);
        connected.published.push(publishes(at(11.75), at(12.25), 1001));
        let session = session("a", at(11.0), at(14.0), (1001 + 300, 7), vec![connected]);
        assert_eq!(
            counted(Grouping::All, EVER, &[session]),
            [row("2024-10-04", "", (1, 1), 60.0, (500 + 100, 2)), row("2024-10-05", "", (1, 1), 120.0, (501 + 200, 5)),]
        );
    }

    #[test]
    fn only_what_is_in_the_range_counts() {
        let hour = session("a", at(0.0), at(1.0), (400, 0), vec![connection(at(0.0), 1.0)]);
        let quarter = counted(Grouping::All, (at(0.5), at(0.75)), std::slice::from_ref(&hour));
        assert_eq!(quarter, [row("2024-10-04", "", (1, 1), 15.0, (100, 0))]);
        assert_eq!(counted(Grouping::All, (at(1.0), at(2.0)), std::slice::from_ref(&hour)), []);
        assert_eq!(counted(Grouping::All, (at(-2.0), at(0.0)), &[hour]), []);
    }

    #[test]
    fn rooms_are_grouped_by_the_beginning_of_their_names() {
        let named = |name: &str| session(name, at(0.0), at(1.0), (1, 2), vec![connection(at(0.0), 1.0)]);
        let sessions = ["acme-1", "acme-2", "acme-eu-1", "other", ""].map(named);
        let prefixes = Grouping::Prefixes(vec!["acme-".to_owned(), "acme-eu-".to_owned()]);
        let groups = |grouping| {
            let rows = counted(grouping, EVER, &sessions);
            rows.into_iter().map(|row| (row.prefix, row.sessions)).collect::<Vec<_>>()
        };
        let owned = |rows: &[(&str, usize)]| rows.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect::<Vec<_>>();
        assert_eq!(groups(prefixes), owned(&[("acme-", 2), ("acme-eu-", 1)]));
        assert_eq!(groups(Grouping::Separator('-')), owned(&[("", 1), ("acme", 3), ("other", 1)]));
        assert_eq!(groups(Grouping::All), owned(&[("", 5)]));
    }

    #[test]
    fn what_has_no_length_counts_once_and_on_its_own_day() {
        let mut connected = connection(at(12.0), 0.0);
        connected.published.push(publishes(at(12.0), at(12.0), 5));
        let session = session("a", at(12.0), at(12.0), (5, 0), vec![connected]);
        assert_eq!(counted(Grouping::All, EVER, &[session]), [row("2024-10-05", "", (1, 1), 0.0, (5, 0))]);
    }

    #[test]
    fn a_connection_of_which_only_stats_are_known_counts_on_their_day() {
        let mut connected = connection(at(0.0), 1.0);
        connected.joined_at = None;
        connected.published.push(publishes(at(24.0), at(25.0), 5));
        let days = session("a", at(0.0), at(48.0), (5, 0), vec![connected]);
        let minutes: Vec<(String, f64)> =
            counted(Grouping::All, EVER, &[days]).into_iter().map(|row| (row.day, row.connection_minutes)).collect();
        let expected = [("2024-10-04", 0.0), ("2024-10-05", 60.0), ("2024-10-06", 0.0)];
        assert_eq!(minutes, expected.map(|(day, minutes)| (day.to_owned(), minutes)));
    }

    #[test]
    fn sums_beyond_all_numbers_end_at_the_highest() {
        let mut connected = connection(at(0.0), 1.0);
        connected.published.push(publishes(at(0.0), at(1.0), u64::MAX));
        let one = session("a", at(0.0), at(1.0), (u64::MAX, u64::MAX), vec![connected]);
        let mut other = one.clone();
        other.room_sid = "RM_other".to_owned();
        let rows = counted(Grouping::All, EVER, &[one, other]);
        assert_eq!(rows, [row("2024-10-04", "", (2, 2), 120.0, (u64::MAX, u64::MAX))]);
    }

    #[test]
    fn however_it_is_cut_nothing_is_lost_or_counted_twice() {
        let mut connected = connection(at(0.1), 30.7);
        connected.published.push(publishes(at(3.3), at(27.9), 999_999_999_999));
        connected.published.push(publishes(at(3.0), at(3.1), 17));
        let session =
            session("a", at(0.0), at(31.0), (1_000_000_012_345, 77), vec![connected, connection(at(1.0), 2.0)]);
        let sum = |rows: &[UsageRow]| {
            let minutes: f64 = rows.iter().map(|row| row.connection_minutes).sum();
            (
                rows.iter().map(|row| row.bytes_in).sum::<u64>(),
                rows.iter().map(|row| row.bytes_out).sum::<u64>(),
                minutes,
            )
        };
        let whole = sum(&counted(Grouping::All, EVER, std::slice::from_ref(&session)));
        assert_eq!((whole.0, whole.1), (1_000_000_012_345, 77));
        let cuts: Vec<f64> = (0..40).map(|i| f64::from(i) * 0.97).collect();
        let pieces: Vec<UsageRow> = cuts
            .windows(2)
            .flat_map(|cut| counted(Grouping::All, (at(cut[0]), at(cut[1])), std::slice::from_ref(&session)))
            .collect();
        let pieces = sum(&pieces);
        assert_eq!((pieces.0, pieces.1), (whole.0, whole.1));
        assert!((pieces.2 - whole.2).abs() < 1e-6, "{} {}", pieces.2, whole.2);
    }
}
