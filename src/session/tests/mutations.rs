//! The recordings with one fault each: every record missing, twice, everything behind it missing (a node that died), a clock
//! that is wrong. No panic, no total above the truth, and nothing is said of anybody that the whole recording contradicts.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{LATE, json as as_json, properties::assert_is_at_most, recordings::recording};
use crate::session::{Documents, Observation, Session, fold};

const RECORDINGS: [&str; 8] = ["loss_up", "loss_down", "never", "resume", "reconnect", "late", "tcp", "turn"];

struct Recording {
    name: &'static str,
    sid: String,
    /// In the order of their times.
    documents: Vec<Document>,
    truth: Session,
}

#[derive(Clone)]
struct Document {
    is_stat: bool,
    value: Value,
}

impl Document {
    fn time_key(&self) -> &'static str {
        if self.is_stat { "time_stamp" } else { "timestamp" }
    }

    fn at(&self) -> (i64, i64) {
        let part = |name| self.value[self.time_key()][name].as_i64().unwrap_or(0);
        (part("seconds"), part("nanos"))
    }
}

fn session(sid: &str, documents: &[Document]) -> Option<Session> {
    let of = |is_stat| documents.iter().filter(|of| of.is_stat == is_stat).map(|of| of.value.clone()).collect();
    fold(sid, &Documents { events: of(false), stats: of(true) }, LATE)
}

fn recordings() -> impl Iterator<Item = Recording> {
    RECORDINGS.into_iter().map(|name| {
        let Documents { events, stats } = recording(name);
        let events = events.into_iter().map(|value| Document { is_stat: false, value });
        let stats = stats.into_iter().map(|value| Document { is_stat: true, value });
        let mut documents: Vec<Document> = events.chain(stats).collect();
        documents.sort_by_key(Document::at);
        let sid = documents.iter().find_map(|of| of.value["room"]["sid"].as_str()).unwrap().to_owned();
        let truth = session(&sid, &documents).unwrap();
        Recording { name, sid, documents, truth }
    })
}

/// What is said of whom; the numbers may be smaller.
fn said(session: &Session) -> BTreeSet<(&str, &str)> {
    let said = session.observations.iter().map(|seen| (seen.kind, seen.identity.as_deref().unwrap_or_default()));
    said.collect()
}

/// What the truth contradicts.
fn untrue<'a>(session: &'a Session, truth: &Session) -> Vec<&'a Observation> {
    let known = said(truth);
    let is_untrue = |seen: &&Observation| {
        let is_known = known.contains(&(seen.kind, seen.identity.as_deref().unwrap_or_default()));
        // It says itself that records may be missing.
        !is_known && seen.kind != "no_end"
    };
    session.observations.iter().filter(is_untrue).collect()
}

fn fails(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn no_record_that_is_missing_makes_an_observation_that_is_not_true() {
    let mut faults = Vec::new();
    for Recording { name, sid, documents, truth } in recordings() {
        for n in 0..documents.len() {
            let mut left = documents.clone();
            let Document { value: dropped, .. } = left.remove(n);
            let Some(session) = session(&sid, &left) else { continue };
            assert_is_at_most(&session, &truth);
            for seen in untrue(&session, &truth) {
                let kind = &dropped["type"];
                // The record that told otherwise.
                let is_its = match seen.kind {
                    "never_active" => kind == "PARTICIPANT_ACTIVE",
                    "nobody_subscribed" => kind == "TRACK_SUBSCRIBED",
                    _ => false,
                };
                if !is_its {
                    faults.push(format!("{name}, without {n} {kind} {}: {}", dropped["kind"], seen.text));
                }
            }
        }
    }
    fails(&faults);
}

#[test]
fn no_node_that_dies_makes_an_observation_that_is_not_true() {
    let mut faults = Vec::new();
    for Recording { name, sid, documents, truth } in recordings() {
        for n in 1..documents.len() {
            let Some(session) = session(&sid, &documents[..n]) else { continue };
            assert_is_at_most(&session, &truth);
            let untrue = untrue(&session, &truth).into_iter();
            faults.extend(untrue.map(|seen| format!("{name}, the first {n}: {}", seen.text)));
        }
    }
    fails(&faults);
}

#[test]
fn a_record_that_is_there_twice_or_late_changes_nothing() {
    for Recording { name, sid, documents, truth } in recordings() {
        let truth = as_json(&truth);
        for n in 0..documents.len() {
            let mut more = documents.clone();
            // Once more behind its neighbour, and both the other way round.
            more.insert((n + 2).min(documents.len()), documents[n].clone());
            if n % 2 == 1 {
                more.swap(n, n - 1);
            }
            assert_eq!(as_json(&session(&sid, &more).unwrap()), truth, "{name} {n}");
        }
    }
}

#[test]
fn a_clock_that_is_an_hour_wrong_blames_nobody() {
    let mut faults = Vec::new();
    for Recording { name, sid, documents, truth } in recordings() {
        let kinds: BTreeSet<String> =
            documents.iter().filter_map(|of| of.value["type"].as_str()).map(str::to_owned).collect();
        for kind in kinds.iter().map(String::as_str).chain(["stats"]) {
            for hour in [-3600, 3600] {
                let mut shifted = documents.clone();
                for document in &mut shifted {
                    let is_its = if document.is_stat { kind == "stats" } else { document.value["type"] == kind };
                    if is_its {
                        let key = document.time_key();
                        document.value[key]["seconds"] = json!(document.at().0 + hour);
                    }
                }
                let session = session(&sid, &shifted).unwrap();
                let (totals, most) = (&session.totals, &truth.totals);
                assert!(totals.participants <= most.participants && totals.bytes_in <= most.bytes_in, "{name} {kind}");
                assert!(totals.bytes_out <= most.bytes_out, "{name} {kind}");
                // What was measured, unlike how long something took, has nothing to do with the clock.
                let measured = ["loss_upstream", "loss_downstream", "low_score"];
                let untrue = untrue(&session, &truth).into_iter().filter(|seen| measured.contains(&seen.kind));
                faults.extend(untrue.map(|seen| format!("{name}, {kind} by {hour} s: {}", seen.text)));
            }
        }
    }
    fails(&faults);
}
