//! How long it takes to read sessions back, from 10,000, 100,000 and a million events: real sessions, spread over 30 days.
//!
//! ```sh
//! cargo bench --bench sessions                                  # all archives; needs tests/servers, and an hour: secantusd stores slowly
//! cargo bench --bench sessions -- --events 10000                # one size
//! cargo bench --bench sessions -- --only files --events 100000  # mongodb, postgresql or files
//! ```
//!
//! Limits, checked for a million events: the newest 50 sessions of the last day are listed in 200 ms, and one session is read and
//! folded in a second. Files are searched as a whole, so their limit is a rate: 300 MB a second. Medians of 9.

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use livekit_protocol::{AnalyticsEvent, AnalyticsStat};
use livekit_spool::{
    archive::{self, Archive, Limits, Query, Room},
    config::{self, SinkConfig},
    document::{DocumentOptions, Encoder},
    record::{QueuedRecord, Stream, now_millis},
    session::Time,
    sink::{Batch, Outcome, Sink},
};
use prost::Message;
use support::{
    mongo::Mongo,
    postgres::Postgres,
    records::{real_events, real_stats},
};

/// How many events there are.
const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];
/// How long ago the first session was.
const SPREAD: i64 = 30 * 24 * 3600;
const ROUNDS: usize = 9;
const LIST: Duration = Duration::from_millis(200);
const SESSION: Duration = Duration::from_secs(1);
/// Bytes of files a second.
const SCAN: f64 = 300e6;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after =
        |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
    let only = after("--only").map(String::as_str);
    let sizes = after("--events").map(|events| vec![events.parse().expect("--events takes a number")]);
    let sizes = sizes.unwrap_or_else(|| SIZES.to_vec());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let kept = runtime.block_on(async {
        let mut kept = true;
        for size in sizes {
            for name in ["mongodb", "postgresql", "files"] {
                if only.is_none_or(|only| only == name) {
                    kept &= measure(name, size).await;
                }
            }
        }
        kept
    });
    std::process::exit(i32::from(!kept));
}

/// What keeps the destination of a sink alive.
enum Destination {
    Mongodb(#[expect(dead_code, reason = "it ends when it is dropped")] Mongo),
    Postgresql(Postgres),
    Files(tempfile::TempDir),
}

async fn measure(name: &str, size: usize) -> bool {
    let (destination, keys) = match name {
        "mongodb" => {
            let mongo = Mongo::start_with(false).await;
            let keys = format!("type: mongodb, uri: \"{}\", database: bench", mongo.uri());
            (Destination::Mongodb(mongo), keys)
        }
        "postgresql" => {
            let postgres = Postgres::start_with(&["fsync=off", "max_wal_size=4GB"]).await;
            let keys = format!("type: postgresql, url: \"{}\"", postgres.url());
            (Destination::Postgresql(postgres), keys)
        }
        _ => {
            let directory = support::directory("files");
            let keys = format!("type: file, path: \"{}\"", directory.path().display());
            (Destination::Files(directory), keys)
        }
    };
    let text = format!("sinks:\n  - {{ name: sessions, {keys} }}\n");
    let sinks = config::parse(Some(("config.yaml", &text)), &|_| None).expect("a configuration").sinks;
    fill(&sinks[0], size).await;
    if let Destination::Postgresql(postgres) = &destination {
        postgres.run("VACUUM ANALYZE").await;
    }
    let archive = archive::open(&sinks[0]).expect("an archive");
    let found = read(&*archive).await;
    let bytes = match &destination {
        Destination::Files(directory) => Some(bytes_in(directory.path())),
        Destination::Mongodb(_) | Destination::Postgresql(_) => None,
    };
    // Files are searched from the newest back: all of them, since they were all written now.
    let limits = match bytes {
        Some(bytes) => [Duration::from_secs_f64(bytes as f64 / SCAN); 2],
        None => [LIST, SESSION],
    };
    let is_checked = size >= SIZES[2];
    let is_kept = !is_checked || (found.list <= limits[0] && found.session <= limits[1]);
    let verdict = match (is_checked, is_kept) {
        (false, _) => String::new(),
        (true, true) => format!(", at most {:?} and {:?}: ok", limits[0], limits[1]),
        (true, false) => format!(", at most {:?} and {:?}: TOO SLOW", limits[0], limits[1]),
    };
    let megabytes = bytes.map(|bytes| format!(" of {} MB", bytes / 1_000_000)).unwrap_or_default();
    println!(
        "{name}{megabytes}, {size} events: a list of {} in {:?}, a session of {} events in {:?}{verdict}",
        found.rooms, found.list, found.events, found.session
    );
    is_kept
}

struct Figures {
    list: Duration,
    rooms: usize,
    session: Duration,
    events: usize,
}

/// Lists the newest 50 sessions of the last day, then reads one of them; medians.
async fn read(archive: &dyn Archive) -> Figures {
    let now = Time(now_millis() * 1_000_000);
    let query = Query { from: Time(now.0 - 86_400_000_000_000), to: now, room_name: None, room_prefix: None };
    let limits = Limits { time: Duration::from_secs(600), bytes: 1 << 30, rooms: 50 };
    let (mut lists, mut sessions, mut rooms, mut events) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        rooms = archive.list(&query, &limits).await.expect("a list").rooms;
        lists.push(begun.elapsed());
        let room: Room = rooms[rooms.len() / 2].clone();
        let begun = Instant::now();
        let mut found = archive.records(std::slice::from_ref(&room), &limits).await.expect("records");
        let session = found.take(&room.sid, now).expect("a session");
        sessions.push(begun.elapsed());
        events = session.moments.len();
        assert_eq!(session.totals.participants, 3);
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    Figures { list: median(lists), rooms: rooms.len(), session: median(sessions), events }
}

fn bytes_in(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
    entries.map(|entry| entry.metadata().expect("a file").len()).sum()
}

/// Delivers copies of the real sessions, under ids of their own, from 30 days ago until now.
async fn fill(sink: &SinkConfig, size: usize) {
    let (events, stats) = (real_events(), real_stats());
    let last = events.iter().filter_map(|event| event.timestamp.as_ref()).map(|at| at.seconds).max().expect("events");
    let copies = size.div_ceil(events.len());
    let now = now_millis() / 1000;
    let built = sink.target.build(&Arc::new(Encoder::new(DocumentOptions::default()))).expect("options");
    built.initialize().await.expect("ready");
    // Batches of several copies: as many as a forwarder sends at once.
    let mut pending: HashMap<Stream, Vec<Vec<u8>>> = HashMap::new();
    for copy in 0..copies {
        let ago = SPREAD - SPREAD * (copy as i64 + 1) / copies as i64;
        let shift = now - ago - last;
        let copied = |id: &str| if id.is_empty() { String::new() } else { format!("{id}{copy:04}") };
        for event in &events {
            let event = shifted_event(event.clone(), shift, &copied);
            pending.entry(Stream::Events).or_default().push(event.encode_to_vec());
        }
        for stat in &stats {
            let stat = shifted_stat(stat.clone(), shift, &copied);
            pending.entry(Stream::Stats).or_default().push(stat.encode_to_vec());
        }
        if copy % 5 == 4 || copy + 1 == copies {
            for (stream, records) in pending.drain() {
                deliver(&*built, stream, records).await;
            }
        }
    }
    built.close().await;
}

async fn deliver(sink: &dyn Sink, stream: Stream, records: Vec<Vec<u8>>) {
    let record = |(i, bytes): (usize, Vec<u8>)| QueuedRecord {
        seq: i as u64,
        received_at: now_millis(),
        bytes: Bytes::from(bytes),
    };
    let batch = Batch { stream, records: records.into_iter().enumerate().map(record).collect() };
    // As a forwarder does: what a slow server did not take comes again.
    for _ in 0..20 {
        let outcome = sink.send_batch(batch.clone()).await;
        if outcome.records.iter().all(|outcome| *outcome == Outcome::Delivered) {
            return;
        }
        eprintln!("sent again: {:?}", outcome.error);
    }
    panic!("a batch was not delivered");
}

fn shifted_event(mut event: AnalyticsEvent, shift: i64, copied: &impl Fn(&str) -> String) -> AnalyticsEvent {
    event.id = copied(&event.id);
    for id in [&mut event.room_id, &mut event.participant_id, &mut event.track_id] {
        *id = copied(id);
    }
    if let Some(at) = &mut event.timestamp {
        at.seconds += shift;
    }
    if let Some(room) = &mut event.room {
        room.sid = copied(&room.sid);
        room.creation_time += shift;
        room.creation_time_ms += shift * 1000;
    }
    if let Some(participant) = &mut event.participant {
        participant.sid = copied(&participant.sid);
    }
    if let Some(track) = &mut event.track {
        track.sid = copied(&track.sid);
    }
    if let Some(webhook) = &mut event.webhook {
        for id in [&mut webhook.room_id, &mut webhook.participant_id, &mut webhook.track_id] {
            *id = copied(id);
        }
    }
    event
}

fn shifted_stat(mut stat: AnalyticsStat, shift: i64, copied: &impl Fn(&str) -> String) -> AnalyticsStat {
    stat.id = copied(&stat.id);
    for id in [&mut stat.room_id, &mut stat.participant_id, &mut stat.track_id] {
        *id = copied(id);
    }
    let times = stat.streams.iter_mut().flat_map(|stream| [&mut stream.start_time, &mut stream.end_time]);
    for at in times.chain([&mut stat.time_stamp]).flatten() {
        at.seconds += shift;
    }
    stat
}
