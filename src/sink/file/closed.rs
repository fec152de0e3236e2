//! Closed files: found by name, compressed, read again for the `_id`s in them.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    Compression,
    output::sync_folder_of,
    recent::{REMEMBERED, id_of_line},
    stream_file::{EXTENSION, time_of_name},
};
use crate::record::{Stream, UnixMillis};

/// What a file that is being compressed is called meanwhile.
const UNFINISHED: &str = ".tmp";
/// How much of a file's end is read for `_id`s.
const TAIL: u64 = 64 << 20;
const ZSTD_LEVEL: i32 = 3;

/// The time in the name of one of a stream's files, compressed or not; `None` for any other name.
pub(super) fn is_file_of(stream: Stream, name: &str) -> Option<UnixMillis> {
    let rest = name.strip_prefix(stream.as_str())?.strip_prefix('-')?;
    let compressions = [Compression::None, Compression::Gzip, Compression::Zstd];
    compressions
        .iter()
        .find_map(|compression| time_of_name(rest.strip_suffix(compression.suffix())?.strip_suffix(EXTENSION)?))
}

/// Compresses a closed file beside it, durably, then removes it. A crash in between leaves the file to be compressed again.
pub(super) fn compress(path: &Path, compression: Compression) -> io::Result<()> {
    let finished = with_suffix(path, compression.suffix());
    let unfinished = with_suffix(&finished, UNFINISHED);
    let mut from = File::open(path)?;
    let to = File::create(&unfinished)?;
    let to = match compression {
        Compression::None => return fs::remove_file(&unfinished),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(to, flate2::Compression::default());
            io::copy(&mut from, &mut encoder)?;
            encoder.finish()?
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(to, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            io::copy(&mut from, &mut encoder)?;
            encoder.finish()?
        }
    };
    to.sync_all()?;
    fs::rename(&unfinished, &finished)?;
    sync_folder_of(&finished)?;
    fs::remove_file(path)
}

/// Removes what a crash left half compressed.
pub(super) fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let whole = name.strip_suffix(UNFINISHED);
        if whole.is_some_and(|whole| Stream::ALL.iter().any(|&stream| is_file_of(stream, whole).is_some())) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// How many bytes of a file are whole lines, and the `_id`s of its last ones.
pub(super) fn whole_lines(path: &Path) -> io::Result<(u64, Vec<String>)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let start = file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    if whole == 0 && start > 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: its last {TAIL} bytes are no line: move it away", path.display()),
        ));
    }
    Ok((start + whole as u64, ids_in(&tail[..whole])))
}

/// The last `_id`s in a closed file, compressed or not; none of what cannot be read.
pub(super) fn ids(path: &Path) -> io::Result<Vec<String>> {
    let open = || File::open(path);
    let from: Box<dyn Read> = match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Box::new(flate2::read::GzDecoder::new(open()?)),
        Some("zst") => Box::new(zstd::Decoder::new(open()?)?),
        _ => return whole_lines(path).map(|(_, ids)| ids),
    };
    let mut last = VecDeque::new();
    for line in BufReader::new(from).lines() {
        if let Some(id) = id_of_line(&line?) {
            last.push_back(id);
        }
        if last.len() > REMEMBERED {
            last.pop_front();
        }
    }
    Ok(last.into())
}

fn ids_in(lines: &[u8]) -> Vec<String> {
    lines.split(|&byte| byte == b'\n').filter_map(|line| id_of_line(std::str::from_utf8(line).ok()?)).collect()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
