//! A PostgreSQL server.

use std::time::Duration;

use livekit_spool::archive::Limits;

use crate::{
    questions::answers_as_the_records_do,
    support::{free_port, postgres::Postgres},
    truth::{LIMITS, deliver, ever, open, rooms_of, sink, truth},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_the_sinks_rows_are_those_of_the_records() {
    let postgres = Postgres::start().await;
    let sink = sink(&format!("type: postgresql, url: \"{}\"", postgres.url()));
    deliver(&sink, 500).await;
    answers_as_the_records_do(&*open(&sink)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_partitions_of_the_range_are_read_and_the_list_by_its_index() {
    let postgres = Postgres::start().await;
    let sink = sink(&format!("type: postgresql, url: \"{}\"", postgres.url()));
    deliver(&sink, 500).await;
    // Days around it, without a row; and enough rows that a scan of all would cost more than the index.
    postgres
        .run(
            "INSERT INTO livekit.events (id, time, type, doc) SELECT 'AE_' || n, TIMESTAMPTZ '2026-11-21 12:00Z', 'TRACK_MUTED', \
             '{}' FROM generate_series(1, 20000) n; ANALYZE",
        )
        .await;
    let partitions = postgres.value("SELECT count(*) FROM pg_inherits").await;
    let plan = |query: &str| format!("EXPLAIN {query}");
    let list = "SELECT doc FROM livekit.events WHERE type IN ('ROOM_CREATED', 'ROOM_ENDED', 'PARTICIPANT_JOINED') AND type = \
                'ROOM_CREATED' AND \"time\" >= pg_catalog.to_timestamp(1795300000::float8) AND \"time\" <= \
                pg_catalog.to_timestamp(1795302000::float8) ORDER BY \"time\" DESC LIMIT 51";
    let lines: Vec<String> = postgres.run(&plan(list)).await.into_iter().flatten().collect();
    let plan = lines.join("\n");
    assert!(plan.contains("Index Scan") && !plan.contains("Seq Scan"), "{plan}");
    let scans = lines.iter().filter(|line| line.contains("Scan")).count();
    assert!(scans <= 2, "of {partitions} partitions: {plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_changes_nothing_and_needs_no_right_but_to_read() {
    let postgres = Postgres::start().await;
    let writer = sink(&format!("type: postgresql, url: \"{}\"", postgres.url()));
    deliver(&writer, 500).await;
    postgres
        .run(
            "CREATE ROLE reader LOGIN PASSWORD 'reader'; GRANT USAGE ON SCHEMA livekit TO reader; GRANT SELECT ON ALL TABLES IN \
             SCHEMA livekit TO reader; ALTER ROLE reader SET default_transaction_read_only = on",
        )
        .await;
    let url = format!("postgresql://reader:reader@{}/livekit?target_session_attrs=any", postgres.address());
    let archive = open(&sink(&format!("type: postgresql, url: \"{url}\"")));
    let listing = archive.list(&ever(), &LIMITS).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(listing.rooms, rooms_of(&truth()));
    postgres.run("REVOKE SELECT ON livekit.stats FROM reader").await;
    let said = archive.records(&listing.rooms, &LIMITS).await.expect_err("no right").to_string();
    assert!(said.contains("permission denied") && said.contains("its right to read in schema livekit"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_larger_than_any_of_delivery_is_read_up_to_the_limit_of_the_request() {
    let postgres = Postgres::start().await;
    let sink = sink(&format!("type: postgresql, url: \"{}\"", postgres.url()));
    deliver(&sink, 500).await;
    let room = rooms_of(&truth()).remove(0);
    // 50 MB.
    postgres
        .run(&format!(
            "INSERT INTO livekit.events (id, time, type, room_sid, doc) SELECT 'AE_large_' || n, TIMESTAMPTZ 'epoch' + INTERVAL \
             '{} s', 'REPORT', '{sid}', jsonb_build_object('id', 'AE_large_' || n, 'type', 'REPORT', 'room_id', '{sid}', \
             'timestamp', jsonb_build_object('seconds', {0}), 'error', repeat('x', 1000000)) FROM generate_series(1, 50) n",
            room.started_at.0 / 1_000_000_000 + 1,
            sid = room.sid,
        ))
        .await;
    let archive = open(&sink);
    let rooms = std::slice::from_ref(&room);
    let mut found = archive.records(rooms, &LIMITS).await.unwrap_or_else(|error| panic!("{error}"));
    let whole = found.take(&room.sid, crate::truth::NOW).expect("a session").moments.len();
    assert_eq!((whole, found.cut.len()), (truth()[&room.sid].moments.len() + 50, 0));
    let found = archive.records(rooms, &Limits { bytes: 40_000_000, ..LIMITS }).await;
    assert_eq!(found.unwrap_or_else(|error| panic!("{error}")).cut, std::slice::from_ref(&room.sid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_has_no_tables_or_is_slow_is_one_line() {
    let away = sink(&format!("type: postgresql, url: \"postgresql://me:secret@127.0.0.1:{}/livekit\"", free_port()));
    let said = open(&away).list(&ever(), &LIMITS).await.expect_err("nobody is there").to_string();
    assert!(said.contains("cannot be reached: connection refused") && !said.contains("secret"), "{said}");

    let postgres = Postgres::start().await;
    let sink = sink(&format!("type: postgresql, url: \"{}\"", postgres.url()));
    let said = open(&sink).list(&ever(), &LIMITS).await.expect_err("no tables").to_string();
    assert!(said.contains("relation \"livekit.events\" does not exist") && !said.contains('\n'), "{said}");

    deliver(&sink, 500).await;
    // What a large table does: the statement waits.
    let holder = postgres.connect().await;
    holder.batch_execute("BEGIN; LOCK TABLE livekit.events IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let limits = Limits { time: Duration::from_millis(500), ..LIMITS };
    let said = open(&sink).list(&ever(), &limits).await.expect_err("locked").to_string();
    assert!(said.contains("no answer within 500ms"), "{said}");
    holder.batch_execute("COMMIT").await.expect("released");
    // Nothing of it is left on the server.
    for _ in 0..100 {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'livekit' AND wait_event_type = 'Lock'";
        if postgres.value(waiting).await == "0" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the statement goes on");
}
