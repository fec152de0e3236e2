//! Closed files: finding them by name, compressing them, and reading the `_id`s in them.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    names::{EXTENSION, is_file_of},
    options::FileCompression,
    output::sync_directory_of,
    recent::{REMEMBERED, id_of_line},
};
use crate::{files, record::Stream};

/// The suffix of a file that is being compressed.
const UNFINISHED: &str = ".tmp";
/// How much of a file's end is read first for `_id`s; four times as much while there are too few.
const TAIL: u64 = 64 << 20;
const ZSTD_LEVEL: i32 = 3;

/// Compresses a closed file into a file next to it, durably, then removes it. After a crash in between the file is
/// compressed again. If it fails, no new file is left.
pub(super) fn compress(path: &Path, compression: FileCompression) -> io::Result<()> {
    if compression == FileCompression::None {
        return Ok(());
    }
    let finished = with_suffix(path, compression.suffix());
    let unfinished = with_suffix(&finished, UNFINISHED);
    let from = files::open(path, OpenOptions::new().read(true))?;
    remove_if_there(&unfinished)?;
    let to = files::open(&unfinished, OpenOptions::new().write(true).create_new(true))?;
    if let Err(error) = write_compressed(from, to, compression).and_then(|()| fs::rename(&unfinished, &finished)) {
        // It would use up the last space of a full disk.
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    sync_directory_of(&finished)?;
    fs::remove_file(path)
}

/// Writes the compressed content of a file into another, durably.
fn write_compressed(mut from: File, to: File, compression: FileCompression) -> io::Result<()> {
    let to = match compression {
        FileCompression::None => return Ok(()),
        FileCompression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(to, flate2::Compression::default());
            io::copy(&mut from, &mut encoder)?;
            encoder.finish()?
        }
        FileCompression::Zstd => {
            let mut encoder = zstd::Encoder::new(to, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            io::copy(&mut from, &mut encoder)?;
            encoder.finish()?
        }
    };
    to.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes partly compressed files that a crash left.
pub(super) fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let whole = name.strip_suffix(UNFINISHED);
        if whole.is_some_and(|whole| Stream::ALL.iter().any(|&stream| is_file_of(stream, whole).is_some())) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The number of bytes in whole lines of a file, and the `_id`s of its last lines.
pub(super) fn whole_lines(path: &Path) -> io::Result<(u64, Vec<String>)> {
    whole_lines_from(path, TAIL)
}

fn whole_lines_from(path: &Path, mut tail: u64) -> io::Result<(u64, Vec<String>)> {
    let length = fs::metadata(path)?.len();
    loop {
        let start = length.saturating_sub(tail);
        let (whole, ids) = lines_after(path, start)?;
        if start == 0 || ids.len() >= REMEMBERED {
            return Ok((whole.unwrap_or(0), ids.into()));
        }
        tail = tail.saturating_mul(4);
    }
}

/// The end of the last whole line after `start`, and the last `_id`s of the lines; the line that `start` is in does not
/// count.
fn lines_after(path: &Path, start: u64) -> io::Result<(Option<u64>, VecDeque<String>)> {
    let mut file = files::open(path, OpenOptions::new().read(true))?;
    file.seek(SeekFrom::Start(start))?;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let (mut at, mut whole, mut ids, mut line) = (start, None, VecDeque::new(), Vec::new());
    loop {
        line.clear();
        let read = file.read_until(b'\n', &mut line)? as u64;
        if line.pop_if(|byte| *byte == b'\n').is_none() {
            return Ok((whole, ids));
        }
        let is_whole = at > start || start == 0;
        at += read;
        whole = Some(at);
        if is_whole && let Some(id) = std::str::from_utf8(&line).ok().and_then(id_of_line) {
            remember(&mut ids, id);
        }
    }
}

fn remember(ids: &mut VecDeque<String>, id: String) {
    ids.push_back(id);
    if ids.len() > REMEMBERED {
        ids.pop_front();
    }
}

/// The last `_id`s in a closed file, compressed or not.
pub(super) fn last_ids(path: &Path) -> io::Result<Vec<String>> {
    if path.to_string_lossy().ends_with(EXTENSION) {
        return whole_lines(path).map(|(_, ids)| ids);
    }
    let mut last = VecDeque::new();
    for_each_id(path, |id| remember(&mut last, id))?;
    Ok(last.into())
}

/// Reads the `_id`s of all whole lines of a file, compressed or not; if it cannot be read to its end, of the lines before.
pub(super) fn for_each_id(path: &Path, mut each: impl FnMut(String)) -> io::Result<()> {
    let (mut from, mut line) = (BufReader::with_capacity(1 << 20, open_content(path)?), Vec::new());
    loop {
        line.clear();
        from.read_until(b'\n', &mut line)?;
        if line.pop_if(|byte| *byte == b'\n').is_none() {
            return Ok(());
        }
        if let Some(id) = std::str::from_utf8(&line).ok().and_then(id_of_line) {
            each(id);
        }
    }
}

/// The lines of a file, decompressed.
pub(super) fn open_content(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let file = files::open(path, OpenOptions::new().read(true))?;
    let length = file.metadata()?.len();
    let file = ToItsEnd { file, left: length };
    Ok(match path.extension().and_then(|extension| extension.to_str()) {
        // Somebody may have put several together, as zstd's files may be too.
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
        // To the decoder it would be nothing that was compressed.
        Some("zst") if length == 0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "is empty")),
        Some("zst") => Box::new(zstd::Decoder::new(file)?),
        _ => Box::new(file),
    })
}

/// A file that has to be as long as it was when it was opened.
struct ToItsEnd {
    file: File,
    left: u64,
}

impl Read for ToItsEnd {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(out)?;
        if read == 0 && !out.is_empty() && self.left > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "became shorter while it was read"));
        }
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_of_the_end_is_read_as_holds_the_ids_to_remember() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("file");
        let lines: Vec<String> =
            (0..3000).map(|i| format!("{{\"_id\":\"AE_{i}\",\"x\":\"{}\"}}\n", "y".repeat(i % 90))).collect();
        let text = lines.concat();
        fs::write(&path, format!("{text}{{\"_id\":\"torn")).expect("file");
        for tail in [1, 64, 1000, 1 << 20] {
            let (whole, ids) = whole_lines_from(&path, tail).expect("readable");
            assert_eq!((whole, ids.len()), (text.len() as u64, 3000), "{tail}");
            assert_eq!((&*ids[0], &*ids[2999]), ("AE_0", "AE_2999"));
        }
        fs::write(&path, "no line at all").expect("file");
        let mut content = open_content(&path).expect("readable");
        content.read_exact(&mut [0; 5]).expect("its beginning");
        OpenOptions::new().write(true).open(&path).expect("file").set_len(7).expect("truncated");
        content.read_exact(&mut [0; 2]).expect("what is left");
        assert_eq!(content.read(&mut [0; 2]).expect_err("it is not whole").kind(), io::ErrorKind::UnexpectedEof);
        fs::write(&path, "no line at all").expect("file");
        assert_eq!(whole_lines(&path).expect("readable"), (0, Vec::new()));
    }
}
