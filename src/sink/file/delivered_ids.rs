//! The `_id`s of all lines since some time, for a queue that was rebuilt and may redeliver all records that it still holds.
//!
//! Each is kept as 128 bits of its hash: the chance that two different ones are the same is below 1 in 10²⁴. At most
//! [`MAX_IDS`] are kept, those of the newest lines: an earlier line that is redelivered is written twice.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use super::closed::for_each_id;
use crate::record::UnixMillis;

/// How much later than its line was written a record's time of receipt may be, if the clock was put back in between,
/// milliseconds.
const CLOCK_ERROR: UnixMillis = 3_600_000;

/// The maximum number of remembered lines: 32 MB for each stream.
pub(super) const MAX_IDS: usize = 2_000_000;

/// Hashes of `_id`s, in order.
#[derive(Debug, Default)]
pub(super) struct DeliveredIds(Vec<u128>);

impl DeliveredIds {
    /// Reads the lines of some files, oldest first; keeps the newest `max` if there are more.
    pub(super) fn read(files: impl DoubleEndedIterator<Item = PathBuf>, max: usize) -> Self {
        let mut hashes = Vec::new();
        for path in files.rev() {
            let space = max - hashes.len();
            let (mut of_file, mut passed_over) = (VecDeque::new(), false);
            let keep = |id: String| {
                if of_file.len() == space {
                    passed_over = true;
                    of_file.pop_front();
                }
                if space > 0 {
                    of_file.push_back(hash(&id));
                }
            };
            // A line that can no longer be read is not lost: it is written again.
            if let Err(error) = for_each_id(&path, keep) {
                let message = "file cannot be read: redelivered lines may be written twice";
                tracing::warn!(path = %path.display(), %error, "{message}");
            }
            hashes.extend(of_file);
            if passed_over {
                tracing::warn!(
                    path = %path.display(),
                    "only the newest {max} lines are remembered: earlier ones are written twice if they are redelivered"
                );
                break;
            }
        }
        hashes.sort_unstable();
        hashes.dedup();
        hashes.shrink_to_fit();
        Self(hashes)
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.binary_search(&hash(id)).is_ok()
    }
}

fn hash(id: &str) -> u128 {
    let hash = blake3::hash(id.as_bytes());
    hash.as_bytes().first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes))
}

/// The files of a stream, oldest first and with the time in their names, that may contain lines written since then; one
/// more in case of doubt. All of them if that time is in the future: the clock was wrong when the records were received.
pub(super) fn written_since(
    files: Vec<(UnixMillis, PathBuf)>,
    since: UnixMillis,
    now: UnixMillis,
) -> impl DoubleEndedIterator<Item = PathBuf> {
    // A file's last line was written before the next file was created, whatever its own time says.
    let next: Vec<UnixMillis> = files.iter().skip(1).map(|(at, _)| *at).chain([UnixMillis::MAX]).collect();
    let is_recent = move |end: UnixMillis| since > now || end >= since.saturating_sub(CLOCK_ERROR);
    files
        .into_iter()
        .zip(next)
        .filter(move |((_, path), next)| is_recent(*next) || is_recent(modified(path)))
        .map(|((_, path), _)| path)
}

/// The time of a file's last write, from the file system; far in the future if that does not know it.
fn modified(path: &Path) -> UnixMillis {
    let since_epoch = |at: std::time::SystemTime| at.duration_since(std::time::UNIX_EPOCH).ok();
    let modified = path.metadata().and_then(|metadata| metadata.modified()).ok().and_then(since_epoch);
    modified.and_then(|since| UnixMillis::try_from(since.as_millis()).ok()).unwrap_or(UnixMillis::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn of_too_many_lines_the_newest_are_remembered() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = [("1.ndjson", ["a", "b", "c"]), ("2.ndjson", ["d", "e", "f"])].map(|(name, ids)| {
            let path = directory.path().join(name);
            let lines: String = ids.iter().map(|id| format!("{{\"_id\":\"{id}\"}}\n")).collect();
            fs::write(&path, lines).expect("written");
            path
        });
        for max in 0..8 {
            let remembered = DeliveredIds::read(files.clone().into_iter(), max);
            let known: String = "abcdef".chars().filter(|id| remembered.contains(&id.to_string())).collect();
            assert_eq!(known, "abcdef"[6_usize.saturating_sub(max)..]);
        }
    }
}
