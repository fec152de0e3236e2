//! Secrets: where they come from, and that nothing shows them.

use livekit_spool::{config::Target, ingest::AuthOptions};

use crate::{KEY, OPENVIDU, assert_error, errors, parse, with_environment};

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
        "sinks: [{name: m, type: mongodb, uri: 'mongodb://u:${SECRET}@h'}, {name: r, type: redis, url: 'redis://:${SECRET}@h'}, \
         {name: h, type: http, url: 'http://u:${SECRET}@h'},
         {name: p, type: postgresql, url: 'postgresql://u:${SECRET}@h'}]",
    );
    let shown = |sink: &livekit_spool::config::SinkConfig| match &sink.target {
        Target::Mongodb(options) => options.uri.clone(),
        Target::Redis(options) => options.url.clone(),
        Target::Http(options) => options.url.clone(),
        Target::Postgresql(options) => options.url.clone(),
        Target::File(_) => String::new(),
    };
    assert_eq!(shown(&uri.sinks[0]), "mongodb://u:hunter2-hunter2-hunter2@h");
    assert_eq!(shown(&uri.sinks[1]), "redis://:hunter2-hunter2-hunter2@h");
    assert_eq!(shown(&uri.sinks[2]), "http://u:hunter2-hunter2-hunter2@h");
    assert_eq!(shown(&uri.sinks[3]), "postgresql://u:hunter2-hunter2-hunter2@h");
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
        "sinks: [{name: p, type: postgresql, url_file: '${SECRET}'}]",
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
