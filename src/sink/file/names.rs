//! Names of files: `<stream>-<UTC time>.ndjson`, followed by the suffix of the compression.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::options::FileCompression;
use crate::record::{Stream, UnixMillis};

/// The suffix of every file while it is written.
pub(super) const EXTENSION: &str = ".ndjson";

/// The time in the name of one of a stream's files, compressed or not; `None` for any other name.
pub(super) fn is_file_of(stream: Stream, name: &str) -> Option<UnixMillis> {
    let rest = name.strip_prefix(stream.as_str())?.strip_prefix('-')?;
    let compressions = [FileCompression::None, FileCompression::Gzip, FileCompression::Zstd];
    compressions
        .iter()
        .find_map(|compression| time_of_name(rest.strip_suffix(compression.suffix())?.strip_suffix(EXTENSION)?))
}

/// A time in the form of a file's name: `20261122T010203.456Z`.
pub(super) fn name_of(at: UnixMillis) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(at).unwrap_or(0));
    humantime::format_rfc3339_millis(at).to_string().replace(['-', ':'], "")
}

/// The time in a file's name.
pub(super) fn time_of_name(name: &str) -> Option<UnixMillis> {
    let digits = |range| name.get(range).filter(|part: &&str| part.bytes().all(|byte| byte.is_ascii_digit()));
    let (date, time, millis) = (digits(0..8)?, digits(9..15)?, digits(16..19)?);
    if name.len() != 20 || !name.is_ascii() {
        return None;
    }
    let iso = format!(
        "{}-{}-{}T{}:{}:{}.{millis}Z",
        &date[..4],
        &date[4..6],
        &date[6..],
        &time[..2],
        &time[2..4],
        &time[4..]
    );
    let at: SystemTime = humantime::parse_rfc3339(&iso).ok()?;
    i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}
