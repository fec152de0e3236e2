//! What is wrong with JSON, and what may be.

/// The most bytes of a path and of a problem: both may hold names of the sender's choice, which are as long as its text.
const MAX_SHOWN: usize = 1000;

/// JSON that is not a record. Names the place, never a value: values may be secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {problem}", self.place(), self.at())]
pub struct JsonError {
    /// The line in the text, from 1; 0 if unknown.
    pub line: usize,
    /// The column in that line, from 1; 0 if unknown.
    pub column: usize,
    /// The field, such as `events[2].room.sid`; empty if the text itself is malformed.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
    /// A record has too many fields or map entries, rather than anything wrong.
    pub is_too_large: bool,
}

impl JsonError {
    fn place(&self) -> String {
        match (self.line, self.column) {
            (0, _) => "JSON".to_owned(),
            (line, 0) => format!("JSON line {line}"),
            (line, column) => format!("JSON line {line} column {column}"),
        }
    }

    fn at(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!(", at {}", self.path) }
    }

    /// What is wrong, without the place and without the value, which serde quotes in its messages: ``invalid type:
    /// integer `7`, expected a string``.
    pub(super) fn problem_of(error: &serde_json::Error) -> String {
        let whole = error.to_string();
        let text = whole.rsplit_once(" at line ").map_or(&*whole, |(text, _)| text);
        for (open, close) in [(" \"", "\", expected"), (" `", "`, expected")] {
            if let (Some(from), Some(to)) = (text.find(open), text.rfind(close))
                && from < to
            {
                return shown(format!("{}{}", &text[..from], &text[to + 1..]));
            }
        }
        shown(text.to_owned())
    }
}

/// The text, or its beginning if it is too long to be shown.
pub(super) fn shown(text: String) -> String {
    if text.len() <= MAX_SHOWN {
        return text;
    }
    let end = (0..=MAX_SHOWN).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// Tells whether a field that the schema does not know is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownFields {
    /// An error: its value would be lost.
    Refuse,
    /// Not an error: the text has a foreign format, of which only a part is used.
    Ignore,
}
