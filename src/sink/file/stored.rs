//! The files of a directory, for those who read what the sink has stored while it goes on.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{closed::open_content, names::EXTENSION, options::FileCompression, stream_file::named_as_files_of};
use crate::record::{Stream, UnixMillis};

/// A file of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredFile {
    /// When it was begun: its lines were written then or later, and before the next file was begun.
    pub(crate) begun_at: UnixMillis,
    path: PathBuf,
}

/// A stream's files, oldest first. What has the name of one, but is a link, no regular file, or another user's, is among
/// them: it cannot be opened.
pub(crate) fn stored_files(stream: Stream, directory: &Path) -> io::Result<Vec<StoredFile>> {
    let files = named_as_files_of(stream, directory)?.into_iter();
    let mut files: Vec<_> = files.map(|(begun_at, _, path)| StoredFile { begun_at, path }).collect();
    // For a moment, or after a crash, a file is there both as it was and compressed.
    files.dedup_by_key(|file| file.begun_at);
    Ok(files)
}

impl StoredFile {
    /// For messages.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Its lines, decompressed; `None` if it is no longer there. It may have been compressed in the meantime.
    pub(crate) fn open(&self) -> io::Result<Option<Box<dyn Read + Send>>> {
        let path = self.path.to_string_lossy();
        let plain = path.rfind(EXTENSION).map_or(&*path, |at| &path[..at + EXTENSION.len()]);
        let compressed = [FileCompression::Gzip, FileCompression::Zstd].map(|kind| format!("{plain}{}", kind.suffix()));
        let others = compressed.iter().map(PathBuf::from);
        for path in std::iter::once(self.path.clone()).chain(others) {
            match open_content(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened.map(Some),
            }
        }
        Ok(None)
    }
}
