//! How fast a backlog of real events drains into PostgreSQL, next to ready-made rows in the same run, and to what the
//! server's own log can take.
//!
//! - `copy`: COPY of ready rows into the same table, with its indexes: the limit.
//! - `unnest`, `temporary`: the two ways to store rows of which some may be there already, of ready rows too.
//! - `log`: messages of as many bytes as the rows of `copy` add to the write-ahead log, each committed as a batch is.
//! - `drain`: the whole way from the spool, at least [`LIMIT`] of `copy`.
//!
//! All send batches of the same size, with as many in flight; the ways take turns, and medians are compared.
//!
//! `SPOOL_BENCH_ROWS=10000000` fills the table with so many rows in ten steps, and drains [`RECORDS`] more after each.

#[path = "drain/backlog.rs"]
mod backlog;
#[path = "common/median.rs"]
mod median;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream};
use livekit_protocol::AnalyticsEvent;
use livekit_spool::{
    document::{DocumentOptions, Encoder},
    flush::FlushOptions,
    sink::{
        Sink,
        postgresql::{PostgresqlOptions, PostgresqlSink},
    },
};
use support::{postgres::Postgres, records::numbered_events};
use tokio_postgres::{
    Client, NoTls,
    types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked},
};

const RECORDS: usize = 200_000;
const ROUNDS: usize = 5;
const LIMIT: f64 = 0.7;
const COLUMNS: &str =
    "id, time, type, room_sid, room_name, participant_sid, participant_identity, track_sid, node_id, doc";
const HEADER: usize = 19;

#[tokio::main]
async fn main() {
    // cargo test runs it too, without asking for figures.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let postgres = Postgres::start_with(&["shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=1h"]).await;
    let options = FlushOptions::default();
    let events: Vec<AnalyticsEvent> = numbered_events("bench").take(RECORDS).collect();
    let sink = PostgresqlOptions { url: postgres.url(), ..PostgresqlOptions::default() };
    let sink = || Arc::new(PostgresqlSink::new(sink.clone(), encoder()).expect("options"));
    sink().initialize().await.expect("ready");
    drain(sink(), &events, &options).await;
    let rows = ready_rows(&postgres).await;
    assert_eq!(rows.len(), RECORDS);
    let batches: Vec<&[Vec<u8>]> = rows.chunks(options.batch_records).collect();
    if let Some(rows) = std::env::var("SPOOL_BENCH_ROWS").ok().and_then(|rows| rows.parse::<usize>().ok()) {
        return grow(&postgres, sink, &options, rows).await;
    }

    let ways = ["copy", "unnest", "temporary", "log", "drain"];
    let mut rates = [(); 5].map(|()| Vec::new());
    let mut log_bytes = 0;
    for _ in 0..ROUNDS {
        for (way, rates) in ways.iter().zip(&mut rates) {
            postgres.run("TRUNCATE livekit.events; CHECKPOINT").await;
            let before = log_position(&postgres).await;
            let took = match *way {
                "copy" => in_flight(&postgres, &batches, &options, copy).await,
                "unnest" => in_flight(&postgres, &batches, &options, unnest).await,
                "temporary" => in_flight(&postgres, &batches, &options, temporary).await,
                "log" => log(&postgres, log_bytes / batches.len() as u64, batches.len(), &options).await,
                _ => drain(sink(), &events, &options).await,
            };
            if *way == "copy" {
                log_bytes = log_position(&postgres).await - before;
            }
            rates.push(RECORDS as f64 / took.as_secs_f64());
        }
    }
    let medians = rates.map(|rates| median::of(rates).expect("some turns"));
    for (way, rate) in ways.iter().zip(medians) {
        println!("{way}: {rate:.0} rows/s, {:.2} of copy", rate / medians[0]);
    }
    println!("log: {} bytes a row", log_bytes / RECORDS as u64);
    let ratio = medians[4] / medians[0];
    println!("drain {ratio:.2} of copy (at least {LIMIT}): {}", if ratio >= LIMIT { "ok" } else { "TOO SLOW" });
    std::process::exit(i32::from(ratio < LIMIT));
}

fn encoder() -> Arc<Encoder> {
    Arc::new(Encoder::new(DocumentOptions::default()))
}

async fn log_position(postgres: &Postgres) -> u64 {
    postgres.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").await.parse().expect("a number")
}

/// The rows that the sink stored, each in COPY's binary format.
async fn ready_rows(postgres: &Postgres) -> Vec<Vec<u8>> {
    let client = postgres.connect().await;
    let statement = format!("COPY (SELECT {COLUMNS} FROM livekit.events) TO STDOUT (FORMAT binary)");
    let mut copied = std::pin::pin!(client.copy_out(&statement).await.expect("rows"));
    let mut all = Vec::new();
    while let Some(part) = copied.next().await {
        all.extend_from_slice(&part.expect("rows"));
    }
    let mut rest = &all[HEADER..];
    let mut rows = Vec::new();
    loop {
        let fields = i16::from_be_bytes([rest[0], rest[1]]);
        if fields < 0 {
            return rows;
        }
        let mut length = 2;
        for _ in 0..fields {
            length += 4 + field_length(&rest[length..]);
        }
        rows.push(rest[..length].to_vec());
        rest = &rest[length..];
    }
}

fn field_length(field: &[u8]) -> usize {
    let length = i32::from_be_bytes([field[0], field[1], field[2], field[3]]);
    usize::try_from(length).unwrap_or(0)
}

/// Sends each batch, as many at once as the worker does.
async fn in_flight<F, R>(postgres: &Postgres, batches: &[&[Vec<u8>]], options: &FlushOptions, send: F) -> Duration
where
    F: Fn(Arc<Client>, Vec<Vec<u8>>) -> R,
    R: Future<Output = ()>,
{
    let clients = clients(postgres, options.max_in_flight).await;
    let begun = Instant::now();
    stream::iter(clients.iter().enumerate())
        .for_each_concurrent(None, |(n, client)| {
            let (send, own) = (&send, batches.iter().skip(n).step_by(clients.len()));
            async move {
                for batch in own {
                    send(Arc::clone(client), batch.to_vec()).await;
                }
            }
        })
        .await;
    begun.elapsed()
}

async fn clients(postgres: &Postgres, count: usize) -> Vec<Arc<Client>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let (client, connection) = tokio_postgres::connect(&postgres.url(), NoTls).await.expect("a connection");
        tokio::spawn(connection);
        let table = "CREATE TEMPORARY TABLE arrived (LIKE livekit.events) ON COMMIT DELETE ROWS; ALTER TABLE arrived ALTER \
                     stored_at DROP NOT NULL";
        client.batch_execute(table).await.expect("a table");
        clients.push(Arc::new(client));
    }
    clients
}

async fn copy_into(client: &Client, table: &str, rows: &[Vec<u8>]) {
    let statement = format!("COPY {table} ({COLUMNS}) FROM STDIN (FORMAT binary)");
    let mut sink = std::pin::pin!(client.copy_in::<_, Bytes>(&statement).await.expect("COPY"));
    let mut bytes = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    rows.iter().for_each(|row| bytes.extend_from_slice(row));
    bytes.extend_from_slice(&[0xff, 0xff]);
    sink.send(bytes.into()).await.expect("sent");
    sink.finish().await.expect("stored");
}

async fn copy(client: Arc<Client>, rows: Vec<Vec<u8>>) {
    copy_into(&client, "livekit.events", &rows).await;
}

async fn temporary(client: Arc<Client>, rows: Vec<Vec<u8>>) {
    client.batch_execute("BEGIN").await.expect("begun");
    copy_into(&client, "arrived", &rows).await;
    let insert = format!(
        "INSERT INTO livekit.events ({COLUMNS}) SELECT {COLUMNS} FROM arrived ON CONFLICT (id, time) DO NOTHING; COMMIT"
    );
    client.batch_execute(&insert).await.expect("stored");
}

/// An array that is encoded already.
#[derive(Debug)]
struct Array(Vec<u8>);

impl ToSql for Array {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

async fn unnest(client: Arc<Client>, rows: Vec<Vec<u8>>) {
    let types = |column: usize| match column {
        1 => (Type::TIMESTAMPTZ, Type::TIMESTAMPTZ_ARRAY),
        9 => (Type::JSONB, Type::JSONB_ARRAY),
        _ => (Type::TEXT, Type::TEXT_ARRAY),
    };
    let mut arrays: Vec<Array> = (0..10)
        .map(|column| {
            let words = [1, 1, types(column).0.oid(), u32::try_from(rows.len()).expect("few"), 1];
            Array(words.iter().flat_map(|word| word.to_be_bytes()).collect())
        })
        .collect();
    for row in &rows {
        let mut rest = &row[2..];
        for array in &mut arrays {
            let (field, after) = rest.split_at(4 + field_length(rest));
            array.0.extend_from_slice(field);
            rest = after;
        }
    }
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
        arrays.iter().enumerate().map(|(i, array)| (array as &(dyn ToSql + Sync), types(i).1)).collect();
    let insert = format!(
        "INSERT INTO livekit.events ({COLUMNS}) SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], \
         $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::jsonb[]) ON CONFLICT (id, time) DO NOTHING"
    );
    client.execute_typed(&insert, &parameters).await.expect("stored");
}

/// Messages in the log, which change no table.
async fn log(postgres: &Postgres, bytes: u64, messages: usize, options: &FlushOptions) -> Duration {
    let clients = clients(postgres, options.max_in_flight).await;
    let begun = Instant::now();
    stream::iter(clients.iter().enumerate())
        .for_each_concurrent(None, |(n, client)| async move {
            let message = format!("SELECT pg_logical_emit_message(true, 'bench', repeat('x', {bytes}))");
            for _ in (n..messages).step_by(options.max_in_flight) {
                client.batch_execute(&message).await.expect("written");
            }
        })
        .await;
    begun.elapsed()
}

/// The drain of a backlog.
async fn drain(sink: Arc<PostgresqlSink>, events: &[AnalyticsEvent], options: &FlushOptions) -> Duration {
    sink.initialize().await.expect("ready");
    backlog::drain(sink, events, options).await
}

/// The cost of a row as the table grows.
async fn grow(postgres: &Postgres, sink: impl Fn() -> Arc<PostgresqlSink>, options: &FlushOptions, rows: usize) {
    postgres.run("CREATE TABLE public.some AS SELECT * FROM livekit.events").await;
    for step in 0..=10 {
        if step > 0 {
            for copy in 0..(rows / 10).div_ceil(RECORDS) {
                let fill = format!(
                    "INSERT INTO livekit.events ({COLUMNS}) SELECT md5(id || '{step} {copy}'), {} FROM public.some",
                    COLUMNS.trim_start_matches("id, ")
                );
                postgres.run(&fill).await;
            }
        }
        postgres.run("CHECKPOINT").await;
        let events: Vec<AnalyticsEvent> = numbered_events(&format!("grow{step}")).take(RECORDS).collect();
        let took = drain(sink(), &events, options).await;
        let count = postgres.value("SELECT count(*) FROM livekit.events").await;
        let size = postgres.value("SELECT pg_size_pretty(sum(pg_total_relation_size(inhrelid))) FROM pg_inherits WHERE inhparent = 'livekit.events'::regclass").await;
        println!("{count} rows, {size}: {:.1} µs a row", took.as_secs_f64() * 1e6 / RECORDS as f64);
    }
}
