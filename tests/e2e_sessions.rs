//! Sessions of real calls: a real livekit-server, and real clients behind a relay that loses their packets. What the session
//! tells is held against what the relay counted.
//!
//! `recordings_of_calls` writes the recordings in tests/data/sessions, or in the directory that `LIVEKIT_SPOOL_RECORDINGS` names; all,
//! or those that `LIVEKIT_SPOOL_SCENARIOS` names (`tcp,turn`): `cargo test --test e2e_sessions -- --ignored`, then
//! `UPDATE_SESSIONS=1 cargo test --lib session::tests::golden`.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::{BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use livekit_spool::{
    record::{Stream, wire::write_varint},
    session::{Documents, Session, Time, Track, fold},
    spool::raw::RawReader,
};
use serde::Deserialize;
use serde_json::Value;
use support::{
    TIMEOUT,
    child::Process,
    eventually, free_port,
    livekit::{API_KEY, API_SECRET, Livekit, utf8},
    process::{QUICK, Setup, Spool},
    test_server,
};

mod support;

/// LiveKit believes this to be its own address; the relay is there.
const RELAY: &str = "127.0.0.2";
/// What happens in the rooms, and for how long.
const SCENARIOS: [(&str, u32); 8] = [
    ("loss_up", 70),
    ("loss_down", 70),
    ("resume", 40),
    ("reconnect", 40),
    ("late", 60),
    ("never", 20),
    ("tcp", 40),
    ("turn", 40),
];

/// What the clients tell.
#[derive(Deserialize)]
struct Done {
    room: String,
    /// By identity and way: `ann up`.
    relay: BTreeMap<String, Relayed>,
}

/// RTP packets that came to the relay, retransmitted ones too.
#[derive(Deserialize)]
struct Relayed {
    dropped: u64,
}

/// Plays a scenario to its end.
async fn play(spool: &Spool, scenario: &str, seconds: u32) -> (Livekit, Done) {
    // LiveKit tells TCP and TURN by the addresses that packets come from: nothing may stand between. All others have to come
    // past the relay, and over TCP they would not.
    let (rtc, turn) = match scenario {
        "tcp" => (format!("node_ip: 127.0.0.1, force_tcp: true, tcp_port: {}", free_port()), String::new()),
        "turn" => {
            let turn = format!("turn: {{ enabled: true, udp_port: {}, bind_addresses: [127.0.0.1] }}\n", free_port());
            ("node_ip: 127.0.0.1, tcp_port: 0".to_owned(), turn)
        }
        _ => (format!("node_ip: {RELAY}, use_ice_lite: true, tcp_port: 0"), String::new()),
    };
    let livekit = Livekit::start_with(&spool.grpc(), &rtc, &turn).await;
    let directory = support::directory("clients");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integrations/livekit-server/e2e/sessions.py");
    let (port, media) = (livekit.port, livekit.media);
    let (url, seconds) = (format!("ws://127.0.0.1:{port}"), seconds.to_string());
    let (relay, media) = (format!("{RELAY}:{media}"), format!("127.0.0.1:{media}"));
    let args = [utf8(&script), scenario, "--url", &url, "--key", API_KEY, "--secret", API_SECRET];
    let more = ["--relay", &relay, "--media", &media, "--seconds", &seconds, "--folder", utf8(directory.path())];
    let log = directory.path().join("log");
    let mut clients =
        Process::start("the clients", &test_server("venv/bin/python"), &[&args[..], &more].concat(), &[], &log);
    assert!(clients.wait(3 * TIMEOUT).success(), "the clients failed");
    let done = fs::read(directory.path().join("done.json")).expect("done.json");
    (livekit, serde_json::from_slice(&done).expect("what the clients tell"))
}

fn auth() -> String {
    format!("mode: livekit, keys: {{ {API_KEY}: {API_SECRET} }}")
}

/// What the file sink has stored.
fn stored(spool: &Spool) -> Documents {
    let mut documents = Documents::default();
    for entry in fs::read_dir(spool.directory().join("out")).into_iter().flatten() {
        let path = entry.expect("a file of the sink").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let stream = match &name {
            name if name.starts_with("events") => &mut documents.events,
            name if name.starts_with("stats") => &mut documents.stats,
            _ => continue,
        };
        let text = fs::read_to_string(&path).expect("a file of the sink");
        // A line that is being written has no end yet.
        stream.extend(text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()));
    }
    documents
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_names_who_lost_packets_on_which_way_and_how_many() {
    let spool = Setup::new().files("files").auth(&auth()).start().await;
    let (_livekit, done) = play(&spool, "loss_up", 15).await;
    eventually("the room has ended", || async {
        stored(&spool).events.iter().any(|event| event["type"] == "ROOM_ENDED")
    })
    .await;
    let session = fold(&done.room, &stored(&spool), Time(i64::MAX)).expect("a session");
    let published = tracks(&session, "ann");
    let missed: u64 = published.iter().map(|track| track.upstream.lost + track.upstream.retransmitted).sum();
    // Retransmissions are lost too, and the last packets leave no gap.
    let dropped = done.relay["ann up"].dropped;
    assert!(dropped > 50, "the relay dropped {dropped} packets: too few to compare");
    assert!(
        (dropped * 3 / 4..=dropped).contains(&missed),
        "the session tells of {missed}, the relay dropped {dropped}"
    );
    // No retransmissions of audio: the numbers are the same.
    let audio = published.iter().find(|track| track.kind == "AUDIO").expect("a microphone");
    assert!(audio.upstream.lost > 0 && audio.upstream.retransmitted == 0, "{:?}", audio.upstream);

    let of = |kind| session.observations.iter().filter(move |seen| seen.kind == kind);
    let blamed: Vec<&str> = of("loss_upstream").filter_map(|seen| seen.identity.as_deref()).collect();
    assert_eq!(blamed, ["ann"], "{:#?}", session.observations);
    assert_eq!(of("loss_downstream").count(), 0, "bob lost nothing: {:#?}", session.observations);
}

fn tracks(session: &Session, identity: &str) -> Vec<Track> {
    let its = session.participants.iter().filter(|participant| participant.identity == identity);
    its.flat_map(|participant| &participant.connections).flat_map(|connection| connection.published.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the recordings in tests/data/sessions, and takes a quarter of an hour"]
async fn recordings_of_calls() {
    let recordings = env::var_os("LIVEKIT_SPOOL_RECORDINGS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sessions"), PathBuf::from);
    let wanted = env::var("LIVEKIT_SPOOL_SCENARIOS").ok();
    let is_wanted = |scenario| wanted.as_ref().is_none_or(|wanted| wanted.split(',').any(|name| name == scenario));
    for (scenario, seconds) in SCENARIOS.into_iter().filter(|(scenario, _)| is_wanted(*scenario)) {
        // Nobody listens there: all records stay in the spool.
        let sink = format!("name: kept, type: http, url: \"http://127.0.0.1:9/\", flush: {QUICK}");
        let spool = Setup::new().sink(&sink).auth(&auth()).start().await;
        let (livekit, _) = play(&spool, scenario, seconds).await;
        // The last stats come up to 30 s after the end, and 3 minutes of waiting for more bring none.
        tokio::time::sleep(Duration::from_secs(40)).await;
        eventually("LiveKit has sent all", || async {
            livekit.held("events").await + livekit.held("stats").await == 0
        })
        .await;
        drop(livekit);
        let raw = spool.directory().join("raw");
        let exported = spool.command(&["export", "kept", "--raw", "-o", utf8(&raw)]);
        assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
        let directory = recordings.join(scenario);
        fs::create_dir_all(&directory).expect("a directory for the recording");
        let create = |name| BufWriter::new(File::create(directory.join(name)).expect("a recording"));
        let (mut events, mut stats) = (create("events.pb"), create("stats.pb"));
        let records = RawReader::new(BufReader::new(File::open(&raw).expect("the export"))).expect("the export");
        for record in records {
            let record = record.expect("a whole export");
            let out = match record.stream {
                Stream::Events => &mut events,
                Stream::Stats => &mut stats,
                Stream::NodeRooms => continue,
            };
            let mut length = Vec::new();
            write_varint(&mut length, record.bytes.len() as u64);
            out.write_all(&length).and_then(|()| out.write_all(&record.bytes)).expect("a recording");
        }
    }
}
