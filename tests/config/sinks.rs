//! Sinks, what they inherit, and variables in values.

use std::{path::Path, time::Duration};

use livekit_spool::{
    config::{ConfigError, Target},
    record::Stream,
    spool::{Codec, Compression, WhenFull},
};

use crate::{OPENVIDU, assert_error, mongo, parse, with_environment};

#[test]
fn without_any_sink_it_refuses_and_says_why() {
    for (text, reason) in [
        (
            "openvidu: {analytics: {enabled: false, mongo_url: 'mongodb://db'}}",
            "openvidu.analytics.enabled is not true",
        ),
        ("openvidu: {analytics: {enabled: false}}\ndata_dir: /x", "openvidu.analytics.enabled is not true"),
        ("sinks: []", "sinks: is empty"),
        ("port: 7880\nkeys: {a: b}", "a LiveKit config without openvidu.analytics"),
    ] {
        assert!(matches!(parse(text), Err(ConfigError::NoSink { .. })), "{text}");
        assert_error(text, &["c.yaml", reason, "sinks:"]);
    }
    let variable = with_environment(None, &[("LIVEKIT_CONFIG", "openvidu: {analytics: {enabled: false}}")]);
    assert!(matches!(variable, Err(ConfigError::NoSink { .. })));
}

#[test]
fn variables_are_expanded_in_values_of_every_kind_and_never_change_the_structure() {
    let config = with_environment(
        Some(
            "data_dir: ${DIR}\nflush: {batch_records: \"${N:-7}\", interval: '${NONE:-3s}'}\nadmin: {token: '${NONE:-}'}\n\
             sinks: [{name: m, type: mongodb, uri: 'mongodb://u:${PASSWORD}@db', labels: {cost: '$$5', tricky: '${TRICKY}', '${DIR}': x}}]",
        ),
        &[("DIR", "/var/x"), ("PASSWORD", "p"), ("TRICKY", "a: b}\nc")],
    )
    .unwrap();
    assert_eq!(config.data_dir, Path::new("/var/x"));
    assert_eq!((config.sinks[0].flush.batch_records, config.sinks[0].flush.interval), (7, Duration::from_secs(3)));
    assert!(config.admin.token.is_none());
    assert_eq!(mongo(&config, 0).labels["cost"], "$5");
    assert_eq!(mongo(&config, 0).labels["tricky"], "a: b}\nc");
    assert!(mongo(&config, 0).labels.contains_key("${DIR}"), "keys stay as they are");
    assert_error(
        "data_dir: a\nadmin:\n  token: ${NOT_SET}\n",
        &["c.yaml:3:10: admin.token: needs the environment variable NOT_SET"],
    );
}

#[test]
fn sinks_are_checked_each_by_its_type() {
    assert_error("sinks:\n  - type: file\n", &["c.yaml:2:5: sinks[0].name: missing"]);
    assert_error(
        "sinks:\n  - name: a\n",
        &["sinks[0].type: missing; expected one of mongodb, redis, postgresql, file, http"],
    );
    assert_error("sinks: [{name: A/b, type: file}]", &["sinks[0].name: \"A/b\" cannot name a directory"]);
    assert_error(
        "sinks: [{name: a, type: file}, {name: a, type: file}]",
        &["sinks[1].name", "is the name of two sinks"],
    );
    assert_error("sinks: [{name: a, type: mongo}]", &["sinks[0].type: \"mongo\" is not known (did you mean mongodb?)"]);
    assert_error("sinks: [{name: a, type: mongodb}]", &["sinks[0].uri: missing"]);
    assert_error("sinks: [{name: a, type: redis}]", &["sinks[0].url: missing"]);
    assert_error("sinks: [{name: a, type: mongodb, uri: 'mongodb://db/?w=0'}]", &["sinks[0].uri", "w=0 is refused"]);
    assert_error("sinks: [{name: a, type: file, streams: []}]", &["sinks[0].streams: is empty"]);
    assert_error("sinks: [{name: a, type: file, streams: [event]}]", &["sinks[0].streams[0]", "did you mean events?"]);
    assert_error(
        "sinks: [{name: a, type: file, event_types: [ROOM_CREATE]}]",
        &["event_types[0]", "did you mean ROOM_CREATED?"],
    );
    assert_error(&format!("{OPENVIDU}sinks: [{{name: mongo, type: file}}]"), &["defines a sink named \"mongo\""]);
}

#[test]
fn a_sink_inherits_the_common_sections_and_overrides_them_key_by_key() {
    let config = parse(
        "spool: {max_bytes: 1GiB, when_full: drop_oldest, compression: {level: 3}}\nflush: {interval: 5s, batch_records: 10}\n\
         sinks:\n  - {name: a, type: file, expiration: never}\n",
    );
    assert!(config.unwrap_err().to_string().contains("sinks[0].expiration: unknown key"), "files do not expire");
    let config = parse(
        "spool: {max_bytes: 1GiB, when_full: drop_oldest, compression: {level: 3}}\nflush: {interval: 5s, batch_records: 10}\n\
         sinks:\n  - {name: a, type: file, streams: [stats]}\n  - name: b\n    type: redis\n    url: redis://h\n    expiration: never\n    \
         required: false\n    spool: {max_bytes: 2GiB, compression: {dictionary: false}}\n    flush: {interval: 1ms}\n",
    )
    .unwrap();
    let [a, b] = &config.sinks[..] else { panic!("two sinks") };
    assert_eq!((a.spool.max_bytes, b.spool.max_bytes), (1 << 30, 2 << 30));
    assert_eq!((a.spool.when_full, b.spool.when_full), (WhenFull::DropOldest, WhenFull::DropOldest));
    assert_eq!(b.spool.for_sink(&b.name).compression, Compression { codec: Codec::Zstd, level: 3, dictionary: false });
    assert_eq!((a.flush.interval, b.flush.interval), (Duration::from_secs(5), Duration::from_millis(1)));
    assert_eq!((a.flush.batch_records, b.flush.batch_records), (10, 10));
    assert_eq!((a.streams.as_slice(), a.required, b.required), (&[Stream::Stats][..], true, false));
    let Target::Redis(options) = &b.target else { panic!("redis") };
    assert_eq!(options.expiration, None);
}

#[test]
fn an_empty_variable_switches_off_neither_encryption_nor_tls_nor_a_sink() {
    for (text, missing) in [
        ("spool: {encryption: {key: '${NONE:-}'}}", "spool.encryption.key: missing"),
        ("spool: {encryption: '${NONE:-}'}", "spool.encryption: expected keys and values"),
        ("ingest: {tls: {certificate: '${NONE:-}', key: k}}", "ingest.tls.certificate: missing"),
        ("sinks: [{name: f, type: file}, {name: '${NONE:-}', type: file}]", "sinks[1].name: missing"),
        ("sinks: [{name: f, type: file}, {name: m, type: mongodb, uri: '${NONE:-}'}]", "sinks[1].uri: missing"),
        ("sinks: [{name: f, type: file}, {name: r, type: redis, url: '${NONE:-}'}]", "sinks[1].url: missing"),
    ] {
        assert_error(text, &[missing]);
    }
}

#[test]
fn http_sinks_are_checked_without_a_receiver_and_never_show_a_secret() {
    let with = |keys: &str| format!("sinks:\n  - {{name: h, type: http, {keys}}}\n");
    for right in [
        "url: 'http://h'",
        "url: 'http://u:p@h:1/a?b=c', format: array, method: PUT, compress: zstd, max_body_bytes: 1MiB",
        "url: 'http://h', user: u, password: p, headers: {X-Key: v, x-other: 5}",
        "url: 'http://h', token: '${TOKEN:-t}', format: record, compress: gzip",
        "url: 'http://h', sign: livekit, api_key: k, api_secret: s, streams: [events]",
    ] {
        parse(&with(right)).unwrap_or_else(|error| panic!("{right}: {error}"));
    }
    for (wrong, named) in [
        ("format: array", &["sinks[0].url: missing: expected http://… or https://…"][..]),
        ("url: 'ftp://u:hunter2@h'", &["sinks[0].url", "has another scheme"]),
        ("url: 'http://u:hunter2@h/a b'", &["sinks[0].url", "%20"]),
        ("url: 'http://h', method: GET", &["sinks[0].method", "POST, PUT"]),
        ("url: 'http://h', format: lines", &["sinks[0].format", "ndjson, array, record"]),
        ("url: 'http://h', token: hunter2, user: u", &["sinks[0].token", "keep one of them"]),
        ("url: 'http://h', headers: {X-Key: \"hunter2\\r\\nX: 1\"}", &["sinks[0].headers", "line break"]),
        ("url: 'http://h', headers: {Content-Length: 1}", &["sinks[0].headers", "set by the sink itself"]),
        ("url: 'http://h', tls: {ca: /x}", &["sinks[0].tls", "https://"]),
        ("url: 'https://h', tls: {ca: /nowhere/ca.pem}", &["sinks[0].tls", "/nowhere/ca.pem"]),
        ("url: 'http://h', sign: livekit, streams: [events]", &["sinks[0].api_key: missing"]),
        ("url: 'http://h', sign: livekit, api_key: k, api_secret: hunter2", &["sinks[0].sign", "streams: [events]"]),
        ("url: 'http://h', max_body_bytes: 1", &["sinks[0].max_body_bytes", "too small"]),
        ("url: 'http://h', expiration: 1h", &["sinks[0].expiration: unknown key"]),
    ] {
        let error = parse(&with(wrong)).expect_err(wrong).to_string();
        assert!(named.iter().all(|part| error.contains(part)) && !error.contains("hunter2"), "{wrong}: {error}");
    }
}

#[test]
fn http_secrets_come_from_files_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (url, password) = (file("url", "http://h/in?key=hunter2\n"), file("password", "hunter2\n"));
    let config = parse(&format!(
        "sinks:\n  - {{name: h, type: http, url_file: {url}, user: u, password_file: {password}, headers: {{X-Key: hunter2}}}}\n"
    ))
    .unwrap();
    let Target::Http(options) = &config.sinks[0].target else { panic!("an HTTP sink") };
    assert_eq!(options.url, "http://h/in?key=hunter2");
    assert!(options.password.as_ref().is_some_and(|password| password.matches("hunter2")));
    assert_eq!(config.sinks[0].target.address(), "http://h/in");
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}
