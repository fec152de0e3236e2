//! The columns of each table, and the statements that are made of them.

use std::fmt::Write;

use tokio_postgres::types::Type;

use crate::record::Stream;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// `timestamptz`
    Time,
    /// `double precision`
    Double,
    /// `bigint`
    Integer,
    /// `jsonb`
    Json,
}

impl Kind {
    /// The name of the type, as `format_type` writes it too.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Time => "timestamp with time zone",
            Self::Double => "double precision",
            Self::Integer => "bigint",
            Self::Json => "jsonb",
        }
    }

    pub(super) const fn element(self) -> Type {
        match self {
            Self::Text => Type::TEXT,
            Self::Time => Type::TIMESTAMPTZ,
            Self::Double => Type::FLOAT8,
            Self::Integer => Type::INT8,
            Self::Json => Type::JSONB,
        }
    }

    pub(super) const fn array(self) -> Type {
        match self {
            Self::Text => Type::TEXT_ARRAY,
            Self::Time => Type::TIMESTAMPTZ_ARRAY,
            Self::Double => Type::FLOAT8_ARRAY,
            Self::Integer => Type::INT8_ARRAY,
            Self::Json => Type::JSONB_ARRAY,
        }
    }
}

/// A column that every row is sent with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}

/// When the row was stored, by the server's clock: set by the server. The expiration counts from it.
pub(super) const STORED_AT: Column = column("stored_at", Kind::Time);

/// The key: the record's id and its own time.
pub(super) const KEY: [&str; 2] = ["id", "time"];

const EVENTS: [Column; 10] = [
    column("id", Kind::Text),
    column("time", Kind::Time),
    column("type", Kind::Text),
    column("room_sid", Kind::Text),
    column("room_name", Kind::Text),
    column("participant_sid", Kind::Text),
    column("participant_identity", Kind::Text),
    column("track_sid", Kind::Text),
    column("node_id", Kind::Text),
    column("doc", Kind::Json),
];

const STATS: [Column; 24] = [
    column("id", Kind::Text),
    column("time", Kind::Time),
    column("kind", Kind::Text),
    column("room_id", Kind::Text),
    column("room_name", Kind::Text),
    column("participant_id", Kind::Text),
    column("track_id", Kind::Text),
    column("node_id", Kind::Text),
    column("mime", Kind::Text),
    column("score", Kind::Double),
    column("min_score", Kind::Double),
    column("median_score", Kind::Double),
    column("bytes", Kind::Integer),
    column("packets", Kind::Integer),
    column("lost", Kind::Integer),
    column("frames", Kind::Integer),
    column("rtt_ms", Kind::Integer),
    column("jitter_us", Kind::Integer),
    column("nacks", Kind::Integer),
    column("plis", Kind::Integer),
    column("firs", Kind::Integer),
    column("started", Kind::Time),
    column("ended", Kind::Time),
    column("doc", Kind::Json),
];

const NODE_ROOMS: [Column; 4] =
    [column("id", Kind::Text), column("time", Kind::Time), column("node_id", Kind::Text), column("doc", Kind::Json)];

/// The columns of a stream's table, in the order in which rows have them.
pub(super) const fn columns(stream: Stream) -> &'static [Column] {
    match stream {
        Stream::Events => &EVENTS,
        Stream::Stats => &STATS,
        Stream::NodeRooms => &NODE_ROOMS,
    }
}

/// An index besides the key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Index {
    pub(super) name: &'static str,
    /// The method and the columns.
    pub(super) definition: &'static str,
}

/// Each b-tree costs every insert; a BRIN index costs next to nothing, and rows arrive in the order of their time.
pub(super) const fn indexes(stream: Stream) -> &'static [Index] {
    const fn index(name: &'static str, definition: &'static str) -> Index {
        Index { name, definition }
    }
    // A list of sessions is made of these few rows: one in twenty.
    const EVENTS: [Index; 5] = [
        index(
            "events_rooms",
            "btree (\"time\") WHERE (type = ANY (ARRAY['ROOM_CREATED'::text, 'ROOM_ENDED'::text, 'PARTICIPANT_JOINED'::text]))",
        ),
        index("events_time", "brin (\"time\")"),
        index("events_stored_at", "brin (stored_at)"),
        index("events_room_sid", "btree (room_sid)"),
        index("events_participant_sid", "btree (participant_sid)"),
    ];
    const STATS: [Index; 4] = [
        index("stats_time", "brin (\"time\")"),
        index("stats_stored_at", "brin (stored_at)"),
        index("stats_room_id", "btree (room_id)"),
        index("stats_track_id", "btree (track_id)"),
    ];
    const NODE_ROOMS: [Index; 2] =
        [index("node_rooms_time", "brin (\"time\")"), index("node_rooms_stored_at", "brin (stored_at)")];
    match stream {
        Stream::Events => &EVENTS,
        Stream::Stats => &STATS,
        Stream::NodeRooms => &NODE_ROOMS,
    }
}

/// An identifier in quotes.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string in quotes, whatever `standard_conforming_strings` is.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// `"schema"."table"`
pub(super) fn table(schema: &str, name: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(name))
}

fn column_names(stream: Stream) -> String {
    columns(stream).iter().map(|column| quoted(column.name)).collect::<Vec<_>>().join(", ")
}

/// An array per column, `$1::pg_catalog.text[], …`.
fn arrays(columns: &[Column]) -> String {
    let mut arrays = String::new();
    for (i, column) in columns.iter().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        // Writing to a String never fails.
        let _ = write!(arrays, "{comma}${}::pg_catalog.{}[]", i + 1, column.kind.element().name());
    }
    arrays
}

/// The statement that stores rows, given as an array per column. `unnest` of several arrays is syntax, and not found by the
/// search path. `durably`: it turns `synchronous_commit` on, for its own transaction.
pub(super) fn insert(schema: &str, stream: Stream, durably: bool) -> String {
    let setting = match durably {
        true => ", (SELECT pg_catalog.set_config('synchronous_commit', 'on', true) OFFSET 0) AS setting",
        false => "",
    };
    format!(
        "INSERT INTO {} ({}) SELECT records.* FROM unnest({}) AS records{setting} ON CONFLICT ({}) DO NOTHING",
        table(schema, stream.as_str()),
        column_names(stream),
        arrays(columns(stream)),
        KEY.map(quoted).join(", "),
    )
}

/// The query that finds the positions, from 1, of the rows that are not there; the keys are given as two arrays.
pub(super) fn absent(schema: &str, stream: Stream) -> String {
    let [id, time] = KEY.map(quoted);
    format!(
        "SELECT records.position FROM unnest({}) WITH ORDINALITY AS records (id, at, position) WHERE NOT EXISTS (SELECT FROM {} \
         AS stored WHERE stored.{id} = records.id AND stored.{time} = records.at)",
        arrays(&columns(stream)[..KEY.len()]),
        table(schema, stream.as_str()),
    )
}

/// The statement that stores rows as they are: faster, and refused as a whole if one of them is there already.
pub(super) fn copy(schema: &str, stream: Stream) -> String {
    format!("COPY {} ({}) FROM STDIN (FORMAT binary)", table(schema, stream.as_str()), column_names(stream))
}

/// The statement that creates a stream's table, partitioned by day.
pub(super) fn create_table(schema: &str, stream: Stream) -> String {
    let mut lines = String::new();
    for column in columns(stream) {
        let required = if KEY.contains(&column.name) || column.name == "doc" { " NOT NULL" } else { "" };
        let _ = write!(lines, "{} {}{required}, ", quoted(column.name), column.kind.name());
    }
    format!(
        "CREATE TABLE {} ({lines}{} {} NOT NULL DEFAULT pg_catalog.now(), PRIMARY KEY ({})) PARTITION BY RANGE ({})",
        table(schema, stream.as_str()),
        quoted(STORED_AT.name),
        STORED_AT.kind.name(),
        KEY.map(quoted).join(", "),
        quoted("time"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_kind_are_quoted() {
        assert_eq!(quoted(r#"My "Schema""#), r#""My ""Schema""""#);
        assert_eq!(table("räume", "events"), r#""räume"."events""#);
        assert_eq!(literal(r"a'b\c"), r"E'a''b\\c'");
    }

    #[test]
    fn a_statement_names_each_column_once() {
        let text = insert("livekit", Stream::NodeRooms, false);
        assert_eq!(
            text,
            r#"INSERT INTO "livekit"."node_rooms" ("id", "time", "node_id", "doc") SELECT records.* FROM unnest($1::pg_catalog.text[], $2::pg_catalog.timestamptz[], $3::pg_catalog.text[], $4::pg_catalog.jsonb[]) AS records ON CONFLICT ("id", "time") DO NOTHING"#
        );
        for stream in Stream::ALL {
            assert_eq!(insert("s", stream, true).matches("[]").count(), columns(stream).len());
            assert_eq!(absent("s", stream).matches("[]").count(), KEY.len());
            assert!(columns(stream)[0].name == "id" && columns(stream)[1].name == "time");
        }
    }
}
