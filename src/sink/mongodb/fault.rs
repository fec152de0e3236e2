//! What an error of MongoDB or its driver means for delivery, by code and kind, never by guess: an unknown one is
//! `Unnamed`, and the worker finds out by bisection whether a record or the server is at fault.

use mongodb::error::{Error, ErrorKind};

use crate::sink::SinkErrorKind;

/// What an error code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server cannot take it now.
    Away(SinkErrorKind),
    /// A unique index has that key already.
    Duplicate,
    /// The server will never take this document.
    Refused,
    /// Nothing known.
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
            // locks, conflicts, overload, stale routing, moving chunks
            | 24 | 46 | 112 | 117 | 314 | 365 | 63 | 150 | 13388 | 234 | 249 | 347 | 402 | 462
            // write concern: timed out, unknown, cannot be satisfied; read concern not there yet
            | 64 | 75 | 79 | 100 | 134 => Self::Away(SinkErrorKind::Unavailable),
            // the time an operation may take
            50 | 262 | 290 => Self::Away(SinkErrorKind::Timeout),
            // rights and credentials
            13 | 18 | 11 | 31 | 33 | 334 | 391 => Self::Away(SinkErrorKind::Unauthorized),
            // disk full
            14031 => Self::Away(SinkErrorKind::Full),
            // validation, types, BSON, field names
            121 | 2 | 9 | 14 | 15 | 22 | 28 | 30 | 52..=57
            // too large: document, key
            | 10334 | 17280 | 17419 | 17420 | 10003
            // geo keys, parallel arrays, hashed arrays, missing shard key
            | 16755 | 16756 | 16766 | 171 | 61 => Self::Refused,
            _ => Self::Unknown,
        }
    }

    /// The same where the text says more than the code: cloud databases answer much with one code.
    pub(super) fn of_answer(code: i32, message: &str) -> Self {
        match Self::of_code(code) {
            Self::Unknown if code == 8000 && message.contains("quota") => Self::Away(SinkErrorKind::Full),
            fault => fault,
        }
    }

    /// As the cause of a failure that names no record.
    pub(super) const fn kind(self) -> SinkErrorKind {
        match self {
            Self::Away(kind) => kind,
            Self::Duplicate | Self::Refused | Self::Unknown => SinkErrorKind::Unnamed,
        }
    }
}

/// What an error of the driver means: it failed the whole command.
pub(super) fn kind_of(error: &Error) -> SinkErrorKind {
    match error.kind.as_ref() {
        ErrorKind::Command(answer) => match Fault::of_answer(answer.code, &answer.message).kind() {
            SinkErrorKind::Unnamed if says_retry(error) => SinkErrorKind::Unavailable,
            kind => kind,
        },
        ErrorKind::Authentication { .. } => SinkErrorKind::Unauthorized,
        // Where no connection can log in, the driver finds no server; only its text says why.
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

/// The server or the driver marked the error as one that passes.
fn says_retry(error: &Error) -> bool {
    [
        mongodb::error::RETRYABLE_WRITE_ERROR,
        mongodb::error::RETRYABLE_ERROR,
        mongodb::error::SYSTEM_OVERLOADED_ERROR,
        mongodb::error::TRANSIENT_TRANSACTION_ERROR,
    ]
    .iter()
    .any(|label| error.contains_label(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_the_server_documents() {
        assert_eq!(Fault::of_code(11000), Fault::Duplicate);
        assert_eq!(Fault::of_code(10107), Fault::Away(SinkErrorKind::Unavailable));
        assert_eq!(Fault::of_code(13), Fault::Away(SinkErrorKind::Unauthorized));
        assert_eq!(Fault::of_code(14031), Fault::Away(SinkErrorKind::Full));
        assert_eq!(Fault::of_code(121), Fault::Refused);
        assert_eq!(Fault::of_code(123_456), Fault::Unknown);
        assert_eq!(Fault::of_answer(8000, "you are over your space quota"), Fault::Away(SinkErrorKind::Full));
    }

    #[test]
    fn an_error_that_names_no_record_never_refuses_one() {
        for code in [2, 121, 11000, 10334, 123_456] {
            assert_eq!(Fault::of_code(code).kind(), SinkErrorKind::Unnamed);
        }
    }
}
