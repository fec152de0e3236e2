//! The meaning of an error of MongoDB or its driver for delivery, by code and kind, never by guess. A document is rejected
//! only if the server's own error is final. An unknown code makes a single document fail; for a whole command it is
//! `Unnamed`: the worker finds out over time whether the records or the server are at fault.

use bson::Bson;
use mongodb::error::{Error, ErrorKind};

use crate::sink::SinkErrorKind;

/// The meaning of an error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server cannot accept it now.
    Unavailable(SinkErrorKind),
    /// A unique index already has that key.
    Duplicate,
    /// The server will never accept this document.
    Refused,
    /// Unknown.
    Unknown,
}

impl Fault {
    /// What the codes of the server's `error_codes.yml` mean for an insert.
    pub(super) const fn of_code(code: i32) -> Self {
        match code {
            // duplicate key: 11001 and 12582 are its older forms
            11000 | 11001 | 12582 => Self::Duplicate,
            // not primary, stepping down, shutting down, recovering, interrupted
            10107 | 13435 | 13436 | 10058 | 189 | 91 | 11600 | 11601 | 11602
            // hosts, network, connections between nodes
            | 6 | 7 | 89 | 9001 | 202 | 133 | 358 | 384
            // locks, conflicts, overload, throttling (16500 is Cosmos DB's), stale routing, moving chunks
            | 16500 | 24 | 46 | 112 | 117 | 314 | 365 | 63 | 150 | 13388 | 234 | 249 | 347 | 402 | 462
            // write concern: timed out, unknown, cannot be satisfied; read concern not there yet
            | 64 | 75 | 79 | 100 | 134 => Self::Unavailable(SinkErrorKind::Unavailable),
            // the time an operation may take
            50 | 262 | 290 => Self::Unavailable(SinkErrorKind::Timeout),
            // rights and credentials
            13 | 18 | 11 | 31 | 33 | 334 | 391 => Self::Unavailable(SinkErrorKind::Unauthorized),
            // disk full
            14031 => Self::Unavailable(SinkErrorKind::Full),
            // validation, BSON, field names
            121 | 22 | 52..=57
            // too large: document, key
            | 10334 | 17280 | 17419 | 17420
            // geo keys, parallel arrays, hashed arrays
            | 16755 | 16756 | 16766 | 171 => Self::Refused,
            // Bad values, types and the like are also reported when the document is not at fault: for a collection that is
            // sharded by a missing field, a view, a server that does not know a command.
            _ => Self::Unknown,
        }
    }

    /// The same if the text says more than the code: cloud databases use one code for many errors.
    pub(super) fn of_answer(code: i32, message: &str) -> Self {
        match Self::of_code(code) {
            Self::Unknown if code == 8000 && message.contains("quota") => Self::Unavailable(SinkErrorKind::Full),
            Self::Unknown if is_throttled(message) => Self::Unavailable(SinkErrorKind::Unavailable),
            fault => fault,
        }
    }

    /// The same for an answer, or a part of it, that the server may have marked as temporary.
    pub(super) fn of_labelled(code: i32, message: &str, labels: &[Bson]) -> Self {
        match Self::of_answer(code, message) {
            Self::Unknown if labels.iter().filter_map(Bson::as_str).any(|label| PASSING.contains(&label)) => {
                Self::Unavailable(SinkErrorKind::Unavailable)
            }
            fault => fault,
        }
    }

    /// As the cause of a failure that names no record.
    pub(super) const fn kind(self) -> SinkErrorKind {
        match self {
            Self::Unavailable(kind) => kind,
            Self::Duplicate | Self::Refused | Self::Unknown => SinkErrorKind::Unnamed,
        }
    }
}

/// The meaning of a driver error: the whole command failed.
pub(super) fn kind_of(error: &Error) -> SinkErrorKind {
    match error.kind.as_ref() {
        ErrorKind::Command(answer) => match Fault::of_answer(answer.code, &answer.message).kind() {
            SinkErrorKind::Unnamed if says_retry(error) => SinkErrorKind::Unavailable,
            kind => kind,
        },
        ErrorKind::Authentication { .. } => SinkErrorKind::Unauthorized,
        // If no connection can log in, the driver finds no server; only its text says why.
        ErrorKind::ServerSelection { message, .. } if message.to_lowercase().contains("authentication fail") => {
            SinkErrorKind::Unauthorized
        }
        ErrorKind::Io(_)
        | ErrorKind::ServerSelection { .. }
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::InvalidResponse { .. }
        | ErrorKind::IncompatibleServer { .. }
        | ErrorKind::SessionsNotSupported
        | ErrorKind::Internal { .. }
        | ErrorKind::Shutdown => SinkErrorKind::Unavailable,
        _ if says_retry(error) => SinkErrorKind::Unavailable,
        _ => SinkErrorKind::Unnamed,
    }
}

/// Labels of temporary errors.
const PASSING: [&str; 4] = [
    mongodb::error::RETRYABLE_WRITE_ERROR,
    mongodb::error::RETRYABLE_ERROR,
    mongodb::error::SYSTEM_OVERLOADED_ERROR,
    mongodb::error::TRANSIENT_TRANSACTION_ERROR,
];

/// True if the server or the driver marked the error as temporary.
fn says_retry(error: &Error) -> bool {
    PASSING.iter().any(|label| error.contains_label(label))
}

/// The texts of cloud databases, with any code, when the load exceeds what was paid for.
fn is_throttled(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["toomanyrequests", "too many requests", "request rate", "throttl"].iter().any(|text| message.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_the_server_documents() {
        assert_eq!(Fault::of_code(11000), Fault::Duplicate);
        assert_eq!(Fault::of_code(10107), Fault::Unavailable(SinkErrorKind::Unavailable));
        assert_eq!(Fault::of_code(13), Fault::Unavailable(SinkErrorKind::Unauthorized));
        assert_eq!(Fault::of_code(14031), Fault::Unavailable(SinkErrorKind::Full));
        assert_eq!(Fault::of_code(121), Fault::Refused);
        assert_eq!(Fault::of_code(123_456), Fault::Unknown);
        assert_eq!(Fault::of_answer(8000, "you are over your space quota"), Fault::Unavailable(SinkErrorKind::Full));
    }

    #[test]
    fn an_error_that_names_no_record_never_refuses_one() {
        for code in [2, 121, 11000, 10334, 123_456] {
            assert_eq!(Fault::of_code(code).kind(), SinkErrorKind::Unnamed);
        }
    }

    #[test]
    fn throttling_is_known_from_code_text_or_label() {
        let unavailable = Fault::Unavailable(SinkErrorKind::Unavailable);
        assert_eq!(Fault::of_code(16500), unavailable);
        for text in ["TooManyRequests (429)", "Request rate is large", "Too many requests", "operation throttled"] {
            assert_eq!(Fault::of_answer(1, text), unavailable, "{text}");
        }
        assert_eq!(Fault::of_answer(1, "internal error"), Fault::Unknown);
        assert_eq!(Fault::of_labelled(1, "internal error", &["RetryableWriteError".into()]), unavailable);
        assert_eq!(Fault::of_labelled(1, "internal error", &["Whatever".into()]), Fault::Unknown);
        assert_eq!(Fault::of_labelled(121, "no", &["RetryableWriteError".into()]), Fault::Refused);
    }
}
