//! The setup of the PostgreSQL sink: what is there, what is missing, and what the user may not.

use std::time::Duration;

use livekit_spool::{
    record::Stream,
    sink::{SinkErrorKind, SinkOptions, postgresql::PostgresqlOptions},
};

use crate::{
    pipeline::{TIMEOUT, encoder, postgresql_sink, postgresql_sink_with},
    postgresql::{batch, deliver, event_at, ready, some_events},
    support::{eventually, postgres::Postgres},
};

pub(crate) fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() as i64
}

const DAY: i64 = 86_400;

#[tokio::test]
async fn a_user_without_the_right_to_create_is_told_what_an_administrator_has_to_run() {
    let postgres = Postgres::start().await;
    postgres.run("CREATE ROLE plain LOGIN PASSWORD 'plain'; REVOKE ALL ON DATABASE livekit FROM public; GRANT CONNECT ON DATABASE livekit TO plain").await;
    let url = postgres.url().replace("livekit:livekit@", "plain:plain@");
    let sink = postgresql_sink(&url);
    let error = sink.initialize().await.expect_err("it may not");
    assert_eq!(error.kind, SinkErrorKind::Unauthorized);
    let text = "run: CREATE SCHEMA IF NOT EXISTS \"livekit\" AUTHORIZATION \"plain\"";
    assert!(error.message.contains(text) && error.message.contains("check user"), "{error}");
    postgres.run("CREATE SCHEMA IF NOT EXISTS \"livekit\" AUTHORIZATION \"plain\"").await;
    assert_eq!(sink.initialize().await.expect("now it may"), Vec::<String>::new());
    deliver(&*sink, batch(Stream::Events, &some_events("plain", 10))).await;
}

#[tokio::test]
async fn a_user_who_may_only_insert_delivers_into_tables_of_another_and_is_warned() {
    let postgres = Postgres::start().await;
    ready(&postgres.url()).await;
    postgres.run("CREATE ROLE plain LOGIN PASSWORD 'plain'; GRANT USAGE ON SCHEMA livekit TO plain; GRANT INSERT ON ALL TABLES IN SCHEMA livekit TO plain; GRANT SELECT (id, time) ON livekit.events TO plain").await;
    let url = postgres.url().replace("livekit:livekit@", "plain:plain@");
    let sink = postgresql_sink(&url);
    let warnings = sink.initialize().await.expect("it delivers").join("\n");
    assert!(warnings.contains("permission denied"), "{warnings}");
    // Of a day that has no partition, and may not get one.
    deliver(&*sink, batch(Stream::Events, &[event_at("AE_now", now()), event_at("AE_old", now() - 9 * DAY)])).await;
    let places = "SELECT tableoid::regclass::text LIKE '%default' FROM livekit.events ORDER BY id";
    assert_eq!(postgres.run(places).await, [["f"], ["t"]]);
}

#[tokio::test]
async fn a_table_of_another_shape_gets_nothing_and_the_error_says_what_to_do() {
    let postgres = Postgres::start().await;
    for (made, text) in [
        ("VIEW livekit.events AS SELECT 1 AS id", "is a view"),
        ("TABLE livekit.events (id text)", "has no column time"),
        (
            "TABLE livekit.events (id text, time timestamptz, type text, room_sid text, room_name text, participant_sid text, \
             participant_identity text, track_sid text, node_id text, doc text)",
            "column doc is text, should be jsonb",
        ),
        (
            "TABLE livekit.events (id text, time timestamptz, type text, room_sid text, room_name text, participant_sid text, \
             participant_identity text, track_sid text, node_id text, doc jsonb, stored_at timestamptz DEFAULT now())",
            "ADD PRIMARY KEY (id, time)",
        ),
    ] {
        postgres
            .run(&format!(
                "SET client_min_messages = error; DROP SCHEMA IF EXISTS livekit CASCADE; CREATE SCHEMA livekit AUTHORIZATION \
                 livekit; SET ROLE livekit; CREATE {made}"
            ))
            .await;
        let sink = postgresql_sink(&postgres.url());
        let error = sink.initialize().await.expect_err(made);
        assert!(error.kind == SinkErrorKind::Unsuitable && error.message.contains(text), "{error}");
        let options = PostgresqlOptions { url: postgres.url(), timeout: TIMEOUT, ..PostgresqlOptions::default() };
        let indexes = options.indexes(&encoder()).await.expect("a list");
        assert!(indexes.iter().any(|index| index.detail.as_ref().is_some_and(|detail| detail.contains(text))));
    }
    // With the key that it asks for, an ordinary table is enough.
    postgres.run("SET ROLE livekit; ALTER TABLE livekit.events ADD PRIMARY KEY (id, time)").await;
    let sink = postgresql_sink(&postgres.url());
    let warnings = sink.initialize().await.expect("ready");
    assert!(warnings.iter().any(|warning| warning.contains("is not partitioned")), "{warnings:?}");
    deliver(&*sink, batch(Stream::Events, &some_events("plain", 10))).await;
}

#[tokio::test]
async fn indexes_and_partitions_are_listed_beside_those_that_should_be_there() {
    let postgres = Postgres::start().await;
    ready(&postgres.url()).await;
    let options = PostgresqlOptions { url: postgres.url(), timeout: TIMEOUT, ..PostgresqlOptions::default() };
    let state_of = |of: Vec<livekit_spool::sink::IndexStatus>, index: &str| {
        of.iter().find(|status| status.index == index).map(|status| status.state.as_str())
    };
    let all = options.indexes(&encoder()).await.expect("a list");
    assert!(all.iter().all(|index| index.state.as_str() == "ok"), "{all:?}");
    postgres.run("DROP INDEX livekit.events_room_sid; CREATE INDEX mine ON livekit.events (type)").await;
    assert_eq!(state_of(options.indexes(&encoder()).await.expect("a list"), "events_room_sid"), Some("missing"));
    assert_eq!(state_of(options.indexes(&encoder()).await.expect("a list"), "mine"), Some("extra"));
}

#[tokio::test]
async fn rows_in_the_default_partition_move_when_their_days_partition_is_made() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    let partition = postgres.value("SELECT 'livekit.events_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')").await;
    // Someone drops it; the sink still believes that it is there.
    postgres.run(&format!("DROP TABLE {partition}")).await;
    let events = [event_at("AE_1", now()), event_at("AE_2", now())];
    deliver(&*sink, batch(Stream::Events, &events)).await;
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.events_default").await, "2");
    assert_eq!(sink.check_setup().await.expect("made again"), Vec::<String>::new());
    assert_eq!(postgres.value(&format!("SELECT count(*) FROM {partition}")).await, "2");
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.events_default").await, "0");
    // A detached one is the user's: it is not attached again.
    postgres.run(&format!("ALTER TABLE livekit.events DETACH PARTITION {partition}")).await;
    let warnings = sink.check_setup().await.expect("it continues").join("\n");
    assert!(warnings.contains("attach it as a partition, or rename it"), "{warnings}");
    deliver(&*sink, batch(Stream::Events, &[event_at("AE_3", now())])).await;
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.events_default").await, "1");
}

#[tokio::test]
async fn expired_days_are_dropped_whole_and_a_late_record_is_kept_as_long_as_any_other() {
    let postgres = Postgres::start().await;
    let sink = postgresql_sink_with(PostgresqlOptions {
        url: postgres.url(),
        expiration: Some(Duration::from_secs(10 * 86_400)),
        timeout: TIMEOUT,
        ..PostgresqlOptions::default()
    });
    sink.initialize().await.expect("ready");
    let ages = [0, 5, 8, 9, 300];
    let events: Vec<_> = ages.iter().map(|age| event_at(&format!("AE_{age}"), now() - age * DAY)).collect();
    deliver(&*sink, batch(Stream::Events, &events)).await;
    let ids = || async { postgres.run("SELECT id FROM livekit.events ORDER BY id").await.concat() };
    sink.check_setup().await.expect("nothing is expired");
    assert_eq!(ids().await.len(), 5, "they were stored just now");
    // Five days later, by the server's books.
    postgres.run("UPDATE livekit.events SET stored_at = stored_at - interval '9 days'").await;
    sink.check_setup().await.expect("nothing is expired");
    assert_eq!(ids().await.len(), 5);
    postgres.run("UPDATE livekit.events SET stored_at = stored_at - interval '9 days'").await;
    deliver(&*sink, batch(Stream::Events, &[event_at("AE_late", now() - 300 * DAY)])).await;
    sink.check_setup().await.expect("some are expired");
    assert_eq!(ids().await, ["AE_0", "AE_5", "AE_8", "AE_9", "AE_late"], "only the row of the default partition");
    // A day of long ago, made before the expiration was set to so little.
    let day = postgres.value("SELECT (now() AT TIME ZONE 'UTC')::date - 20").await;
    let name = format!("livekit.events_{}", day.replace('-', ""));
    let make = |stored: &str| {
        format!(
            "CREATE TABLE {name} PARTITION OF livekit.events FOR VALUES FROM ('{day} 00:00:00+00') TO (('{day} \
             00:00:00+00'::timestamptz + interval '24 hours')); ALTER TABLE {name} OWNER TO livekit; INSERT INTO {name} (id, \
             time, doc, stored_at) VALUES ('AE_20', '{day} 12:00:00+00', '{{}}', now() - interval '{stored}')"
        )
    };
    postgres.run(&make("1 day")).await;
    sink.check_setup().await.expect("it is kept");
    assert!(ids().await.contains(&"AE_20".to_owned()), "stored a day ago");
    postgres.run(&format!("DROP TABLE {name}; {}", make("11 days"))).await;
    sink.check_setup().await.expect("it is dropped");
    assert_eq!(postgres.value(&format!("SELECT to_regclass('{name}') IS NULL")).await, "t");
}

#[tokio::test]
async fn a_late_record_that_is_stored_while_its_expired_day_is_dropped_is_kept() {
    let postgres = Postgres::start().await;
    let sink = postgresql_sink_with(PostgresqlOptions {
        url: postgres.url(),
        schema: "it's $$ odd".to_owned(),
        expiration: Some(Duration::from_secs(10 * 86_400)),
        timeout: TIMEOUT,
        ..PostgresqlOptions::default()
    });
    sink.initialize().await.expect("ready");
    let day = postgres.value("SELECT (now() AT TIME ZONE 'UTC')::date - 20").await;
    let name = format!("\"it's $$ odd\".events_{}", day.replace('-', ""));
    postgres
        .run(&format!(
            "CREATE TABLE {name} PARTITION OF \"it's $$ odd\".events FOR VALUES FROM ('{day} 00:00:00+00') TO (('{day} \
             00:00:00+00'::timestamptz + interval '24 hours')); ALTER TABLE {name} OWNER TO livekit"
        ))
        .await;
    let store = |id: &str| format!("INSERT INTO {name} (id, time, doc) VALUES ('{id}', '{day} 12:00:00+00', '{{}}')");
    let writer = postgres.connect().await;
    writer.batch_execute(&format!("BEGIN; {}", store("AE_late"))).await.expect("on its way");
    let checking = tokio::spawn(async move { sink.check_setup().await });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    eventually("it waits for the writer", || async { postgres.value(waits).await != "0" }).await;
    writer.batch_execute("COMMIT").await.expect("stored");
    checking.await.expect("no panic").expect("it continues");
    assert_eq!(postgres.value(&format!("SELECT id FROM {name}")).await, "AE_late");
    // When the record is old enough, it goes with its day.
    postgres.run(&format!("UPDATE {name} SET stored_at = now() - interval '11 days'")).await;
    let again = postgresql_sink_with(PostgresqlOptions {
        url: postgres.url(),
        schema: "it's $$ odd".to_owned(),
        expiration: Some(Duration::from_secs(10 * 86_400)),
        timeout: TIMEOUT,
        ..PostgresqlOptions::default()
    });
    assert_eq!(again.initialize().await.expect("ready"), Vec::<String>::new());
    assert_eq!(postgres.value(&format!("SELECT to_regclass('{}') IS NULL", name.replace('\'', "''"))).await, "t");
}

#[tokio::test]
async fn without_an_expiration_nothing_is_removed() {
    let postgres = Postgres::start().await;
    let sink = postgresql_sink_with(PostgresqlOptions {
        url: postgres.url(),
        expiration: None,
        timeout: TIMEOUT,
        ..PostgresqlOptions::default()
    });
    sink.initialize().await.expect("ready");
    deliver(&*sink, batch(Stream::Events, &[event_at("AE_1", 1), event_at("AE_2", now() - 300 * DAY)])).await;
    postgres.run("UPDATE livekit.events SET stored_at = 'epoch'").await;
    sink.check_setup().await.expect("all is well");
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.events").await, "2");
}

#[tokio::test]
async fn a_reader_that_holds_the_table_delays_no_delivery() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    let reader = postgres.connect().await;
    reader
        .batch_execute("BEGIN; SELECT * FROM livekit.events; SELECT * FROM livekit.events_default")
        .await
        .expect("it reads");
    // Its day has no partition: one cannot be made while someone reads the default one.
    let old = [event_at("AE_old", now() - 6 * DAY)];
    deliver(&*sink, batch(Stream::Events, &old)).await;
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.events_default").await, "1");
    reader.batch_execute("COMMIT").await.expect("it ends");
}

#[tokio::test]
async fn the_setup_is_doubted_when_tables_are_gone_and_made_again() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    assert!(!sink.doubts_setup());
    postgres.run("SET client_min_messages = error; DROP SCHEMA livekit CASCADE").await;
    let outcome = sink.send_batch(batch(Stream::Events, &some_events("gone", 5))).await;
    assert_eq!(outcome.error.expect("it says so").kind, SinkErrorKind::Unavailable);
    assert!(sink.doubts_setup());
    eventually("it is there again", || async { sink.check_setup().await.is_ok_and(|warnings| warnings.is_empty()) })
        .await;
    deliver(&*sink, batch(Stream::Events, &some_events("gone", 5))).await;
}
