//! Text for terminals and logs. Text from outside is made safe: characters that control a terminal, or make a line read as another
//! one, are shown as `\u001b`. JSON escapes them in the same way, so JSON output keeps its meaning.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

/// The text with its line breaks.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| !matches!(c, '\n' | '\t') && steers(c))
}

/// The text as a part of one line: line breaks are escaped too.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, steers)
}

/// Controls (C0, DEL, C1), and what is invisible and changes how other characters are read: direction, line separators, tags.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61C}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
            | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

fn escaped(text: &str, escapes: impl Fn(char) -> bool) -> Cow<'_, str> {
    let Some(first) = text.find(&escapes) else { return Cow::Borrowed(text) };
    let (kept, rest) = text.split_at(first);
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(kept);
    for c in rest.chars() {
        if escapes(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing into a string does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// A text in lines of at most `width` characters, unless a word is longer. Spaces at its start are kept; the lines after the
/// first begin with the indent.
pub(crate) fn wrapped(text: &str, indent: &str, width: usize) -> Vec<String> {
    let start = &text[..text.len() - text.trim_start().len()];
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => line.extend([" ", word]),
            Some(_) => lines.push(format!("{indent}{word}")),
            None => lines.push(format!("{start}{word}")),
        }
    }
    lines
}

/// One of the colours and styles that the log itself uses; in text from outside they hide and move nothing.
fn is_colour(after_escape: &str) -> bool {
    let code = after_escape.strip_prefix('[').and_then(|rest| rest.split_once('m')).map(|(code, _)| code);
    code.is_some_and(|code| ["0", "1", "2", "3", "31", "32", "33", "34", "35"].contains(&code))
}

/// Writes log events, each as one line and in one call.
pub(crate) struct PrintableLines<W> {
    out: W,
    /// Whether the log colours its lines.
    coloured: bool,
}

impl<W> PrintableLines<W> {
    pub(crate) const fn new(out: W, coloured: bool) -> Self {
        Self { out, coloured }
    }
}

impl<W: Write> Write for PrintableLines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
        let mut parts = line.split('\u{1B}');
        let mut shown = one_line(parts.next().unwrap_or_default()).into_owned();
        for part in parts {
            shown.push_str(if self.coloured && is_colour(part) { "\u{1B}" } else { "\\u001b" });
            shown.push_str(&one_line(part));
        }
        shown.push_str(end);
        self.out.write_all(shown.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What text from outside can contain: clears the screen, sets the title, rings, 8-bit CSI, right to left, isolates,
    /// tags, CR.
    const TRICKS: &str = "a\u{1B}[2J\u{1B}]0;t\u{7}\u{9B}31m\u{202E}b\u{2066}\u{200F}\u{E0041}\r\u{7F}\u{2028}c";

    #[test]
    fn nothing_that_controls_a_terminal_is_left_and_letters_of_all_scripts_are() {
        let shown = printable(TRICKS);
        assert!(!shown.chars().any(|c| c.is_control() || steers(c)), "{shown:?}");
        assert!(shown.starts_with("a\\u001b[2J\\u001b]0;t\\u0007\\u009b31m\\u202eb"), "{shown}");
        for text in ["房间 é ß שלום مرحبا", "👩\u{200D}💻", "नमस्\u{200C}ते", "two\nlines\tand a tab", ""]
        {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
        }
        assert_eq!(one_line("two\nlines\tand"), "two\\u000alines\\u0009and");
    }

    #[test]
    fn json_stays_the_same_json() {
        let json = serde_json::to_string(&serde_json::json!({ TRICKS: [TRICKS] })).unwrap();
        let shown = printable(&json);
        assert!(!shown.chars().any(steers));
        let (before, after): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&json).unwrap(), serde_json::from_str(&shown).unwrap());
        assert_eq!(before, after);
    }

    #[test]
    fn an_event_of_the_log_is_one_line_whatever_is_in_it() {
        let mut out = Vec::new();
        let event = format!("INFO a\nERROR forged {TRICKS}\n");
        assert_eq!(PrintableLines::new(&mut out, false).write(event.as_bytes()).unwrap(), event.len());
        let line = String::from_utf8(out).unwrap();
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "{line:?}");
        assert!(!line.trim_end().chars().any(steers), "{line:?}");
        let mut out = Vec::new();
        PrintableLines::new(&mut out, true)
            .write_all("\u{1B}[32mINFO\u{1B}[0m \u{9B}x\u{202E}\u{1B}[2J\u{1B}[8m\n".as_bytes())
            .unwrap();
        assert_eq!(out, "\u{1B}[32mINFO\u{1B}[0m \\u009bx\\u202e\\u001b[2J\\u001b[8m\n".as_bytes());
    }
}
