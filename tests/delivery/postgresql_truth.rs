//! The PostgreSQL sink where the server's answer is not what it seems: Delivered means that the row is there.

use std::sync::atomic::{AtomicU32, Ordering};

use livekit_spool::{
    record::Stream,
    sink::{Outcome, Sink, SinkErrorKind},
};

use crate::{
    pipeline::{Pipeline, options},
    postgresql::{batch, deliver, event_at, ready, some_events, until_delivered},
    support::{
        eventually,
        postgres::Postgres,
        proxy::{Cut, Proxy},
        records::event_ids,
    },
};

/// Sends new rows until they go by COPY.
async fn copies(sink: &dyn Sink) {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    for i in 0..9 {
        deliver(sink, batch(Stream::Events, &some_events(&format!("copies{call}_{i}"), 1))).await;
    }
}

async fn there(postgres: &Postgres, prefix: &str) -> Vec<String> {
    postgres.run(&format!("SELECT id FROM livekit.events WHERE id LIKE 'AE_{prefix}%' ORDER BY 1")).await.concat()
}

const SKIPPED: &str = "AE_skip_000003";

#[tokio::test]
async fn rows_that_a_trigger_skips_in_silence_are_not_delivered_and_all_others_are() {
    for by_copy in [false, true] {
        let postgres = Postgres::start().await;
        let sink = ready(&postgres.url()).await;
        if by_copy {
            copies(&*sink).await;
        }
        postgres
            .run(&format!(
                "CREATE FUNCTION public.skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = '{SKIPPED}' THEN \
                 RETURN NULL; END IF; RETURN NEW; END $$; CREATE TRIGGER skip BEFORE INSERT ON livekit.events FOR EACH ROW \
                 EXECUTE FUNCTION public.skip()"
            ))
            .await;
        let events = some_events("skip", 10);
        let outcome = sink.send_batch(batch(Stream::Events, &events)).await;
        for (i, outcome) in outcome.records.iter().enumerate() {
            match outcome {
                Outcome::Failed(reason) => assert!(i == 3 && reason.contains("trigger"), "{i}: {reason}"),
                outcome => assert!(i != 3 && *outcome == Outcome::Delivered, "{by_copy}, {i}: {outcome:?}"),
            }
        }
        assert_eq!(there(&postgres, "skip").await.len(), 9);
        postgres.run("DROP TRIGGER skip ON livekit.events").await;
        deliver(&*sink, batch(Stream::Events, &events)).await;
        assert_eq!(there(&postgres, "skip").await.len(), 10);
    }
}

#[tokio::test]
async fn rows_that_a_trigger_puts_elsewhere_under_the_table_are_delivered() {
    let postgres = Postgres::start().await;
    postgres
        .run(
            "SET ROLE livekit; CREATE SCHEMA livekit; CREATE TABLE livekit.node_rooms (id text, time timestamptz, node_id text, \
             doc jsonb NOT NULL, stored_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, time)); CREATE TABLE \
             livekit.child (PRIMARY KEY (id, time)) INHERITS (livekit.node_rooms); CREATE FUNCTION livekit.put() RETURNS \
             trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO livekit.child SELECT NEW.* ON CONFLICT DO NOTHING; RETURN \
             NULL; END $$; CREATE TRIGGER put BEFORE INSERT ON livekit.node_rooms FOR EACH ROW EXECUTE FUNCTION \
             livekit.put()",
        )
        .await;
    let sink = crate::pipeline::postgresql_sink(&postgres.url());
    sink.initialize().await.expect("ready");
    let nodes: Vec<_> = (0..5)
        .map(|i| livekit_protocol::AnalyticsNodeRooms {
            node_id: format!("ND_{i}"),
            timestamp: Some(pbjson_types::Timestamp { seconds: 1, nanos: 0 }),
            ..Default::default()
        })
        .collect();
    for _ in 0..2 {
        deliver(&*sink, batch(Stream::NodeRooms, &nodes)).await;
    }
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.node_rooms").await, "5");
}

#[tokio::test]
async fn what_fails_at_the_commit_is_not_delivered() {
    for by_copy in [false, true] {
        let postgres = Postgres::start().await;
        let sink = ready(&postgres.url()).await;
        if by_copy {
            copies(&*sink).await;
        }
        postgres
            .run(
                "CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'too late'; END $$; \
                 CREATE CONSTRAINT TRIGGER late AFTER INSERT ON livekit.events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
                 EXECUTE FUNCTION public.late()",
            )
            .await;
        let events = some_events("late", 10);
        let outcome = sink.send_batch(batch(Stream::Events, &events)).await;
        assert_eq!(outcome.records, vec![Outcome::Retry; 10], "by COPY: {by_copy}");
        assert!(outcome.error.expect("it says why").message.contains("too late"));
        assert!(there(&postgres, "late").await.is_empty());
        postgres.run("DROP TRIGGER late ON livekit.events").await;
        deliver(&*sink, batch(Stream::Events, &events)).await;
        assert_eq!(there(&postgres, "late").await.len(), 10);
    }
}

#[tokio::test]
async fn a_copy_that_is_refused_at_once_says_nothing_of_the_statement_after_it() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    copies(&*sink).await;
    // COPY is refused before any row is sent, and INSERT for its rows.
    postgres
        .run(
            "ALTER TABLE livekit.events ENABLE ROW LEVEL SECURITY; ALTER TABLE livekit.events FORCE ROW LEVEL SECURITY; CREATE \
             POLICY own ON livekit.events TO livekit USING (true) WITH CHECK (true); ALTER TABLE livekit.events ADD CONSTRAINT mine \
             CHECK (id NOT LIKE 'AE_refused%') NOT VALID",
        )
        .await;
    let events = some_events("refused", 10);
    for _ in 0..10 {
        let outcome = sink.send_batch(batch(Stream::Events, &events)).await;
        assert_eq!(outcome.records, vec![Outcome::Retry; 10]);
        let error = outcome.error.expect("it says why").message;
        assert!(error.contains("code 23514"), "INSERT says why: {error}");
    }
    postgres.run("ALTER TABLE livekit.events DROP CONSTRAINT mine").await;
    deliver(&*sink, batch(Stream::Events, &events)).await;
    assert_eq!(there(&postgres, "refused").await.len(), 10);
}

#[tokio::test]
async fn a_trigger_that_finds_every_value_bad_makes_no_dead_letters() {
    let postgres = Postgres::start().await;
    let pipeline = Pipeline::start(ready(&postgres.url()).await, options());
    postgres
        .run(
            "CREATE FUNCTION public.bad() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM NEW.id::int; RETURN NEW; END $$; \
             CREATE TRIGGER bad BEFORE INSERT ON livekit.events FOR EACH ROW EXECUTE FUNCTION public.bad()",
        )
        .await;
    let events = some_events("cast", 200);
    pipeline.send_events(&events).await;
    eventually("it fails", || async { pipeline.status().last_error.is_some_and(|error| error.contains("22P02")) })
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!((pipeline.backlog(), pipeline.dead_letters().len()), (200, 0));
    // Without a lock on the table, which is written to all the time.
    postgres
        .run("CREATE OR REPLACE FUNCTION public.bad() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$")
        .await;
    pipeline.drained().await;
    assert_eq!(there(&postgres, "cast").await, event_ids(&events).into_iter().collect::<Vec<_>>());
    assert!(pipeline.dead_letters().is_empty());
}

#[tokio::test]
async fn a_record_without_a_partition_costs_only_itself() {
    let postgres = Postgres::start().await;
    let pipeline = Pipeline::start(ready(&postgres.url()).await, options());
    // An administrator's table, without a default partition.
    postgres
        .run(
            "DROP TABLE livekit.events_default; ALTER TABLE livekit.events OWNER TO postgres; ALTER SCHEMA livekit OWNER TO \
             postgres; GRANT USAGE ON SCHEMA livekit TO livekit; GRANT INSERT, SELECT ON livekit.events TO livekit",
        )
        .await;
    let now = crate::postgresql_setup::now();
    let mut events: Vec<_> = (0..200).map(|i| event_at(&format!("AE_day_{i:03}"), now)).collect();
    events[77] = event_at("AE_day_077", 1);
    pipeline.send_events(&events).await;
    eventually("the others are there", || async { there(&postgres, "day").await.len() == 199 }).await;
    postgres.run("CREATE TABLE livekit.mine PARTITION OF livekit.events DEFAULT").await;
    // The rest is tried again.
    eventually("it is there", || async { there(&postgres, "day").await.len() == 200 }).await;
    assert!(pipeline.dead_letters().is_empty());
}

#[tokio::test]
async fn a_generated_column_of_the_users_is_in_the_way_of_no_partition() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    postgres
        .run(
            "ALTER TABLE livekit.events ADD COLUMN length int GENERATED ALWAYS AS (length(id)) STORED, ADD COLUMN mine text \
             DEFAULT 'x'",
        )
        .await;
    let now = crate::postgresql_setup::now();
    let today = postgres.value("SELECT 'livekit.events_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')").await;
    postgres.run(&format!("DROP TABLE {today}")).await;
    deliver(&*sink, batch(Stream::Events, &[event_at("AE_1", now)])).await;
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.events_default").await, "1");
    assert_eq!(sink.check_setup().await.expect("made again"), Vec::<String>::new());
    assert_eq!(postgres.run(&format!("SELECT length, mine FROM {today}")).await, [["4", "x"]]);
}

#[tokio::test]
async fn a_default_partition_of_any_name_and_order_of_columns_is_used() {
    let postgres = Postgres::start().await;
    let sink = ready(&postgres.url()).await;
    let today = postgres.value("SELECT 'livekit.node_rooms_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')").await;
    postgres
        .run(&format!(
            "DROP TABLE livekit.node_rooms_default, {today}; SET ROLE livekit; CREATE TABLE livekit.rest (stored_at timestamptz \
             NOT NULL DEFAULT now(), node_id text, id text NOT NULL, doc jsonb NOT NULL, time timestamptz NOT NULL, PRIMARY KEY \
             (id, time)); ALTER TABLE livekit.node_rooms ATTACH PARTITION livekit.rest DEFAULT"
        ))
        .await;
    let node = livekit_protocol::AnalyticsNodeRooms {
        node_id: "ND_1".to_owned(),
        timestamp: Some(pbjson_types::Timestamp { seconds: crate::postgresql_setup::now(), nanos: 0 }),
        ..Default::default()
    };
    deliver(&*sink, batch(Stream::NodeRooms, &[node])).await;
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.rest").await, "1");
    assert_eq!(sink.check_setup().await.expect("made again"), Vec::<String>::new());
    assert_eq!(postgres.run(&format!("SELECT node_id, doc ->> 'node_id' FROM {today}")).await, [["ND_1", "ND_1"]]);
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.rest").await, "0");
}

#[tokio::test]
async fn a_table_that_is_renamed_under_load_is_made_again_beside_it() {
    let postgres = Postgres::start().await;
    let pipeline = Pipeline::start(ready(&postgres.url()).await, options());
    pipeline.send_events(&some_events("before", 100)).await;
    pipeline.drained().await;
    postgres.run("ALTER TABLE livekit.events RENAME TO events_old").await;
    let events = some_events("renamed", 300);
    pipeline.send_events(&events).await;
    pipeline.drained().await;
    assert_eq!(there(&postgres, "renamed").await, event_ids(&events).into_iter().collect::<Vec<_>>());
    assert_eq!(postgres.value("SELECT count(*) FROM livekit.events_old").await, "100");
    assert!(pipeline.dead_letters().is_empty());
}

#[tokio::test]
async fn a_key_that_cannot_tell_a_resend_is_not_trusted() {
    let postgres = Postgres::start().await;
    // As one that takes upper and lower case for the same, which only servers with ICU can make.
    let folded = "CREATE COLLATION livekit.folded FROM \"C\"; UPDATE pg_collation SET collisdeterministic = false WHERE collname = \
                  'folded'";
    let make = |key: &str, id: &str| {
        format!(
            "SET client_min_messages = error; DROP SCHEMA IF EXISTS livekit CASCADE; CREATE SCHEMA livekit AUTHORIZATION livekit; \
             {folded}; CREATE TABLE livekit.node_rooms (id text {id}, time timestamptz, node_id text, doc jsonb NOT NULL, \
             stored_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, time) {key}); ALTER TABLE livekit.node_rooms OWNER TO \
             livekit"
        )
    };
    postgres.run(&make("DEFERRABLE", "")).await;
    let sink = crate::pipeline::postgresql_sink(&postgres.url());
    let error = sink.initialize().await.expect_err("a resend would be refused at the commit");
    assert_eq!(error.kind, SinkErrorKind::Unsuitable, "{error}");
    postgres.run(&make("", "COLLATE livekit.folded")).await;
    let sink = crate::pipeline::postgresql_sink(&postgres.url());
    let error = sink.initialize().await.expect_err("two ids would be one");
    assert_eq!(error.kind, SinkErrorKind::Unsuitable, "{error}");
}

#[tokio::test]
async fn an_answer_cut_at_any_byte_stores_each_row_once() {
    let postgres = Postgres::start().await;
    let proxy = Proxy::start(&postgres.address()).await;
    let sink = ready(&postgres.url().replace(&postgres.address(), &proxy.address())).await;
    let mut sent = 0;
    for needle in ["INSERT", "BEGIN", "PGCOPY", "COMMIT"] {
        for bytes in 0..20 {
            if needle != "INSERT" {
                copies(&*sink).await;
            }
            let (made, events) = (proxy.cuts_made(), some_events(&format!("cut{needle}{bytes}_"), 3));
            proxy.cut_next(needle.as_bytes(), Cut::InReply(bytes));
            sink.send_batch(batch(Stream::Events, &events)).await;
            assert_eq!(proxy.cuts_made(), made + 1, "{needle} {bytes}");
            until_delivered(&*sink, batch(Stream::Events, &events)).await;
            sent += 3;
        }
    }
    assert_eq!(there(&postgres, "cut").await.len(), sent);
}

#[tokio::test]
async fn characters_that_the_database_lacks_cost_their_records_and_a_label_of_them_costs_none() {
    let postgres = Postgres::start().await;
    postgres.run("CREATE DATABASE latin OWNER livekit ENCODING 'LATIN1' TEMPLATE template0").await;
    let url = format!("postgresql://livekit:livekit@{}/latin", postgres.address());
    let events = |prefix: &str| {
        let mut events = some_events(prefix, 200);
        for i in (5..200).step_by(20) {
            let room = livekit_protocol::Room { name: "房间".to_owned(), ..Default::default() };
            events[i].room = Some(room);
        }
        events
    };
    let pipeline = Pipeline::start(crate::pipeline::postgresql_sink(&url), options());
    pipeline.send_events(&events("latin")).await;
    // Others come after them.
    for i in 0..200 {
        pipeline.send_events(&some_events(&format!("more{i}"), 2)).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        if pipeline.backlog() == 0 {
            break;
        }
    }
    pipeline.drained().await;
    let dead = pipeline.dead_letters();
    assert_eq!(dead.len(), 10);
    assert!(dead.iter().all(|letter| letter.reason.contains("code 22P05")), "{dead:?}");

    let labelled = crate::pipeline::postgresql_sink_with(livekit_spool::sink::postgresql::PostgresqlOptions {
        url,
        labels: [("site".to_owned(), "房间".to_owned())].into(),
        timeout: crate::pipeline::TIMEOUT,
        ..Default::default()
    });
    let pipeline = Pipeline::start(labelled, options());
    pipeline.send_events(&events("label")).await;
    eventually("it is told", || async { pipeline.status().last_error.is_some_and(|error| error.contains("22P05")) })
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!((pipeline.backlog(), pipeline.dead_letters().len()), (200, 0));
}
