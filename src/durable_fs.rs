//! Directories that survive a power cut: a directory is lost with its entry in its parent, so the parent of each
//! created directory is synced.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
};

/// Creates a directory and its missing parents durably; it may exist. Directories get `mode`, less the umask.
///
/// The entry of the lowest existing directory is synced too: a process that was killed in this function may have
/// created it. If that fails (its parent is not readable for this user, or its file system cannot sync), others created
/// it, and have to sync it.
///
/// # Errors
/// When a directory cannot be created, or a new one cannot be synced.
pub(crate) fn make_directories(path: &Path, mode: u32) -> io::Result<()> {
    make(path, mode, &mut |directory| File::open(directory)?.sync_all())
}

fn make(path: &Path, mode: u32, sync: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|directory| !is_there(directory)).collect();
    let lowest = missing.last().map_or(Some(path), |first| first.parent());
    if let Some(there) = lowest.and_then(Path::parent) {
        let _ = sync(named(there));
    }
    for directory in missing.into_iter().rev() {
        match DirBuilder::new().mode(mode).create(directory) {
            // Another process created it first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            made => made?,
        }
        if let Some(parent) = directory.parent() {
            sync(named(parent))?;
        }
    }
    Ok(())
}

/// An empty path, the parent of a relative one, is the working directory.
fn is_there(directory: &Path) -> bool {
    named(directory).is_dir()
}

fn named(directory: &Path) -> &Path {
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, path::PathBuf};

    use super::*;

    /// The synced directories, in order, below a temporary directory.
    fn synced(below: &Path, path: &Path) -> Vec<PathBuf> {
        let mut synced = Vec::new();
        make(path, 0o700, &mut |directory| {
            // The entry that is synced must exist at this moment.
            assert!(directory.is_dir());
            synced.extend(directory.strip_prefix(below).ok().map(Path::to_owned));
            Ok(())
        })
        .unwrap();
        synced
    }

    #[test]
    fn each_directory_that_is_made_is_synced_in_the_one_above_it() {
        let below = tempfile::tempdir().unwrap();
        let path = below.path().join("a/b/c");
        assert_eq!(synced(below.path(), &path), ["", "a", "a/b"].map(PathBuf::from));
        assert!(path.is_dir());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        // After a kill any of them may exist, with an entry that is not durable.
        assert_eq!(synced(below.path(), &path), [PathBuf::from("a/b")]);
        assert_eq!(synced(below.path(), &path.join("d/e")), ["a/b", "a/b/c", "a/b/c/d"].map(PathBuf::from));
    }

    #[test]
    fn a_sync_that_fails_is_an_error_where_the_directory_is_new() {
        let below = tempfile::tempdir().unwrap();
        let failing = &mut |_: &Path| Err(io::Error::other("no"));
        make(&below.path().join("new"), 0o700, failing).unwrap_err();
        make(&below.path().join("new"), 0o700, failing).unwrap();
    }

    #[test]
    fn what_is_no_directory_is_an_error() {
        let below = tempfile::tempdir().unwrap();
        std::fs::write(below.path().join("file"), "").unwrap();
        make_directories(&below.path().join("file"), 0o700).unwrap_err();
        make_directories(&below.path().join("file/directory"), 0o700).unwrap_err();
    }
}
