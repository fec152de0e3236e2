//! Where file sinks may write: neither into a spool's directory nor into a directory that contains one. Files there belong
//! to the spool, which can remove them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs,
    path::{Component, Path, PathBuf},
};

use super::directory::spools_in;
use crate::{config::SinkConfig, record::SinkName};

/// At most this many links are followed, as the operating system does.
const MAX_LINKS: u32 = 40;

/// A file sink that would write into or above a spool's directory.
#[derive(Debug, thiserror::Error)]
#[error(
    "sink {sink}: path {} {relation} the directory of the spool of sink {spool} ({}): choose another path",
    path.display(), directory.display()
)]
pub struct PathInSpool {
    /// The file sink.
    pub sink: SinkName,
    /// Its path as configured.
    pub path: PathBuf,
    /// `is in` or `contains`.
    pub relation: &'static str,
    /// The sink whose spool is there, or will be once it is created.
    pub spool: SinkName,
    /// That spool's directory.
    pub directory: PathBuf,
}

/// Refuses file sinks that would write where a spool is or will be: a spool of these sinks, or any other in the data
/// directory.
///
/// # Errors
/// The first such sink.
pub(super) fn check_paths(sinks: &[SinkConfig], data_dir: &Path) -> Result<(), PathInSpool> {
    // A directory that cannot be listed has no spool that a start could open.
    let mut spools = spools_in(data_dir).unwrap_or_default();
    spools.extend(sinks.iter().map(|sink| sink.name.clone()));
    // Resolved once and in order: each sink is compared with few of them.
    let directories: BTreeMap<PathBuf, (usize, &SinkName)> =
        spools.iter().enumerate().rev().map(|spool| (resolved(&data_dir.join(spool.1.as_str())), spool)).collect();
    for sink in sinks {
        let Some(written) = sink.target.directory() else { continue };
        let path = resolved(written);
        let around = path.ancestors().find_map(|above| directories.get(above)).map(|(_, spool)| ("is in", *spool));
        // What a directory contains follows it directly in the order.
        let below = directories.range(path.clone()..).take_while(|(directory, _)| directory.starts_with(&path));
        let inside = || below.map(|(_, found)| *found).min().map(|(_, spool)| ("contains", spool));
        let Some((relation, spool)) = around.or_else(inside) else { continue };
        return Err(PathInSpool {
            sink: sink.name.clone(),
            path: written.to_owned(),
            relation,
            spool: spool.clone(),
            directory: data_dir.join(spool.as_str()),
        });
    }
    Ok(())
}

/// Two file sinks with the same directory.
#[derive(Debug, thiserror::Error)]
#[error("sinks {first} and {second} both write into {}: give each its own path", path.display())]
pub struct SamePath {
    /// The first.
    pub first: SinkName,
    /// The second.
    pub second: SinkName,
    /// The directory, as the second's path names it.
    pub path: PathBuf,
}

/// Refuses two file sinks with the same directory: only one of them could lock it.
///
/// # Errors
/// The first two such sinks.
pub(super) fn check_same_paths(sinks: &[SinkConfig]) -> Result<(), SamePath> {
    let mut before: HashMap<PathBuf, &SinkName> = HashMap::new();
    for sink in sinks {
        let Some(written) = sink.target.directory() else { continue };
        let path = resolved(written);
        if let Some(first) = before.insert(path, &sink.name) {
            let (first, second) = (first.clone(), sink.name.clone());
            return Err(SamePath { first, second, path: written.to_owned() });
        }
    }
    Ok(())
}

/// The path without links, `.` and `..`, also if its last parts do not exist yet.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut parts = parts_of(&absolute);
    let (mut resolved, mut links) = (PathBuf::new(), 0);
    while let Some(part) = parts.pop_front() {
        match part.components().next() {
            Some(Component::ParentDir) => drop(resolved.pop()),
            Some(Component::CurDir) | None => {}
            Some(_) => {
                resolved.push(&part);
                if let Ok(target) = fs::read_link(&resolved)
                    && links < MAX_LINKS
                {
                    links += 1;
                    resolved.pop();
                    // Pushing an absolute target starts again from the root.
                    let mut target = parts_of(&target);
                    target.append(&mut parts);
                    parts = target;
                }
            }
        }
    }
    resolved
}

fn parts_of(path: &Path) -> VecDeque<PathBuf> {
    path.components().map(|part| PathBuf::from(part.as_os_str())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config;

    /// Whether a file sink `files`, configured with a sink `mongo`, may write to this path.
    fn checked(data_dir: &Path, path: &Path) -> Result<(), PathInSpool> {
        let text = format!(
            "data_dir: {}\nsinks:\n  - {{ name: mongo, type: mongodb, uri: \"mongodb://x/\" }}\n  - {{ name: files, type: file, \
             path: {} }}\n",
            data_dir.display(),
            path.display()
        );
        let config = config::parse(Some(("c.yaml", &text)), &|_| None).unwrap();
        check_paths(&config.sinks, &config.data_dir)
    }

    #[test]
    fn a_file_sink_cannot_write_into_a_spool_or_above_one_by_any_path() {
        let parent = tempfile::tempdir().unwrap();
        let data = parent.path().join("data");
        for directory in ["mongo/journal", "left/journal", "out"] {
            fs::create_dir_all(data.join(directory)).unwrap();
        }
        symlink(data.join("mongo"), parent.path().join("link")).unwrap();
        symlink("data", parent.path().join("relative")).unwrap();
        symlink(data.join("files/not/yet"), parent.path().join("dangling")).unwrap();
        symlink(&data, parent.path().join("also-data")).unwrap();
        for (path, spool) in [
            ("data/mongo", "mongo"),
            ("data/mongo/", "mongo"),
            ("data/mongo/out/deep", "mongo"),
            ("data/out/../mongo", "mongo"),
            ("data/./mongo//journal", "mongo"),
            ("link", "mongo"),
            ("link/out", "mongo"),
            ("relative/mongo/out", "mongo"),
            ("data/left/out", "left"),
            ("data/files", "files"),
            ("dangling", "files"),
            ("also-data/files/out", "files"),
            ("out/../data/mongo", "mongo"),
        ] {
            let error = checked(&data, &parent.path().join(path)).unwrap_err();
            assert_eq!((error.sink.as_str(), error.spool.as_str()), ("files", spool), "{path}: {error}");
            assert!(error.to_string().contains("is in the directory of the spool"), "{error}");
        }
        for above in ["data", "relative", "also-data", "data/out/..", "."] {
            let error = checked(&data, &parent.path().join(above)).unwrap_err().to_string();
            assert!(error.contains("contains the directory of the spool"), "{error}");
        }
        // The data directory by another path, and a spool that is a link.
        checked(&parent.path().join("relative"), &data.join("mongo/out")).unwrap_err();
        symlink(parent.path().join("other-disk"), data.join("redis")).unwrap();
        fs::create_dir_all(parent.path().join("other-disk/journal")).unwrap();
        checked(&data, &parent.path().join("other-disk/out")).unwrap_err();
        for path in ["data/out", "out", "data/mongo-2", "data/mongodb", "database/mongo", "not/yet/there"] {
            checked(&data, &parent.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
    }

    #[test]
    fn circular_links_are_not_followed_forever() {
        let parent = tempfile::tempdir().unwrap();
        symlink("b", parent.path().join("a")).unwrap();
        symlink("a", parent.path().join("b")).unwrap();
        checked(&parent.path().join("data"), &parent.path().join("a/out")).unwrap();
    }
}
