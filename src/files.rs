//! Our files in directories that others may write to: one module defines how they are opened, who may own them, and how
//! they are locked.
//!
//! - A link in a file's place is not followed: anyone who can write to the directory could choose which file is
//!   written.
//! - A file has to be a regular one, and to belong to this user, to root, or to the directory's owner, who could
//!   replace it in any case. Opening a pipe in its place does not block.
//! - A file with a second name elsewhere (a hard link) is not written, and keeps its mode.
//! - A private file is created with mode 0600; an existing one with another mode is changed to it.
//!
//! Files that the user names are opened without these checks, because they may be links or pipes (a mounted secret,
//! `<(command)`) and are only read: the configuration and the files that it names, TLS certificates, the input of
//! `send`, `doc` and `import`.

use std::{
    fmt,
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, OFlags, fcntl_getfl, flock},
    io::Errno,
};

/// Readable for this user only.
pub(crate) const PRIVATE: u32 = 0o600;
const OTHERS: u32 = 0o077;

/// Opens a file with the checks of the module's header; `options` set the access, and whether it is created.
///
/// # Errors
/// Also when a link or anything but a regular file is in its place, when it belongs to another user, or when it is
/// opened for writing and has a second name: the last is [`io::ErrorKind::TooManyLinks`].
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Without NONBLOCK, opening a pipe would block.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file =
        options.custom_flags(flags.bits().cast_signed()).open(path).map_err(|error| {
            match Errno::from_io_error(&error) {
                Some(Errno::LOOP) => refused(LINK.to_owned()),
                Some(Errno::NXIO | Errno::ISDIR) => refused(NO_FILE.to_owned()),
                _ => error,
            }
        })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(refused(NO_FILE.to_owned()));
    }
    if !is_ours(&metadata, directory_of(path).metadata().ok().as_ref()) {
        let owner = metadata.uid();
        return Err(refused(format!(
            "belongs to another user (uid {owner}): give it to this user (chown), or remove it"
        )));
    }
    if metadata.nlink() > 1 && fcntl_getfl(&file)?.intersects(OFlags::WRONLY | OFlags::RDWR) {
        let why = "has a second name (a hard link), which would be written too: replace it with a copy".to_owned();
        return Err(io::Error::new(io::ErrorKind::TooManyLinks, Refused(why)));
    }
    Ok(file)
}

/// As [`open`], for files that only this user may read.
///
/// # Errors
/// As there.
pub(crate) fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = open(path, options.mode(PRIVATE))?;
    if let Some(private) = private_mode(&file.metadata()?) {
        file.set_permissions(private)?;
    }
    Ok(file)
}

/// Makes a directory private, and everything below it that belongs to this user, if it was accessible to others. Links
/// of either kind are neither followed nor changed.
///
/// # Errors
/// When it is missing, is not a directory, belongs to another user (by the rules of [`open`]), or cannot be changed.
pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    let metadata = fs::metadata(directory)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if !is_ours(&metadata, directory_of(directory).metadata().ok().as_ref()) {
        let why = format!("Permission denied: it belongs to another user (uid {})", metadata.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    make_all_private(directory, &metadata)
}

fn make_all_private(directory: &Path, metadata: &Metadata) -> io::Result<()> {
    if let Some(private) = private_mode(metadata) {
        fs::set_permissions(directory, private)?;
    }
    // A directory that cannot be listed causes an error when it is used.
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten() {
        // The metadata of a link, not of its target. Files come and go.
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => make_all_private(&entry.path(), &metadata)?,
            Ok(metadata) if metadata.is_file() && private_mode(&metadata).is_some() => {
                make_file_private(&entry.path())?
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks the open file again: another file may have its name by now.
fn make_file_private(path: &Path) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    // A file that cannot be opened causes an error when it is used.
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path) else {
        return Ok(());
    };
    let metadata = file.metadata()?;
    match private_mode(&metadata) {
        Some(private) if metadata.is_file() => file.set_permissions(private),
        _ => Ok(()),
    }
}

/// The permissions to set on a file or directory of this user that is accessible to others. A file with a second name
/// keeps its mode, because both names share it.
fn private_mode(metadata: &Metadata) -> Option<Permissions> {
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
    let is_shared = !metadata.is_dir() && metadata.nlink() > 1;
    (is_own && !is_shared && metadata.mode() & OTHERS != 0)
        .then(|| Permissions::from_mode(metadata.mode() & !OTHERS & 0o7777))
}

/// True if a file in a directory may be one of ours: see the module's header.
pub(crate) fn is_ours(file: &Metadata, directory: Option<&Metadata>) -> bool {
    is_owner_ours(file.uid(), directory.map(MetadataExt::uid), rustix::process::geteuid().as_raw())
}

fn is_owner_ours(owner: u32, of_directory: Option<u32>, user: u32) -> bool {
    const ROOT: u32 = 0;
    owner == user || owner == ROOT || of_directory == Some(owner)
}

/// Locks a file until it is closed; false if another process holds the lock.
///
/// # Errors
/// When the file system does not support locks.
pub(crate) fn lock(file: &File) -> io::Result<bool> {
    locked(flock(file, FlockOperation::NonBlockingLockExclusive))
}

/// True if another process holds an exclusive lock on a file. Takes a shared lock for a moment, which several callers
/// can hold.
///
/// # Errors
/// When the file system does not support locks.
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
            "its file system does not lock files ({}): mount it with locks (NFS: let lockd run, or local_lock=flock), or \
             use a local disk",
            io::Error::from(error)
        ))),
        Err(error) => Err(error.into()),
    }
}

const LINK: &str = "is a symbolic link, which is not followed here: put the file itself there, or remove it";
const NO_FILE: &str = "is not a regular file: remove it";

/// Why a file was not opened.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, Refused(why))
}

/// True if an error says that a file was not opened because of these rules, and what to do about it.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<Refused>())
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("precious"), "precious").unwrap();
        symlink(at("precious"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
        for (name, why) in [
            ("link", "symbolic link"),
            ("dangling", "symbolic link"),
            ("pipe", "not a regular file"),
            ("directory", "not a regular file"),
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
        let directory = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(directory.path().join(name)).unwrap().mode() & 0o777;
        fs::write(directory.path().join("left"), "").unwrap();
        fs::set_permissions(directory.path().join("left"), Permissions::from_mode(0o666)).unwrap();
        for name in ["left", "new"] {
            open_private(&directory.path().join(name), &mut writing()).unwrap();
            assert_eq!(mode(name), 0o600, "{name}");
        }
    }

    #[test]
    fn a_file_is_ours_if_its_owner_is_this_user_root_or_the_directorys_owner() {
        const OTHER: u32 = 12_345;
        let user = 1000;
        for (owner, of_directory, ours) in [
            (user, Some(OTHER), true),
            (0, Some(OTHER), true),
            (OTHER, Some(OTHER), true),
            (OTHER, Some(user), false),
            (OTHER, None, false),
        ] {
            assert_eq!(is_owner_ours(owner, of_directory, user), ours, "{owner} in a directory of {of_directory:?}");
        }
        // Only root can give files away.
        if rustix::process::geteuid().is_root() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("theirs");
            fs::write(&path, "").unwrap();
            std::os::unix::fs::chown(&path, Some(OTHER), None).unwrap();
            let error = open(&path, &mut writing()).unwrap_err();
            assert!(is_refusal(&error) && error.to_string().contains("another user (uid 12345)"), "{error}");
            std::os::unix::fs::chown(directory.path(), Some(OTHER), None).unwrap();
            open(&path, &mut writing()).unwrap();
        }
    }

    #[test]
    fn a_file_with_a_second_name_is_read_and_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("precious"), "precious").unwrap();
        fs::hard_link(at("precious"), at("linked")).unwrap();
        for options in [&mut writing(), OpenOptions::new().append(true), OpenOptions::new().write(true)] {
            let error = open(&at("linked"), options).unwrap_err();
            assert!(is_refusal(&error) && error.kind() == io::ErrorKind::TooManyLinks, "{error}");
        }
        open(&at("linked"), OpenOptions::new().read(true)).unwrap();
    }

    #[test]
    fn a_file_with_a_second_name_keeps_its_mode_in_a_directory_that_becomes_private() {
        let directory = tempfile::tempdir().unwrap();
        let (outside, directory) = (directory.path().join("precious"), directory.path().join("directory"));
        fs::create_dir(&directory).unwrap();
        fs::write(&outside, "precious").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o640)).unwrap();
        fs::hard_link(&outside, directory.join("linked")).unwrap();
        make_private(&directory).unwrap();
        open_private(&directory.join("linked"), OpenOptions::new().read(true)).unwrap();
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_directory_becomes_private_with_all_below_it_and_links_are_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let (outside, directory) = (parent.path().join("outside"), parent.path().join("directory"));
        fs::create_dir_all(directory.join("below")).unwrap();
        fs::write(&outside, "").unwrap();
        fs::write(directory.join("below/file"), "").unwrap();
        symlink(&outside, directory.join("link")).unwrap();
        for path in [&outside, &directory, &directory.join("below"), &directory.join("below/file")] {
            fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
        }
        make_private(&directory).unwrap();
        assert_eq!([&outside, &directory, &directory.join("below/file")].map(|path| mode(path)), [0o777, 0o700, 0o700]);
        assert_eq!(make_private(&outside).unwrap_err().kind(), io::ErrorKind::NotADirectory);
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
