//! Calls with problems, recorded from a real livekit-server with real clients (`tests/e2e_sessions.rs`).

use std::{fs, path::Path};

use super::{documents, real::closings_add_up, sessions};
use crate::{
    document::{DocumentOptions, JsonStyle},
    session::{Documents, Session, Severity, Track},
};

pub(super) fn recording(name: &str) -> Documents {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sessions").join(name);
    let read = |file| fs::read(directory.join(file)).unwrap();
    documents(&read("events.pb"), &read("stats.pb"), DocumentOptions::default(), JsonStyle::Relaxed)
}

fn session(name: &str) -> Session {
    let mut sessions = sessions(&recording(name));
    assert_eq!(sessions.len(), 1);
    sessions.pop_first().unwrap().1
}

fn observed(session: &Session, kind: &str) -> Vec<(Severity, Option<String>)> {
    let seen = session.observations.iter().filter(|seen| seen.kind == kind);
    seen.map(|seen| (seen.severity, seen.identity.clone())).collect()
}

fn published(session: &Session, identity: &str) -> Vec<Track> {
    let its = session.participants.iter().filter(|who| who.identity == identity);
    its.flat_map(|who| &who.connections).flat_map(|connection| connection.published.clone()).collect()
}

#[test]
fn loss_of_the_publisher_is_as_large_as_the_relay_made_it_and_nobody_elses() {
    let session = session("loss_up");
    assert_eq!(observed(&session, "loss_upstream"), [(Severity::Warning, Some("ann".to_owned()))]);
    assert_eq!(observed(&session, "loss_downstream"), []);
    let missed: u64 = published(&session, "ann").iter().map(|t| t.upstream.lost + t.upstream.retransmitted).sum();
    // The relay dropped 458 packets, some of them more than once.
    assert_eq!(missed, 451);
}

#[test]
fn loss_of_the_subscriber_is_as_large_as_the_relay_made_it_and_nobody_elses() {
    let session = session("loss_down");
    assert_eq!(observed(&session, "loss_downstream"), [(Severity::Warning, Some("bob".to_owned()))]);
    assert_eq!(observed(&session, "loss_upstream"), []);
    let bob = session.participants.iter().find(|who| who.identity == "bob").unwrap();
    let received = bob.connections[0].subscribed.iter();
    let missed: u64 = received.map(|of| of.downstream.lost + of.downstream.retransmitted).sum();
    // The relay dropped 445.
    assert_eq!(missed, 426);
}

#[test]
fn a_client_that_never_got_through_is_a_problem_with_all_its_attempts() {
    let session = session("never");
    let [seen] = &session.observations[..] else { panic!("{:?}", session.observations) };
    assert_eq!((seen.severity, seen.kind), (Severity::Problem, "never_active"));
    assert_eq!(seen.text, "cay joined 4 times, but media never flowed: waited up to 15.2 s (SIGNAL_CLOSE)");
}

#[test]
fn a_resume_keeps_the_connection_and_a_reconnect_makes_another_one() {
    let connections = |session: &Session| {
        let bob = session.participants.iter().find(|who| who.identity == "bob").unwrap();
        bob.connections.iter().map(|connection| connection.resumed_at.len()).collect::<Vec<_>>()
    };
    let resumed = session("resume");
    assert_eq!(connections(&resumed), [1]);
    assert_eq!(observed(&resumed, "reconnected"), [(Severity::Note, Some("bob".to_owned()))]);
    let reconnected = session("reconnect");
    assert_eq!(connections(&reconnected), [0, 0]);
    assert_eq!(observed(&reconnected, "rejoined"), [(Severity::Warning, Some("bob".to_owned()))]);
    assert_eq!((reconnected.totals.participants, reconnected.totals.peak_participants), (2, 2));
}

#[test]
fn a_late_subscriber_sees_a_track_in_layers_that_was_muted_twice() {
    let session = session("late");
    let [microphone, camera] = &published(&session, "ann")[..] else { panic!("not two tracks") };
    assert_eq!((camera.layers, camera.width, camera.height), (2, 640, 360));
    let [first, second] = microphone.muted[..] else { panic!("{:?}", microphone.muted) };
    assert!((5.0..8.0).contains(&first.to.unwrap().since(first.from)));
    assert_eq!(second.to, None, "muted to the end");
    let bob = session.participants.iter().find(|who| who.identity == "bob").unwrap();
    assert!(bob.connections[0].joined_at.unwrap() > first.to.unwrap());
    assert_eq!(bob.connections[0].subscribed.len(), 2);
}

#[test]
fn the_stats_of_each_track_add_up_to_its_closing_event_also_with_loss() {
    for name in ["loss_up", "loss_down", "resume", "reconnect", "late", "never"] {
        closings_add_up(&recording(name), name == "loss_up");
    }
}
