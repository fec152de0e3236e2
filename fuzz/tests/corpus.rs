//! Each fuzz target accepts every file of its corpus, without what only the nightly compiler has.

use std::{fs, path::Path, process::Command};

const TARGETS: [(&str, &str); 8] = [
    ("config", env!("CARGO_BIN_EXE_config")),
    ("decompress", env!("CARGO_BIN_EXE_decompress")),
    ("document", env!("CARGO_BIN_EXE_document")),
    ("ingest", env!("CARGO_BIN_EXE_ingest")),
    ("journal", env!("CARGO_BIN_EXE_journal")),
    ("json", env!("CARGO_BIN_EXE_json")),
    ("webhook", env!("CARGO_BIN_EXE_webhook")),
    ("wire", env!("CARGO_BIN_EXE_wire")),
];

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_target_accepts_its_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    assert_eq!(names(&corpus), TARGETS.map(|(name, _)| name), "a corpus for each target, a target for each corpus");
    for (name, target) in TARGETS {
        let directory = corpus.join(name);
        let files: Vec<_> = names(&directory).into_iter().map(|file| directory.join(file)).collect();
        assert!(!files.is_empty(), "{name}");
        // Files, not the directory: each is run once, and nothing is added to them.
        let run = Command::new(target).args(&files).current_dir(env!("CARGO_TARGET_TMPDIR")).output().unwrap();
        assert!(run.status.success(), "{name}: {}\n{}", run.status, String::from_utf8_lossy(&run.stderr));
    }
}
