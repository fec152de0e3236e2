//! Errors for people: one line with what failed and why. Nothing of a record is in it: the server's details quote whole
//! rows, so they are left out.

use std::{error::Error as _, io};

use tokio_postgres::{Error, error::DbError};

use super::fault::Fault;
use crate::{printable::one_line, sink::SinkErrorKind};

/// Why something failed, before it is known where.
pub(super) type Failure = (SinkErrorKind, String);

/// The maximum number of characters of the server's text.
const LENGTH: usize = 200;

/// What an error means, and its text.
pub(super) fn describe(error: &Error, user: Option<&str>) -> Failure {
    if let Some(answer) = error.as_db_error() {
        return describe_server(answer, user);
    }
    let cause = error.source();
    if let Some(io) = cause.and_then(|cause| cause.downcast_ref::<io::Error>()) {
        return (SinkErrorKind::Unavailable, connection(io, &error.to_string()));
    }
    let text = match cause {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    let kind = match text.as_str() {
        // A password that the server asks for and the URL does not have; a server that cannot prove who it is.
        text if text.contains("authentication") || text.contains("password missing") => SinkErrorKind::Unauthorized,
        _ => SinkErrorKind::Unavailable,
    };
    if error.is_closed() {
        return (kind, "the server closed the connection".to_owned());
    }
    (kind, shortened(&text))
}

/// The same for an error of the server.
pub(super) fn describe_server(answer: &DbError, user: Option<&str>) -> Failure {
    let code = answer.code().code();
    let kind = Fault::of(code, answer.constraint().is_some()).kind();
    let whose = match user {
        Some(user) if kind == SinkErrorKind::Unauthorized && !answer.message().contains(user) => {
            format!(" for user {user}")
        }
        _ => String::new(),
    };
    (kind, format!("{}{whose} (code {code})", shortened(answer.message())))
}

fn connection(error: &io::Error, what: &str) -> String {
    let text = shortened(&error.to_string());
    match error.kind() {
        io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
        _ if what.contains("TLS") => format!("TLS: {text}"),
        _ if what.contains("connecting") => format!("cannot be reached: {}", lowered(&text)),
        _ => format!("the connection failed: {}", lowered(&text)),
    }
}

fn lowered(text: &str) -> String {
    let mut rest = text.chars();
    match rest.next() {
        Some(first) if text.chars().nth(1).is_some_and(char::is_lowercase) => {
            format!("{}{}", first.to_lowercase(), rest.as_str())
        }
        _ => text.to_owned(),
    }
}

/// One line that controls no terminal, shortened if it is long.
pub(super) fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", one_line(&line[..end])),
        None => one_line(&line).into_owned(),
    }
}

/// The text without the password, which a server may have been sent, and may repeat.
pub(super) fn without(text: String, password: Option<&str>) -> String {
    match password {
        Some(password) => text.replace(password, "***"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_fails_is_described_by_its_meaning() {
        let refused = io::Error::other("Connection refused (os error 111)");
        let text = connection(&refused, "error connecting to server");
        assert_eq!(text, "cannot be reached: connection refused (os error 111)");
        assert_eq!(connection(&io::ErrorKind::UnexpectedEof.into(), ""), "the server closed the connection");
        assert!(
            connection(&io::Error::other("bad certificate"), "error performing TLS handshake").starts_with("TLS: ")
        );
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_stays_one_line() {
        let text = shortened(&format!("first\nsecond {}", "ü".repeat(500)));
        assert!(text.starts_with("first second ü") && text.ends_with("ü…"), "{text}");
        assert_eq!(text.chars().count(), LENGTH + 1);
    }

    #[test]
    fn a_text_of_a_server_controls_no_terminal_and_shows_no_password() {
        assert_eq!(shortened("\u{1b}[2Jno\u{7}"), "\\u001b[2Jno\\u0007");
        assert_eq!(without("no: s3cret, s3cret".to_owned(), Some("s3cret")), "no: ***, ***");
    }
}
