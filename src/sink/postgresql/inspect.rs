//! What is in the schema at the streams' names: whether rows can be stored there, each once, and what to do where not.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Error, SimpleQueryMessage, SimpleQueryRow};

use super::{
    columns::{KEY, STORED_AT, columns, literal, table},
    partitions::day_of_partition,
    session::Session,
};
use crate::record::Stream;

/// Makes the bounds of partitions read the same, for the rest of a request: a pooler may have changed the connection since its
/// settings were made. The answer begins with one row of it.
const UTC: &str =
    "SELECT pg_catalog.set_config('TimeZone', 'UTC', true), pg_catalog.set_config('DateStyle', 'ISO', true);";

/// A table at a stream's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) is_partitioned: bool,
    /// Days with a partition of ours, and the partition's name.
    pub(super) days: BTreeMap<i64, String>,
    /// The default partition, in quotes; any name will do.
    pub(super) default: Option<String>,
    /// The columns that can be written.
    pub(super) columns: Vec<String>,
    /// Relations that a crash empties.
    pub(super) unlogged: BTreeSet<String>,
}

/// The result of looking at a stream's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Absent,
    Table(Found),
    /// Rows cannot be stored there; the text says what to do.
    Unsuitable(String),
}

/// Whether the schema exists.
pub(super) async fn has_schema(session: &Session, schema: &str) -> Result<bool, Error> {
    let query = format!("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {}", literal(schema));
    Ok(!rows(session, &query).await?.is_empty())
}

/// The names that relations of the schema have.
pub(super) async fn names(session: &Session, schema: &str) -> Result<BTreeSet<String>, Error> {
    let query = format!(
        "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = \
         {}",
        literal(schema)
    );
    Ok(rows(session, &query).await?.iter().map(|row| text(row, 0)).collect())
}

/// The streams that have tables.
pub(super) async fn present(session: &Session, schema: &str) -> Result<Vec<Stream>, Error> {
    let query = format!(
        "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = \
         {} AND c.relkind IN ('r', 'p')",
        literal(schema)
    );
    let names: Vec<String> = rows(session, &query).await?.iter().map(|row| text(row, 0)).collect();
    Ok(Stream::ALL.into_iter().filter(|stream| names.iter().any(|name| name == stream.as_str())).collect())
}

/// Looks at a stream's name.
pub(super) async fn look(session: &Session, schema: &str, stream: Stream) -> Result<Seen, Error> {
    let query = format!(
        "SELECT c.oid, c.relkind, c.relpersistence FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = \
         c.relnamespace WHERE n.nspname = {} AND c.relname = {}",
        literal(schema),
        literal(stream.as_str())
    );
    let Some(relation) = rows(session, &query).await?.into_iter().next() else { return Ok(Seen::Absent) };
    let (oid, kind) = (text(&relation, 0), text(&relation, 1));
    let name = table(schema, stream.as_str());
    let what = match kind.as_str() {
        "r" | "p" => None,
        "v" => Some("is a view"),
        "m" => Some("is a materialized view"),
        "f" => Some("is a foreign table, which does not say whether a row is there already"),
        _ => Some("is no table"),
    };
    if let Some(what) = what {
        return Ok(Seen::Unsuitable(format!("{name} {what}; rename it, or let `schema` name another one")));
    }
    let query = format!(
        "SELECT attname, pg_catalog.format_type(atttypid, NULL), attnotnull AND NOT atthasdef AND attidentity = '', \
         attgenerated <> '' FROM pg_catalog.pg_attribute WHERE attrelid = {oid} AND attnum > 0 AND NOT attisdropped"
    );
    let found: Vec<_> = rows(session, &query).await?.iter().map(|row| [0, 1, 2, 3].map(|i| text(row, i))).collect();
    if let Some(text) = objection(&name, stream, &found) {
        return Ok(Seen::Unsuitable(text));
    }
    let query = format!(
        "SELECT 1 FROM pg_catalog.pg_index i WHERE i.indrelid = {oid} AND i.indisunique AND i.indimmediate AND i.indisvalid \
         AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnatts = 2 AND (SELECT \
         pg_catalog.array_agg(a.attname::text ORDER BY a.attname) FROM pg_catalog.pg_attribute a WHERE a.attrelid = \
         i.indrelid AND a.attnum = ANY (i.indkey)) = ARRAY['id', 'time'] AND NOT EXISTS (SELECT FROM pg_catalog.pg_collation \
         l WHERE l.oid = ANY (i.indcollation) AND NOT l.collisdeterministic)"
    );
    if rows(session, &query).await?.is_empty() {
        return Ok(Seen::Unsuitable(format!(
            "{name} has no key by which a record that is sent again is recognized (it is missing, deferrable, invalid, or \
             takes different ids for the same), so records would be stored twice or not at all; run: ALTER TABLE {name} ADD \
             PRIMARY KEY ({})",
            KEY.join(", ")
        )));
    }
    let columns = found.iter().filter(|[.., is_generated]| is_generated != "t").map(|[name, ..]| name.clone());
    let mut seen = Found { is_partitioned: kind == "p", columns: columns.collect(), ..Found::default() };
    if text(&relation, 2) == "u" {
        seen.unlogged.insert(stream.to_string());
    }
    if seen.is_partitioned {
        let query = format!(
            "{UTC} SELECT c.relname, pg_catalog.pg_get_expr(c.relpartbound, c.oid), c.relpersistence, n.nspname FROM \
             pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace n ON \
             n.oid = c.relnamespace WHERE i.inhparent = {oid}"
        );
        for row in rows(session, &query).await?.iter().skip(1) {
            let [partition, bounds, persistence, place] = [0, 1, 2, 3].map(|i| text(row, i));
            if persistence == "u" {
                seen.unlogged.insert(partition.clone());
            }
            if bounds == "DEFAULT" {
                seen.default = Some(table(&place, &partition));
            } else if place == schema
                && let Some(day) = day_of_partition(stream, &partition, &bounds)
            {
                seen.days.insert(day, partition);
            }
        }
    }
    Ok(Seen::Table(seen))
}

/// Why rows cannot be stored in a table with these columns: name, type, whether it needs a value, whether it is generated.
fn objection(name: &str, stream: Stream, found: &[[String; 4]]) -> Option<String> {
    let wanted = columns(stream).iter().chain([&STORED_AT]);
    for column in wanted {
        let (column, kind) = (column.name, column.kind.name());
        match found.iter().find(|[name, ..]| name == column) {
            None => {
                let default = if column == STORED_AT.name { " NOT NULL DEFAULT now()" } else { "" };
                return Some(format!(
                    "{name} has no column {column}; run: ALTER TABLE {name} ADD COLUMN \"{column}\" {kind}{default}, or rename \
                     the table"
                ));
            }
            Some([_, other, ..]) if other != kind => {
                return Some(format!(
                    "{name}: column {column} is {other}, should be {kind}; change its type, or rename the table"
                ));
            }
            Some([.., is_generated]) if is_generated == "t" => {
                return Some(format!(
                    "{name}: column {column} is generated; make it an ordinary one, or rename the table"
                ));
            }
            Some(_) => {}
        }
    }
    let ours = |name: &str| columns(stream).iter().any(|column| column.name == name);
    let (column, _) = found.iter().find_map(|[name, _, needs, generated]| {
        (needs == "t" && generated != "t" && !ours(name)).then_some((name, ()))
    })?;
    Some(format!("{name}: column {column} needs a value, and livekit-spool has none for it; give it a default"))
}

/// The rows of a query that answers in text.
pub(super) async fn rows(session: &Session, query: &str) -> Result<Vec<SimpleQueryRow>, Error> {
    let answer = session.client.simple_query(query).await?;
    let rows = answer.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}

/// A column of a row; NULL is empty.
pub(super) fn text(row: &SimpleQueryRow, column: usize) -> String {
    row.try_get(column).ok().flatten().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_rooms() -> Vec<[String; 4]> {
        [
            ["id", "text", "t", "f"],
            ["time", "timestamp with time zone", "t", "f"],
            ["node_id", "text", "f", "f"],
            ["doc", "jsonb", "t", "f"],
            ["stored_at", "timestamp with time zone", "f", "f"],
        ]
        .map(|column| column.map(str::to_owned))
        .to_vec()
    }

    fn objected(columns: &[[String; 4]]) -> String {
        objection("t", Stream::NodeRooms, columns).unwrap_or_default()
    }

    #[test]
    fn a_table_of_another_shape_is_refused_and_the_text_says_what_to_do() {
        assert_eq!(objected(&node_rooms()), "");
        let mut without = node_rooms();
        without.remove(2);
        assert!(objected(&without).contains("ALTER TABLE t ADD COLUMN \"node_id\" text"));
        let mut other = node_rooms();
        other[3][1] = "json".to_owned();
        assert!(objected(&other).contains("column doc is json, should be jsonb"));
        let mut generated = node_rooms();
        generated[2][3] = "t".to_owned();
        assert!(objected(&generated).contains("is generated"));
    }

    #[test]
    fn a_column_of_the_users_is_in_the_way_only_if_it_needs_a_value() {
        let mut more = node_rooms();
        more.push(["mine", "text", "f", "f"].map(str::to_owned));
        assert_eq!(objected(&more), "");
        more.push(["other", "text", "t", "f"].map(str::to_owned));
        assert!(objected(&more).contains("column other needs a value"));
    }
}
