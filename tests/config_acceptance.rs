//! Which configurations are accepted and which are refused, held against `data/config_acceptance.txt`: every key with every
//! form of value that a person or a tool may write, and documents of every structure.
//!
//! The table has a line per key with a letter per value (`a` accepted, `.` refused, in the order of [`VALUES`]), and a line
//! per document. `WRITE_ACCEPTANCE=1 cargo test --test config_acceptance` writes it again: do so only after the differences
//! are understood, and say why in the commit.

use std::{fmt::Write, path::PathBuf};

use livekit_spool::config;

#[path = "data/config_cases.rs"]
mod cases;

use cases::{KEYS, VALUES, case, documents, environment};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The configuration's Debug text, or the error's.
fn parsed(name: &str, text: &str) -> Result<String, String> {
    let result = if name.starts_with("LIVEKIT_CONFIG: ") {
        config::parse(None, &|name| if name == "LIVEKIT_CONFIG" { Some(text.to_owned()) } else { environment(name) })
    } else {
        config::parse(Some(("c.yaml", text)), &environment)
    };
    result.map(|config| format!("{config:?}")).map_err(|error| error.to_string())
}

fn table() -> String {
    let mut full = std::env::var("FULL_ACCEPTANCE").ok().map(|path| std::fs::File::create(path).unwrap());
    let mut note = |name: &str, text: &str| {
        let parsed = parsed(name, text);
        if let Some(full) = &mut full {
            use std::io::Write;
            let text: String = text.chars().take(300).collect();
            writeln!(full, "{name}\t{text:?}\t{parsed:?}").unwrap();
        }
        if parsed.is_ok() { 'a' } else { '.' }
    };
    let mut table = String::new();
    for (key, document) in KEYS {
        let marks: String = VALUES.iter().map(|value| note(key, &case(document, value))).collect();
        writeln!(table, "{marks} {key}").unwrap();
    }
    for (name, text) in documents() {
        writeln!(table, "{} {name}", note(&name, &text)).unwrap();
    }
    table
}

#[test]
fn each_is_accepted_or_refused_as_in_the_table() {
    let file = directory().join("tests/data/config_acceptance.txt");
    let now = table();
    if std::env::var_os("WRITE_ACCEPTANCE").is_some() {
        std::fs::write(file, now).unwrap();
        return;
    }
    let before = std::fs::read_to_string(file).unwrap();
    let mut differences = Vec::new();
    for (before, now) in before.lines().zip(now.lines()).filter(|(before, now)| before != now) {
        let (name, marks) = (now.split_once(' ').unwrap(), before.split_once(' ').unwrap());
        if name.1 != marks.1 {
            differences.push(format!("the table has {:?} where {:?} is", marks.1, name.1));
            continue;
        }
        for (i, (was, is)) in marks.0.chars().zip(name.0.chars()).enumerate().filter(|(_, (was, is))| was != is) {
            let value = if KEYS.iter().any(|(key, _)| *key == name.1) { VALUES[i] } else { "" };
            differences.push(format!("{}: {value:?} was {was:?}, is {is:?}", name.1));
        }
    }
    assert!(differences.is_empty() && before.lines().count() == now.lines().count(), "{:#?}", differences);
}
