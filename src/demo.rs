//! Real LiveKit records without a LiveKit server: what livekit-server 1.11 sent while clients were in seven rooms, replayed
//! with new ids and current times through the real gRPC port.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use livekit_protocol::{AnalyticsEvent, AnalyticsStat, ParticipantInfo, Room, TrackInfo};
use parking_lot::Mutex;
use pbjson_types::Timestamp;
use prost::Message;
use rand::{Rng, distr::Alphanumeric};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::{Code, Status};

use crate::{
    ingest::{Dropped, client::Client},
    record::{RecordBatch, RecordBatchBuilder, Stream, UnixMillis, now_millis, wire::delimited},
};

const EVENTS: &[u8] = include_bytes!("../tests/data/livekit-1.11/events.pb");
const STATS: &[u8] = include_bytes!("../tests/data/livekit-1.11/stats.pb");

/// Default rate, records per second.
pub const DEFAULT_RATE: u32 = 100;
/// With a rate, groups of records are sent at this interval.
const GROUP_INTERVAL: Duration = Duration::from_millis(100);
/// Without a rate, groups of this many records are sent.
const GROUP_RECORDS: usize = 1000;
/// Number of random characters at the end of LiveKit's ids.
const ID_RANDOM_CHARS: usize = 12;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// A record and its stream.
pub type Tagged = (Stream, Vec<u8>);

/// Repeats the bundled records in the order of their times: each time with new ids, also of rooms, participants and tracks,
/// and with the time of sending.
#[derive(Debug)]
pub struct Playback {
    records: Vec<Recorded>,
    next: usize,
    /// New ids of this round, by the recorded ones.
    ids: HashMap<String, String>,
    /// When each id was first seen in this round.
    since: HashMap<String, UnixMillis>,
}

#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there are 1245 of them, once")]
enum Recorded {
    Event(AnalyticsEvent),
    Stat(AnalyticsStat),
}

impl Default for Playback {
    fn default() -> Self {
        Self::new()
    }
}

impl Playback {
    /// Starts at the first record.
    #[must_use]
    pub fn new() -> Self {
        let events = delimited(EVENTS).filter_map(|record| AnalyticsEvent::decode(record).ok()).map(Recorded::Event);
        let stats = delimited(STATS).filter_map(|record| AnalyticsStat::decode(record).ok()).map(Recorded::Stat);
        let mut records: Vec<_> = events.chain(stats).collect();
        records.sort_by_key(Recorded::time);
        Self { records, next: 0, ids: HashMap::new(), since: HashMap::new() }
    }

    /// How many records a round has.
    #[must_use]
    pub const fn round(&self) -> usize {
        self.records.len()
    }

    fn stamp(&mut self, now: UnixMillis) -> Option<Tagged> {
        let record = self.records.get(self.next)?.clone();
        self.next += 1;
        if self.next == self.records.len() {
            self.next = 0;
        }
        let stamped = match record {
            Recorded::Event(event) => (Stream::Events, self.event(event, now).encode_to_vec()),
            Recorded::Stat(stat) => (Stream::Stats, self.stat(stat, now).encode_to_vec()),
        };
        if self.next == 0 {
            self.ids.clear();
            self.since.clear();
        }
        Some(stamped)
    }

    fn event(&mut self, mut event: AnalyticsEvent, now: UnixMillis) -> AnalyticsEvent {
        event.id = new_id("AE_");
        event.timestamp = Some(timestamp(now));
        for id in [&mut event.room_id, &mut event.participant_id, &mut event.track_id] {
            self.renew(id);
        }
        if let Some(room) = &mut event.room {
            self.room(room, now);
        }
        for participant in [&mut event.participant, &mut event.publisher].into_iter().flatten() {
            self.participant(participant, now);
        }
        if let Some(track) = &mut event.track {
            self.renew(&mut track.sid);
        }
        event
    }

    fn stat(&mut self, mut stat: AnalyticsStat, now: UnixMillis) -> AnalyticsStat {
        stat.id = new_id("AS_");
        let before = stat.time_stamp.as_ref().map_or(0, millis);
        stat.time_stamp = Some(timestamp(now));
        for id in [&mut stat.room_id, &mut stat.participant_id, &mut stat.track_id] {
            self.renew(id);
        }
        for stream in &mut stat.streams {
            for time in [&mut stream.start_time, &mut stream.end_time].into_iter().flatten() {
                *time = timestamp(millis(time) + now - before);
            }
        }
        stat
    }

    fn room(&mut self, room: &mut Room, now: UnixMillis) {
        self.renew(&mut room.sid);
        let since = *self.since.entry(room.sid.clone()).or_insert(now);
        (room.creation_time, room.creation_time_ms) = (since / 1000, since);
    }

    fn participant(&mut self, participant: &mut ParticipantInfo, now: UnixMillis) {
        self.renew(&mut participant.sid);
        for TrackInfo { sid, .. } in &mut participant.tracks {
            self.renew(sid);
        }
        let since = *self.since.entry(participant.sid.clone()).or_insert(now);
        if participant.joined_at != 0 {
            (participant.joined_at, participant.joined_at_ms) = (since / 1000, since);
        }
    }

    /// Replaces a recorded id (`RM_…`, `PA_…`, `TR_VC…`) by this round's.
    fn renew(&mut self, id: &mut String) {
        if let Some((kind, _)) = id.len().checked_sub(ID_RANDOM_CHARS).and_then(|random| id.split_at_checked(random)) {
            let kind = kind.to_owned();
            id.clone_from(self.ids.entry(id.clone()).or_insert_with(|| new_id(&kind)));
        }
    }
}

impl Iterator for Playback {
    type Item = Tagged;

    fn next(&mut self) -> Option<Tagged> {
        self.stamp(now_millis())
    }
}

impl Recorded {
    fn time(&self) -> UnixMillis {
        match self {
            Self::Event(event) => event.timestamp.as_ref().map_or(0, millis),
            Self::Stat(stat) => stat.time_stamp.as_ref().map_or(0, millis),
        }
    }
}

/// Gives a record a new id and the current time, whatever else it holds.
#[must_use]
pub fn restamp((stream, record): Tagged) -> Tagged {
    let now = Some(timestamp(now_millis()));
    let stamped = match stream {
        Stream::Events => AnalyticsEvent { id: new_id("AE_"), timestamp: now, ..Default::default() }.encode_to_vec(),
        Stream::Stats => AnalyticsStat { id: new_id("AS_"), time_stamp: now, ..Default::default() }.encode_to_vec(),
        // They are identified by node, number and time.
        Stream::NodeRooms => {
            livekit_protocol::AnalyticsNodeRooms { timestamp: now, ..Default::default() }.encode_to_vec()
        }
    };
    // Protobuf merges concatenated messages: the later value of a field wins.
    (stream, [record, stamped].concat())
}

fn new_id(prefix: &str) -> String {
    let random = rand::rng().sample_iter(Alphanumeric).take(ID_RANDOM_CHARS).map(char::from);
    prefix.chars().chain(random).collect()
}

fn timestamp(at: UnixMillis) -> Timestamp {
    let nanos = i32::try_from(at.rem_euclid(1000) * 1_000_000).unwrap_or(0);
    Timestamp { seconds: at.div_euclid(1000), nanos }
}

fn millis(at: &Timestamp) -> UnixMillis {
    at.seconds * 1000 + i64::from(at.nanos / 1_000_000)
}

/// Progress of a sender.
#[derive(Debug, Default)]
pub struct Progress {
    acknowledged: AtomicU64,
    retries: AtomicU64,
    dropped: Mutex<Dropped>,
}

impl Progress {
    /// Records that the receiver answered OK: it has them durably, except those that it dropped.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Relaxed)
    }

    /// Batches that had to be sent again.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }

    /// Acknowledged records that a sink of the receiver did not keep.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.dropped.lock().clone()
    }

    fn add(&self, batch: &RecordBatch, dropped: Dropped) {
        self.acknowledged.fetch_add(u64::from(batch.count()), Relaxed);
        if dropped.is_empty() {
            return;
        }
        let mut all = self.dropped.lock();
        if all.is_empty() {
            tracing::warn!("acknowledged, but not all records are kept: dropped {dropped}");
        }
        all.merge(dropped);
    }
}

/// Sends records until there are no more, `rate` per second (0: as fast as they are acknowledged). Records that are refused
/// temporarily are sent again, with the same ids, until they are accepted.
///
/// # Errors
/// When records are refused for good.
pub async fn send(
    client: &Client,
    mut records: impl Iterator<Item = Tagged>,
    rate: u32,
    progress: &Progress,
) -> Result<(), Status> {
    let mut ticks = interval(GROUP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due = 0.0;
    loop {
        let wanted = if rate == 0 {
            GROUP_RECORDS
        } else {
            ticks.tick().await;
            due += f64::from(rate) * GROUP_INTERVAL.as_secs_f64();
            let whole = due.floor();
            due -= whole;
            whole as usize
        };
        let mut batches = Stream::ALL.map(RecordBatchBuilder::new);
        let mut accepted = 0;
        for (stream, record) in records.by_ref().take(wanted) {
            batches[stream as usize].push(&record);
            accepted += 1;
        }
        let batches: Vec<_> =
            batches.into_iter().filter(|batch| !batch.is_empty()).map(|batch| batch.build(now_millis())).collect();
        let sent = batches.iter().map(|batch| send_until_accepted(client, batch, progress));
        futures::future::try_join_all(sent).await?;
        if accepted < wanted {
            return Ok(());
        }
    }
}

async fn send_until_accepted(client: &Client, batch: &RecordBatch, progress: &Progress) -> Result<(), Status> {
    let mut pause = RETRY_FIRST;
    loop {
        // One event per message, as LiveKit sends them.
        match client.send(batch, 1).await {
            Ok(dropped) => {
                progress.add(batch, dropped);
                return Ok(());
            }
            Err(status) if is_for_the_moment(&status) => {
                if progress.retries.fetch_add(1, Relaxed) == 0 {
                    tracing::warn!(code = ?status.code(), why = status.message(), "records were not accepted: sending them \
                                                                                   again until they are");
                }
            }
            Err(status) => return Err(status),
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        sleep(jittered).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
}

/// The codes of a broken connection, and of a receiver that is full, restarting or slow.
fn is_for_the_moment(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted
    )
}

/// Sends the bundled records to a server until `shutdown`.
///
/// # Errors
/// When the server refuses them for good, for example because of wrong credentials.
pub async fn run(client: &Client, rate: u32, shutdown: impl Future<Output = ()>) -> Result<(), Status> {
    let progress = Progress::default();
    tokio::select! {
        sent = send(client, Playback::new(), rate, &progress) => sent,
        () = shutdown => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::record::RecordId;

    fn events(records: &[Tagged]) -> Vec<AnalyticsEvent> {
        let events = records.iter().filter(|(stream, _)| *stream == Stream::Events);
        events.map(|(_, record)| AnalyticsEvent::decode(&record[..]).unwrap()).collect()
    }

    #[test]
    fn a_round_has_all_bundled_records_with_ids_that_are_never_reused() {
        let mut playback = Playback::new();
        assert_eq!(playback.round(), 763 + 482);
        let records: Vec<_> = playback.by_ref().take(2 * 1245).collect();
        let ids: HashSet<_> = records.iter().map(|(stream, record)| RecordId::of(*stream, record)).collect();
        assert_eq!(ids.len(), 2 * 1245);
    }

    #[test]
    fn rooms_are_new_each_round_and_the_same_within_one() {
        let rooms = |records: &[Tagged]| -> HashSet<String> {
            events(records).into_iter().map(|event| event.room_id).filter(|id| !id.is_empty()).collect()
        };
        let mut playback = Playback::new();
        let (first, second): (Vec<_>, Vec<_>) = (playback.by_ref().take(1245).collect(), playback.take(1245).collect());
        let (first, second) = (rooms(&first), rooms(&second));
        assert_eq!((first.len(), second.len()), (7, 7));
        assert!(first.is_disjoint(&second));
        assert!(first.iter().all(|id| id.starts_with("RM_") && id.len() == 15), "{first:?}");
    }

    #[test]
    fn times_are_those_of_sending() {
        let before = now_millis();
        let records: Vec<_> = Playback::new().take(1245).collect();
        let after = now_millis();
        for event in events(&records) {
            assert!((before..=after).contains(&millis(&event.timestamp.unwrap())));
            if let Some(room) = event.room {
                assert!((before..=after).contains(&room.creation_time_ms));
            }
        }
    }

    #[test]
    fn a_restamped_record_keeps_all_but_its_id_and_time() {
        let event = AnalyticsEvent { id: "AE_old".into(), room_id: "RM_1".into(), r#type: 4, ..Default::default() };
        let (stream, record) = restamp((Stream::Events, event.encode_to_vec()));
        let stamped = AnalyticsEvent::decode(&record[..]).unwrap();
        assert_eq!((stream, stamped.room_id.as_str(), stamped.r#type), (Stream::Events, "RM_1", 4));
        assert!(stamped.id.starts_with("AE_") && stamped.id != "AE_old");
        assert!(millis(&stamped.timestamp.unwrap()) >= now_millis() - 60_000);
        assert_eq!(RecordId::of(stream, &record).as_str(), stamped.id);
    }
}
