//! The meaning of an answer for delivery: by its status, with `Retry-After` and the first line of its body.
//!
//! | status | meaning |
//! |---|---|
//! | 2xx | delivered: the status line is the acknowledgement, whatever becomes of the body |
//! | 408, 425, 429, 5xx | retry; 507: the server is full |
//! | 401, 403, 407 | retry: the credentials are wrong |
//! | 404, 405, 410, 3xx | retry: the URL is wrong (307 and 308 on the same host are followed before) |
//! | 413 | too large: halved |
//! | 400, 415, 422 | refused: bisected |
//! | any other | retry: an error that names no record |

use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::{printable::one_line, secret::Secret, sink::SinkErrorKind};

/// The longest `Retry-After` that is obeyed. A longer one is more likely a mistake than a wish.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);
/// Characters of an answer's first line that are shown.
const SHOWN_CHARS: usize = 200;

/// What an answer says about the records of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The receiver has them.
    Delivered,
    /// The request has to be sent to another address, with the same method and body.
    Redirected,
    /// The body is too large for it.
    TooLarge,
    /// It does not accept the content.
    Refused,
    /// None was accepted, and none is at fault.
    Retry(SinkErrorKind),
}

impl Meaning {
    pub(super) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=299 => Self::Delivered,
            307 | 308 => Self::Redirected,
            413 => Self::TooLarge,
            400 | 415 | 422 => Self::Refused,
            401 | 403 | 407 => Self::Retry(SinkErrorKind::Unauthorized),
            300..=399 | 404 | 405 | 410 => Self::Retry(SinkErrorKind::Unsuitable),
            507 => Self::Retry(SinkErrorKind::Full),
            408 | 425 | 429 | 500..=599 => Self::Retry(SinkErrorKind::Unavailable),
            _ => Self::Retry(SinkErrorKind::Unnamed),
        }
    }
}

/// What a person can do about a status.
pub(super) fn remedy(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "; check user and password, or the token",
        403 => "; check user and password, or the token, and what it is allowed to do",
        407 => "; check the url: a proxy answers",
        404 | 410 => "; check the url's path",
        405 => "; check the url's path and the method",
        300..=399 => "; check the url: records are sent to its own host only",
        507 => "; free space on the server",
        _ => "",
    }
}

/// How long to wait as `Retry-After` says: seconds, or a date. What cannot be read is ignored, and so is the past.
pub(super) fn retry_after(value: &[u8], now: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has are a long time, too.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?
    };
    (!wait.is_zero()).then(|| wait.min(MAX_RETRY_AFTER))
}

/// The first line of a body that says something, safe to show, also if it repeats what it was sent.
pub(super) fn first_line(body: &[u8], secrets: &[Secret]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let hidden = |line: String, secret: &Secret| line.replace(secret.expose(), "***");
    let line = secrets.iter().fold(line.to_owned(), hidden);
    let shown: String = line.chars().take(SHOWN_CHARS).collect();
    let dots = if shown.len() < line.len() { "…" } else { "" };
    format!("{}{dots}", one_line(&shown))
}

/// `status code: first line`, as far as there is one.
pub(super) fn described(status: StatusCode, line: &str) -> String {
    let name = status.canonical_reason().map(|name| format!(" {name}")).unwrap_or_default();
    let line = if line.is_empty() { String::new() } else { format!(": {line}") };
    format!("code {}{name}{line}", status.as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_is_delivered_and_every_other_status_keeps_the_records() {
        for code in 100..1000 {
            let meaning = Meaning::of(StatusCode::from_u16(code).expect("a status"));
            let expected = match code {
                200..=299 => Meaning::Delivered,
                307 | 308 => Meaning::Redirected,
                413 => Meaning::TooLarge,
                400 | 415 | 422 => Meaning::Refused,
                401 | 403 | 407 => Meaning::Retry(SinkErrorKind::Unauthorized),
                404 | 405 | 410 => Meaning::Retry(SinkErrorKind::Unsuitable),
                300..=399 => Meaning::Retry(SinkErrorKind::Unsuitable),
                507 => Meaning::Retry(SinkErrorKind::Full),
                408 | 425 | 429 => Meaning::Retry(SinkErrorKind::Unavailable),
                500..=599 => Meaning::Retry(SinkErrorKind::Unavailable),
                _ => Meaning::Retry(SinkErrorKind::Unnamed),
            };
            assert_eq!(meaning, expected, "{code}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_capped_and_garbage_is_ignored() {
        let now = httpdate::parse_http_date("Thu, 26 Nov 2026 12:00:00 GMT").expect("a date");
        let of = |text: &str| retry_after(text.as_bytes(), now).map(|wait| wait.as_secs());
        assert_eq!(of("7"), Some(7));
        assert_eq!(of(" 120 "), Some(120));
        assert_eq!(of("Thu, 26 Nov 2026 12:00:30 GMT"), Some(30));
        assert_eq!(of("Thursday, 26-Nov-26 12:00:30 GMT"), Some(30), "the obsolete forms too");
        assert_eq!(of("Thu Nov 26 12:00:30 2026"), Some(30));
        for long in ["99999999999", "999999999999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(of(long), Some(MAX_RETRY_AFTER.as_secs()), "{long}");
        }
        for nothing in [
            "0",
            "-1",
            "1.5",
            "",
            " ",
            "soon",
            "1e3",
            "+5",
            "0x10",
            "Thu, 26 Nov 2026 11:59:59 GMT",
            "Thu, 99 Nov 2026",
        ] {
            assert_eq!(of(nothing), None, "{nothing:?}");
        }
        assert_eq!(retry_after(&[0xFF, 0xFE], now), None);
    }

    #[test]
    fn the_first_line_is_short_and_controls_no_terminal() {
        let first_line = |body: &[u8]| first_line(body, &[Secret::new("hunter2")]);
        assert_eq!(first_line(b"\r\n  bad field \"x\"  \nsecond"), "bad field \"x\"");
        assert_eq!(first_line(b"\x1B[2J\x07red"), "\\u001b[2J\\u0007red");
        assert_eq!(first_line(&[0xFF, b'a']), "\u{FFFD}a");
        assert_eq!(first_line(b""), "");
        assert_eq!(first_line(b"no such token: hunter2, hunter2"), "no such token: ***, ***");
        let long = first_line("ä".repeat(5000).as_bytes());
        assert!(long.ends_with('…') && long.chars().count() == SHOWN_CHARS + 1, "{long}");
    }
}
