//! docs/format.md is enough to write a second reader from: one in Python reads what this one wrote.

use std::process::Command;

use serde_json::Value;

use super::*;

/// What the Python reader prints.
fn read(journal: &Path) -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3")
        .arg(root.join("tests/format/read_spool.py"))
        .args([journal, &root.join("src/spool/dictionary-1.zstd")])
        .output()
        .expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn check(lines: &[Value], numbers: Range<u64>) {
    assert_eq!(lines[0]["kind"], "state", "a segment begins with the state");
    let blocks: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "records").collect();
    let mut ordinal = 0;
    let mut got = Vec::new();
    for block in blocks {
        assert_eq!((&block["stream"], block["ordinal"].as_u64()), (&Value::from("events"), Some(ordinal)));
        ordinal += block["count"].as_u64().expect("a count");
        for record in block["records"].as_array().expect("records") {
            let hex = record.as_str().expect("hex");
            let bytes = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex"));
            got.push(String::from_utf8(bytes.collect()).expect("text"));
        }
    }
    assert_eq!(got, expected(numbers));
}

#[tokio::test]
async fn a_second_reader_reads_what_was_written() {
    for compression in [Compression::None, Compression::default(), Compression::Zstd { level: 3, dictionary: false }] {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = Spool::open(folder.path(), SpoolOptions { compression, ..options() }).expect("opens");
        spool.append(batch(Stream::Events, 0..1)).await.expect("taken");
        spool.append(batch(Stream::Events, 1..2000)).await.expect("taken");
        spool.close().await;
        check(&read(&folder.path().join("journal")), 0..2000);
    }
}
