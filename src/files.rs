//! Files of ours in folders that others may write to: one place says how they are opened, whose they have to be, and how they
//! are locked.
//!
//! - A link in a file's place is not followed: whoever may write to the folder would choose which file is written.
//! - A file has to be a regular one, and to belong to this user, to root, or to the folder's own user, who may replace it
//!   anyhow.
//! - What is private is made with mode 0600, and gets it where it was left with another.

use std::{
    fs::{File, Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

/// Readable for this user only.
pub(crate) const PRIVATE: u32 = 0o600;
const OTHERS: u32 = 0o077;

/// Opens a file as the module's header says; `options` say for what, and whether it is made.
///
/// # Errors
/// Also when a link or something else than a file is in its place, or it belongs to another user.
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Without NONBLOCK a pipe in its place would hold up the open.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file =
        options.custom_flags(flags.bits().cast_signed()).open(path).map_err(|error| {
            match Errno::from_io_error(&error) {
                Some(Errno::LOOP) => refused("is a symbolic link, which is not followed here: remove it"),
                Some(Errno::NXIO) => refused("is no regular file: remove it"),
                _ => error,
            }
        })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(refused("is no regular file: remove it"));
    }
    if !is_ours(&metadata, folder_of(path).metadata().ok().as_ref()) {
        return Err(refused(&format!("belongs to another user (uid {}): remove it", metadata.uid())));
    }
    Ok(file)
}

/// As [`open`], for what only this user may read.
///
/// # Errors
/// As there.
pub(crate) fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = open(path, options.mode(PRIVATE))?;
    let metadata = file.metadata()?;
    if metadata.mode() & OTHERS != 0 && metadata.uid() == rustix::process::geteuid().as_raw() {
        file.set_permissions(Permissions::from_mode(metadata.mode() & !OTHERS & 0o7777))?;
    }
    Ok(file)
}

/// Whether a file in a folder may be taken for one of ours: see the module's header.
pub(crate) fn is_ours(file: &Metadata, folder: Option<&Metadata>) -> bool {
    const ROOT: u32 = 0;
    [Some(rustix::process::geteuid().as_raw()), Some(ROOT), folder.map(MetadataExt::uid)].contains(&Some(file.uid()))
}

/// Locks a file until it is closed; false where another process holds it.
///
/// # Errors
/// When the file system has no locks.
pub(crate) fn lock(file: &File) -> io::Result<bool> {
    locked(flock(file, FlockOperation::NonBlockingLockExclusive))
}

/// Whether another process holds a file's lock for itself. It is held for a moment, beside others that look.
///
/// # Errors
/// When the file system has no locks.
pub(crate) fn is_locked(file: &File) -> io::Result<bool> {
    let free = locked(flock(file, FlockOperation::NonBlockingLockShared))?;
    if free {
        flock(file, FlockOperation::Unlock)?;
    }
    Ok(!free)
}

fn locked(result: Result<(), Errno>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error @ (Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS)) => Err(io::Error::other(format!(
            "its file system does not lock files ({}): mount it with locks (NFS: let lockd run, or local_lock=flock), or use \
             a local disk",
            io::Error::from(error)
        ))),
        Err(error) => Err(error.into()),
    }
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, what.to_owned())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn writing() -> OpenOptions {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).clone()
    }

    #[test]
    fn what_others_put_in_a_files_place_is_neither_followed_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("precious"), "precious").unwrap();
        symlink(at("precious"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
        for (name, why) in [
            ("link", "symbolic link"),
            ("dangling", "symbolic link"),
            ("pipe", "no regular file"),
            ("folder", "directory"),
        ] {
            for options in [&mut writing(), OpenOptions::new().append(true)] {
                let error = open_private(&at(name), options).unwrap_err().to_string();
                assert!(error.contains(why), "{name}: {error}");
            }
        }
        assert_eq!(fs::read(at("precious")).unwrap(), b"precious");
        assert!(!at("nowhere").exists());
    }

    #[test]
    fn a_private_file_is_private_also_where_it_was_left_open_to_all() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().mode() & 0o777;
        fs::write(folder.path().join("left"), "").unwrap();
        fs::set_permissions(folder.path().join("left"), Permissions::from_mode(0o666)).unwrap();
        for name in ["left", "new"] {
            open_private(&folder.path().join(name), &mut writing()).unwrap();
            assert_eq!(mode(name), 0o600, "{name}");
        }
    }

    #[test]
    fn a_file_of_another_user_is_refused_unless_the_folder_is_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("theirs");
        fs::write(&path, "").unwrap();
        if std::os::unix::fs::chown(&path, Some(12_345), None).is_err() {
            println!("only root can give files away: not tried");
            return;
        }
        let error = open(&path, &mut writing()).unwrap_err().to_string();
        assert!(error.contains("another user (uid 12345)"), "{error}");
        std::os::unix::fs::chown(folder.path(), Some(12_345), None).unwrap();
        open(&path, &mut writing()).unwrap();
    }

    #[test]
    fn a_file_system_without_locks_is_named_and_is_not_another_process() {
        assert!(!locked(Err(Errno::WOULDBLOCK)).unwrap());
        for errno in [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS] {
            let error = locked(Err(errno)).unwrap_err().to_string();
            assert!(error.contains("does not lock files") && error.contains("lockd"), "{error}");
        }
        assert!(locked(Err(Errno::IO)).is_err());
    }
}
