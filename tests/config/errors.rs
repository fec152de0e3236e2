//! Errors: each with its place, its path, what is allowed, and once.

use std::{path::Path, time::Duration};

use livekit_spool::config;

use crate::{assert_error, errors, parse};

#[test]
fn an_unknown_key_names_its_line_its_path_the_nearest_and_what_is_allowed() {
    assert_error(
        "data_dir: x\nflush:\n  intervall: 1s\n",
        &["c.yaml:3:3: flush.intervall: unknown key", "did you mean interval?", "batch_records"],
    );
    assert_error("sink: []\n", &["c.yaml:1:1: sink: unknown key; did you mean sinks?"]);
    assert_error("data_dri: x\nopenvidu: {}\n", &["data_dri: unknown key; did you mean data_dir?"]);
    assert_error("data_dir: x\nzzz: 1\n", &["c.yaml:2:1: zzz: unknown key (allowed here: admin, data_dir,"]);
    assert_error(
        "openvidu:\n  analytics:\n    enabled: true\n    mongo_ulr: x\n",
        &["c.yaml:4:5: openvidu.analytics.mongo_ulr", "did you mean mongo_url?"],
    );
    assert_error("sinks:\n  - name: a\n    type: file\n    uri: x\n", &["c.yaml:4:5: sinks[0].uri: unknown key"]);
    assert_error("ingest: {grpc: {listn: 'x'}}", &["ingest.grpc.listn", "did you mean listen?"]);
}

#[test]
fn a_wrong_type_names_what_is_expected() {
    assert_error("flush: 5\n", &["c.yaml:1:8: flush: expected keys and values, found a single value"]);
    assert_error("flush:\n  interval: [1s]\n", &["c.yaml:2:14: flush.interval: expected a duration", "found a list"]);
    assert_error(
        "flush: {batch_records: many}",
        &["flush.batch_records: \"many\" is not a whole number; expected a whole number from 1 to"],
    );
    assert_error("flush: {batch_records: '5'}", &["is a text in quotes"]);
    assert_error("flush: {batch_records: 1.5}", &["is not a whole number"]);
    assert_error("documents: {time: yes}", &["documents.time: \"yes\" is not a boolean; expected true or false"]);
    assert_error("sinks: {}\n", &["sinks: expected a list, found keys and values"]);
    assert_error("sinks: [files]\n", &["sinks[0]: expected keys and values"]);
    assert_error("spool: {max_bytes: lots}", &["spool.max_bytes: \"lots\" is not a size", "64MiB"]);
    assert_error("- a\n- b\n", &["c.yaml:1:3: expected keys and values, found a list"]);
    assert_error("ingest: {grpc: {listen: 7890}}", &["ingest.grpc.listen", "has no port"]);
    assert_error("log: {level: inof}", &["log.level", "did you mean info?", "one of error, warn"]);
}

#[test]
fn an_unknown_word_names_the_nearest_one_and_once_what_is_allowed() {
    for (text, found, nearest) in [
        (
            "log: {level: inf}",
            "c.yaml:1:14: log.level: \"inf\" is not known",
            "(did you mean info?); expected one of error, ",
        ),
        (
            "sinks: [{name: f, type: file, event_types: [ROOM_CREATE]}]",
            "c.yaml:1:45: sinks[0].event_types[0]: \"ROOM_CREATE\" is not known",
            "(did you mean ROOM_CREATED?); expected one of ROOM_CREATED, ",
        ),
    ] {
        assert_error(text, &[found, nearest]);
        assert_eq!(errors(text).matches("expected").count(), 1, "{}", errors(text));
    }
}

#[test]
fn negative_and_absurd_values_are_refused() {
    assert_error("flush: {interval: -1s}", &["flush.interval: \"-1s\" is negative"]);
    assert_error("flush: {interval: 10}", &["flush.interval: \"10\" has no unit: write 10s for seconds"]);
    assert_error("flush: {interval: 400 days}", &["is too long"]);
    assert_error("flush: {interval: 0s}", &["is too short"]);
    assert_error("flush: {max_in_flight: 0}", &["is too small"]);
    assert_error("flush: {max_in_flight: -2}", &["is negative"]);
    assert_error("flush: {batch_records: 99999999999999999999}", &["is too large"]);
    assert_error("spool: {max_bytes: 1KiB}", &["is too small; expected a size from 4MiB"]);
    assert_error("spool: {max_bytes: -8GiB}", &["is negative"]);
    assert_error("spool: {compression: {level: 99}}", &["is out of range"]);
    assert_error("flush: {backoff: {initial: 10s, max: 1s}}", &["flush.backoff.max: is shorter than initial"]);
    assert_error("ingest: {http: {listen: '127.0.0.1:99999'}}", &["ingest.http.listen"]);
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_their_lines() {
    let message = errors("flush:\n  interval: never\nspool:\n  max_bytes: x\n  maxage: 1h\nadmin: 5\n");
    let lines: Vec<_> = message.lines().map(|line| line.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["2", "4", "5", "6"], "{message}");
}

#[test]
fn broken_yaml_and_a_missing_file_are_named() {
    assert_error("a: [1\nb: 2\n", &["c.yaml:", "not valid YAML"]);
    assert_error(
        "flush: {interval: 1s}\nflush: {interval: 2s}\n",
        &["c.yaml:2:1", "duplicate key \"flush\", first on line 1"],
    );
    let error = config::load(Some(Path::new("/nowhere/config.yaml")), &|_| None).unwrap_err();
    assert!(error.to_string().contains("/nowhere/config.yaml"), "{error}");
}

#[test]
fn what_is_wrong_in_a_section_that_sinks_inherit_is_reported_once() {
    let sinks = "sinks: [{name: a, type: file}, {name: b, type: file, spool: {max_age: 1h}}]\n";
    let message = errors(&format!("spool: {{max_bytes: x, unknown: 5}}\n{sinks}"));
    assert_eq!(message.lines().count(), 2, "{message}");
    assert!(message.starts_with("c.yaml:1:20: spool.max_bytes: \"x\" is not a size"), "{message}");
}

#[test]
fn a_key_that_cannot_be_read_is_reported_once_and_is_not_missing_too() {
    let sinks = "sinks: [{name: a, type: file}, {name: b, type: file, spool: {max_age: 1h}}]\n";
    for (section, reported) in [
        ("{key_file: /nowhere/key}", "c.yaml:1:22: spool.encryption.key_file: cannot read /nowhere/key"),
        ("{key: short}", "c.yaml:1:27: spool.encryption.key: the value is not a key"),
        ("{key: [a]}", "c.yaml:1:28: spool.encryption.key: expected 32 bytes"),
        ("{key_file: [a]}", "c.yaml:1:33: spool.encryption.key_file: expected a path, found a list"),
    ] {
        let message = errors(&format!("spool: {{encryption: {section}}}\n{sinks}"));
        assert!(message.contains(reported), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn a_key_with_dots_is_reported_once_at_its_own_place() {
    let sinks = "sinks: [{name: a, type: file}, {name: b, type: file}]\n";
    let message = errors(&format!("flush: {{a.b: c}}\n{sinks}"));
    assert!(message.starts_with("c.yaml:1:9: flush.a.b: unknown key"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    let label = errors("sinks:\n- {name: a, type: file, labels: {b: c,\n    d.e: [f], g.h: {}, i: ''}}\n");
    assert!(label.starts_with("c.yaml:3:11: sinks[0].labels.d.e: expected a text, found a list"), "{label}");
    assert!(label.contains("c.yaml:3:15: sinks[0].labels.g.h: "), "{label}");
    assert_eq!(label.lines().count(), 3, "{label}");
}

#[test]
fn many_sinks_take_no_longer_than_their_number_says() {
    let sinks = |count: usize, keys: &str| -> String {
        let sink = |index| format!("  - {{name: s{index}, type: file, path: /nowhere/{index}{keys}}}\n");
        format!("data_dir: /nowhere/data\nsinks:\n{}", (0..count).map(sink).collect::<String>())
    };
    let started = std::time::Instant::now();
    let config = parse(&sinks(1_500, "")).unwrap();
    livekit_spool::app::check(&config).unwrap();
    let empty = parse(&sinks(1_500, ", flush: {interval: '${NONE:-}'}, labels: {a: '${NONE:-}'}")).unwrap();
    assert_eq!(empty.sinks.len(), 1_500);
    for wrong in ["flush: {interval: x}", "spool: {max_bytes: x}", "flush: {backoff: {x: 1s}}"] {
        let message = errors(&format!("{wrong}\n{}", sinks(1_500, "")));
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    // Unoptimized it takes about a second; in a time quadratic in the number it took minutes.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn a_control_character_in_a_key_or_a_file_name_is_escaped() {
    let message = errors("data_dir: x\n\"a\\nb\\e[31m\\u2028\": 1\n");
    assert!(message.starts_with("c.yaml:1:1: a\\u000ab\\u001b[31m\\u2028: unknown key"), "{message}");
    for text in ["x: 1\ndata_dir: y", "sinks: []", "a: ["] {
        let message = config::parse(Some(("c\nd.yaml", text)), &|_| None).unwrap_err().to_string();
        assert!(message.starts_with("c\\u000ad.yaml") && !message.contains('\n'), "{message}");
    }
    let missing = config::load(Some(Path::new("/nowhere/c\nd.yaml")), &|_| None).unwrap_err().to_string();
    assert!(missing.contains("/nowhere/c\\u000ad.yaml") && !missing.contains('\n'), "{missing}");
    assert_error("admin: {token_file: \"/nowhere/a\\nb\"}", &["cannot read /nowhere/a\\u000ab"]);
}

#[test]
fn a_nul_character_in_a_path_is_refused_with_its_place() {
    for (text, shown) in [
        ("data_dir: \"a\\0b\"", "c.yaml:1:1: data_dir: \"a\\0b\" has a NUL character"),
        ("sinks: [{name: f, type: file, path: \"a\\0b\"}]", "sinks[0].path: \"a\\0b\" has a NUL character"),
        ("ingest: {grpc: {listen: \"unix:a\\0b\"}}", "ingest.grpc.listen: \"unix:a\\0b\" has a NUL character"),
        ("admin: {token_file: \"a\\0b\"}", "admin.token_file: cannot read a\\u0000b"),
    ] {
        assert_error(text, &[shown]);
        assert!(!errors(text).contains('\0'), "{}", errors(text));
    }
}
