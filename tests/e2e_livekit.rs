//! A real LiveKit server and real clients against the real binary: what happened in the rooms is in the database, whole
//! and once, although livekit-spool was killed while they were on.
//!
//! The server is livekit-server 1.11.0 as integrations/livekit-server builds it, the clients are LiveKit's own for Python
//! (integrations/livekit-server/e2e/clients.py); `tests/servers` gets both. Everything stays on loopback.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bson::{Bson, Document, doc};
use futures::TryStreamExt;
use mongodb::{Collection, Database};
use serde::Deserialize;
use support::{
    TIMEOUT,
    child::Process,
    eventually,
    livekit::{API_KEY, API_SECRET, Livekit, utf8},
    mongo::Mongo,
    process::Setup,
    test_server,
};
use tempfile::TempDir;

mod support;

/// Each has a publisher, a subscriber that stays, and guests that come and go.
const ROOMS: usize = 3;
const PUBLISHER: usize = 0;
const SUBSCRIBER: usize = 1;

/// What happened in a room, as its clients tell.
#[derive(Deserialize)]
struct Room {
    sid: String,
    /// Everyone who joined, by sid: the publisher, the subscriber, the guests.
    participants: Vec<String>,
    /// What the publisher published and everyone else subscribed to.
    tracks: u64,
    /// How often it was muted, and unmuted again.
    mutes: u64,
}

struct Clients {
    process: Process,
    directory: TempDir,
}

impl Clients {
    fn start(livekit: &Livekit) -> Self {
        let directory = support::directory("clients");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integrations/livekit-server/e2e/clients.py");
        let (url, rooms) = (format!("ws://127.0.0.1:{}", livekit.port), ROOMS.to_string());
        let args = [utf8(&script), "--url", &url, "--key", API_KEY, "--secret", API_SECRET, "--rooms", &rooms];
        let args = [&args[..], &["--folder", utf8(directory.path())]].concat();
        let log = directory.path().join("log");
        let process = Process::start("the clients", &test_server("venv/bin/python"), &args, &[], &log);
        Self { directory, process }
    }

    async fn written(&mut self, name: &str) -> PathBuf {
        let file = self.directory.path().join(name);
        let process = &mut self.process;
        eventually(name, || {
            let there = file.exists();
            if !there {
                process.assert_running();
            }
            std::future::ready(there)
        })
        .await;
        file
    }

    /// Everybody leaves.
    async fn end(&mut self) -> Vec<Room> {
        fs::write(self.directory.path().join("end"), "").expect("a file that tells the clients to end");
        let file = self.written("done.json").await;
        assert!(self.process.wait(TIMEOUT).success(), "the clients failed");
        serde_json::from_slice(&fs::read(file).expect("done.json")).expect("what the clients tell")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_in_the_database_whole_and_once_although_the_spool_was_killed_while_they_were_on() {
    let mongo = Mongo::shared().await;
    let database = mongo.database();
    let auth = format!("mode: livekit, keys: {{ {API_KEY}: {API_SECRET} }}");
    let mut spool = Setup::new().mongo("mongo", mongo.uri(), &database).auth(&auth).start().await;
    let mut livekit = Livekit::start(&spool.grpc()).await;
    let mut clients = Clients::start(&livekit);
    clients.written("on.json").await;

    // Events wait in LiveKit's memory while livekit-spool is away.
    spool.kill();
    eventually("LiveKit holds events", || async { livekit.held("events").await > 20_000 }).await;
    let before = livekit.records("events", "acknowledged").await;
    spool.start().await;
    eventually("they are resent", || async { livekit.records("events", "acknowledged").await > before }).await;
    // Killed while it takes them.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        spool.kill();
        spool.start().await;
    }
    // Stats come every 30 s, after the rooms have been on for a while.
    spool.kill();
    eventually("LiveKit holds stats", || async { livekit.held("stats").await > 0 }).await;
    spool.start().await;

    let rooms = clients.end().await;
    let database = mongo.open(&database).await;
    wait_for_the_end(&livekit, &database, &rooms).await;
    assert!(livekit.counted("resends_total", &[]).await > 0, "nothing was resent: the spool was never away");
    for lost in ["rejected", "dropped_full", "unserialisable"] {
        assert_eq!(livekit.counted("records_total", &[("outcome", lost)]).await, 0, "{lost}");
    }
    for room in &rooms {
        let published = assert_its_events_are_whole(&database, room).await;
        assert_its_stats_are_there(&database, room, &published).await;
    }
    livekit.process.assert_running();
}

/// Waits until each room has ended and all that LiveKit ever sent is in the database.
async fn wait_for_the_end(livekit: &Livekit, database: &Database, rooms: &[Room]) {
    let (events, stats) = (database.collection::<Document>("events"), database.collection::<Document>("stats"));
    for room in rooms {
        let ended = || events.count_documents(doc! { "type": "ROOM_ENDED", "room.sid": &room.sid });
        eventually("the room has ended", || async { ended().await.is_ok_and(|count| count > 0) }).await;
    }
    eventually("the database has as many records as LiveKit had acknowledged, and LiveKit holds none", || async {
        let idle = livekit.held("events").await + livekit.held("stats").await == 0;
        let sent = (livekit.records("events", "acknowledged").await, livekit.records("stats", "acknowledged").await);
        let there = (events.count_documents(doc! {}).await, stats.count_documents(doc! {}).await);
        idle && matches!(there, (Ok(events), Ok(stats)) if (events, stats) == sent)
    })
    .await;
}

/// Each thing that happened in the room, as often as it happened. Returns the tracks that were published.
async fn assert_its_events_are_whole(database: &Database, room: &Room) -> BTreeSet<String> {
    let events = all(&database.collection("events"), doc! { "room.sid": &room.sid }).await;
    let mut types: BTreeMap<&str, u64> = BTreeMap::new();
    let mut steps: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for event in &events {
        let kind = event.get_str("type").expect("a type");
        *types.entry(kind).or_default() += 1;
        if matches!(kind, "PARTICIPANT_JOINED" | "PARTICIPANT_ACTIVE" | "PARTICIPANT_LEFT") {
            steps.entry(event.get_str("participant_id").expect("a participant")).or_default().push(kind);
        }
    }
    let everyone = room.participants.len() as u64;
    let subscriptions = (everyone - 1) * room.tracks;
    for (kind, times) in [
        ("ROOM_CREATED", 1),
        ("PARTICIPANT_JOINED", everyone),
        ("PARTICIPANT_ACTIVE", everyone),
        ("TRACK_PUBLISH_REQUESTED", room.tracks),
        ("TRACK_PUBLISHED", room.tracks),
        ("TRACK_SUBSCRIBE_REQUESTED", subscriptions),
        ("TRACK_SUBSCRIBED", subscriptions),
        ("TRACK_MUTED", room.mutes),
        ("TRACK_UNMUTED", room.mutes),
        ("TRACK_UNSUBSCRIBED", subscriptions),
        ("TRACK_UNPUBLISHED", room.tracks),
        ("PARTICIPANT_LEFT", everyone),
        ("ROOM_ENDED", 1),
    ] {
        assert_eq!(types.get(kind), Some(&times), "{kind} in {}: {types:?}", room.sid);
    }
    for participant in &room.participants {
        let mut steps = steps.remove(participant.as_str()).unwrap_or_default();
        steps.sort_unstable();
        assert_eq!(steps, ["PARTICIPANT_ACTIVE", "PARTICIPANT_JOINED", "PARTICIPANT_LEFT"], "{participant}");
    }
    assert!(steps.is_empty(), "participants nobody knows: {steps:?}");
    let published = events.iter().filter(|event| text(event, "type") == "TRACK_PUBLISHED");
    published.map(|event| text(event, "track_id")).collect()
}

/// Stats of each track, from its publisher and to the one who stayed; none twice.
async fn assert_its_stats_are_there(database: &Database, room: &Room, published: &BTreeSet<String>) {
    let stats = all(&database.collection("stats"), doc! { "room_id": &room.sid }).await;
    for (participant, kind) in
        [(&room.participants[PUBLISHER], "UPSTREAM"), (&room.participants[SUBSCRIBER], "DOWNSTREAM")]
    {
        let its =
            stats.iter().filter(|stat| text(stat, "participant_id") == *participant && text(stat, "kind") == kind);
        let tracks: BTreeSet<String> = its.map(|stat| text(stat, "track_id")).collect();
        assert!(published.is_subset(&tracks), "{kind} stats of {participant}: {tracks:?}, published: {published:?}");
    }
    let mut moments = BTreeSet::new();
    for stat in &stats {
        let moment = stat.get("time_stamp").map(Bson::to_string);
        let key = (text(stat, "participant_id"), text(stat, "track_id"), text(stat, "kind"), moment);
        assert!(moments.insert(key.clone()), "twice: {key:?}");
    }
}

fn text(document: &Document, key: &str) -> String {
    document.get_str(key).unwrap_or_default().to_owned()
}

async fn all(collection: &Collection<Document>, filter: Document) -> Vec<Document> {
    collection.find(filter).await.expect("find").try_collect().await.expect("find")
}
