//! What the configuration understands, and how it complains.

use std::{collections::BTreeMap, path::Path, time::Duration};

use livekit_spool::{
    config::{self, Config, ConfigError, Listen, Target},
    ingest::AuthOptions,
    record::Stream,
    spool::{Codec, Compression, WhenFull},
};

fn with_environment(text: Option<&str>, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    config::parse(text.map(|text| ("c.yaml", text)), &|name| variables.get(name).map(|value| (*value).to_owned()))
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    with_environment(Some(text), &[])
}

fn errors(text: &str) -> String {
    parse(text).expect_err("the config was accepted").to_string()
}

#[track_caller]
fn assert_error(text: &str, parts: &[&str]) {
    let message = errors(text);
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in:\n{message}");
    }
}

fn mongo(config: &Config, sink: usize) -> &livekit_spool::sink::mongodb::MongoOptions {
    match &config.sinks[sink].target {
        Target::Mongodb(options) => options,
        other => panic!("{other:?} is no MongoDB sink"),
    }
}

const KEY: &str = "4242424242424242424242424242424242424242424242424242424242424242";

const OPENVIDU: &str = "openvidu:\n  analytics:\n    enabled: true\n    mongo_url: mongodb://user:hunter2@db:27017/\n";

#[test]
fn the_shipped_config_yaml_says_the_defaults() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml")).unwrap();
    let shipped = parse(&text).unwrap();
    let defaults = Config { source: shipped.source.clone(), ..with_environment(None, &[]).unwrap() };
    assert_eq!(format!("{shipped:#?}"), format!("{defaults:#?}"));
}

#[test]
fn every_example_in_the_shipped_config_yaml_is_valid() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml")).unwrap();
    // Examples are commented out by a `#` that touches them; prose has a space after it.
    let uncommented: Vec<String> = text
        .lines()
        .map(|line| {
            let indent = line.len() - line.trim_start().len();
            match line.trim_start().strip_prefix('#') {
                Some(example) if example.starts_with(|c: char| c.is_ascii_lowercase() || c == '-') => {
                    format!("{}{example}", &line[..indent])
                }
                Some(example) if example.starts_with("  ") && !example.trim_start().starts_with('`') => {
                    format!("{}{example}", &line[..indent])
                }
                _ => line.to_owned(),
            }
        })
        // Files that are not there, and the second `mongo`.
        .filter(|line| !line.split('#').next().unwrap_or_default().contains("_file"))
        .map(|line| line.replace("#  key:", "key:").replace("- name: mongo", "- name: main"))
        .map(|line| if line.trim() == "encryption:" { format!("{line} {{key: \"{KEY}\"}}") } else { line })
        .collect();
    let config = with_environment(
        Some(&uncommented.join("\n")),
        &[
            ("SPOOL_TOKEN", "t"),
            ("LIVEKIT_API_SECRET", "s"),
            ("SPOOL_ADMIN_TOKEN", "an-admin-token"),
            ("SPOOL_PII_KEY", "p"),
        ],
    )
    .unwrap_or_else(|error| panic!("{error}\n{}", uncommented.join("\n")));
    let names: Vec<_> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    assert_eq!(names, ["files", "main", "cache", "mongo"]);
    assert!(config.ingest.tls.is_some() && config.admin.token.is_some());
}

#[test]
fn every_configuration_under_deploy_is_valid() {
    let variables = [
        ("LIVEKIT_KEYS", "devkey: a-secret-of-at-least-32-characters"),
        ("SPOOL_ADMIN_TOKEN", "an-admin-token"),
        ("MONGODB_URI", "mongodb://mongo/"),
    ];
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    for (file, sinks) in [
        ("debian/config.yaml", &["files"][..]),
        ("compose/livekit-spool.yaml", &["mongo", "cache"]),
        ("kubernetes/config.yaml", &["mongo"]),
        ("kubernetes/sidecar.yaml", &["mongo"]),
    ] {
        let text = std::fs::read_to_string(deploy.join(file)).unwrap();
        // In a ConfigMap it is a text of its own, indented.
        let text = match text.split_once("config.yaml: |\n") {
            Some((_, map)) => map.lines().map_while(|line| line.strip_prefix("    ")).collect::<Vec<_>>().join("\n"),
            None => text,
        };
        let config =
            with_environment(Some(&text), &variables).unwrap_or_else(|error| panic!("{file}: {error}\n{text}"));
        livekit_spool::app::check(&config).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(config.data_dir.starts_with("/var/lib/livekit-spool"), "{file}");
        assert_eq!(config.sinks.iter().map(|sink| sink.name.as_str()).collect::<Vec<_>>(), sinks, "{file}");
    }
}

#[test]
fn without_any_config_the_file_sink_runs() {
    for config in [with_environment(None, &[]).unwrap(), parse("").unwrap()] {
        assert_eq!(config.sinks.len(), 1);
        assert_eq!((config.sinks[0].name.as_str(), config.sinks[0].target.kind()), ("files", "file"));
        assert_eq!(config.sinks[0].target.address(), "./data/out");
    }
    let config = with_environment(None, &[]).unwrap();
    assert_eq!(config.source, "defaults");
    assert_eq!(config.ingest.grpc.listen.unwrap().to_string(), "127.0.0.1:7890");
    assert_eq!(config.ingest.http.listen.unwrap().to_string(), "127.0.0.1:7891");
    assert_eq!(config.admin.listen.unwrap().to_string(), "127.0.0.1:7892");
}

#[test]
fn a_file_with_nothing_but_livekits_section_runs() {
    let config = parse(OPENVIDU).unwrap();
    assert_eq!(config.sinks.len(), 1);
    assert_eq!(mongo(&config, 0).uri, "mongodb://user:hunter2@db:27017/");
    assert_eq!(mongo(&config, 0).database, "openvidu");
    assert_eq!(mongo(&config, 0).expiration, Some(Duration::from_secs(768 * 3600)));
    assert_eq!(config.data_dir, Path::new("./data"));
    assert_eq!(config.admin.listen.unwrap().port(), 7892);
}

#[test]
fn livekits_section_accepts_both_spellings_and_gos_durations_and_ignores_livekits_other_keys() {
    let config = parse(
        "port: 7880\nrtc: {tcp_port: 7881}\nwhatever_livekit_adds: [1]\nkeys: {APIkey: secret}\nredis: {address: 'localhost:6379'}\n\
         openvidu: {rtc: {engine: pion}, analytics: {enabled: true, mongoUrl: 'mongodb://db', interval: 1h30m, expiration: 1.5h}}\n",
    )
    .unwrap();
    assert_eq!(mongo(&config, 0).uri, "mongodb://db");
    assert_eq!(mongo(&config, 0).expiration, Some(Duration::from_secs(5_400)));
    assert_eq!(config.sinks[0].flush.interval, Duration::from_secs(5_400));
    assert_eq!(config.ingest.auth.keys.keys().collect::<Vec<_>>(), ["APIkey"]);
}

#[test]
fn all_settings_of_the_forks_analytics_are_understood_and_its_others_ignored() {
    let config = parse(
        "openvidu:\n  use_global_cpu_monitoring: true\n  cleanup_interval: 3m\n  analytics:\n    enabled: true\n    \
         mongo_url: mongodb://db/\n    database: mine\n    interval: 10s\n    fixer_interval: 1m\n    expiration: 768h\n",
    )
    .unwrap();
    assert_eq!((mongo(&config, 0).database.as_str(), config.sinks.len()), ("mine", 1));
}

#[test]
fn livekits_variable_defines_the_sink_and_nothing_in_it_is_expanded() {
    let yaml = "keys: {APIkey: 'se$$cret'}\nport: 7880\nopenvidu:\n  analytics: {enabled: true, mongo_url: 'mongodb://u:p$$x${Y}@db/'}\n";
    let config = with_environment(None, &[("LIVEKIT_CONFIG", yaml)]).unwrap();
    assert_eq!((config.sinks.len(), config.source.as_str()), (1, "LIVEKIT_CONFIG"));
    assert_eq!(mongo(&config, 0).uri, "mongodb://u:p$$x${Y}@db/");
    assert_eq!(config.ingest.auth.keys["APIkey"].expose(), "se$$cret");

    let both =
        with_environment(Some("data_dir: /x\nsinks: [{name: f, type: file}]"), &[("LIVEKIT_CONFIG", yaml)]).unwrap();
    assert_eq!(both.sinks.iter().map(|sink| sink.name.as_str()).collect::<Vec<_>>(), ["f", "mongo"]);
}

#[test]
fn livekits_variable_replaces_the_files_section() {
    let config = with_environment(
        Some(OPENVIDU),
        &[("LIVEKIT_CONFIG", "openvidu: {analytics: {enabled: true, mongo_url: 'mongodb://other'}}")],
    )
    .unwrap();
    assert_eq!((config.sinks.len(), mongo(&config, 0).uri.as_str()), (1, "mongodb://other"));
}

#[test]
fn an_error_in_livekits_variable_names_it_and_its_line() {
    let error =
        with_environment(None, &[("LIVEKIT_CONFIG", "openvidu:\n  analytics:\n    enabled: maybe\n")]).unwrap_err();
    assert!(error.to_string().starts_with("LIVEKIT_CONFIG:3:14: openvidu.analytics.enabled:"), "{error}");
}

#[test]
fn livekits_sections_mean_what_they_mean_to_livekit_in_a_file_as_in_the_variable() {
    let yaml = "rtc: {tcp_port: 7881}\nkeys: {APIkey: 'se$$cret${X}'}\nredis: {address: 'h:1', username: 'u$$', password: '$${p}'}\n\
                openvidu: {analytics: {enabled: true, mongo_url: 'mongodb://us$$er:${P}$@db/', database: 'd$$d'}}\n";
    let yaml = yaml.replace("d$$d", "dd");
    let ours = "sinks: [{name: r, type: redis}, {name: f, type: file, path: '${P}/$$'}]\n";
    let variables = |extra: Option<&'static str>| {
        let mut variables = vec![("P", "expanded")];
        variables.extend(extra.map(|text| ("LIVEKIT_CONFIG", text)));
        variables
    };
    let leaked: &'static str = yaml.clone().leak();
    let in_both = format!("{yaml}{ours}");
    for config in [
        with_environment(Some(&yaml), &variables(None)),
        with_environment(Some(&in_both), &variables(None)),
        with_environment(Some(ours), &variables(Some(leaked))),
        with_environment(None, &variables(Some(leaked))),
    ] {
        let config = config.unwrap();
        let last = config.sinks.len() - 1;
        assert_eq!(mongo(&config, last).uri, "mongodb://us$$er:${P}$@db/");
        assert_eq!(config.ingest.auth.keys["APIkey"].expose(), "se$$cret${X}");
        if last > 0 {
            let Target::Redis(redis) = &config.sinks[0].target else { panic!("no redis sink") };
            assert_eq!(redis.url, "redis://u%24%24:%24%24%7Bp%7D@h:1/0");
            let Target::File(file) = &config.sinks[1].target else { panic!("no file sink") };
            assert_eq!(file.path, Path::new("expanded/$"), "our own sections are expanded");
        }
    }
    // In a file of ours, `keys` is a section as any other.
    let config = with_environment(Some("keys: {a: '${P}'}\nsinks: [{name: f, type: file}]"), &variables(None)).unwrap();
    assert_eq!(config.ingest.auth.keys["a"].expose(), "expanded");
}

#[test]
fn livekits_yaml_may_say_yes_and_merge() {
    for yes in ["yes", "on", "y", "Y", "true", "True", "'yes'"] {
        let text = format!("openvidu: {{analytics: {{enabled: {yes}, mongo_url: 'mongodb://db'}}}}");
        assert_eq!(parse(&text).unwrap_or_else(|error| panic!("{yes}: {error}")).sinks.len(), 1, "{yes}");
        assert_eq!(with_environment(None, &[("LIVEKIT_CONFIG", &text)]).unwrap().sinks.len(), 1, "{yes}");
    }
    for no in ["no", "off", "n", "N", "false"] {
        let text = format!("openvidu: {{analytics: {{enabled: {no}, mongo_url: 'mongodb://db'}}}}");
        assert!(matches!(parse(&text), Err(ConfigError::NoSink { .. })), "{no}");
    }
    let tls = "redis: {address: 'h:1', use_tls: yes}\nsinks: [{name: r, type: redis}]";
    let Target::Redis(redis) = parse(tls).unwrap().sinks.remove(0).target else { panic!("no redis sink") };
    assert!(redis.url.starts_with("rediss://"), "{}", redis.url);
    let merged = "x-common: &x {mongo_url: 'mongodb://db', enabled: yes}\nopenvidu:\n  analytics:\n    <<: *x\n    database: mine\n";
    let config = parse(merged).unwrap();
    assert_eq!((mongo(&config, 0).uri.as_str(), mongo(&config, 0).database.as_str()), ("mongodb://db", "mine"));
    assert_error("documents: {time: yes}", &["is not a boolean"]);
}

#[test]
fn livekits_other_keys_are_refused_in_a_file_of_ours_with_the_key_that_was_meant() {
    for (key, meant) in [
        ("log_level: debug", "log.level"),
        ("logging: {level: debug}", "log.level"),
        ("port: 9000", "ingest.grpc.listen"),
        ("bind_addresses: [0.0.0.0]", "ingest.grpc.listen"),
        ("prometheus_port: 6789", "admin.listen"),
        ("webhook: {api_key: x}", "ingest.http.listen"),
        ("room: {auto_create: true}", "unknown key"),
        ("region: eu", "unknown key"),
    ] {
        let name = key.split(':').next().unwrap();
        assert_error(
            &format!("sinks: [{{name: f, type: file}}]\n{key}\n"),
            &[&format!("c.yaml:2:1: {name}: unknown key"), meant],
        );
        for livekits in ["rtc: {tcp_port: 1}\nsinks: [{name: f, type: file}]\n", OPENVIDU] {
            assert!(parse(&format!("{livekits}{key}\n")).is_ok(), "{livekits}{key}");
        }
    }
}

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
    assert_error("sinks:\n  - name: a\n", &["sinks[0].type: missing; expected one of mongodb, redis, file"]);
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
    assert_eq!(b.spool.options(&b.name).compression, Compression { codec: Codec::Zstd, level: 3, dictionary: false });
    assert_eq!((a.flush.interval, b.flush.interval), (Duration::from_secs(5), Duration::from_millis(1)));
    assert_eq!((a.flush.batch_records, b.flush.batch_records), (10, 10));
    assert_eq!((a.streams.as_slice(), a.required, b.required), (&[Stream::Stats][..], true, false));
    let Target::Redis(options) = &b.target else { panic!("redis") };
    assert_eq!(options.expiration, None);
}

#[test]
fn a_redis_sink_without_an_address_uses_livekits() {
    let config = parse(
        "redis: {address: 'r:6379', username: u, password: 'p@/x', db: 2, use_tls: true}\nsinks: [{name: cache, type: redis}]\n",
    )
    .unwrap();
    let Target::Redis(options) = &config.sinks[0].target else { panic!("redis") };
    assert_eq!(options.url, "rediss://u:p%40%2Fx@r:6379/2");
}

#[test]
fn of_livekits_redis_a_cluster_and_tls_are_used_and_what_cannot_be_is_refused_with_a_hint() {
    let sink = "sinks: [{name: cache, type: redis}]\n";
    let cluster = parse(&format!("redis: {{cluster_addresses: ['a:1', 'b:2'], tls: {{enabled: true}}}}\n{sink}"));
    let cluster = cluster.unwrap();
    let Target::Redis(options) = &cluster.sinks[0].target else { panic!("redis") };
    assert_eq!(options.url, "rediss://a:1/0");
    for (redis, words) in [
        ("sentinel_master_name: m, sentinel_addresses: ['s:26379']", "give the master's own address in url"),
        ("address: 'r:1', sentinel_addresses: ['s:26379']", "it names sentinels"),
        ("address: 'r:1', tls: {enabled: true, ca_cert_file: /ca.pem}", "give a rediss:// url"),
        ("address: 'r:1', tls: {enabled: true, insecure: true}", "give a rediss:// url"),
    ] {
        assert_error(&format!("redis: {{{redis}}}\n{sink}"), &["c.yaml:2:10: sinks[0].url: missing", words]);
        let own = format!("redis: {{{redis}}}\nsinks: [{{name: cache, type: redis, url: 'redis://own'}}]\n");
        assert!(parse(&own).is_ok(), "with an address of its own, LiveKit's does not matter: {redis}");
    }
}

#[test]
fn livekits_key_file_is_read_as_livekit_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.yaml");
    std::fs::write(&file, "# made by hand\nAPIa: \"hunter2\"\nAPIb:   x # the old one\n").unwrap();
    let with = |path: &Path| format!("keys: {{APIc: y, APIa: z}}\nkey_file: {}\n{OPENVIDU}", path.display());
    let config = parse(&with(&file)).unwrap();
    let keys: Vec<_> = config.ingest.auth.keys.iter().map(|(key, secret)| (key.as_str(), secret.expose())).collect();
    assert_eq!(keys, [("APIa", "hunter2"), ("APIb", "x"), ("APIc", "y")]);
    assert!(parse(&format!("key_file: {}\ningest: {{auth: livekit}}\n", file.display())).is_ok());
    let missing = directory.path().join("missing.yaml");
    assert_error(&with(&missing), &["c.yaml:2:1: key_file: cannot read", "missing.yaml"]);
    std::fs::write(&file, "hunter2").unwrap();
    assert_error(&with(&file), &["key_file: what", "holds is not valid; expected `key: secret`, one a line"]);
    assert!(!errors(&with(&file)).contains("hunter2"));
}

#[test]
fn limits_that_the_memory_can_never_hold_are_refused_with_both_values_and_the_way_out() {
    assert_error(
        "ingest:\n  memory: {max_bytes: 8MiB}\n  grpc: {max_message_bytes: 7MiB}\n  http: {max_body_bytes: 6MiB}\n",
        &[
            "c.yaml:3:10: ingest.grpc.max_message_bytes: 7MiB never fits: of ingest.memory.max_bytes (8MiB) one sender gets \
             6MiB at most; lower max_message_bytes, or raise ingest.memory.max_bytes to 10MiB or more",
        ],
    );
    assert_error(
        "ingest: {memory: {max_bytes: 16MiB}}",
        &["ingest.http.max_body_bytes: 16MiB (the default) never fits", "to 22MiB or more"],
    );
    assert!(parse("ingest: {memory: {max_bytes: 22MiB}}").is_ok(), "what the message says is enough");
    assert!(parse("ingest: {memory: {max_bytes: 6MiB}, http: {listen: none}}").is_ok(), "nothing comes in there");
}

#[test]
fn an_address_that_others_reach_needs_authentication() {
    for listen in ["0.0.0.0:7890", "':7890'", "'[::]:7890'", "192.0.2.1:7890"] {
        for server in ["grpc", "http"] {
            let exposed = format!("ingest: {{{server}: {{listen: {listen}}}}}");
            let path = format!("ingest.{server}.listen: ");
            assert_error(&exposed, &[&path, "can be reached from other machines", "or set `ingest.auth` to livekit"]);
        }
    }
    for ours in ["127.0.0.1:7890", "'[::1]:7890'", "'[::ffff:127.0.0.1]:7890'", "localhost:7890", "'unix:/run/x.sock'"]
    {
        assert!(parse(&format!("ingest: {{grpc: {{listen: {ours}}}}}")).is_ok(), "{ours}");
    }
    let authenticated = "ingest: {grpc: {listen: ':7890'}, auth: {mode: tokens, tokens: [sixteen-and-more]}}";
    assert!(parse(authenticated).is_ok());
}

#[test]
fn who_may_send_is_a_word_or_a_section() {
    assert!(matches!(parse("ingest: {auth: none}").unwrap().ingest.auth.options(), AuthOptions::None));
    assert!(matches!(
        parse("ingest: {auth: livekit}\nkeys: {a: b}").unwrap().ingest.auth.options(),
        AuthOptions::Livekit
    ));
    let from_environment = with_environment(
        Some("ingest: {auth: {mode: livekit, keys: '${LIVEKIT_KEYS}'}}"),
        &[("LIVEKIT_KEYS", "APIa: hunter2\nAPIb: x\n")],
    );
    assert_eq!(from_environment.unwrap().ingest.auth.keys.keys().collect::<Vec<_>>(), ["APIa", "APIb"]);
    let tokens = parse("ingest: {auth: {mode: tokens, tokens: [sixteen-and-more]}}").unwrap().ingest.auth.options();
    assert!(matches!(tokens, AuthOptions::Tokens(tokens) if tokens[0].matches("sixteen-and-more")));
    assert_error("ingest: {auth: tokens}", &["ingest.auth.tokens: missing"]);
    assert_error(
        "ingest: {auth: {mode: tokens, tokens: [fifteen-letters]}}",
        &["ingest.auth.tokens: one is shorter than 16 characters"],
    );
    assert_error("ingest: {auth: livekit}", &["needs API keys"]);
    assert_error("ingest: {auth: mtls}", &["mtls needs ingest.tls with a client_ca"]);
    assert_error("ingest: {tls: {key: x}}", &["ingest.tls.certificate: missing"]);
    assert!(matches!(
        parse("ingest: {grpc: {listen: 'unix:/run/x.sock'}}").unwrap().ingest.grpc.listen,
        Some(Listen::Unix(_))
    ));
    assert!(parse("ingest: {http: {listen: none}}").unwrap().ingest.http.listen.is_none());
}

#[test]
fn secrets_come_from_files_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "hunter2-hunter2\n").unwrap();
    let config = parse(&format!("admin: {{token_file: {}}}", file.display())).unwrap();
    assert!(config.admin.token.unwrap().matches("hunter2-hunter2"));
    assert_error("admin: {token_file: /nowhere/token}", &["admin.token_file: cannot read /nowhere/token"]);
    assert_error("admin: {token: hunter2-hunter2, token_file: b}", &["admin.token_file: is given together with token"]);
}

#[test]
fn a_line_end_after_a_secret_is_cut_wherever_the_secret_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, "hunter2-hunter2-hunter2\n").unwrap();
    let in_file = file.display();
    let plain = [
        ("value", "hunter2-hunter2-hunter2".to_owned()),
        ("variable", "'${SECRET}'".to_owned()),
        ("block", "|\n    hunter2-hunter2-hunter2\n".to_owned()),
    ];
    let of = |text: &str| with_environment(Some(text), &[("SECRET", "hunter2-hunter2-hunter2\r\n")]).unwrap();
    for (kind, value) in &plain {
        let token = of(&format!("admin:\n  token: {value}\n")).admin.token.unwrap();
        assert!(token.matches("hunter2-hunter2-hunter2"), "{kind}");
        let keys = of(&format!("ingest:\n auth:\n  keys:\n   API: {value}\n")).ingest.auth.keys;
        assert!(keys["API"].matches("hunter2-hunter2-hunter2"), "{kind}");
        let keys = of(&format!("sinks: [{{name: f, type: file}}]\nkeys:\n  API: {value}\n")).ingest.auth.keys;
        assert!(keys["API"].matches("hunter2-hunter2-hunter2"), "{kind}");
        let AuthOptions::Tokens(tokens) =
            of(&format!("ingest:\n auth:\n  mode: tokens\n  tokens:\n  - {value}\n")).ingest.auth.options()
        else {
            panic!("tokens")
        };
        assert!(tokens[0].matches("hunter2-hunter2-hunter2"), "{kind}");
        let pii = of(&format!("documents:\n  pii_key: {value}\n")).documents.pii_key;
        assert_eq!(pii, of(&format!("documents: {{pii_key_file: {in_file}}}")).documents.pii_key, "{kind}");
    }
    let uri = of(
        "sinks: [{name: m, type: mongodb, uri: 'mongodb://u:${SECRET}@h'}, {name: r, type: redis, url: 'redis://:${SECRET}@h'}]",
    );
    let shown = |sink: &livekit_spool::config::SinkConfig| match &sink.target {
        Target::Mongodb(options) => options.uri.clone(),
        Target::Redis(options) => options.url.clone(),
        Target::File(_) => String::new(),
    };
    assert_eq!(shown(&uri.sinks[0]), "mongodb://u:hunter2-hunter2-hunter2@h");
    assert_eq!(shown(&uri.sinks[1]), "redis://:hunter2-hunter2-hunter2@h");
    assert!(of(&format!("admin: {{token_file: {in_file}}}")).admin.token.unwrap().matches("hunter2-hunter2-hunter2"));
}

#[test]
fn a_secret_where_its_file_should_be_named_is_not_shown() {
    let secrets = [("SECRET", "mongodb://u:hunter2@h/hunter2")];
    for text in [
        "admin: {token_file: '${SECRET}'}",
        "ingest: {auth: {mode: tokens, token_files: ['${SECRET}']}}",
        "ingest: {auth: {mode: livekit, keys_file: '${SECRET}'}}",
        "documents: {pii_key_file: '${SECRET}'}",
        "spool: {encryption: {key_file: '${SECRET}', old_key_files: ['${SECRET}']}}",
        "sinks: [{name: m, type: mongodb, uri_file: '${SECRET}'}]",
        "sinks: [{name: r, type: redis, url_file: '${SECRET}'}]",
        "key_file: '${SECRET}'\nsinks: [{name: f, type: file}]",
    ] {
        let message = with_environment(Some(text), &secrets).expect_err("no such file").to_string();
        assert!(message.contains("cannot read ${SECRET}") && !message.contains("hunter2"), "{message}");
    }
}

#[test]
fn of_a_malformed_uri_check_config_shows_no_password() {
    for uri in [
        "mongodb://user:hunter2",
        "mongodb://user:hunter2/db",
        "mongodb://user:hunter2%40host/db",
        "mongodb://user:hun?hunter2@host/db",
        "mongodb:/user:hunter2@host/",
        "user:hunter2@host",
        "mongodb://host:27017:hunter2/",
    ] {
        for (kind, key, uri) in [("mongodb", "uri", uri.to_owned()), ("redis", "url", uri.replace("mongodb", "redis"))]
        {
            let text = format!("sinks: [{{name: m, type: {kind}, {key}: '{uri}'}}]");
            match parse(&text) {
                Ok(config) => assert!(!config.sinks[0].target.address().contains("hunter2"), "{text}"),
                Err(error) => assert!(!error.to_string().contains("hunter2"), "{text}: {error}"),
            }
        }
    }
}

#[test]
fn secrets_that_can_be_guessed_are_refused_or_warned_of() {
    for short in ["a", "1234567", "'  a    '"] {
        assert_error(
            &format!("admin: {{token: {short}}}"),
            &["admin.token: the value is too easily guessed", "8 characters"],
        );
    }
    for (text, warned) in [
        ("admin: {token: eight-or}", "admin.token: shorter than 16 characters"),
        ("documents: {pii_key: a-key}", "documents.pii_key: shorter than 16 characters"),
        ("ingest: {auth: {mode: livekit, keys: {API: x}}}", "ingest.auth.keys: shorter than 32 characters"),
        ("keys: {API: x}\nsinks: [{name: f, type: file}]", "keys: shorter than 32 characters"),
    ] {
        let warnings = parse(text).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(warned), "{text}: {warnings:?}");
    }
    let variable =
        with_environment(Some("sinks: [{name: f, type: file}]"), &[("LIVEKIT_CONFIG", "keys: {API: x}")]).unwrap();
    assert!(variable.warnings[0].starts_with("LIVEKIT_CONFIG:1:1: keys: shorter than 32"), "{:?}", variable.warnings);
    let good = "keys: {API: a-secret-of-at-least-32-characters}\nadmin: {token: sixteen-and-more}\nsinks: [{name: f, type: file}]";
    assert!(parse(good).unwrap().warnings.is_empty());
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
fn what_is_in_force_is_shown_with_where_each_value_comes_from_and_without_secrets() {
    let text = "spool:\n  max_bytes: ${SIZE}\n  encryption: {key: '${KEY}'}\nkeys: {APIa: hunter2}\n\
                redis: {address: 'h:1', password: hunter2}\nadmin: {token: hunter2-hunter2}\n\
                sinks:\n- {name: r, type: redis, labels: {region: eu}, flush: {max_rate: 5}}\n\
                - {name: m, type: mongodb, uri: 'mongodb://u:hunter2@h/'}\n";
    let livekit = "openvidu: {analytics: {enabled: yes, mongo_url: 'mongodb://u:hunter2@l/', interval: 7s}}";
    let environment = |name: &str| match name {
        "SIZE" => Some("1GiB".to_owned()),
        "KEY" => Some(KEY.to_owned()),
        "LIVEKIT_CONFIG" => Some(livekit.to_owned()),
        _ => None,
    };
    let text = text.replace("name: m,", "name: m1,");
    let shown = config::show_text(Some(("c.yaml", &text)), &environment).unwrap();
    for line in [
        "  max_bytes: 1GiB # c.yaml:2:14, ${SIZE}",
        "    key: '***' # c.yaml:3:21, ${KEY}",
        "  token: '***' # c.yaml:6:16",
        "    keys: {APIa: '***'} # c.yaml:4:8",
        "      max_bytes: 1GiB # c.yaml:2:14, ${SIZE}",
        "      max_rate: 5 # c.yaml:8:66",
        "    url: redis://:***@h:1/0 # c.yaml:5:1",
        "    uri: mongodb://u:***@h/ # c.yaml:9:34",
        "    uri: mongodb://u:***@l/ # LIVEKIT_CONFIG:1:49",
        "      interval: 7s # LIVEKIT_CONFIG:1:85",
        "  level: info # default",
    ] {
        let found = shown.yaml.lines().any(|shown| {
            let (value, source) = shown.split_once(" # ").unwrap_or((shown, ""));
            format!("{} # {source}", value.trim_end()) == line
        });
        assert!(found, "{line} is missing in:\n{}", shown.yaml);
    }
    let json = serde_json::to_string(&shown).unwrap();
    for secret in ["hunter2", "4242"] {
        assert!(!shown.yaml.contains(secret) && !json.contains(secret), "{}{json}", shown.yaml);
    }
    assert_eq!(shown.sources["sinks[0].flush.max_rate"], "c.yaml:8:66");
}

#[test]
fn what_is_shown_reads_back_as_the_same_configuration() {
    let text = "spool: {max_bytes: 1000000000, max_age: 90m}\nflush: {interval: 1500us}\ningest: {grpc: {listen: none}}\n\
                sinks: [{name: '7', type: file, labels: {a: 'true', b: '007', c: 'x: y', '#d': ' '' '}, streams: [stats]}]";
    for text in [text, ""] {
        let shown = config::show_text(Some(("c.yaml", text)), &|_| None).unwrap().yaml;
        let (mut written, read) =
            (parse(text).unwrap(), parse(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}")));
        // What is shown is never blank.
        written.file_is_blank = false;
        assert_eq!(format!("{written:#?}"), format!("{read:#?}"), "{shown}");
    }
}

#[test]
fn no_secret_is_in_debug_output_or_in_an_error() {
    let config = parse(&format!(
        "{OPENVIDU}keys: {{API: hunter2}}\nredis: {{address: r, password: hunter2}}\nadmin: {{token: hunter2-hunter2}}\n\
         documents: {{redact: pii, pii_key: hunter2}}\nspool: {{encryption: {{key: '{KEY}', old_keys: ['{KEY}']}}}}\n\
         ingest: {{auth: {{mode: tokens, tokens: [hunter2-of-some-length], keys: {{b: hunter2}}}}}}\n\
         sinks: [{{name: r, type: redis}}, {{name: m, type: mongodb, uri: 'mongodb://u:hunter2@h/?appName=x'}}]\n",
    ))
    .unwrap();
    let shown = format!("{config:#?}");
    assert!(!shown.contains("hunter2") && !shown.contains("4242"), "{shown}");
    for bad in [
        "sinks: [{name: m, type: mongodb, uri: 'postgres://u:hunter2@h'}]",
        "sinks: [{name: m, type: mongodb, uri: 'mongodb://u:hunter2@h:port'}]",
        "sinks: [{name: m, type: mongodb, uri: [hunter2]}]",
        "openvidu: {analytics: {enabled: true, mongo_url: 'u:hunter2@h'}}",
        "sinks: [{name: m, type: redis, url: 'redis://:hunter2@h:port'}]",
        "spool: {encryption: {key: hunter2}}",
    ] {
        let message = errors(bad);
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn a_tag_of_a_type_shows_no_secret_and_refuses_no_section_that_is_ignored() {
    for tag in ["!!int", "!!bool", "!!float", "!!null"] {
        let text = format!("admin: {{token: {tag} SEKRITTOKEN-of-16}}\n");
        assert_eq!(parse(&text).unwrap().admin.token.unwrap().expose(), "SEKRITTOKEN-of-16");
        let text = format!("documents: {{time: {tag} SEKRIT}}\nadmin: {{token: {tag} [SEKRITTOKEN]}}\n");
        assert!(!errors(&text).contains("SEKRITTOKEN"), "{}", errors(&text));

        let ignored = format!("{OPENVIDU}room: {{x: {tag} abc}}\n");
        assert_eq!(parse(&ignored).unwrap_or_else(|error| panic!("{error}")).sinks.len(), 1);
        let url = format!("openvidu: {{analytics: {{enabled: true, mongo_url: {tag} 'mongodb://u:SEKRIT@db/'}}}}");
        assert_eq!(with_environment(None, &[("LIVEKIT_CONFIG", &url)]).unwrap().sinks.len(), 1);
    }
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
fn what_follows_a_colon_in_a_key_is_not_shown() {
    for (text, shown) in [
        ("ingest: {auth: {keys: {APIa:SEKRIT}}}", "ingest.auth.keys.APIa: the value is empty"),
        ("keys: {APIa:SEKRIT}\nsinks: [{name: f, type: file}]", "keys.APIa: the value is empty"),
        ("admin: {token:SEKRIT}", "admin.token: unknown key"),
        ("admin:SEKRIT: 5\ndata_dir: x", "admin: unknown key"),
        ("sinks: [{name: m, type: mongodb, uri:mongodb://u:SEKRIT@h}]", "sinks[0].uri: unknown key"),
        ("ingest: {auth: {keys: {APIa:SEKRIT, APIa:SEKRIT}}}", "duplicate key \"APIa\""),
    ] {
        assert_error(text, &[shown]);
        assert!(!errors(text).contains("SEKRIT"), "{}", errors(text));
    }
}

#[test]
fn a_control_character_in_a_key_or_a_file_name_is_escaped() {
    let message = errors("data_dir: x\n\"a\\nb\\e[31m\\u2028\": 1\n");
    assert!(message.starts_with("c.yaml:1:1: a\\nb\\u{1b}[31m\\u{2028}: unknown key"), "{message}");
    for text in ["x: 1\ndata_dir: y", "sinks: []", "a: ["] {
        let message = config::parse(Some(("c\nd.yaml", text)), &|_| None).unwrap_err().to_string();
        assert!(message.starts_with("c\\nd.yaml") && !message.contains('\n'), "{message}");
    }
    let missing = config::load(Some(Path::new("/nowhere/c\nd.yaml")), &|_| None).unwrap_err().to_string();
    assert!(missing.contains("/nowhere/c\\nd.yaml") && !missing.contains('\n'), "{missing}");
    assert_error("admin: {token_file: \"/nowhere/a\\nb\"}", &["cannot read /nowhere/a\\nb"]);
}

#[test]
fn a_nul_character_in_a_path_is_refused_with_its_place() {
    for (text, shown) in [
        ("data_dir: \"a\\0b\"", "c.yaml:1:1: data_dir: \"a\\0b\" has a NUL character"),
        ("sinks: [{name: f, type: file, path: \"a\\0b\"}]", "sinks[0].path: \"a\\0b\" has a NUL character"),
        ("ingest: {grpc: {listen: \"unix:a\\0b\"}}", "ingest.grpc.listen: \"unix:a\\0b\" has a NUL character"),
        ("admin: {token_file: \"a\\0b\"}", "admin.token_file: cannot read a\\u{0}b"),
    ] {
        assert_error(text, &[shown]);
        assert!(!errors(text).contains('\0'), "{}", errors(text));
    }
}

#[test]
fn a_dollar_sign_is_shown_as_it_must_be_written_and_only_variables_that_were_used_are_named() {
    let text = "data_dir: \"$${HOME}/x\"\nsinks:\n- {name: f, type: file, path: \"${P}$$\", labels: {a: $$x, b: $1}}\n\
                - {name: m, type: mongodb, uri: 'mongodb://h/?authSource=$$external'}\n";
    let environment = |name: &str| (name == "P").then(|| "p$${Q}".to_owned());
    let shown = config::show_text(Some(("c.yaml", text)), &environment).unwrap();
    for line in [
        "data_dir: $${HOME}/x # c.yaml:1:11",
        "path: p$$$${Q}$$ # c.yaml:3:31, ${P}",
        "uri: mongodb://h/?authSource=$$external # c.yaml:4:33",
    ] {
        let is_shown = |shown: &str| {
            let (value, source) = shown.split_once(" # ").unwrap_or((shown, ""));
            format!("{} # {source}", value.trim_matches([' ', '-']).replace(['\'', '"'], "")) == line
        };
        assert!(shown.yaml.lines().any(is_shown), "{line} is missing in:\n{}", shown.yaml);
    }
    assert_eq!(shown.config["data_dir"], "${HOME}/x", "a program gets the value");
    let (written, read) = (with_environment(Some(text), &[("P", "p$${Q}")]).unwrap(), parse(&shown.yaml).unwrap());
    assert_eq!(format!("{written:#?}"), format!("{read:#?}"), "{}", shown.yaml);
}

#[test]
fn a_text_that_looks_like_a_number_is_a_text_for_programs_too() {
    let text = "data_dir: '3'\nsinks: [{name: 5, type: file, path: '12', labels: {a: '5'}, flush: {max_rate: 7}}]";
    let shown = config::show_text(Some(("c.yaml", text)), &|_| None).unwrap();
    let sink = &shown.config["sinks"][0];
    assert_eq!((&sink["name"], &sink["path"], &sink["labels"]["a"]), (&"5".into(), &"12".into(), &"5".into()));
    assert_eq!((&shown.config["data_dir"], &sink["flush"]["max_rate"]), (&"3".into(), &7.into()));
}
