//! Finds the few lines of interest in much NDJSON: the text is searched before anything is parsed, many times as fast as JSON
//! can be read.

use std::io::{self, Read};

use memchr::{memchr, memmem, memrchr};

/// How much is read at once; a scan can end between two.
const PIECE: usize = 1 << 20;
/// A longer line is left out: the sink writes none.
pub(super) const MAX_LINE: usize = 33 << 20;

/// How a scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// At the end of the text.
    Whole,
    /// Before the end, because it was asked to stop.
    Stopped,
}

/// What a scan came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) end: End,
    /// Lines that were left out, of whatever they are: they are longer than [`MAX_LINE`].
    pub(super) too_long: u64,
}

/// What a line has to contain.
pub(super) struct Pattern<'a> {
    /// Not empty; somewhere in the line …
    pub(super) text: &'a [u8],
    /// … followed by something that this accepts; it is given the rest of the piece.
    pub(super) accepts: &'a dyn Fn(&[u8]) -> bool,
}

/// Hands each whole line that contains the pattern to `each`, until `stops` says so, which is asked before each piece. A last
/// line without its line feed is being written, or torn.
pub(super) fn matching_lines(
    from: &mut dyn Read,
    pattern: &Pattern<'_>,
    stops: &dyn Fn() -> bool,
    each: &mut dyn FnMut(&[u8]),
) -> io::Result<Scanned> {
    let mut too_long = 0;
    let finder = memmem::Finder::new(pattern.text);
    let mut buffer = vec![0; 2 * PIECE];
    // The part of a line that is in the buffer already; whether it is the end of one that is too long.
    let (mut held, mut skipping) = (0, false);
    loop {
        if stops() {
            return Ok(Scanned { end: End::Stopped, too_long });
        }
        if buffer.len() - held < PIECE {
            buffer.resize(buffer.len() * 2, 0);
        }
        let read = match from.read(&mut buffer[held..held + PIECE]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Ok(Scanned { end: End::Whole, too_long });
        }
        let filled = held + read;
        let Some(last) = memrchr(b'\n', &buffer[held..filled]).map(|at| held + at + 1) else {
            held = filled;
            if held > MAX_LINE {
                too_long += u64::from(!skipping);
                (held, skipping) = (0, true);
            }
            continue;
        };
        let mut start = 0;
        if std::mem::take(&mut skipping) {
            start = memchr(b'\n', &buffer[..last]).map_or(last, |at| at + 1);
        }
        search(&finder, pattern, &buffer[start..last], each);
        buffer.copy_within(last..filled, 0);
        held = filled - last;
        if held < PIECE && buffer.len() > 2 * PIECE {
            buffer.truncate(2 * PIECE);
            buffer.shrink_to_fit();
        }
    }
}

/// Searches whole lines.
fn search(finder: &memmem::Finder<'_>, pattern: &Pattern<'_>, lines: &[u8], each: &mut dyn FnMut(&[u8])) {
    let mut at = 0;
    while let Some(hit) = finder.find(&lines[at..]).map(|hit| at + hit) {
        let behind = hit + pattern.text.len();
        if !(pattern.accepts)(&lines[behind..]) {
            at = behind;
            continue;
        }
        let start = memrchr(b'\n', &lines[..hit]).map_or(0, |at| at + 1);
        let end = memchr(b'\n', &lines[behind..]).map_or(lines.len(), |at| behind + at);
        each(&lines[start..end]);
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes at a time.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(self.1).min(out.len());
            out[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    fn found(text: &[u8], pattern: &str, at_once: usize) -> Vec<Vec<u8>> {
        let (lines, too_long) = scanned(text, pattern, at_once);
        assert_eq!(too_long, 0);
        lines
    }

    fn scanned(text: &[u8], pattern: &str, at_once: usize) -> (Vec<Vec<u8>>, u64) {
        let mut lines = Vec::new();
        let pattern = Pattern { text: pattern.as_bytes(), accepts: &|rest| rest.starts_with(b"!") };
        let mut each = |line: &[u8]| lines.push(line.to_vec());
        let scanned = matching_lines(&mut Slowly(text, at_once), &pattern, &|| false, &mut each).unwrap();
        assert_eq!(scanned.end, End::Whole);
        (lines, scanned.too_long)
    }

    #[test]
    fn each_whole_line_with_the_pattern_is_found_once_wherever_the_pieces_end() {
        let text = b"ab!ab!\nnone\n\nab?\n xab!\n\nab!y\xff\xfe\nab! torn";
        for at_once in 1..=text.len() {
            assert_eq!(found(text, "ab", at_once), [&b"ab!ab!"[..], b" xab!", b"ab!y\xff\xfe"], "{at_once}");
        }
        assert!(found(b"", "ab", 1).is_empty());
    }

    #[test]
    fn a_line_longer_than_any_of_the_sink_is_left_out_and_counted_and_those_around_it_are_found() {
        let mut text = b"ab! before\nab! ".to_vec();
        text.resize(text.len() + 2 * (MAX_LINE + PIECE), b'x');
        text.extend_from_slice(b"ab!\nab! behind\n");
        assert_eq!(scanned(&text, "ab", PIECE), (vec![b"ab! before".to_vec(), b"ab! behind".to_vec()], 1));
        let mut long = b"ab! ".to_vec();
        long.resize(MAX_LINE - PIECE, b'x');
        long.push(b'\n');
        assert_eq!(found(&long, "ab", PIECE)[0].len(), MAX_LINE - PIECE);
    }

    #[test]
    fn it_stops_between_two_pieces_and_a_failed_read_is_an_error() {
        let text = b"ab!\n".repeat(PIECE);
        let (asked, mut lines) = (std::cell::Cell::new(0), 0);
        let stops = || asked.replace(asked.get() + 1) >= 2;
        let pattern = Pattern { text: b"ab", accepts: &|_| true };
        let end = matching_lines(&mut &text[..], &pattern, &stops, &mut |_| lines += 1).unwrap();
        assert_eq!((end, lines), (Scanned { end: End::Stopped, too_long: 0 }, 2 * PIECE / 4));
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::InvalidData.into())
            }
        }
        matching_lines(&mut Broken, &pattern, &|| false, &mut |_| {}).unwrap_err();
    }
}
