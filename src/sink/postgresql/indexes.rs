//! What `livekit-spool indexes` shows: the keys, indexes and partitions of the tables beside those that should be there.

use super::{
    PostgresqlSink,
    columns::{indexes, literal, table},
    inspect::{self, Found, Seen},
    partitions,
};
use crate::{
    record::{Stream, now_millis},
    sink::{IndexState, IndexStatus, SinkError},
};

impl PostgresqlSink {
    /// Compares what is there with what should be.
    pub(super) async fn compare_indexes(&self) -> Result<Vec<IndexStatus>, SinkError> {
        let session = self.take().await.map_err(|(kind, text)| self.error(kind, &text))?;
        let schema = &self.options.schema;
        let mut found = Vec::new();
        for &stream in &self.options.streams {
            let seen = inspect::look(&session, schema, stream).await;
            let seen = match seen.map_err(|error| self.session_error(&session, &error))? {
                Seen::Table(seen) => seen,
                Seen::Unsuitable(text) => {
                    found.push(status(stream, "(table)", IndexState::Differs, Some(text)));
                    continue;
                }
                Seen::Absent => {
                    let text = "livekit-spool creates it when it reaches the sink; if it cannot, its log says why";
                    found.push(status(stream, "(table)", IndexState::Missing, Some(text.to_owned())));
                    continue;
                }
            };
            if seen.is_partitioned {
                found.push(of_partitions(stream, &seen));
            }
            let query = format!(
                "SELECT ic.relname, pg_catalog.pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisprimary FROM \
                 pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid JOIN pg_catalog.pg_class c ON \
                 c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} AND \
                 c.relname = {} ORDER BY ic.relname",
                literal(schema),
                literal(stream.as_str())
            );
            let rows = inspect::rows(&session, &query).await.map_err(|error| self.session_error(&session, &error))?;
            let present: Vec<_> = rows.iter().map(|row| [0, 1, 2, 3].map(|i| inspect::text(row, i))).collect();
            found.extend(compare(&table(schema, stream.as_str()), stream, &present));
        }
        self.release(session);
        Ok(found)
    }
}

fn status(stream: Stream, index: &str, state: IndexState, detail: Option<String>) -> IndexStatus {
    IndexStatus { collection: stream.to_string(), index: index.to_owned(), state, detail }
}

fn of_partitions(stream: Stream, seen: &Found) -> IndexStatus {
    let today = partitions::day_of(now_millis());
    let (first, last) = (seen.days.values().next(), seen.days.values().next_back());
    let range = first.zip(last).map(|(first, last)| format!("{} days, {first} to {last}", seen.days.len()));
    let (state, detail) = match (range, seen.default.is_some()) {
        (range, false) => (
            IndexState::Differs,
            format!("{} is missing; {}", partitions::default_name(stream), range.unwrap_or_default()),
        ),
        (Some(range), true) if seen.days.contains_key(&today) => (IndexState::Ok, range),
        (_, true) => (IndexState::Missing, format!("{} is missing", partitions::name(stream, today))),
    };
    status(stream, "(partitions)", state, Some(detail))
}

/// Each index: name, definition, whether it is valid, whether it is the primary key.
fn compare(table: &str, stream: Stream, present: &[[String; 4]]) -> Vec<IndexStatus> {
    let mut rows = Vec::new();
    for index in indexes(stream) {
        let create = format!("CREATE INDEX {} ON {table} USING {}", index.name, index.definition);
        let found = present.iter().find(|[name, ..]| name == index.name);
        let (state, detail) = match found {
            None => (IndexState::Missing, Some(format!("queries are slower; when writes may wait, run: {create}"))),
            Some([_, definition, valid, _]) if definition.ends_with(index.definition) && valid == "t" => {
                (IndexState::Ok, None)
            }
            Some(_) => (IndexState::Differs, Some(format!("drop it, and run: {create}"))),
        };
        rows.push(status(stream, index.name, state, detail));
    }
    for [name, definition, _, is_key] in present {
        if !indexes(stream).iter().any(|index| index.name == name) {
            let state = if is_key == "t" { IndexState::Ok } else { IndexState::Extra };
            let columns = definition.split_once(" USING ").map(|(_, columns)| columns.to_owned());
            rows.push(status(stream, name, state, columns));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_index_is_there_missing_different_or_not_ours() {
        let index = |name: &str, definition: &str, key: &str| {
            [name, &format!("CREATE INDEX x ON ONLY livekit.node_rooms USING {definition}"), "t", key]
                .map(str::to_owned)
        };
        let present = [
            index("mine", "btree (node_id)", "f"),
            index("node_rooms_pkey", "btree (id, \"time\")", "t"),
            index("node_rooms_time", "btree (\"time\")", "f"),
        ];
        let rows = compare("t", Stream::NodeRooms, &present);
        let states: Vec<_> = rows.iter().map(|row| (row.index.as_str(), row.state)).collect();
        assert_eq!(
            states,
            [
                ("node_rooms_time", IndexState::Differs),
                ("node_rooms_stored_at", IndexState::Missing),
                ("mine", IndexState::Extra),
                ("node_rooms_pkey", IndexState::Ok),
            ]
        );
        let missing = rows[1].detail.as_deref().unwrap_or_default();
        assert!(missing.ends_with("CREATE INDEX node_rooms_stored_at ON t USING brin (stored_at)"), "{missing}");
    }
}
