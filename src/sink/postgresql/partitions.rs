//! The partitions of a table: one a day (UTC), made ahead for the days around today, and for a batch's own days before it is
//! sent; and the default partition, which has the rows of all other days.
//!
//! - A day between the expiration (without one: [`MAX_AGE_DAYS`]) and [`AHEAD_DAYS`] ahead gets a partition. A record of
//!   1970 or 9999, or from a clock that is far off, gets none: its row is in the default partition, so that no input makes
//!   partitions without end.
//! - Where a partition cannot be made (rights, a lock, a relation with its name), the rows of its day go to the default
//!   partition, and they are moved when it is made.
//! - A partition is dropped when its day, and the storing of each of its rows, is longer ago than the expiration. A record
//!   that comes late, after a long outage, is kept as long as any other. From the default partition rows are deleted.

use std::collections::BTreeSet;

use super::columns::{STORED_AT, literal, quoted, table};
use crate::record::Stream;

/// Partitions are made for this many days after today.
pub(super) const AHEAD_DAYS: i64 = 2;
/// Without an expiration, a record that is older has no partition of its own day.
pub(super) const MAX_AGE_DAYS: i64 = 400;
/// The most partitions that are made before a batch is sent: the rows of further days wait in the default partition.
pub(super) const MAX_AT_ONCE: usize = 40;
/// How long the making or dropping of a partition waits for a lock: what waits for one holds up everybody behind it.
pub(super) const LOCK_MILLIS: u64 = 2000;
/// Rows that are deleted from a default partition in one statement.
const DELETED_AT_ONCE: u32 = 10_000;

const MILLIS_OF_DAY: i64 = 86_400_000;

/// The day of a time in milliseconds.
pub(super) const fn day_of(millis: i64) -> i64 {
    millis.div_euclid(MILLIS_OF_DAY)
}

/// `2026-11-26`
fn date(day: i64) -> String {
    let text = bson::DateTime::from_millis(day.saturating_mul(MILLIS_OF_DAY)).try_to_rfc3339_string();
    // Only days near today are asked for.
    text.unwrap_or_default().chars().take(10).collect()
}

/// `events_20261126`
pub(super) fn name(stream: Stream, day: i64) -> String {
    format!("{stream}_{}", date(day).replace('-', ""))
}

/// `events_default`
pub(super) fn default_name(stream: Stream) -> String {
    format!("{stream}_default")
}

/// The day of a partition with a name that we give, if its bounds are those of this day.
pub(super) fn day_of_partition(stream: Stream, partition: &str, bounds: &str) -> Option<i64> {
    let digits = partition.strip_prefix(stream.as_str())?.strip_prefix('_')?;
    if digits.len() != 8 || !digits.is_ascii() {
        return None;
    }
    let text = format!("{}-{}-{}T00:00:00Z", &digits[..4], &digits[4..6], &digits[6..]);
    let day = day_of(bson::DateTime::parse_rfc3339_str(text).ok()?.timestamp_millis());
    (bounds == bounds_of(day).replace("E'", "'")).then_some(day)
}

fn bounds_of(day: i64) -> String {
    let at = |day| literal(&format!("{} 00:00:00+00", date(day)));
    format!("FOR VALUES FROM ({}) TO ({})", at(day), at(day + 1))
}

/// The days that may have partitions of their own.
pub(super) fn window(today: i64, expiration_millis: Option<i64>) -> std::ops::RangeInclusive<i64> {
    let age = expiration_millis.map_or(MAX_AGE_DAYS, |millis| day_of(millis) + 1);
    today - age..=today + AHEAD_DAYS
}

/// The days that are made ahead.
pub(super) fn ahead(today: i64) -> BTreeSet<i64> {
    (today - 1..=today + AHEAD_DAYS).collect()
}

/// Takes the lock under which livekit-spools make and drop what they share, for this transaction.
pub(super) fn exclusively(schema: &str) -> String {
    format!(
        "SELECT pg_catalog.set_config('lock_timeout', '{LOCK_MILLIS}', true), \
         pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext({}))::text;",
        literal(&format!("livekit-spool {schema}"))
    )
}

/// Makes a day's partition and moves the rows that are in the default partition, which is given in quotes. `columns` are those
/// that can be written: the default partition may have them in another order.
pub(super) fn create(schema: &str, stream: Stream, day: i64, default: Option<&str>, columns: &[String]) -> String {
    let (parent, partition) = (table(schema, stream.as_str()), table(schema, &name(stream, day)));
    let at = |day| literal(&format!("{} 00:00:00+00", date(day)));
    let moved = if let Some(default) = default {
        let columns = columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ");
        format!(
            "LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE; WITH moved AS (DELETE FROM {default} WHERE {time} >= {} AND \
             {time} < {} RETURNING {columns}) INSERT INTO {partition} ({columns}) SELECT {columns} FROM moved;",
            at(day),
            at(day + 1),
            time = quoted("time"),
        )
    } else {
        String::new()
    };
    // Attached, not created in its place: creating one locks the whole table against reading.
    format!(
        "{} CREATE TABLE {partition} (LIKE {parent} INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY EXCLUDING \
         STATISTICS); {moved} ALTER TABLE {parent} ATTACH PARTITION {partition} {}",
        exclusively(schema),
        bounds_of(day),
    )
}

/// Makes the default partition, with a name that none of these is: partitions of a table that was renamed keep theirs.
pub(super) fn create_default(schema: &str, stream: Stream, taken: &BTreeSet<String>) -> String {
    let name = default_name(stream);
    let others = (2..).map(|n: u32| format!("{name}_{n}"));
    let name = std::iter::once(name.clone()).chain(others).find(|name| !taken.contains(name)).unwrap_or(name);
    let (parent, default) = (table(schema, stream.as_str()), table(schema, &name));
    format!("CREATE TABLE {default} PARTITION OF {parent} DEFAULT")
}

/// Asks whether a partition has a row that was stored within the expiration, or nobody knows when.
pub(super) fn is_needed(schema: &str, partition: &str, expiration_millis: i64) -> String {
    let (partition, stored_at) = (table(schema, partition), quoted(STORED_AT.name));
    let last = before(expiration_millis);
    format!("SELECT 1 FROM {partition} WHERE {stored_at} > {last} OR {stored_at} IS NULL LIMIT 1")
}

/// Drops a partition, unless it is needed by now: a record may have come between the question and the lock. The locks are
/// taken in the order in which rows that are stored take theirs.
pub(super) fn drop(schema: &str, stream: Stream, partition: &str, expiration_millis: i64) -> String {
    let (parent, name) = (table(schema, stream.as_str()), table(schema, partition));
    let needed = is_needed(schema, partition, expiration_millis);
    let unless = format!("BEGIN IF NOT EXISTS ({needed}) THEN DROP TABLE {name}; END IF; END");
    format!(
        "{} LOCK TABLE ONLY {parent} IN ACCESS EXCLUSIVE MODE; LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE; DO {}",
        exclusively(schema),
        literal(&unless)
    )
}

/// Deletes some expired rows of a table, which is given in quotes, by the server's clock.
pub(super) fn delete(from: &str, expiration_millis: i64) -> String {
    format!(
        "DELETE FROM {from} WHERE ctid IN (SELECT ctid FROM {from} WHERE {} <= {} LIMIT {DELETED_AT_ONCE})",
        quoted(STORED_AT.name),
        before(expiration_millis)
    )
}

/// True if a delete may have left some.
pub(super) const fn may_have_left(deleted: u64) -> bool {
    deleted >= DELETED_AT_ONCE as u64
}

fn before(expiration_millis: i64) -> String {
    format!("pg_catalog.now() - pg_catalog.make_interval(secs => {expiration_millis} / 1000.0)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_a_name_and_bounds_that_are_recognized_again() {
        let day = day_of(1_795_301_026_748);
        assert_eq!(name(Stream::Events, day), "events_20261121");
        let bounds = "FOR VALUES FROM ('2026-11-21 00:00:00+00') TO ('2026-11-22 00:00:00+00')";
        assert_eq!(day_of_partition(Stream::Events, "events_20261121", bounds), Some(day));
        let month = "FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00')";
        assert_eq!(day_of_partition(Stream::Events, "events_20261121", month), None);
        for other in ["events_default", "events_2026112", "events_20261321", "stats_20261121", "events_é2026112"] {
            assert_eq!(day_of_partition(Stream::Events, other, bounds), None, "{other}");
        }
    }

    #[test]
    fn only_days_near_today_have_partitions() {
        let today = day_of(1_795_301_026_748);
        let days = window(today, Some(32 * MILLIS_OF_DAY));
        assert!(days.contains(&today) && days.contains(&(today - 33)) && days.contains(&(today + 2)));
        for far in [0, today - 34, today + 3, day_of(253_402_300_799_000), i64::MIN / 2, i64::MAX / 2] {
            assert!(!days.contains(&far), "{far}");
        }
        assert!(ahead(today).iter().all(|day| days.contains(day)));
        assert!(window(today, None).contains(&(today - MAX_AGE_DAYS)));
    }
}
