//! The meaning of a Redis error for delivery: by its code, and by its text if the code is only `ERR`.

use redis::{ErrorKind, RedisError};

use crate::sink::SinkErrorKind;

/// The meaning of an error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server cannot accept it now.
    Unavailable(SinkErrorKind),
    /// Another node of the cluster has this slot.
    Moved {
        /// The slot.
        slot: u16,
        /// `host:port`; the host may be empty, which means the host of this node.
        node: String,
    },
    /// The server will never accept it.
    Refused,
    /// Unknown.
    Unknown,
}

impl Fault {
    pub(super) fn of(code: &str, details: &str) -> Self {
        match code {
            "MOVED" => match details.split_once(' ').map(|(slot, node)| (slot.parse(), node)) {
                Some((Ok(slot), node)) => Self::Moved { slot, node: node.to_owned() },
                _ => Self::Unavailable(SinkErrorKind::Unavailable),
            },
            "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "READONLY" | "MASTERDOWN" | "BUSY" | "NOREPLICAS"
            | "EXECABORT" | "UNBLOCKED" => Self::Unavailable(SinkErrorKind::Unavailable),
            // A failed disk write stops all writes until Redis can save again.
            "OOM" | "MISCONF" => Self::Unavailable(SinkErrorKind::Full),
            "NOAUTH" | "WRONGPASS" | "NOPERM" => Self::Unavailable(SinkErrorKind::Unauthorized),
            "WRONGTYPE" => Self::Refused,
            _ => Self::of_text(details),
        }
    }

    fn of_text(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        if text.contains("wrong redis type") {
            Self::Refused
        } else if text.contains("max number of clients") || text.contains("unknown command") {
            Self::Unavailable(SinkErrorKind::Unavailable)
        } else if text.contains("invalid password") || text.contains("without any password configured") {
            Self::Unavailable(SinkErrorKind::Unauthorized)
        } else {
            Self::Unknown
        }
    }
}

/// The meaning of a failure of the connection, or of a single command.
pub(super) fn kind_of(error: &RedisError) -> SinkErrorKind {
    if error.is_timeout() {
        return SinkErrorKind::Timeout;
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        return SinkErrorKind::Unauthorized;
    }
    match error.code().map(|code| Fault::of(code, error.detail().unwrap_or_default())) {
        Some(Fault::Unavailable(kind)) => kind,
        Some(Fault::Moved { .. }) | None => SinkErrorKind::Unavailable,
        Some(Fault::Refused | Fault::Unknown) => SinkErrorKind::Unnamed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_pass_are_retried_and_missing_rights_too() {
        let unavailable = Fault::Unavailable(SinkErrorKind::Unavailable);
        for code in ["LOADING", "READONLY", "ASK", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "NOREPLICAS"] {
            assert_eq!(Fault::of(code, "whatever"), unavailable, "{code}");
        }
        assert_eq!(Fault::of("OOM", "command not allowed"), Fault::Unavailable(SinkErrorKind::Full));
        for code in ["NOAUTH", "WRONGPASS", "NOPERM"] {
            assert_eq!(Fault::of(code, "…"), Fault::Unavailable(SinkErrorKind::Unauthorized), "{code}");
        }
        assert_eq!(Fault::of("ERR", "max number of clients reached"), unavailable);
    }

    #[test]
    fn a_redirection_names_slot_and_node() {
        let moved = Fault::Moved { slot: 3999, node: "10.0.0.1:6381".to_owned() };
        assert_eq!(Fault::of("MOVED", "3999 10.0.0.1:6381"), moved);
        assert_eq!(Fault::of("MOVED", "nonsense"), Fault::Unavailable(SinkErrorKind::Unavailable));
    }

    #[test]
    fn a_key_of_another_type_is_refused_and_an_unknown_error_stays_unknown() {
        assert_eq!(Fault::of("ERR", "Existing key has wrong Redis type"), Fault::Refused);
        assert_eq!(Fault::of("WRONGTYPE", "Operation against a key"), Fault::Refused);
        assert_eq!(Fault::of("ERR", "something new"), Fault::Unknown);
    }
}
