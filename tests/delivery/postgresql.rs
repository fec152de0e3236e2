//! The PostgreSQL sink against a real server: what it stores.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use livekit_protocol::{AnalyticsEvent, AnalyticsStat, AnalyticsStream, ParticipantInfo, Room};
use livekit_spool::{
    record::{QueuedRecord, Stream},
    sink::{Batch, Outcome, Sink, postgresql::PostgresqlOptions},
};
use prost::Message;

use crate::{
    pipeline::{Pipeline, TIMEOUT, options, postgresql_sink, postgresql_sink_with},
    support::{
        postgres::Postgres,
        records::{numbered_events, real_events, real_stats},
    },
};

pub(crate) fn some_events(prefix: &str, count: usize) -> Vec<AnalyticsEvent> {
    numbered_events(prefix).take(count).collect()
}

pub(crate) fn batch(stream: Stream, records: &[impl Message]) -> Batch {
    let record = |(i, record): (usize, _)| QueuedRecord {
        seq: i as u64,
        received_at: 0,
        bytes: Bytes::from(Message::encode_to_vec(record)),
    };
    Batch { stream, records: records.iter().enumerate().map(record).collect() }
}

/// Sends a batch, every record of which is delivered.
pub(crate) async fn deliver(sink: &dyn Sink, batch: Batch) {
    let outcome = sink.send_batch(batch).await;
    assert!(outcome.records.iter().all(|outcome| *outcome == Outcome::Delivered), "{outcome:?}");
}

/// A sink that is ready, without warnings.
pub(crate) async fn ready(url: &str) -> Arc<dyn Sink> {
    let sink = postgresql_sink(url);
    assert_eq!(sink.initialize().await.expect("ready"), Vec::<String>::new(), "no warnings");
    sink
}

/// An event of this id, at this time.
pub(crate) fn event_at(id: &str, seconds: i64) -> AnalyticsEvent {
    let timestamp = Some(pbjson_types::Timestamp { seconds, nanos: 0 });
    AnalyticsEvent { id: id.to_owned(), timestamp, ..Default::default() }
}

#[tokio::test]
async fn real_records_have_their_typed_columns_and_the_whole_document() {
    let postgres = Postgres::start().await;
    let pipeline = Pipeline::start(ready(&postgres.url()).await, options());
    pipeline.send_events(&real_events()).await;
    pipeline.send(Stream::Stats, &real_stats()).await;
    pipeline.drained().await;
    let joined = postgres
        .run(
            "SELECT participant_identity, room_name, room_sid = doc #>> '{room,sid}', participant_sid = doc ->> \
             'participant_id', node_id, to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') FROM livekit.events \
             WHERE id = 'AE_CsUmXmsk4RAf'",
        )
        .await;
    assert_eq!(joined, [["user0", "room0", "t", "t", "ND_Hig7VxBrJVKB", "2026-11-21 22:43:46.748983"]]);
    let webhooks = "SELECT count(*), count(room_sid), count(room_name) FROM livekit.events WHERE type = 'WEBHOOK'";
    assert_eq!(postgres.run(webhooks).await, [["140", "140", "140"]]);
    let stat = postgres
        .run(
            "SELECT kind, room_name, mime, score, min_score, median_score, bytes, packets, lost, frames, rtt_ms, jitter_us, \
             plis, ended - started FROM livekit.stats WHERE id = 'AS_4xMTWbqcxn5j'",
        )
        .await;
    let expected = [
        "UPSTREAM",
        "room2",
        "video/VP8",
        "4.5",
        "4.5",
        "4.5",
        "33444",
        "213",
        "0",
        "194",
        "2",
        "588",
        "1",
        "00:00:19.964414",
    ];
    assert_eq!(stat, [expected]);
    // The secrets are gone, as in every other sink.
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.events WHERE doc::text LIKE '%turn_password%'").await, "0");
    // All of them are of one day, whose partition was made for them; the session's own time zone is another one.
    let places = "SELECT tableoid::regclass, count(*) FROM livekit.events GROUP BY 1";
    assert_eq!(postgres.run(places).await, [["livekit.events_20261121", "763"]]);
}

#[tokio::test]
async fn what_postgresql_cannot_hold_is_replaced_and_costs_no_other_record() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    let long = "ü".repeat(5_000);
    let room = |name: &str| Some(Room { sid: "RM_1".to_owned(), name: name.to_owned(), ..Default::default() });
    let participant = ParticipantInfo { identity: "a\0b".to_owned(), ..Default::default() };
    let events = [
        AnalyticsEvent { room: room("nul\0here"), participant: Some(participant), ..event_at("AE_nul", 1) },
        AnalyticsEvent { room: room(r"no\u0000nul"), ..event_at("AE_escape", 2) },
        AnalyticsEvent { room: room(&long), ..event_at(&format!("AE_{long}"), 3) },
        AnalyticsEvent { room: room("id"), ..event_at("AE_\0", 4) },
        AnalyticsEvent { room: room("id"), ..event_at("AE_\u{fffd}", 4) },
        AnalyticsEvent { error: "\u{1F600}\u{7f}\u{1}'\"\\".to_owned(), ..event_at("AE_odd", 5) },
    ];
    for _ in 0..2 {
        deliver(&*sink, batch(Stream::Events, &events)).await;
    }
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.events").await, "6");
    let named = |id: &str| {
        format!("SELECT room_name, doc #>> '{{room,name}}', participant_identity FROM livekit.events WHERE id = '{id}'")
    };
    assert_eq!(postgres.run(&named("AE_nul")).await, [["nul\u{fffd}here", "nul\u{fffd}here", "a\u{fffd}b"]]);
    assert_eq!(postgres.run(&named("AE_escape")).await, [[r"no\u0000nul", r"no\u0000nul", "-"]]);
    let cut = "SELECT octet_length(room_name), length(doc #>> '{room,name}') FROM livekit.events WHERE length(id) > 60";
    assert_eq!(postgres.run(cut).await, [["1024", "5000"]]);
    let error = postgres.value("SELECT doc ->> 'error' FROM livekit.events WHERE id = 'AE_odd'").await;
    assert_eq!(error, "\u{1F600}\u{7f}\u{1}'\"\\");

    let stream = AnalyticsStream { primary_bytes: u64::MAX, frames: u32::MAX, ..Default::default() };
    let stat = AnalyticsStat {
        id: "AS_1".to_owned(),
        score: f32::NAN,
        min_score: f32::MAX,
        streams: vec![stream, stream_of(u64::MAX), stream_of(1)],
        ..Default::default()
    };
    deliver(&*sink, batch(Stream::Stats, &[stat])).await;
    let numbers =
        "SELECT bytes, frames, score, min_score, doc #>> '{score,$numberDouble}', time = 'epoch' FROM livekit.stats";
    assert_eq!(postgres.run(numbers).await, [["-", "4294967295", "-", "3.4028235e+38", "NaN", "t"]]);
}

fn stream_of(bytes: u64) -> AnalyticsStream {
    AnalyticsStream { primary_bytes: bytes, ..Default::default() }
}

#[tokio::test]
async fn a_record_of_ten_megabytes_arrives_whole() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    let error: String =
        (0..10_000_000_u32).map(|i| char::from(b'a' + (i.wrapping_mul(2_654_435_761) >> 27) as u8 % 26)).collect();
    let events = [event_at("AE_small", 1), AnalyticsEvent { error: error.clone(), ..event_at("AE_large", 1) }];
    deliver(&*sink, batch(Stream::Events, &events)).await;
    let query =
        "SELECT md5(doc ->> 'error') = md5($1), length(doc ->> 'error') FROM livekit.events WHERE id = 'AE_large'";
    let row = postgres.connect().await.query_one(query, &[&error]).await.expect("a row");
    assert_eq!((row.get::<_, bool>(0), row.get::<_, i32>(1)), (true, 10_000_000));
}

#[tokio::test]
async fn times_of_any_kind_have_a_place_and_make_few_partitions() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    let day = 86_400;
    let mut times = vec![0, 1, -1, i64::MIN, i64::MAX, 253_402_300_799, 32_503_680_000, -62_135_596_800];
    times.extend([now, now - day, now + day, now - 20 * day, now + 30 * day, now - 5_000 * day]);
    // A clock that runs wild.
    times.extend((0..300).map(|i| now - 6_000 * day + i * 37 * day));
    let events: Vec<_> =
        times.iter().enumerate().map(|(i, seconds)| event_at(&format!("AE_{i:04}"), *seconds)).collect();
    for _ in 0..2 {
        deliver(&*sink, batch(Stream::Events, &events)).await;
    }
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.events").await, events.len().to_string());
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'livekit.events'::regclass";
    let partitions: u32 = postgres.value(partitions).await.parse().expect("a number");
    assert!((5..=8).contains(&partitions), "{partitions}");
    let early = "SELECT count(*) FROM livekit.events_default WHERE time = 'epoch'";
    assert_eq!(postgres.value(early).await, "3", "0, and what timestamptz cannot hold");
    let far = "SELECT to_char(max(time) AT TIME ZONE 'UTC', 'YYYY') FROM livekit.events";
    assert_eq!(postgres.value(far).await, "9999");
}

#[tokio::test]
async fn a_schema_with_any_name_on_a_server_with_other_settings_works_and_two_spools_share_it() {
    let postgres = Postgres::start_with(&[
        "standard_conforming_strings=off",
        "search_path=nowhere",
        "DateStyle=German",
        "IntervalStyle=iso_8601",
        "client_encoding=LATIN1",
        "default_transaction_isolation=serializable",
        "synchronous_commit=off",
        "bytea_output=escape",
        "row_security=off",
    ])
    .await;
    for schema in ["Mine", r#"it's "quoted" \ back"#, "räume 房间", "select"] {
        let sink = |label: &str| {
            postgresql_sink_with(PostgresqlOptions {
                url: postgres.url(),
                schema: schema.to_owned(),
                labels: BTreeMap::from([("spool".to_owned(), label.to_owned())]),
                timeout: TIMEOUT,
                ..PostgresqlOptions::default()
            })
        };
        let (one, other) = (sink("one"), sink("other"));
        let (first, second) = tokio::join!(one.initialize(), other.initialize());
        assert_eq!((first.expect("ready"), second.expect("ready")), (vec![], vec![]), "{schema}");
        let events = some_events("shared", 300);
        let (left, right) = (batch(Stream::Events, &events[..200]), batch(Stream::Events, &events[100..]));
        let sent = tokio::join!(until_delivered(&*one, left), until_delivered(&*other, right));
        assert_eq!(sent, ((), ()));
        let quoted = schema.replace('"', "\"\"");
        assert_eq!(postgres.value(&format!("SELECT count(*) FROM \"{quoted}\".events")).await, "300", "{schema}");
        assert_eq!(postgres.value(&format!("SELECT count(*) > 0 FROM \"{quoted}\".sessions")).await, "t", "{schema}");
    }
}

/// Conflicts between two writers pass.
pub(crate) async fn until_delivered(sink: &dyn Sink, batch: Batch) {
    crate::support::eventually("it is delivered", || async {
        let outcome = sink.send_batch(batch.clone()).await;
        assert!(!outcome.records.iter().any(|outcome| matches!(outcome, Outcome::Rejected(_) | Outcome::Failed(_))));
        outcome.records.iter().all(|outcome| *outcome == Outcome::Delivered)
    })
    .await;
}

#[tokio::test]
async fn records_are_committed_durably_where_the_server_would_not_by_itself() {
    let postgres = Postgres::start_with(&["synchronous_commit=off"]).await;
    let sink = ready(&postgres.url()).await;
    // Each row says how it was committed.
    postgres
        .run(
            "CREATE TABLE public.seen (setting text); GRANT ALL ON public.seen TO livekit; CREATE FUNCTION public.see() RETURNS \
             trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); \
             RETURN NEW; END $$; CREATE TRIGGER see BEFORE INSERT ON livekit.events FOR EACH ROW EXECUTE FUNCTION public.see()",
        )
        .await;
    deliver(&*sink, batch(Stream::Events, &some_events("durable", 3))).await;
    assert_eq!(postgres.run("SELECT DISTINCT setting FROM public.seen").await, [["on"]]);

    let careless = Postgres::start_with(&["fsync=off", "full_page_writes=off"]).await;
    let warnings = postgresql_sink(&careless.url()).initialize().await.expect("it continues").join("\n");
    assert!(warnings.contains("fsync is off") && warnings.contains("full_page_writes is off"), "{warnings}");
}

#[tokio::test]
async fn the_client_has_a_name_and_no_notice_is_in_the_way() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    postgres
        .run(
            "CREATE FUNCTION public.chat() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..200 LOOP RAISE WARNING \
             'spam'; END LOOP; RETURN NEW; END $$; CREATE TRIGGER chat BEFORE INSERT ON livekit.events FOR EACH ROW EXECUTE \
             FUNCTION public.chat()",
        )
        .await;
    deliver(&*sink, batch(Stream::Events, &some_events("chat", 200))).await;
    let names = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE usename = 'livekit'";
    assert_eq!(postgres.run(names).await, [["livekit-spool"]]);
    sink.close().await;
    crate::support::eventually("its connections are closed", || async { postgres.run(names).await.is_empty() }).await;
    tokio::time::sleep(Duration::ZERO).await;
}

#[tokio::test]
async fn rows_that_are_there_already_are_found_in_a_batch_that_is_copied() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    // The last statement of each connection: only COPY has a transaction of its own.
    let statements =
        "SELECT count(*) FILTER (WHERE query = 'COMMIT') > 0 FROM pg_stat_activity WHERE usename = 'livekit'";
    let events = some_events("copied", 1200);
    for part in events.chunks(100) {
        deliver(&*sink, batch(Stream::Events, part)).await;
    }
    assert_eq!(postgres.value(statements).await, "t", "new rows are copied");
    // Half of it is there, and one record twice.
    let mut again = some_events("copied", 1300)[1150..].to_vec();
    again.push(again[120].clone());
    deliver(&*sink, batch(Stream::Events, &again)).await;
    deliver(&*sink, batch(Stream::Events, &events)).await;
    assert_eq!(postgres.value(statements).await, "f", "rows that may be there are inserted");
    assert_eq!(postgres.value("SELECT count(*), count(DISTINCT id) FROM livekit.events").await, "1300");
    for part in some_events("new", 1000).chunks(100) {
        deliver(&*sink, batch(Stream::Events, part)).await;
    }
    assert_eq!(postgres.value(statements).await, "t", "and copied again");
    // A copy that the table's owner forbids: rows go another way.
    postgres
        .run(
            "ALTER TABLE livekit.events ENABLE ROW LEVEL SECURITY; ALTER TABLE livekit.events FORCE ROW LEVEL SECURITY; CREATE \
             POLICY own ON livekit.events TO livekit USING (true) WITH CHECK (true)",
        )
        .await;
    deliver(&*sink, batch(Stream::Events, &some_events("policy", 100))).await;
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.events").await, "2400");
}
