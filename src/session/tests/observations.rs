//! What stands out in a session: each observation where it is due, and not where it is not.

use serde_json::json;

use super::made::{Story, add, sid};
use crate::session::{Severity, Summary};

const DOWN: &str = "DOWNSTREAM";
const UP: &str = "UPSTREAM";

#[test]
fn a_client_that_never_got_through() {
    let mut story = Story::new();
    story.join("ann", 1.0).request("bob", 2.0).leave("bob", 17.0, 7);
    story.documents.events.last_mut().unwrap()["type"] = json!("PARTICIPANT_CONNECTION_ABORTED");
    let [seen] = &story.observations("never_active")[..] else { panic!("not seen") };
    assert_eq!(seen.text, "bob joined, but media never flowed: waited up to 15.0 s (JOIN_FAILURE)");
    assert_eq!((seen.severity, seen.identity.as_deref()), (Severity::Problem, Some("bob")));
    assert_eq!(seen.connection_sid, Some(sid("bob")));
    assert_eq!(Summary::of(&story.settled()).problems, 1);
}

#[test]
fn a_client_that_tried_again() {
    let mut story = Story::new();
    story.request("bob", 2.0).leave("bob", 17.0, 9).request("bob", 18.0).leave("bob", 34.0, 9);
    for event in story.documents.events.iter_mut().rev().take(2) {
        event["participant_id"] = json!("PA_again");
        event["participant"]["sid"] = json!("PA_again");
    }
    let text = "bob joined 2 times, but media never flowed: waited up to 16.0 s (SIGNAL_CLOSE)";
    assert_eq!(story.sentences("never_active"), [text]);
    assert!(story.sentences("rejoined").is_empty(), "there was no connection to lose");
    let active = json!({ "participant_id": "PA_again", "participant": { "sid": "PA_again", "identity": "bob" } });
    story.event("PARTICIPANT_ACTIVE", 33.0, active);
    let [seen] = &story.observations("never_active")[..] else { panic!("not seen") };
    let text = "bob joined, but media never flowed: waited up to 15.0 s (SIGNAL_CLOSE), and got through another time";
    assert_eq!((seen.severity, seen.text.as_str()), (Severity::Warning, text));
}

#[test]
fn a_client_that_is_connecting_now_has_some_time() {
    let mut story = Story::new();
    story.request("bob", 2.0);
    let seen = |now| story.session(now).observations.iter().any(|seen| seen.kind == "never_active");
    assert!(!seen(31.9));
    assert!(seen(32.1));
}

#[test]
fn a_client_whose_records_end_as_it_connects_may_have_got_through() {
    let mut story = Story::new();
    story.join("ann", 1.0).request("bob", 59.0).about("ann", "PARTICIPANT_RESUMED", 60.0, json!({}));
    assert!(story.sentences("never_active").is_empty(), "their node died");
    story.end(61.0);
    assert!(story.sentences("never_active").is_empty(), "that it left is missing");
    story.documents.events.pop();
    story.about("ann", "PARTICIPANT_RESUMED", 90.0, json!({}));
    let waited = ["bob joined, but media never flowed: waited up to 31.0 s"];
    assert_eq!(story.sentences("never_active"), waited, "until the last record, not until now");
}

#[test]
fn a_client_that_received_something_got_through_although_a_record_is_missing() {
    let mut story = Story::new();
    story.request("bob", 2.0).measure(("bob", "TR_1", DOWN), 3.0, 100, 0).leave("bob", 40.0, 1);
    assert!(story.sentences("never_active").is_empty());
}

#[test]
fn a_slow_connect() {
    let slow = |millis: u64| {
        let mut story = Story::new();
        story.join("ann", 1.0);
        story.documents.events[2]["client_meta"]["client_connect_time"] = json!(millis);
        let seen = story.observations("slow_connect");
        seen.first().map(|seen| (seen.severity, seen.text.clone()))
    };
    assert_eq!(slow(1_999), None);
    assert_eq!(slow(2_000), Some((Severity::Note, "ann took 2.0 s to connect".to_owned())));
    assert_eq!(slow(12_340), Some((Severity::Warning, "ann took 12.3 s to connect".to_owned())));
}

#[test]
fn a_connection_over_tcp_or_turn() {
    let transport = |transport: &str| {
        let mut story = Story::new();
        story.join("ann", 1.0);
        story.documents.events[2]["client_meta"]["connection_type"] = json!(transport);
        story.leave("ann", 30.0, 1).end(31.0);
        story.settled().observations.into_iter().map(|seen| (seen.kind, seen.text)).collect::<Vec<_>>()
    };
    assert_eq!(transport("tcp"), [("over_tcp", "ann was connected over TCP".to_owned())]);
    assert_eq!(transport("turn"), [("over_turn", "ann was connected over TURN".to_owned())]);
    assert_eq!(transport("udp"), []);
    assert_eq!(transport(""), []);
}

/// A call of two, in which ann publishes to bob.
fn call() -> Story {
    let mut story = Story::new();
    story.join("ann", 1.0).join("bob", 1.5).publish("ann", "TR_1", 2.0).subscribe("bob", "TR_1", "ann", 3.0);
    story
}

fn kinds(story: &Story) -> Vec<&'static str> {
    story.leave_all().settled().observations.into_iter().map(|seen| seen.kind).collect()
}

impl Story {
    fn leave_all(&self) -> Self {
        let mut story = self.clone();
        story.leave("ann", 100.0, 1).leave("bob", 101.0, 1).end(120.0);
        story
    }
}

#[test]
fn loss_on_the_way_up_is_the_publishers() {
    let mut story = call();
    // The packets of a stat are those that were expected.
    story.measure(("ann", "TR_1", UP), 3.0, 1000, 60).measure(("bob", "TR_1", DOWN), 3.0, 1000, 0);
    assert_eq!(kinds(&story), ["loss_upstream"]);
    assert_eq!(
        story.sentences("loss_upstream"),
        ["ann lost 6.0% (60 of 1000 packets) on the way to LiveKit; its subscriber missed them too"]
    );
}

#[test]
fn what_the_publisher_sent_again_was_lost_at_first() {
    let mut story = call();
    let resent = json!({ "primary_packets": 1000, "packets_out_of_order": 60 });
    story.interval(("ann", "TR_1", UP), 3.0, 33.0, resent);
    assert_eq!(
        story.sentences("loss_upstream"),
        [
            "ann lost 6.0% (60 of 1000 packets) on the way to LiveKit; 60 of them came late; its subscriber missed them too"
        ]
    );
}

#[test]
fn loss_on_the_way_down_is_the_subscribers() {
    let mut story = call();
    story.measure(("ann", "TR_1", UP), 3.0, 1000, 0).measure(("bob", "TR_1", DOWN), 3.0, 1000, 50);
    assert_eq!(kinds(&story), ["loss_downstream"]);
    let [seen] = &story.observations("loss_downstream")[..] else { panic!("not seen") };
    assert_eq!(seen.text, "bob lost 5.0% (50 of 1000 packets) on the way from LiveKit");
    assert_eq!((seen.severity, seen.identity.as_deref()), (Severity::Warning, Some("bob")));
}

#[test]
fn loss_on_both_ways_is_of_both() {
    let mut story = call();
    story.measure(("ann", "TR_1", UP), 3.0, 1000, 40).measure(("bob", "TR_1", DOWN), 3.0, 1000, 50);
    assert_eq!(kinds(&story), ["loss_upstream", "loss_downstream"]);
    assert_eq!(story.sentences("loss_downstream"), ["bob lost 5.0% (50 of 1000 packets) on the way from LiveKit"]);
}

#[test]
fn what_a_closing_event_counts_of_the_publishers_loss_is_not_the_subscribers() {
    let mut story = call();
    story.measure(("ann", "TR_1", UP), 3.0, 1000, 90).measure(("bob", "TR_1", DOWN), 3.0, 1000, 0);
    let closing = json!({ "packets": 910, "packets_lost": 85, "bytes": 100_000 });
    story.about("bob", "TRACK_SUBSCRIBE_STATS", 60.0, json!({ "track_id": "TR_1", "rtp_stats": closing }));
    assert_eq!(kinds(&story), ["loss_upstream"]);
    let session = story.settled();
    let bob = session.participants.iter().find(|who| who.identity == "bob").unwrap();
    let downstream = &bob.connections[0].subscribed[0].downstream;
    assert_eq!((downstream.packets, downstream.lost), (910, 0), "without the gaps");
}

#[test]
fn little_loss_and_few_packets_do_not_stand_out() {
    let mut story = call();
    story.measure(("ann", "TR_1", UP), 3.0, 1000, 20).measure(("bob", "TR_1", DOWN), 3.0, 90, 40);
    assert_eq!(kinds(&story), Vec::<&str>::new());
}

#[test]
fn a_short_bad_time_stands_out_in_a_long_good_call() {
    let mut story = call();
    for n in 0..10 {
        let lost = if n == 5 { 100 } else { 0 };
        story.measure(("ann", "TR_1", UP), 3.0 + 30.0 * f64::from(n), 1000, lost);
    }
    assert_eq!(
        story.sentences("loss_upstream"),
        [
            "ann lost 1.0% (100 of 10000 packets; 10.0% in the worst 30 s) on the way to LiveKit; its subscriber missed them too"
        ]
    );
}

#[test]
fn reconnects() {
    let mut story = call();
    story.about("ann", "PARTICIPANT_RESUMED", 20.0, json!({}));
    assert_eq!(story.observations("reconnected")[0].severity, Severity::Note);
    story.about("ann", "PARTICIPANT_RESUMED", 30.0, json!({}));
    story.about("bob", "RECONNECTED", 30.0, json!({}));
    let seen = story.observations("reconnected");
    assert_eq!(seen.iter().map(|seen| seen.severity).collect::<Vec<_>>(), [Severity::Warning; 2]);
    assert_eq!(seen[0].text, "ann resumed its connection 2 times");
    assert_eq!(seen[1].text, "bob reconnected once");
}

#[test]
fn who_joins_again_after_a_lost_connection() {
    let again = |reason: u32, seconds: f64| {
        let mut story = call();
        story.leave("ann", 30.0, reason).join("ann", 30.0 + seconds);
        for event in story.documents.events.iter_mut().rev().take(2) {
            event["participant_id"] = json!("PA_again");
            event["participant"]["sid"] = json!("PA_again");
        }
        story.sentences("rejoined")
    };
    assert_eq!(again(9, 40.0), ["ann joined again once after a lost connection"]);
    assert_eq!(again(1, 40.0), Vec::<String>::new(), "by its own wish");
    let reconnected = ["ann joined again once within 5 s of leaving, as a client does that reconnects"];
    assert_eq!(again(1, 4.9), reconnected);
    assert_eq!(again(1, 5.1), Vec::<String>::new());
    assert_eq!(again(1, -1.0), ["ann joined again once after a lost connection"], "before it left");
}

#[test]
fn a_connection_that_was_lost() {
    let mut story = Story::new();
    story.join("ann", 1.0).leave("ann", 30.0, 14);
    assert_eq!(story.sentences("connection_lost"), ["the connection of ann was lost (CONNECTION_TIMEOUT)"]);
    for reason in [0, 1, 4, 5, 10] {
        let mut story = Story::new();
        story.join("ann", 1.0).leave("ann", 30.0, reason).end(50.0);
        assert_eq!(story.settled().observations, [], "{reason}");
    }
}

#[test]
fn a_track_that_nobody_subscribed_to() {
    let mut story = Story::new();
    story.join("ann", 1.0).publish("ann", "TR_1", 2.0);
    assert!(story.sentences("nobody_subscribed").is_empty(), "nobody else was there");
    story.join("bob", 50.0).leave("ann", 59.0, 1);
    assert!(story.sentences("nobody_subscribed").is_empty(), "only for a short time");
    story.documents.events.last_mut().unwrap()["timestamp"] = super::made::timestamp(62.04);
    story.leave("bob", 70.0, 1);
    let [seen] = &story.observations("nobody_subscribed")[..] else { panic!("not seen") };
    assert_eq!(seen.text, "ann published MICROPHONE for 60 s, and nobody subscribed although others were there");
    assert_eq!((seen.severity, seen.track_sid.as_deref()), (Severity::Note, Some("TR_1")));
    story.subscribe("bob", "TR_1", "ann", 60.0);
    assert!(story.sentences("nobody_subscribed").is_empty());
}

#[test]
fn a_track_beside_those_who_never_subscribe() {
    let mut story = Story::new();
    story.join("ann", 1.0).publish("ann", "TR_1", 2.0).join("rtmp", 3.0);
    for event in story.documents.events.iter_mut().rev().take(2) {
        event["participant"]["kind"] = json!("INGRESS");
    }
    story.leave("ann", 60.0, 1).leave("rtmp", 60.0, 1).end(61.0);
    assert!(story.sentences("nobody_subscribed").is_empty(), "an ingress only publishes");
}

#[test]
fn a_track_that_nobody_subscribed_to_where_identities_were_removed() {
    let mut story = Story::new();
    story.join("ann", 1.0).publish("ann", "TR_1", 2.0).join("bob", 3.0).leave("ann", 60.0, 1).leave("bob", 60.0, 1);
    for event in &mut story.documents.events {
        if let Some(participant) = event["participant"].as_object_mut() {
            participant.remove("identity");
        }
    }
    let text = "PA_ann published MICROPHONE for 58 s, and nobody subscribed although others were there";
    assert_eq!(story.sentences("nobody_subscribed"), [text]);
}

#[test]
fn a_low_score_and_for_how_long() {
    let mut story = call();
    for (n, (score, lowest)) in [(4.4, 4.3), (3.0, 2.1), (2.5, 2.0), (4.4, 4.4)].into_iter().enumerate() {
        story.measure(("bob", "TR_1", DOWN), 3.0 + 30.0 * n as f64, 1000, 0);
        add(story.documents.stats.last_mut().unwrap(), json!({ "score": score, "min_score": lowest }));
    }
    assert_eq!(
        story.sentences("low_score"),
        ["the score of MICROPHONE that bob received was below 3.1 for 60 s (lowest 2.0 of 4.5)"]
    );
}

#[test]
fn a_subscription_that_failed() {
    let mut story = Story::new();
    story.join("ann", 1.0).join("bob", 1.5).publish("ann", "TR_1", 2.0);
    let fields = json!({ "track_id": "TR_1", "track": { "sid": "TR_1" }, "error": "codec unsupported" });
    story.about("bob", "TRACK_SUBSCRIBE_FAILED", 3.0, fields);
    let [seen] = &story.observations("subscription_failed")[..] else { panic!("not seen") };
    assert_eq!(seen.text, "bob could not subscribe to MICROPHONE of ann (codec unsupported)");
    assert_eq!(seen.severity, Severity::Problem);
    story.subscribe("bob", "TR_1", "ann", 5.0);
    let [seen] = &story.observations("subscription_failed")[..] else { panic!("not seen") };
    assert_eq!(seen.text, "bob could not subscribe to MICROPHONE of ann (codec unsupported), and later succeeded");
    assert_eq!(seen.severity, Severity::Note);
}

#[test]
fn webhooks_that_failed() {
    let mut story = Story::new();
    story.event("WEBHOOK", 1.0, json!({ "webhook": { "event": "room_started", "http_status_code": 200 } }));
    assert!(story.sentences("webhook_failed").is_empty());
    story.event("WEBHOOK", 2.0, json!({ "webhook": { "event": "participant_joined", "http_status_code": 502 } }));
    assert_eq!(
        story.sentences("webhook_failed"),
        ["1 of 2 webhooks failed, the last one (participant_joined) with: HTTP status 502"]
    );
    story.event("WEBHOOK", 3.0, json!({ "webhook": { "event": "room_finished", "is_dropped": true } }));
    story.event("WEBHOOK", 4.0, json!({ "webhook": { "event": "x", "send_error": "connection refused" } }));
    assert_eq!(
        story.sentences("webhook_failed"),
        ["3 of 4 webhooks failed, the last one (x) with: connection refused"]
    );
}

#[test]
fn egresses_ingresses_and_calls_that_failed() {
    let mut story = Story::new();
    let egress = json!({ "egress_id": "EG_1", "status": "EGRESS_ABORTED" });
    story.event("EGRESS_ENDED", 1.0, json!({ "egress_id": "EG_1", "egress": egress }));
    let state = json!({ "status": "ENDPOINT_ERROR", "error": "bad codec" });
    story.event("INGRESS_ENDED", 2.0, json!({ "ingress_id": "IN_1", "ingress": { "state": state } }));
    let call = json!({ "call_id": "SCL_1", "call_status": 4, "error": "486 Busy" });
    story.event("SIP_CALL_ENDED", 3.0, json!({ "sip_call_id": "SCL_1", "sip_call": call }));
    story.end(4.0);
    let seen = story.settled().observations;
    let seen: Vec<_> = seen.iter().map(|seen| (seen.severity, seen.kind, seen.text.as_str())).collect();
    assert_eq!(
        seen,
        [
            (Severity::Problem, "sip_call_failed", "the SIP call SCL_1 failed: 486 Busy"),
            (Severity::Warning, "egress_failed", "the egress EG_1 failed: EGRESS_ABORTED"),
            (Severity::Warning, "ingress_failed", "the ingress IN_1 failed: bad codec"),
        ]
    );
}

#[test]
fn a_room_whose_end_was_never_sent() {
    let mut story = Story::new();
    story.join("ann", 1.0).leave("ann", 60.0, 1);
    let [seen] = &story.observations("no_end")[..] else { panic!("not seen") };
    assert_eq!(
        seen.text,
        "no end was sent: the last record is of 2026-11-18T11:07:40Z; its node died, or records are missing"
    );
    story.end(61.0);
    assert!(story.sentences("no_end").is_empty());
}

#[test]
fn the_worst_observation_comes_first() {
    let mut story = call();
    story.about("ann", "PARTICIPANT_RESUMED", 20.0, json!({}));
    story.measure(("ann", "TR_1", UP), 3.0, 1000, 100);
    story.request("cay", 5.0).leave("cay", 25.0, 7);
    let session = story.leave_all().settled();
    let severities: Vec<Severity> = session.observations.iter().map(|seen| seen.severity).collect();
    assert_eq!(severities, [Severity::Problem, Severity::Warning, Severity::Note]);
    let summary = Summary::of(&session);
    assert_eq!((summary.problems, summary.warnings), (1, 1));
    assert_eq!(summary.worst, Some(session.observations[0].text.clone()));
    assert_eq!(summary.max_loss, Some(0.1));
}
