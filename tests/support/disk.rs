//! A disk of a few megabytes that a test can fill: a tmpfs in a mount namespace of its own.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use super::child::Process;

/// A mounted tmpfs; gone when dropped. Only programs started through [`SmallDisk::enter`] see it under its path.
pub struct SmallDisk {
    holder: Process,
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `path`, which must not exist.
    ///
    /// # Panics
    /// Where the machine does not let us (no user namespaces).
    pub async fn mount(path: &Path, megabytes: u32) -> Self {
        fs::create_dir_all(path).expect("a directory to mount at");
        let at = path.to_str().expect("a UTF-8 path");
        super::require(super::MOUNTS, &["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", at]);
        let script =
            format!("mount -t tmpfs -o size={megabytes}m tmpfs \"$1\" && touch \"$1/.mounted\" && exec sleep infinity");
        let log = path.with_extension("log");
        let words = ["-rm", "sh", "-c", &script, "sh", at];
        let holder = Process::start("the holder of a small disk", Path::new("unshare"), &words, &[], &log);
        let disk = Self { holder, path: path.to_owned() };
        super::eventually("the small disk is mounted", || async { disk.outside().join(".mounted").exists() }).await;
        disk
    }

    /// What a program and its arguments have to follow to see the disk.
    pub fn enter(&self) -> Vec<String> {
        let pid = self.holder.pid().to_string();
        ["nsenter", "-t", &pid, "-U", "-m", "--preserve-credentials", "--"].map(str::to_owned).into()
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The disk's directory as this process sees it.
    pub fn outside(&self) -> PathBuf {
        let inside = self.path.strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(self.holder.pid().to_string()).join("root").join(inside)
    }

    /// Writes a file until nothing more fits.
    pub fn fill(&self) {
        let mut filler =
            File::options().create(true).append(true).open(self.filler()).expect("a file on the small disk");
        for size in [64 * 1024, 4096, 1] {
            let piece = vec![b'x'; size];
            loop {
                match filler.write(&piece) {
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::StorageFull => break,
                    Err(e) => panic!("the small disk fails in another way: {e}"),
                }
            }
        }
    }

    /// Gives back what [`Self::fill`] took.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("the disk was filled");
    }

    fn filler(&self) -> PathBuf {
        self.outside().join("filler")
    }
}
