//! LiveKit's own configuration: its file, its variable, its sections.

use std::{path::Path, time::Duration};

use livekit_spool::config::{ConfigError, Target};

use crate::{OPENVIDU, assert_error, errors, mongo, parse, with_environment};

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
