//! The views over the tables, and the dashboard that asks them, over LiveKit's real records.

use std::{fs, path::Path};

use livekit_protocol::{AnalyticsEvent, AnalyticsEventType, ParticipantInfo, Room};
use livekit_spool::{record::Stream, sink::postgresql::PostgresqlOptions};
use regex::Regex;
use serde_json::Value;

use crate::{
    pipeline::{TIMEOUT, postgresql_sink, postgresql_sink_with},
    postgresql::{batch, deliver, event_at, ready},
    support::{
        postgres::Postgres,
        records::{real_events, real_stats},
    },
};

/// A server with the real records, and with a join and a subscription that failed, which they have none of.
async fn recorded() -> Postgres {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    deliver(&*sink, batch(Stream::Events, &real_events())).await;
    deliver(&*sink, batch(Stream::Stats, &real_stats())).await;
    let failed = |id: &str, kind: AnalyticsEventType| AnalyticsEvent {
        r#type: kind as i32,
        room: Some(Room { sid: "RM_failed".to_owned(), name: "failed".to_owned(), ..Default::default() }),
        participant: Some(ParticipantInfo {
            sid: "PA_failed".to_owned(),
            identity: "mallory".to_owned(),
            ..Default::default()
        }),
        ..event_at(id, 1_795_301_040)
    };
    let events = [
        failed("AE_1", AnalyticsEventType::ParticipantConnectionAborted),
        failed("AE_2", AnalyticsEventType::TrackSubscribeFailed),
    ];
    deliver(&*sink, batch(Stream::Events, &events)).await;
    postgres
}

#[tokio::test]
async fn the_views_say_who_was_in_which_room_when_how_long_and_how_good_it_was() {
    let postgres = recorded().await;
    let session = "SELECT room_name, participants, identities, ended_at IS NOT NULL, to_char(started_at AT TIME ZONE 'UTC', \
                   'HH24:MI:SS.MS') FROM livekit.sessions WHERE room_sid = 'RM_AsAriw3HaLMK'";
    // The room's own time: its event has whole seconds.
    assert_eq!(postgres.run(session).await, [["room0", "3", "3", "t", "22:43:46.746"]]);
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.sessions WHERE ended_at IS NOT NULL").await, "7");

    let one = "SELECT room_name, participant_identity, name, connect_ms, connection_type, disconnect_reason, sdk, sdk_version, \
               round(seconds::numeric, 3), aborted FROM livekit.participants WHERE participant_sid = 'PA_4dcwDmynYmrT'";
    let expected = ["room0", "user0", "User0", "48", "udp", "CLIENT_INITIATED", "PYTHON", "1.2.1", "25.247", "f"];
    assert_eq!(postgres.run(one).await, [expected]);
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.participants WHERE active_at IS NOT NULL").await, "21");
    let minutes = "SELECT bool_and(seconds BETWEEN 10 AND 400) FROM livekit.participants WHERE NOT aborted";
    assert_eq!(postgres.value(minutes).await, "t");

    // The intervals of a track add up to all that was counted.
    let sums = "SELECT sum(q.bytes) = (SELECT sum(bytes) FROM livekit.stats), sum(q.packets) = (SELECT sum(packets) FROM \
                livekit.stats), count(DISTINCT (participant_sid, track_sid, direction)) = count(*), bool_and(score BETWEEN 1 AND 5 \
                OR score IS NULL) FROM livekit.track_quality q";
    assert_eq!(postgres.run(sums).await, [["t", "t", "t", "t"]]);
    let track = "SELECT participant_identity IS NOT NULL, source, direction, mime, score, loss_percent::int, max_rtt_ms > 0, \
                 bits_per_second > 1000 FROM livekit.track_quality WHERE track_sid = 'TR_VC3bNAFxyyUTUC' AND direction = 'UPSTREAM'";
    assert_eq!(postgres.run(track).await, [["t", "CAMERA", "UPSTREAM", "video/VP8", "4.5", "0", "t", "t"]]);
}

/// As Grafana's PostgreSQL data source replaces its macros.
fn expanded(sql: &str) -> String {
    let (from, to) = ("'2026-11-21T22:00:00Z'", "'2026-11-21T23:59:59Z'");
    let sql = sql.replace("${schema}", "livekit").replace("${room:sqlstring}", "''");
    let sql = sql.replace("$__timeFrom()", from).replace("$__timeTo()", to);
    let filter = Regex::new(r"\$__timeFilter\((\w+)\)").expect("a pattern");
    let sql = filter.replace_all(&sql, format!("$1 BETWEEN {from} AND {to}"));
    let group = Regex::new(r"\$__timeGroupAlias\((\w+), \$__interval\)").expect("a pattern");
    group.replace_all(&sql, r#"floor(extract(epoch from $1)/60)*60 AS "time""#).into_owned()
}

/// The panels of the dashboard.
fn panels() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana-sessions.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path).expect("the dashboard")).expect("JSON");
    dashboard["panels"].as_array().expect("panels").clone()
}

#[tokio::test]
async fn records_at_both_ends_of_time_make_no_view_and_no_panel_fail() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    let (first, last) = (-210_866_803_200, 9_224_318_015_999);
    let room = Room { sid: "RM_1".to_owned(), creation_time_ms: -1, ..Default::default() };
    let participant = ParticipantInfo { sid: "PA_1".to_owned(), ..Default::default() };
    let event = |kind: AnalyticsEventType, at: i64| AnalyticsEvent {
        r#type: kind as i32,
        room: Some(room.clone()),
        participant: Some(participant.clone()),
        ..event_at(kind.as_str_name(), at)
    };
    let events = [
        event(AnalyticsEventType::RoomCreated, first),
        event(AnalyticsEventType::ParticipantJoined, first),
        event(AnalyticsEventType::ParticipantActive, first),
        event(AnalyticsEventType::ParticipantLeft, last),
        event(AnalyticsEventType::RoomEnded, last),
    ];
    deliver(&*sink, batch(Stream::Events, &events)).await;
    let at = |seconds| Some(pbjson_types::Timestamp { seconds, nanos: 0 });
    let stream = livekit_protocol::AnalyticsStream {
        start_time: at(first),
        end_time: at(last),
        primary_bytes: i64::MAX as u64,
        primary_packets: u32::MAX,
        ..Default::default()
    };
    let stat = livekit_protocol::AnalyticsStat {
        id: "AS_1".to_owned(),
        time_stamp: at(first),
        room_id: "RM_1".to_owned(),
        participant_id: "PA_1".to_owned(),
        score: f32::MAX,
        streams: vec![stream],
        ..Default::default()
    };
    deliver(&*sink, batch(Stream::Stats, &[stat])).await;
    for view in ["sessions", "participants", "track_quality"] {
        postgres.run(&format!("SELECT * FROM livekit.{view}")).await;
    }
    let seconds = (last - first).to_string();
    assert_eq!(postgres.run("SELECT seconds::numeric FROM livekit.sessions").await, [[seconds.clone()]]);
    assert_eq!(postgres.run("SELECT seconds::numeric FROM livekit.participants").await, [[seconds]]);
    for panel in panels() {
        for target in panel["targets"].as_array().expect("targets") {
            postgres.run(&expanded(target["rawSql"].as_str().expect("a query"))).await;
        }
    }
}

#[tokio::test]
async fn every_panel_of_the_dashboard_shows_something_of_the_real_records() {
    let postgres = recorded().await;
    let panels = panels();
    assert!(panels.len() > 15);
    let mut first = std::collections::BTreeMap::new();
    for panel in &panels {
        let title = panel["title"].as_str().expect("a title");
        for target in panel["targets"].as_array().expect("targets") {
            let sql = expanded(target["rawSql"].as_str().expect("a query"));
            assert!(!sql.contains('$'), "{title}: {sql}");
            let rows = postgres.run(&sql).await;
            let has_value = rows.iter().any(|row| row.iter().any(|value| value != "-"));
            assert!(has_value, "{title} shows nothing: {sql}");
            first.entry(title.to_owned()).or_insert(rows);
        }
    }
    assert_eq!(first["Rooms"], [["8"]], "seven of the recording, and the one of the failed join");
    assert_eq!(first["Who was there"].len(), 22, "the table has each of them");
    assert_eq!(first["Connection types"], [["udp", "21"]]);
    assert_eq!(first["SDKs"][0], ["PYTHON 1.2.1", "21"]);
    assert_eq!(first["Failed joins"], [["1"]]);
    let most = |column: usize| {
        let of = |row: &Vec<String>| row[column].parse::<i64>().expect("a number");
        first["Rooms and participants at a time"].iter().map(of).max().expect("rows")
    };
    assert!((1..=7).contains(&most(1)) && (3..=21).contains(&most(2)), "{} {}", most(1), most(2));
}

#[tokio::test]
async fn one_strange_record_makes_no_view_fail() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    let room = Room { sid: "RM_1".to_owned(), creation_time_ms: i64::MAX, ..Default::default() };
    let meta = livekit_protocol::AnalyticsClientMeta { client_connect_time: u32::MAX, ..Default::default() };
    let participant = ParticipantInfo { sid: "PA_1".to_owned(), disconnect_reason: 99, ..Default::default() };
    let kinds =
        [AnalyticsEventType::RoomCreated, AnalyticsEventType::ParticipantActive, AnalyticsEventType::ParticipantLeft];
    let times = [i64::MIN, 253_402_300_799, -62_135_596_800];
    let events: Vec<_> = kinds
        .iter()
        .zip(times)
        .map(|(kind, at)| AnalyticsEvent {
            r#type: *kind as i32,
            room: Some(room.clone()),
            participant: Some(participant.clone()),
            client_meta: Some(meta.clone()),
            ..event_at(kind.as_str_name(), at)
        })
        .collect();
    deliver(&*sink, batch(Stream::Events, &events)).await;
    for view in ["sessions", "participants", "track_quality"] {
        postgres.run(&format!("SELECT * FROM livekit.{view}")).await;
    }
    assert_eq!(
        postgres.run("SELECT connect_ms, disconnect_reason FROM livekit.participants").await,
        [["4294967295", "99"]]
    );
}

#[tokio::test]
async fn a_view_is_made_again_where_it_is_another_versions_and_one_of_the_users_is_left_alone() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    postgres
        .run(
            "SET client_min_messages = error; SET ROLE livekit; DROP VIEW livekit.sessions; CREATE VIEW livekit.sessions AS \
             SELECT 1 AS old; COMMENT ON VIEW livekit.sessions IS 'livekit-spool view 0123456789abcdef'; DROP VIEW \
             livekit.participants; CREATE VIEW livekit.participants AS SELECT 1 AS mine",
        )
        .await;
    let warnings = sink.check_setup().await.expect("it continues");
    assert!(
        matches!(&warnings[..], [one] if one.contains("participants\" exists and is not livekit-spool's")),
        "{warnings:?}"
    );
    assert_eq!(postgres.value("SELECT count(room_sid) FROM livekit.sessions").await, "0");
    assert_eq!(postgres.value("SELECT mine FROM livekit.participants").await, "1");
    // What depends on a view of an older livekit-spool's keeps it; delivery goes on.
    postgres
        .run(
            "COMMENT ON VIEW livekit.sessions IS 'livekit-spool view 0123456789abcdef'; CREATE VIEW public.mine AS SELECT * FROM \
             livekit.sessions",
        )
        .await;
    let warnings = sink.check_setup().await.expect("it continues").join("\n");
    assert!(warnings.contains("sessions\" was not made, records are delivered"), "{warnings}");
}

#[tokio::test]
async fn a_sink_of_stats_alone_has_their_view_alone() {
    let postgres = Postgres::start().await;
    let sink = postgresql_sink_with(PostgresqlOptions {
        url: postgres.url(),
        streams: vec![Stream::Stats],
        timeout: TIMEOUT,
        ..PostgresqlOptions::default()
    });
    assert_eq!(sink.initialize().await.expect("ready"), Vec::<String>::new());
    deliver(&*sink, batch(Stream::Stats, &real_stats())).await;
    let relations = "SELECT relname FROM pg_class WHERE relnamespace = 'livekit'::regnamespace AND relkind IN ('p', 'v') ORDER BY 1";
    assert_eq!(postgres.run(relations).await, [["stats"], ["track_quality"]]);
    assert_ne!(postgres.value("SELECT count(*) FROM livekit.track_quality").await, "0");
    // Beside the events of another sink it is the one that names the participants, and stays it.
    assert_eq!(postgresql_sink(&postgres.url()).initialize().await.expect("ready"), Vec::<String>::new());
    let text = "SELECT pg_get_viewdef('livekit.track_quality') LIKE '%TRACK_PUBLISHED%'";
    assert_eq!(postgres.value(text).await, "t");
    assert_eq!(sink.check_setup().await.expect("ready"), Vec::<String>::new());
    assert_eq!(postgres.value(text).await, "t");
}
