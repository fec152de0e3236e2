//! `config show`: what is in force, and where each value comes from.

use livekit_spool::config;

use crate::{KEY, parse, with_environment};

#[test]
fn what_is_in_force_is_shown_with_where_each_value_comes_from_and_without_secrets() {
    let text = "spool:\n  max_bytes: ${SIZE}\n  encryption: {key: '${KEY}'}\nkeys: {APIa: hunter2}\n\
                redis: {address: 'h:1', password: hunter2}\nadmin: {token: hunter2-hunter2}\n\
                sinks:\n- {name: r, type: redis, labels: {region: eu}, flush: {max_rate: 5}}\n\
                - {name: m, type: mongodb, uri: 'mongodb://u:hunter2@h/'}\n\
                - {name: h, type: http, url: 'http://u:hunter2@h/in?key=hunter2', headers: {X-Key: hunter2}}\n\
                - {name: h2, type: http, url: 'http://h/', user: u, password: hunter2}\n\
                - {name: h3, type: http, url: 'http://h/', token: hunter2}\n\
                - {name: h4, type: http, url: 'http://h/', sign: livekit, api_key: k, api_secret: hunter2, streams: [events]}\n";
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
        "    url: http://u:***@h/in?key=*** # c.yaml:10:30",
        "      X-Key: '***' # c.yaml:10:84",
        "    password: '***' # c.yaml:11:63",
        "    token: '***' # c.yaml:12:51",
        "    api_secret: '***' # c.yaml:13:83",
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
