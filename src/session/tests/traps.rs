//! What is easily read wrong in LiveKit's records, each with its test.

use serde_json::json;

use super::made::{ROOM, START, Story, add, at, sid, timestamp};
use crate::session::{Documents, State, Summary, fold};

#[test]
fn the_whole_seconds_of_a_rooms_creation_are_not_its_start() {
    let mut story = Story::new();
    story.join("ann", 0.4);
    let session = story.settled();
    assert_eq!(session.started_at, at(0.25));
    assert_eq!(session.moments[0].at, at(0.25));
    // An old server has no milliseconds.
    for event in &mut story.documents.events {
        event["room"].as_object_mut().unwrap().remove("creation_time_ms");
    }
    assert_eq!(story.settled().started_at, at(0.0));
}

#[test]
fn a_session_is_settled_three_and_a_half_minutes_after_its_end() {
    let mut story = Story::new();
    story.join("ann", 1.0).leave("ann", 60.0, 1).end(80.0);
    let settled = |now| {
        let session = story.session(now);
        assert_eq!(session.state, State::Ended);
        (session.settled, session.ended_at)
    };
    assert_eq!(settled(80.0), (false, Some(at(80.0))));
    assert_eq!(settled(80.0 + 209.9), (false, Some(at(80.0))));
    assert_eq!(settled(80.0 + 210.1), (true, Some(at(80.0))));
}

#[test]
fn stats_that_come_after_the_end_count() {
    let mut story = Story::new();
    story.join("ann", 1.0).publish("ann", "TR_1", 2.0).leave("ann", 32.0, 1).end(33.0);
    story.measure(("ann", "TR_1", "UPSTREAM"), 2.0, 1500, 0);
    story.documents.stats[0]["time_stamp"] = timestamp(43.0);
    let session = story.settled();
    assert_eq!(session.totals.bytes_in, 150_000);
    assert_eq!(session.last_at, at(43.0));
    assert_eq!(session.ended_at, Some(at(33.0)));
}

#[test]
fn a_room_without_an_end_is_there_while_records_come_and_lost_afterwards() {
    let mut story = Story::new();
    story.join("ann", 1.0).publish("ann", "TR_1", 2.0).measure(("ann", "TR_1", "UPSTREAM"), 2.0, 1500, 0);
    let last = story.settled().last_at.since(at(0.0));
    let active = story.session(last + 299.0);
    assert_eq!((active.state, active.settled, active.ended_at), (State::Active, false, None));
    assert!((active.totals.connection_seconds - (last + 298.0)).abs() < 1e-6);
    assert_eq!(Summary::of(&active).present, 1);
    let lost = story.session(last + 301.0);
    assert_eq!((lost.state, lost.settled, lost.ended_at), (State::Lost, true, None));
    // Not more than what the records show: a track's last interval may end a little after the participant left.
    assert!((lost.totals.connection_seconds - 30.0).abs() < 1e-6, "{}", lost.totals.connection_seconds);
    assert_eq!(Summary::of(&lost).present, 0);
}

#[test]
fn a_record_of_the_future_does_not_keep_a_room_there_nor_make_it_longer() {
    let mut story = Story::new();
    story.join("ann", 1.0).about("ann", "PARTICIPANT_RESUMED", 60.0, json!({}));
    // A clock that is ahead by some seconds.
    let ahead = story.session(50.0);
    assert_eq!(ahead.state, State::Active);
    assert!((ahead.totals.connection_seconds - 49.0).abs() < 1e-6, "{}", ahead.totals.connection_seconds);
    // A record that says nothing of its time.
    story.event("REPORT", 1e9, json!({}));
    assert_eq!(story.session(61.0).state, State::Active);
    let lost = story.session(1e6);
    assert_eq!((lost.state, lost.settled), (State::Lost, true));
    assert!((lost.totals.connection_seconds - 59.0).abs() < 1e-6, "{}", lost.totals.connection_seconds);
}

#[test]
fn a_connection_was_not_there_after_the_end_of_its_room_nor_in_the_future() {
    let mut story = Story::new();
    story.join("ann", 1.0).about("ann", "PARTICIPANT_RESUMED", 60.0, json!({}));
    story.about("ann", "TRACK_MUTED", 1e9, json!({ "track_id": "TR_1" }));
    assert!((story.settled().totals.connection_seconds - 59.0).abs() < 1e-6, "until what is known to be true");
    story.end(80.0);
    assert!((story.settled().totals.connection_seconds - 79.0).abs() < 1e-6, "that it left is missing");
}

#[test]
fn texts_of_any_length_are_cut_so_that_what_repeats_them_stays_small() {
    let long = "ä".repeat(1_000_000);
    let mut story = Story::new();
    story.join("ann", 1.0);
    for event in story.documents.events.iter_mut().skip(1) {
        event["participant"]["identity"] = json!(long);
        event["client_info"] = json!({ "sdk": "JS", "os": long });
    }
    for n in 0..100 {
        story.event("TRACK_UNSUBSCRIBED", f64::from(n), json!({ "participant_id": sid("ann"), "track_id": "TR_1" }));
    }
    let session = story.settled();
    let identity = &session.participants[0].identity;
    assert!(identity.len() <= 1024 && long.starts_with(identity.as_str()), "{} bytes", identity.len());
    assert_eq!(session.participants[0].connections.len(), 1);
    assert!(serde_json::to_string(&session).unwrap().len() < 300_000);
}

#[test]
fn an_empty_room_sends_no_records_for_as_long_as_it_waits() {
    let mut story = Story::new();
    for event in &mut story.documents.events {
        event["room"]["empty_timeout"] = json!(3600);
    }
    assert_eq!(story.session(3800.0).state, State::Active);
    assert_eq!(story.session(3901.0).state, State::Lost);
    story.join("ann", 1.0);
    assert_eq!(story.session(400.0).state, State::Lost, "somebody is there, and sends nothing");
}

#[test]
fn events_that_carry_only_sids_say_nothing_about_the_track() {
    let mut story = Story::new();
    story.join("ann", 1.0).join("bob", 1.5).publish("ann", "TR_1", 2.0).subscribe("bob", "TR_1", "ann", 3.0);
    story.about(
        "bob",
        "TRACK_UNSUBSCRIBED",
        20.0,
        json!({ "track_id": "TR_1", "track": { "sid": "TR_1", "type": 1 } }),
    );
    story.about("ann", "TRACK_PUBLISHED_UPDATE", 5.0, json!({ "track_id": "TR_1", "track": { "source": "UNKNOWN" } }));
    let session = story.settled();
    let [ann, bob] = &session.participants[..] else { panic!("{} participants", session.participants.len()) };
    let track = &ann.connections[0].published[0];
    assert_eq!(
        (track.kind.as_str(), track.source.as_str(), track.mime.as_str()),
        ("AUDIO", "MICROPHONE", "audio/opus")
    );
    assert_eq!(track.subscribers, [sid("bob")]);
    let received = &bob.connections[0].subscribed[0];
    assert_eq!((received.publisher_identity.as_str(), received.source.as_str()), ("ann", "MICROPHONE"));
    assert_eq!((received.spans[0].from, received.spans[0].to), (at(3.03), Some(at(20.0))));
    assert!((received.subscribe_ms.unwrap() - 30.0).abs() < 0.01);
}

#[test]
fn a_short_interval_has_totals_and_no_rates() {
    let mut story = Story::new();
    story.join("ann", 1.0);
    let flow = ("ann", "TR_1", "UPSTREAM");
    story.interval(flow, 0.0, 30.0, json!({ "primary_packets": 1500, "primary_bytes": 150_000, "frames": 900 }));
    story.interval(flow, 30.0, 30.3, json!({ "primary_packets": 15, "primary_bytes": 90_000, "frames": 9 }));
    for stat in &mut story.documents.stats {
        stat["mime"] = json!("video/VP8");
    }
    let upstream = story.settled().participants[0].connections[0].published[0].upstream.clone();
    let [long, short] = &upstream.intervals[..] else { panic!("{} intervals", upstream.intervals.len()) };
    assert_eq!((long.bitrate, long.fps), (Some(40_000.0), Some(30.0)));
    assert_eq!((short.bitrate, short.fps, short.bytes), (None, None, 90_000));
    assert_eq!((upstream.packets, upstream.bytes), (1515, 240_000));
}

#[test]
fn the_frames_of_audio_are_no_frame_rate() {
    let mut story = Story::new();
    story.interval(("ann", "TR_1", "UPSTREAM"), 0.0, 30.0, json!({ "primary_packets": 1500, "frames": 1 }));
    assert_eq!(story.settled().participants[0].connections[0].published[0].upstream.intervals[0].fps, None);
}

#[test]
fn times_before_1970_are_unset() {
    let mut story = Story::new();
    story.join("ann", 1.0);
    let year_1 = json!({ "seconds": -62_135_596_800_i64 });
    let flow = ("ann", "TR_1", "UPSTREAM");
    story.interval(flow, 0.0, 30.0, json!({ "primary_packets": 1500 }));
    add(&mut story.documents.stats[0]["streams"][0], json!({ "start_time": year_1, "end_time": {} }));
    let session = story.settled();
    assert_eq!(session.started_at, at(0.25));
    let interval = &session.participants[0].connections[0].published[0].upstream.intervals[0];
    assert_eq!((interval.from, interval.to, interval.bitrate), (at(31.0), at(31.0), None));
}

#[test]
fn a_record_that_is_stored_twice_counts_once_whatever_its_object_id() {
    let mut story = Story::new();
    story.join("ann", 1.0).publish("ann", "TR_1", 2.0).measure(("ann", "TR_1", "UPSTREAM"), 2.0, 1500, 3);
    story.about("ann", "PARTICIPANT_RESUMED", 20.0, json!({}));
    let once = story.settled();
    let mut twice = story.documents.clone();
    for document in story.documents.events.iter().chain(&story.documents.stats) {
        let mut again = document.clone();
        // The fork's own, and doubles.
        again["_id"] = json!("cd15a8942ecf937fec1fff6b370fb7b9");
        let twins = if again["type"].is_null() { &mut twice.stats } else { &mut twice.events };
        twins.push(again);
    }
    assert_eq!(fold(ROOM, &twice, at(1e6)), Some(once));
}

#[test]
fn records_without_an_id_are_told_apart_by_what_they_say() {
    let mut story = Story::new();
    story.join("ann", 1.0);
    for seconds in [10.0, 20.0, 20.0] {
        story.about("ann", "PARTICIPANT_RESUMED", seconds, json!({ "id": "" }));
    }
    assert_eq!(story.settled().participants[0].connections[0].resumed_at, [at(10.0), at(20.0)]);
}

#[test]
fn an_interval_that_comes_again_under_another_id_counts_once() {
    let flow = ("ann", "TR_1", "UPSTREAM");
    let mut story = Story::new();
    story.join("ann", 1.0).measure(flow, 0.0, 1500, 10).measure(flow, 30.0, 1500, 10);
    let once = story.settled().participants;
    story.measure(flow, 0.0, 1500, 10).measure(flow, 30.0, 1500, 10);
    story.interval(flow, 10.0, 20.0, json!({ "primary_packets": 500, "packets_lost": 5 }));
    assert_eq!(story.settled().participants, once);
}

#[test]
fn intervals_of_two_codecs_may_begin_before_the_last_one_ended() {
    let flow = ("ann", "TR_1", "UPSTREAM");
    let mut story = Story::new();
    story.interval(flow, 0.0, 32.0, json!({ "primary_packets": 3000 }));
    story.interval(flow, 30.0, 62.0, json!({ "primary_packets": 3000 }));
    assert_eq!(story.settled().participants[0].connections[0].published[0].upstream.packets, 6000);
}

#[test]
fn signalling_and_data_have_bytes_and_no_track() {
    let mut story = Story::new();
    story.join("ann", 1.0);
    for (seconds, kind) in [(30.0, "UPSTREAM"), (30.0, "DOWNSTREAM"), (60.0, "UPSTREAM")] {
        for track in ["TR_SGPA_ann", "TR_DTPA_ann"] {
            let stream = json!({ "primary_packets": 5, "primary_bytes": 1000, "start_time": {}, "end_time": {} });
            let fields = json!({ "participant_id": sid("ann"), "track_id": track, "kind": kind, "streams": [stream] });
            story.stat(seconds, fields);
        }
    }
    let session = story.settled();
    assert_eq!((session.totals.bytes_in, session.totals.bytes_out), (4000, 2000));
    let connection = &session.participants[0].connections[0];
    assert_eq!(connection.data_bytes, 6000);
    assert_eq!((connection.published.len(), connection.subscribed.len()), (0, 0));
    assert_eq!(Summary::of(&session).max_loss, None);
}

#[test]
fn a_webhook_that_was_made_an_event_is_left_out_where_livekit_sent_the_event() {
    let mut story = Story::new();
    story.join("ann", 1.4).leave("ann", 60.7, 1).end(80.6);
    let sent = story.settled();
    let participant = json!({ "sid": sid("ann"), "identity": "ann", "state": "ACTIVE", "joined_at": START + 1 });
    let of_ann = |id: &str| json!({ "id": id, "participant_id": sid("ann"), "participant": participant });
    story.event("ROOM_CREATED", 0.0, json!({ "id": "EV_1" }));
    story.event("PARTICIPANT_ACTIVE", 1.0, of_ann("EV_2"));
    story.event("PARTICIPANT_LEFT", 60.0, of_ann("EV_3"));
    story.event("ROOM_ENDED", 80.0, json!({ "id": "EV_4" }));
    assert_eq!(story.settled(), sent);
}

#[test]
fn webhooks_alone_make_a_session_in_whole_seconds() {
    let mut story = Story::default();
    let participant = json!({ "sid": sid("ann"), "identity": "ann", "joined_at_ms": START * 1000 + 1100 });
    let of_ann = |id: &str| json!({ "id": id, "participant_id": sid("ann"), "participant": participant });
    story.event("ROOM_CREATED", 0.0, json!({ "id": "EV_1" }));
    story.event("PARTICIPANT_ACTIVE", 1.0, of_ann("EV_2"));
    story.event("PARTICIPANT_LEFT", 60.0, of_ann("EV_3"));
    story.event("ROOM_ENDED", 80.0, json!({ "id": "EV_4" }));
    let session = story.settled();
    let connection = &session.participants[0].connections[0];
    assert_eq!((connection.joined_at, connection.active_at), (Some(at(1.1)), Some(at(1.1))), "active before it joined");
    assert!((connection.seconds - 58.9).abs() < 1e-6);
    assert_eq!((session.ended_at, session.moments.len()), (Some(at(80.0)), 4));
    assert_eq!(session.observations, []);
}

#[test]
fn a_resumed_connection_that_livekit_reports_as_aborted_had_been_active() {
    // On a resume LiveKit makes a worker for stats that does not know that the participant was active.
    let mut story = Story::new();
    story.join("ann", 1.0).about("ann", "PARTICIPANT_RESUMED", 30.0, json!({}));
    story.leave("ann", 60.0, 1).documents.events.last_mut().unwrap()["type"] = json!("PARTICIPANT_CONNECTION_ABORTED");
    let session = story.settled();
    let connection = &session.participants[0].connections[0];
    assert!(connection.aborted);
    assert!((connection.seconds - 59.0).abs() < 1e-6);
    assert!(story.sentences("never_active").is_empty());
}

#[test]
fn what_comes_after_leaving_does_not_make_a_connection_longer() {
    let mut story = Story::new();
    story.join("ann", 1.0).publish("ann", "TR_1", 2.0);
    for (kind, seconds) in [("TRACK_UNSUBSCRIBED", 61.0), ("TRACK_SUBSCRIBE_STATS", 61.1), ("WEBHOOK", 62.0)] {
        story.about("ann", kind, seconds, json!({ "track_id": "TR_2" }));
    }
    story.end(80.0);
    assert!((story.settled().totals.connection_seconds - 1.04).abs() < 1e-6, "its end is not known");
    story.leave("ann", 60.0, 1);
    assert!((story.settled().totals.connection_seconds - 59.0).abs() < 1e-6);
}

#[test]
fn a_connection_whose_participant_is_unknown_is_nobody_new() {
    let mut story = Story::new();
    story.join("ann", 1.0);
    story.event("TRACK_UNSUBSCRIBED", 5.0, json!({ "participant_id": "PA_x", "participant": { "sid": "PA_x" } }));
    story.event("TRACK_SUBSCRIBED", 6.0, json!({ "participant_id": "PA_x", "track_id": "TR_1" }));
    let session = story.settled();
    assert_eq!((session.totals.participants, session.totals.peak_participants), (1, 1));
    assert_eq!(session.participants.len(), 2);
}

#[test]
fn one_identity_that_joined_twice_is_one_participant() {
    let mut story = Story::new();
    story.join("ann", 1.0).join("bob", 2.0).leave("ann", 30.0, 2);
    story.join("ann", 29.0);
    for event in story.documents.events.iter_mut().rev().take(2) {
        event["participant_id"] = json!("PA_again");
        event["participant"]["sid"] = json!("PA_again");
    }
    let session = story.settled();
    assert_eq!((session.totals.participants, session.totals.peak_participants), (2, 2));
    let sids: Vec<&str> =
        session.participants[0].connections.iter().map(|connection| connection.sid.as_str()).collect();
    assert_eq!(sids, ["PA_ann", "PA_again"]);
}

#[test]
fn who_leaves_as_another_one_joins_is_not_there_with_them() {
    let mut story = Story::new();
    story.join("ann", 1.0).leave("ann", 30.0, 1).join("bob", 30.0).leave("bob", 40.0, 1);
    assert_eq!(story.settled().totals.peak_participants, 1);
}

#[test]
fn mutes_are_spans_also_of_a_track_that_was_published_muted() {
    let mut story = Story::new();
    story.join("ann", 1.0).publish("ann", "TR_1", 2.0).publish("ann", "TR_2", 2.0);
    for (kind, seconds) in
        [("TRACK_MUTED", 10.0), ("TRACK_MUTED", 11.0), ("TRACK_UNMUTED", 20.0), ("TRACK_MUTED", 30.0)]
    {
        story.about("ann", kind, seconds, json!({ "track_id": "TR_1" }));
    }
    for event in &mut story.documents.events {
        if event["type"] == "TRACK_PUBLISHED" && event["track_id"] == "TR_2" {
            event["track"]["muted"] = json!(true);
        }
    }
    let session = story.settled();
    let published = &session.participants[0].connections[0].published;
    let spans = |n: usize| published[n].muted.iter().map(|span| (span.from, span.to)).collect::<Vec<_>>();
    assert_eq!(spans(0), [(at(10.0), Some(at(20.0))), (at(30.0), None)]);
    assert_eq!(spans(1), [(at(2.04), None)]);
}

#[test]
fn an_event_belongs_to_the_room_that_it_reports_on() {
    let mut story = Story::new();
    let webhook = json!({ "event": "room_started", "room_id": ROOM, "send_duration_ns": 2_500_000 });
    let call =
        json!({ "room_id": ROOM, "service": "RoomService", "method": "DeleteRoom", "status": 200, "duration_ns": 7e6 });
    let ingress = json!({ "ingress_id": "IN_1", "input_type": 1, "state": { "room_id": ROOM, "status": 2 } });
    for (kind, field, report) in
        [("WEBHOOK", "webhook", webhook), ("API_CALL", "api_call", call), ("INGRESS_STARTED", "ingress", ingress)]
    {
        let event = json!({ "id": kind, "type": kind, "timestamp": timestamp(5.0), field: report });
        story.documents.events.push(event);
    }
    let session = story.settled();
    assert_eq!((session.webhooks.len(), session.webhooks[0].send_ms), (1, 2.5));
    let call = &session.api_calls[0];
    assert_eq!((call.method.as_str(), call.status.as_str(), call.duration_ms), ("DeleteRoom", "200", 7.0));
    let ingress = &session.ingresses[0];
    assert_eq!(
        (ingress.kind.as_str(), ingress.status.as_str(), ingress.started_at),
        ("whip", "ENDPOINT_PUBLISHING", Some(at(5.0)))
    );
}

#[test]
fn an_egress_is_what_its_last_event_says() {
    let mut story = Story::new();
    let started_at = at(10.0).0;
    let egress = |status: &str| {
        json!({ "egress_id": "EG_1", "room_id": ROOM, "status": status, "started_at": started_at,
                "Request": { "RoomComposite": { "room_name": "room" } } })
    };
    story.event("EGRESS_STARTED", 9.0, json!({ "egress_id": "EG_1", "egress": egress("EGRESS_STARTING") }));
    let mut failed = egress("EGRESS_FAILED");
    add(&mut failed, json!({ "ended_at": at(70.0).0, "error": "disk full" }));
    story.event("EGRESS_ENDED", 71.0, json!({ "egress_id": "EG_1", "egress": failed }));
    let session = story.settled();
    let [job] = &session.egresses[..] else { panic!("{} egresses", session.egresses.len()) };
    assert_eq!((job.kind.as_str(), job.status.as_str()), ("room_composite", "EGRESS_FAILED"));
    assert_eq!(
        (job.started_at, job.ended_at, job.error.as_deref()),
        (Some(at(10.0)), Some(at(70.0)), Some("disk full"))
    );
}

#[test]
fn fields_of_a_wrong_type_are_absent() {
    let mut story = Story::new();
    story.join("ann", 1.0).publish("ann", "TR_1", 2.0).measure(("ann", "TR_1", "UPSTREAM"), 2.0, 1500, 3);
    let whole = &story.documents;
    let wrong =
        [json!(null), json!("text"), json!(-7), json!(1e300), json!([1]), json!({ "$numberLong": {} }), json!(true)];
    for stream in [&whole.events, &whole.stats] {
        for (n, document) in stream.iter().enumerate() {
            for path in paths(document, String::new()) {
                for wrong in &wrong {
                    let mut documents = whole.clone();
                    let stream = if document["type"].is_null() { &mut documents.stats } else { &mut documents.events };
                    *stream[n].pointer_mut(&path).unwrap() = wrong.clone();
                    assert!(fold(ROOM, &documents, at(1e6)).is_some());
                }
            }
        }
    }
}

/// JSON pointers of every value in a document.
fn paths(value: &serde_json::Value, at: String) -> Vec<String> {
    let inner: Vec<(String, &serde_json::Value)> = match value {
        serde_json::Value::Object(fields) => fields.iter().map(|(key, value)| (format!("{at}/{key}"), value)).collect(),
        serde_json::Value::Array(values) => {
            values.iter().enumerate().map(|(n, value)| (format!("{at}/{n}"), value)).collect()
        }
        _ => Vec::new(),
    };
    inner.into_iter().flat_map(|(path, value)| [vec![path.clone()], paths(value, path)].concat()).collect()
}

#[test]
fn documents_of_other_rooms_are_left_out() {
    let mut story = Story::new();
    story.join("ann", 1.0);
    let alone = story.settled();
    let mut documents = story.documents.clone();
    for document in &story.documents.events {
        let mut other = document.clone();
        other["id"] = json!(format!("{}_other", other["id"]));
        other["room_id"] = json!("RM_2");
        documents.events.push(other);
    }
    assert_eq!(fold(ROOM, &documents, at(1e6)), Some(alone));
    assert_eq!(fold("RM_3", &documents, at(1e6)), None);
    assert_eq!(fold(ROOM, &Documents { events: Vec::new(), ..documents }, at(1e6)), None);
}
