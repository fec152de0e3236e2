//! A secret in a record is shown nowhere but in `export --raw`, which gives the record back bit by bit.

use std::fs;

use livekit_protocol::Room;
use livekit_spool::spool::raw::RawReader;
use prost::Message;

use super::{event, support};
use support::{
    process::{Setup, Spool},
    wire::{Reply, WireServer, WriteError},
};

const SECRET: &str = "a-turn-password";
/// A field that a newer LiveKit may have: number 2000, five bytes.
const UNKNOWN: &[u8] = b"\x82\x7d\x05hello";

/// An event whose room has a secret, as bytes that no encoder of this schema makes.
fn record(id: &str) -> Vec<u8> {
    let room = Room { turn_password: SECRET.to_owned(), ..event(id, "lobby").room.expect("a room") };
    let mut record = livekit_protocol::AnalyticsEvent { room: Some(room), ..event(id, "") }.encode_to_vec();
    record.extend_from_slice(UNKNOWN);
    record
}

async fn send(spool: &Spool, record: &[u8]) {
    let mut body = vec![0x0A];
    prost::encoding::encode_varint(record.len() as u64, &mut body);
    body.extend_from_slice(record);
    let request = reqwest::Client::new().post(format!("{}/v1/events", spool.http())).body(body);
    let answer = request.header("content-type", "application/x-protobuf").send().await.expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_no_output_but_the_raw_export_which_is_bit_by_bit_what_came() {
    let server = WireServer::scripted(|command| match command.name.as_str() {
        "insert" => {
            Reply::WriteErrors((0..command.documents.len()).map(|i| WriteError::new(i, 121, "too odd")).collect())
        }
        _ => Reply::Healthy,
    })
    .await;
    let setup = Setup::new().mongo("dead", &server.uri(), "openvidu").section("log: { level: trace }");
    let mut spool = setup.sink("name: waiting, type: file, path: out, flush: { interval: 1h }").start().await;
    spool.command(&["pause", "waiting"]);
    let record = record("AE_1");
    send(&spool, &record).await;
    support::eventually("a dead letter", || async { spool.dead_letters("dead") == ["AE_1"] }).await;

    for is_live in [true, false] {
        for words in [
            &["peek", "waiting"][..],
            &["peek", "waiting", "--json"],
            &["peek", "waiting", "--where", "room.name=lobby"],
            &["dead", "list", "dead", "--json"],
            &["dead", "show", "dead", "AE_1"],
            &["export", "waiting", "-o", "documents.ndjson", "--force"],
            &["export", "waiting", "--raw", "-o", "records.raw", "--force"],
            &["backlog", "--json"],
        ] {
            let output = spool.command(words);
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&said));
            assert!(!String::from_utf8_lossy(&said).contains(SECRET), "{words:?}");
        }
        let documents = fs::read_to_string(spool.directory().join("documents.ndjson")).unwrap();
        assert!(documents.contains("lobby") && !documents.contains(SECRET), "{documents}");
        let raw = fs::File::open(spool.directory().join("records.raw")).unwrap();
        let records: Vec<_> = RawReader::new(raw).unwrap().map(|record| record.unwrap().bytes).collect();
        assert_eq!(records, [record.as_slice()]);
        if is_live {
            for path in ["api/v1/sinks/waiting/peek", "api/v1/sinks/dead/dead", "api/v1/status", "metrics"] {
                let text = reqwest::get(format!("{}/{path}", spool.admin())).await.unwrap().text().await.unwrap();
                assert!(!text.is_empty() && !text.contains(SECRET), "{path}: {text}");
            }
            assert!(!spool.process().output().contains(SECRET), "the log");
            spool.kill();
        }
    }
}
