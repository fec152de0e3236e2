//! The configurations in the repository, and none at all.

use std::path::Path;

use livekit_spool::config::Config;

use crate::{KEY, parse, with_environment};

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
        // Keys that exclude others (each is in `sinks::http_…`), files that are not there, and the second `mongo`.
        .filter(|line| {
            let excluded = ["user:", "password:", "sign:", "api_key:", "api_secret:", "tls: {ca:"];
            !excluded.iter().any(|key| line.trim_start().starts_with(key))
        })
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
            ("COLLECTOR_TOKEN", "c"),
        ],
    )
    .unwrap_or_else(|error| panic!("{error}\n{}", uncommented.join("\n")));
    let names: Vec<_> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    assert_eq!(names, ["files", "main", "cache", "warehouse", "collector", "mongo"]);
    assert!(config.ingest.tls.is_some() && config.admin.token.is_some());
}

#[test]
fn every_configuration_under_deploy_is_valid() {
    let variables = [
        ("LIVEKIT_KEYS", "devkey: a-secret-of-at-least-32-characters"),
        ("SPOOL_ADMIN_TOKEN", "an-admin-token"),
        ("MONGODB_URI", "mongodb://mongo/"),
        ("POSTGRES_PASSWORD", "a-password-for-trying-out"),
    ];
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    for (file, sinks) in [
        ("debian/config.yaml", &["files"][..]),
        ("compose/livekit-spool.yaml", &["mongo", "cache", "warehouse"]),
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
