//! What documents promise of the API and the metrics exists: OpenAPI, docs/metrics.md, the dashboard, the alerts.

use std::{collections::BTreeSet, fs, path::Path};

use livekit_protocol::{AnalyticsEvent, AnalyticsEventType};
use livekit_spool::{admin::metrics::METRICS, record::now_millis};
use reqwest::{Client, StatusCode};
use serde_json::Value;

use super::{event, nowhere, send, support};
use support::process::Setup;

const SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every metric that a text names; a histogram's parts count as the histogram.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.match_indices("livekit_spool_").map(|(at, _)| {
        let rest = &text[at..];
        rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())].to_owned()
    });
    let histogram = |word: &str| {
        let base = SUFFIXES.iter().find_map(|suffix| word.strip_suffix(suffix))?;
        METRICS
            .iter()
            .find(|metric| metric.kind == "histogram" && metric.name == base)
            .map(|metric| metric.name.to_owned())
    };
    words.map(|word| histogram(&word).unwrap_or(word)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_is_documented_graphed_or_alerted_on_is_served_and_the_other_way_round() {
    let spool = nowhere("mongo").start().await;
    send(&spool, vec![event("AE_1", "r")]).await;
    let text = Client::new().get(format!("{}/metrics", spool.admin())).send().await.unwrap().text().await.unwrap();
    let served = named(&text);
    let known: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(served, known);
    assert_eq!(named(&file("docs/metrics.md")), known, "docs/metrics.md");
    for path in ["deploy/grafana.json", "deploy/alerts.yaml", "docs/operations.md"] {
        let missing: Vec<_> = named(&file(path)).difference(&known).cloned().collect();
        assert!(missing.is_empty(), "{path} names {missing:?}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit_once(' ').expect("a sample").1;
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    let line = "livekit_spool_appended_records_total{sink=\"mongo\",stream=\"events\"} 1\n";
    assert!(text.contains(line), "{text}");
    for metric in METRICS {
        assert!(
            text.contains(&format!("# HELP {} {}\n# TYPE {} {}\n", metric.name, metric.help, metric.name, metric.kind))
        );
        assert_eq!(metric.kind == "counter", metric.name.ends_with("_total"), "{}", metric.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_of_the_openapi_description_is_served() {
    let spool = Setup::new().files("files").start().await;
    let created = AnalyticsEvent {
        r#type: AnalyticsEventType::RoomCreated.into(),
        timestamp: Some(pbjson_types::Timestamp { seconds: now_millis() / 1000, nanos: 0 }),
        ..event("AE_1", "r")
    };
    send(&spool, vec![created]).await;
    support::eventually("it is in the file", || async { spool.records("files", "events") == 0 }).await;
    let client = Client::new();
    let description = client.get(format!("{}/api/v1/openapi.json", spool.admin())).send().await.unwrap();
    let description: Value = serde_json::from_str(&description.text().await.unwrap()).unwrap();
    let mut served = 0;
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            let url = format!("{}/api/v1{}", spool.admin(), path.replace("{sink}", "files").replace("{room}", "RM_x"));
            let request = client.request(method.to_uppercase().parse().unwrap(), url);
            let status = request.send().await.expect("an answer").status();
            // No token here: what acts answers 403, and would answer 404 or 405 if it were not there.
            let expected = if method == "get" { StatusCode::OK } else { StatusCode::FORBIDDEN };
            assert_eq!(status, expected, "{method} {path}");
            served += 1;
        }
    }
    assert_eq!(served, 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_has_the_fields_that_its_schema_names() {
    let spool = nowhere("mongo").start().await;
    let client = Client::new();
    let read = async |path: &str| -> Value {
        let text = client.get(format!("{}/api/v1/{path}", spool.admin())).send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let (status, description) = (read("status").await, read("openapi.json").await);
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>();
    let schema = |name: &str| keys(&description["components"]["schemas"][name]["properties"]);
    let sink = &status["sinks"][0];
    for (name, value) in [
        ("Snapshot", &status),
        ("Process", &status["process"]),
        ("Ingest", &status["ingest"]),
        ("Sink", sink),
        ("Delivery", &sink["delivery"]),
        ("Stream", &sink["streams"]["events"]),
        ("Histogram", &sink["delivery"]["latency"]),
    ] {
        assert_eq!(keys(value), schema(name), "{name}");
    }
}
