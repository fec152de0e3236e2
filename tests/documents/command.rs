//! `livekit-spool doc`: the command around the encoder.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

fn doc(arguments: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_livekit-spool"));
    command.arg("doc").args(arguments).env_remove("LIVEKIT_SPOOL_PII_KEY");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    let writer = std::thread::spawn(move || _ = input.write_all(&stdin));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

const STATS: &[u8] = include_bytes!("../data/livekit-1.11/stats.pb");

#[test]
fn protobuf_records_become_one_document_a_line_in_order() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/livekit-1.11/stats.pb");
    let output = doc(&[file, "--kind", "stats"], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 482);
    let golden = include_str!("../data/livekit-1.11/stats.extjson");
    for (ours, golden) in text(&output.stdout).lines().zip(golden.lines()) {
        let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].clone();
        assert_eq!(id(ours), id(golden));
    }
    assert_eq!(doc(&["-", "--kind", "stats"], STATS).stdout, output.stdout);
}

#[test]
fn json_records_are_read_one_by_one_in_arrays_and_in_batches() {
    let input = "{\"id\": \"AE_1\"}\n{\n \"id\": \"AE_2\"\n}[{\"id\": \"AE_3\"}] {\"events\": [{\"id\": \"AE_4\"}]}";
    let output = doc(&["-", "--kind", "events", "--no-time"], input.as_bytes());
    let expected: String =
        (1..=4).map(|n| format!("{{\"_id\":\"AE_{n}\",\"id\":\"AE_{n}\",\"type\":\"ROOM_CREATED\"}}\n")).collect();
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn redaction_and_enums_are_chosen_on_the_command_line() {
    let input = br#"{"id": "AE_1", "room": {"turnPassword": "geheim"}, "participant": {"identity": "zoe"}, "roomEndReason": 1}"#;
    let run = |arguments: &[&str]| {
        let output = doc(&[&["-", "--kind", "events"], arguments].concat(), input);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    assert!(!run(&[]).contains("geheim"));
    assert!(run(&["--redact", "none"]).contains("geheim"));
    assert!(!run(&["--redact", "pii"]).contains("identity"));
    let hashed = run(&["--redact", "pii", "--pii-key", "k"]);
    assert!(hashed.contains("\"identity\":\"pii:") && !hashed.contains("zoe"), "{hashed}");
    assert!(run(&[]).contains(r#""room_end_reason":{"$numberInt":"1"}"#));
    assert!(!run(&["--enums", "names"]).contains("$numberInt"));
}

#[test]
fn a_record_that_makes_no_document_is_named_and_the_others_go_on() {
    // Field 25, two bytes that are no UTF-8; then a good one.
    let input = [&[5, 0xCA, 1, 2, 0xFF, 0xFF][..], &[5, 0xCA, 1, 2, b'A', b'E']].concat();
    let output = doc(&["-", "--kind", "events"], &input);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(text(&output.stdout), "{\"_id\":\"AE\",\"id\":\"AE\",\"type\":\"ROOM_CREATED\"}\n");
    assert!(text(&output.stderr).contains("record 1: id: a string is not UTF-8"), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("1 of 2 records make no document"));
}

#[test]
fn a_broken_file_is_named_with_the_place_where_it_breaks() {
    let output = doc(&["-", "--kind", "stats"], &STATS[..STATS.len() - 1]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout).lines().count(), 481);
    assert!(text(&output.stderr).contains("(record 482)"), "{}", text(&output.stderr));
    let output = doc(&["-", "--kind", "events"], b"{\"id\": \"AE_1\"}\n\n{\"room\": {\"sid\": 7}}");
    assert!(text(&output.stderr).contains("line 3 column 18, at room.sid"), "{}", text(&output.stderr));
    let output = doc(&["/nowhere/at/all", "--kind", "events"], b"");
    assert!(text(&output.stderr).contains("/nowhere/at/all"));
}
