//! Real LiveKit records without a LiveKit server: what livekit-server 1.11 sent while clients were in seven rooms, replayed
//! with new ids and current times through the real gRPC port.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use prost_reflect::{DynamicMessage, Value};
use rand::{Rng, distr::Alphanumeric};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::{Code, Status};

use crate::{
    document::{encoded, message_descriptor},
    ingest::{Dropped, client::Client},
    record::{
        RecordBatch, RecordBatchBuilder, Stream, UnixMillis, now_millis, time_of,
        wire::{delimited, write_length_delimited},
    },
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
struct Recorded {
    stream: Stream,
    time: UnixMillis,
    message: DynamicMessage,
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
        let read = |(stream, bytes)| delimited(bytes).filter_map(move |record| Recorded::read(stream, record));
        let mut records: Vec<_> =
            [(Stream::Events, EVENTS), (Stream::Stats, STATS)].into_iter().flat_map(read).collect();
        records.sort_by_key(|record| record.time);
        Self { records, next: 0, ids: HashMap::new(), since: HashMap::new() }
    }

    /// How many records a round has.
    #[must_use]
    pub const fn round(&self) -> usize {
        self.records.len()
    }

    fn stamp(&mut self, now: UnixMillis) -> Option<Tagged> {
        let mut record = self.records.get(self.next)?.clone();
        self.next += 1;
        if self.next == self.records.len() {
            self.next = 0;
        }
        match record.stream {
            Stream::Stats => self.stat(&mut record, now),
            _ => self.event(&mut record.message, now),
        }
        let stamped = (record.stream, encoded(&record.message));
        if self.next == 0 {
            self.ids.clear();
            self.since.clear();
        }
        Some(stamped)
    }

    fn event(&mut self, event: &mut DynamicMessage, now: UnixMillis) {
        event.set_field_by_name("id", Value::String(new_id("AE_")));
        event.set_field_by_name("timestamp", timestamp(now));
        for id in ["room_id", "participant_id", "track_id"] {
            self.renew(event, id);
        }
        if let Some(room) = part(event, "room") {
            let since = self.since(room, now);
            set_times(room, ["creation_time", "creation_time_ms"], since);
        }
        for participant in ["participant", "publisher"] {
            if let Some(participant) = part(event, participant) {
                self.participant(participant, now);
            }
        }
        if let Some(track) = part(event, "track") {
            self.renew(track, "sid");
        }
    }

    fn stat(&mut self, record: &mut Recorded, now: UnixMillis) {
        let stat = &mut record.message;
        stat.set_field_by_name("id", Value::String(new_id("AS_")));
        stat.set_field_by_name("time_stamp", timestamp(now));
        for id in ["room_id", "participant_id", "track_id"] {
            self.renew(stat, id);
        }
        for stream in parts(stat, "streams") {
            for field in ["start_time", "end_time"] {
                if let Some(time) = part(stream, field).map(|time| millis(time)) {
                    stream.set_field_by_name(field, timestamp(time + now - record.time));
                }
            }
        }
    }

    fn participant(&mut self, participant: &mut DynamicMessage, now: UnixMillis) {
        for track in parts(participant, "tracks") {
            self.renew(track, "sid");
        }
        let since = self.since(participant, now);
        if participant.has_field_by_name("joined_at") {
            set_times(participant, ["joined_at", "joined_at_ms"], since);
        }
    }

    /// When the room or participant was first seen, after its id is renewed.
    fn since(&mut self, message: &mut DynamicMessage, now: UnixMillis) -> UnixMillis {
        let id = self.renew(message, "sid");
        *self.since.entry(id).or_insert(now)
    }

    /// Replaces a recorded id (`RM_…`, `PA_…`, `TR_VC…`) by this round's; returns that.
    fn renew(&mut self, message: &mut DynamicMessage, field: &str) -> String {
        let Some(id) = message.get_field_by_name_mut(field).and_then(Value::as_string_mut) else {
            return String::new();
        };
        if let Some((kind, _)) = id.len().checked_sub(ID_RANDOM_CHARS).and_then(|random| id.split_at_checked(random)) {
            let kind = kind.to_owned();
            id.clone_from(self.ids.entry(id.clone()).or_insert_with(|| new_id(&kind)));
        }
        id.clone()
    }
}

impl Iterator for Playback {
    type Item = Tagged;

    fn next(&mut self) -> Option<Tagged> {
        self.stamp(now_millis())
    }
}

impl Recorded {
    fn read(stream: Stream, record: &[u8]) -> Option<Self> {
        let message = DynamicMessage::decode(message_descriptor(stream.message_name()), record).ok()?;
        Some(Self { stream, time: time_of(stream, record).unwrap_or(0), message })
    }
}

/// Gives a record a new id and the current time, whatever else it holds.
#[must_use]
pub fn restamp((stream, mut record): Tagged) -> Tagged {
    // Protobuf merges concatenated messages: the later value of a field wins.
    if let Value::Message(now) = timestamp(now_millis()) {
        write_length_delimited(&mut record, stream.time_field(), &encoded(&now));
    }
    let prefix = if stream == Stream::Stats { "AS_" } else { "AE_" };
    // Node room states are identified by node, number and time.
    if let Some(field) = stream.id_field() {
        write_length_delimited(&mut record, field, new_id(prefix).as_bytes());
    }
    (stream, record)
}

/// A message in a message, if it is there.
fn part<'m>(message: &'m mut DynamicMessage, field: &str) -> Option<&'m mut DynamicMessage> {
    if !message.has_field_by_name(field) {
        return None;
    }
    message.get_field_by_name_mut(field)?.as_message_mut()
}

/// The messages in a list.
fn parts<'m>(message: &'m mut DynamicMessage, field: &'static str) -> impl Iterator<Item = &'m mut DynamicMessage> {
    let list = message.get_field_by_name_mut(field).and_then(Value::as_list_mut);
    list.into_iter().flatten().filter_map(Value::as_message_mut)
}

/// Sets a time in seconds, and the same in milliseconds.
fn set_times(message: &mut DynamicMessage, [seconds, millis]: [&str; 2], at: UnixMillis) {
    message.set_field_by_name(seconds, Value::I64(at / 1000));
    message.set_field_by_name(millis, Value::I64(at));
}

fn new_id(prefix: &str) -> String {
    let random = rand::rng().sample_iter(Alphanumeric).take(ID_RANDOM_CHARS).map(char::from);
    prefix.chars().chain(random).collect()
}

fn timestamp(at: UnixMillis) -> Value {
    let mut timestamp = DynamicMessage::new(message_descriptor("google.protobuf.Timestamp"));
    let nanos = i32::try_from(at.rem_euclid(1000) * 1_000_000).unwrap_or(0);
    timestamp.set_field_by_name("seconds", Value::I64(at.div_euclid(1000)));
    timestamp.set_field_by_name("nanos", Value::I32(nanos));
    Value::Message(timestamp)
}

fn millis(at: &DynamicMessage) -> UnixMillis {
    let seconds = at.get_field_by_name("seconds").and_then(|seconds| seconds.as_i64()).unwrap_or(0);
    let nanos = at.get_field_by_name("nanos").and_then(|nanos| nanos.as_i32()).unwrap_or(0);
    seconds * 1000 + i64::from(nanos / 1_000_000)
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
        let mut taken = 0;
        for (stream, record) in records.by_ref().take(wanted) {
            batches[stream as usize].push(&record);
            taken += 1;
        }
        let batches: Vec<_> =
            batches.into_iter().filter(|batch| !batch.is_empty()).map(|batch| batch.build(now_millis())).collect();
        let sent = batches.iter().map(|batch| send_until_taken(client, batch, progress));
        futures::future::try_join_all(sent).await?;
        if taken < wanted {
            return Ok(());
        }
    }
}

async fn send_until_taken(client: &Client, batch: &RecordBatch, progress: &Progress) -> Result<(), Status> {
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

    use livekit_protocol::AnalyticsEvent;
    use pbjson_types::Timestamp;
    use prost::Message;

    use super::*;
    use crate::record::RecordId;

    fn millis(at: &Timestamp) -> UnixMillis {
        at.seconds * 1000 + i64::from(at.nanos / 1_000_000)
    }

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
