//! Why a record cannot become a document. The path says where, the reason says what; neither contains a value of the
//! record.

use crate::record::wire::{BadWire, WireType};

/// A record that can never become a document: for the sink it is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", self.path(), self.0.reason)]
pub struct DocumentError(Box<Place>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Innermost first: it is collected while the error returns.
    path: Vec<String>,
    reason: DocumentErrorReason,
}

/// What is wrong with the record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentErrorReason {
    /// Its bytes are not protobuf's wire format, or messages or groups in them are nested too deep.
    #[error("{0}")]
    Wire(BadWire),
    /// The field has another wire type than the schema has for it.
    #[error(
        "wire type {found} where the schema of livekit-protocol has {expected}: the sender's LiveKit types this field differently"
    )]
    WireType {
        /// By the schema.
        expected: WireType,
        /// In the record.
        found: WireType,
    },
    /// A string that is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// More bytes had to be read than the size of the record allows.
    #[error("encoding it needs more work than is allowed for a record of its size")]
    TooMuchWork,
    /// Its fields are in more parts than a record may have: fields out of order, messages in pieces, entries of maps.
    #[error("its fields are repeated, interleaved, or entries of maps, in more than {limit} parts")]
    TooManyParts {
        /// The limit.
        limit: usize,
    },
    /// The document exceeds the limit.
    #[error("the document is larger than the limit: {bytes} bytes or more, at most {limit} are allowed")]
    TooLarge {
        /// Its size when encoding stopped.
        bytes: usize,
        /// [`DocumentOptions::max_bytes`](super::DocumentOptions::max_bytes).
        limit: usize,
    },
}

impl DocumentError {
    /// Where in the document: `room.sid`, `egress.Request.RoomComposite.file_outputs[2].filepath`; `record` for the whole.
    #[must_use]
    pub fn path(&self) -> String {
        if self.0.path.is_empty() {
            return "record".to_owned();
        }
        let mut path = String::new();
        for segment in self.0.path.iter().rev() {
            if !path.is_empty() && !segment.starts_with('[') {
                path.push('.');
            }
            path.push_str(segment);
        }
        path
    }

    /// What is wrong there.
    #[must_use]
    pub fn reason(&self) -> &DocumentErrorReason {
        &self.0.reason
    }

    /// The same error, seen from the enclosing message.
    #[cold]
    pub(super) fn within(mut self, segment: impl Into<String>) -> Self {
        self.0.path.push(segment.into());
        self
    }
}

impl From<DocumentErrorReason> for DocumentError {
    #[cold]
    fn from(reason: DocumentErrorReason) -> Self {
        Self(Box::new(Place { path: Vec::new(), reason }))
    }
}

impl From<BadWire> for DocumentErrorReason {
    #[cold]
    fn from(error: BadWire) -> Self {
        Self::Wire(error)
    }
}

impl From<BadWire> for DocumentError {
    #[cold]
    fn from(error: BadWire) -> Self {
        DocumentErrorReason::from(error).into()
    }
}
