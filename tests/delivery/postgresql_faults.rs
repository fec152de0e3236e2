//! The PostgreSQL sink while the server is changed, ended, filled or locked under it.

use std::{sync::Arc, time::Duration};

use livekit_spool::{
    flush::SinkState,
    record::Stream,
    sink::{Outcome, SinkErrorKind, postgresql::PostgresqlOptions},
};

use crate::{
    pipeline::{Pipeline, TIMEOUT, options, postgresql_sink, postgresql_sink_with},
    postgresql::{batch, deliver, ready, some_events, until_delivered},
    support::{eventually, postgres::Postgres, records::event_ids},
};

async fn ids(postgres: &Postgres) -> Vec<String> {
    postgres.run("SELECT id FROM livekit.events ORDER BY id COLLATE \"C\"").await.concat()
}

fn all(events: &[livekit_protocol::AnalyticsEvent]) -> Vec<String> {
    event_ids(events).into_iter().collect()
}

#[tokio::test]
async fn a_record_that_a_constraint_refuses_costs_only_itself() {
    let postgres = Postgres::start().await;
    let pipeline = Pipeline::start(ready(&postgres.url()).await, options());
    postgres.run("ALTER TABLE livekit.events ADD CONSTRAINT mine CHECK (id NOT LIKE '%000013')").await;
    let events = some_events("bad", 200);
    pipeline.send_events(&events).await;
    eventually("the others are there", || async { ids(&postgres).await.len() == 199 }).await;
    // More are needed to show that the server accepts records.
    for i in 0..40 {
        pipeline.send_events(&some_events(&format!("more{i}"), 5)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        if pipeline.backlog() == 0 {
            break;
        }
    }
    pipeline.drained().await;
    let dead = pipeline.dead_letters();
    assert_eq!(dead.iter().map(|letter| letter.id.to_string()).collect::<Vec<_>>(), ["AE_bad_000013"]);
    assert!(format!("{dead:?}").contains("code 23514"), "{dead:?}");
}

#[tokio::test]
async fn a_trigger_that_raises_keeps_its_records_until_it_is_gone() {
    let postgres = Postgres::start().await;
    let pipeline = Pipeline::start(ready(&postgres.url()).await, options());
    postgres
        .run(
            "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$; \
             CREATE TRIGGER no BEFORE INSERT ON livekit.events FOR EACH ROW EXECUTE FUNCTION public.no()",
        )
        .await;
    let events = some_events("trigger", 100);
    pipeline.send_events(&events).await;
    eventually("it fails", || async { pipeline.status().last_error.is_some_and(|error| error.contains("not today")) })
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((pipeline.backlog(), pipeline.dead_letters().len()), (100, 0));
    postgres.run("DROP TRIGGER no ON livekit.events").await;
    pipeline.drained().await;
    assert_eq!(ids(&postgres).await, all(&events));
}

#[tokio::test]
async fn a_table_dropped_and_a_column_dropped_under_load_lose_nothing_that_comes_later() {
    let postgres = Postgres::start().await;
    let pipeline = Pipeline::start(ready(&postgres.url()).await, options());
    pipeline.send_events(&some_events("before", 100)).await;
    pipeline.drained().await;
    postgres.run("DROP TABLE livekit.events CASCADE").await;
    let events = some_events("after", 300);
    pipeline.send_events(&events).await;
    pipeline.drained().await;
    assert_eq!(ids(&postgres).await, all(&events), "the table was made again");

    postgres.run("ALTER TABLE livekit.events DROP COLUMN room_name CASCADE").await;
    let more = some_events("more", 100);
    pipeline.send_events(&more).await;
    eventually("it is told", || async {
        pipeline.status().last_error.is_some_and(|error| error.contains("room_name"))
    })
    .await;
    assert_eq!(pipeline.backlog(), 100);
    postgres.run("ALTER TABLE livekit.events ADD COLUMN room_name text").await;
    pipeline.drained().await;
    assert_eq!(ids(&postgres).await.len(), 400);
    assert!(pipeline.dead_letters().is_empty());
}

#[tokio::test]
async fn connections_ended_at_every_moment_lose_and_double_nothing() {
    let postgres = Postgres::start().await;
    let pipeline = Arc::new(Pipeline::start(ready(&postgres.url()).await, options()));
    let events = some_events("ended", 3000);
    let sender = {
        let (pipeline, events) = (Arc::clone(&pipeline), events.clone());
        tokio::spawn(async move {
            for part in events.chunks(50) {
                pipeline.send_events(part).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    };
    let client = postgres.connect().await;
    for _ in 0..60 {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'livekit'";
        client.simple_query(end).await.expect("ended");
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..20))).await;
    }
    sender.await.expect("all are in the spool");
    pipeline.drained().await;
    assert_eq!(ids(&postgres).await, all(&events));
    assert!(pipeline.dead_letters().is_empty());
}

#[tokio::test]
async fn a_server_that_becomes_read_only_or_is_full_of_connections_is_waited_for() {
    let postgres = Postgres::start().await;
    let pipeline = Pipeline::start(ready(&postgres.url()).await, options());
    let events = some_events("wait", 300);
    pipeline.send_events(&events[..100]).await;
    pipeline.drained().await;
    postgres.run("ALTER ROLE livekit SET default_transaction_read_only = on").await;
    postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'livekit'").await;
    pipeline.send_events(&events[100..200]).await;
    eventually("it is told", || async {
        pipeline.status().last_error.is_some_and(|error| error.contains("is read-only"))
    })
    .await;
    assert_eq!(pipeline.status().state, SinkState::Unavailable);
    postgres.run("ALTER ROLE livekit RESET default_transaction_read_only; ALTER ROLE livekit CONNECTION LIMIT 0").await;
    postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'livekit'").await;
    pipeline.send_events(&events[200..]).await;
    eventually("it is told", || async {
        pipeline
            .status()
            .last_error
            .is_some_and(|error| error.contains("too many connections") && error.contains("53300"))
    })
    .await;
    postgres.run("ALTER ROLE livekit CONNECTION LIMIT -1").await;
    pipeline.drained().await;
    assert_eq!(ids(&postgres).await, all(&events));
    assert!(pipeline.dead_letters().is_empty());
}

#[tokio::test]
async fn rights_that_are_taken_away_are_reported_and_lose_nothing() {
    let postgres = Postgres::start().await;
    let pipeline = Pipeline::start(ready(&postgres.url()).await, options());
    postgres.run("ALTER TABLE livekit.events OWNER TO postgres; REVOKE ALL ON livekit.events FROM livekit").await;
    let events = some_events("rights", 100);
    pipeline.send_events(&events).await;
    eventually("unauthorized", || async { pipeline.status().state == SinkState::Unauthorized }).await;
    assert!(pipeline.status().last_error.is_some_and(|error| error.contains("42501") && error.contains("check user")));
    postgres.run("ALTER TABLE livekit.events OWNER TO livekit").await;
    pipeline.drained().await;
    assert_eq!(ids(&postgres).await, all(&events));
}

#[tokio::test]
async fn a_locked_table_times_out_and_leaves_no_statement_behind() {
    let postgres = Postgres::start().await;
    let sink = postgresql_sink_with(PostgresqlOptions {
        url: postgres.url(),
        timeout: TIMEOUT,
        ..PostgresqlOptions::default()
    });
    sink.initialize().await.expect("ready");
    let locker = postgres.connect().await;
    locker.batch_execute("BEGIN; LOCK TABLE livekit.events IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let events = some_events("locked", 10);
    let outcome = sink.send_batch(batch(Stream::Events, &events)).await;
    let error = outcome.error.expect("it says so");
    assert!(matches!(error.kind, SinkErrorKind::Timeout | SinkErrorKind::Unavailable), "{error}");
    // Dropped while it waits: as with the worker's own timeout.
    for _ in 0..5 {
        let sent = sink.send_batch(batch(Stream::Events, &events));
        tokio::time::timeout(Duration::from_millis(100), sent).await.expect_err("it waits");
    }
    let left = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'livekit' AND state = 'active'";
    eventually("the server gave them up", || async { postgres.value(left).await == "0" }).await;
    locker.batch_execute("COMMIT").await.expect("released");
    deliver(&*sink, batch(Stream::Events, &events)).await;
    assert_eq!(ids(&postgres).await, all(&events));
}

#[tokio::test]
async fn row_level_security_and_a_unique_index_of_the_users_are_respected() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    postgres
        .run(
            "ALTER TABLE livekit.events ENABLE ROW LEVEL SECURITY; ALTER TABLE livekit.events FORCE ROW LEVEL SECURITY",
        )
        .await;
    let events = some_events("rls", 10);
    let error = sink.send_batch(batch(Stream::Events, &events)).await.error.expect("no policy");
    assert_eq!(error.kind, SinkErrorKind::Unauthorized, "{error}");
    postgres.run("CREATE POLICY own ON livekit.events TO livekit USING (true) WITH CHECK (true)").await;
    deliver(&*sink, batch(Stream::Events, &events)).await;
    // A record that is there already is Delivered by its key, whatever other index has it.
    postgres
        .run("CREATE UNIQUE INDEX mine ON livekit.events (node_id, time, type, participant_sid, id, room_sid)")
        .await;
    deliver(&*sink, batch(Stream::Events, &events)).await;
}

#[tokio::test]
async fn a_server_that_shuts_down_and_another_host_is_found() {
    let mut postgres = Postgres::start().await;
    let other = crate::support::free_port();
    let url = postgres.url().replace('@', &format!("@127.0.0.1:{other},"));
    let sink = ready(&url).await;
    deliver(&*sink, batch(Stream::Events, &some_events("first", 10))).await;
    postgres.stop();
    let outcome = sink.send_batch(batch(Stream::Events, &some_events("second", 10))).await;
    assert_eq!(outcome.records, vec![Outcome::Retry; 10]);
    let text = outcome.error.expect("it says why").message;
    assert!(text.contains("terminating connection") || text.contains("no host accepts writes"), "{text}");
    postgres.restart().await;
    until_delivered(&*sink, batch(Stream::Events, &some_events("second", 10))).await;
    assert_eq!(ids(&postgres).await.len(), 20);
}

#[tokio::test]
async fn a_standby_is_passed_over_for_the_server_that_accepts_writes() {
    let primary = Postgres::start().await;
    let mut standby = Postgres::start().await;
    standby.stop();
    // It recovers for ever, as a standby whose primary is away does.
    std::fs::write(standby.data().join("standby.signal"), "").expect("a standby");
    standby.restart().await;
    let only = postgresql_sink(&standby.url());
    let error = only.initialize().await.expect_err("it accepts no writes");
    assert!(error.kind == SinkErrorKind::Unavailable && error.message.contains("is a standby"), "{error}");
    let both = standby.url().replace(&standby.address(), &format!("{},{}", standby.address(), primary.address()));
    let sink = ready(&both).await;
    deliver(&*sink, batch(Stream::Events, &some_events("primary", 10))).await;
    assert_eq!(ids(&primary).await.len(), 10);
    // Where any server will do, the write is refused and another connection is made.
    let any = postgresql_sink_with(PostgresqlOptions {
        url: format!("{}?target_session_attrs=any", standby.url()),
        timeout: TIMEOUT,
        ..PostgresqlOptions::default()
    });
    let error = any.initialize().await.expect_err("it cannot be set up");
    assert!(error.kind == SinkErrorKind::Unavailable && error.message.contains("25006"), "{error}");
}
