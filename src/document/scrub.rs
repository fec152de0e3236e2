//! Removes credentials from URLs, in fields that are URLs and in texts that quote some.
//!
//! `***` replaces what was removed: user and password, the query and fragment (tokens, signatures, pass phrases). In URLs
//! that media is sent to or fetched from it replaces everything after the host: RTMP has the stream key in its path, SRT in
//! its query. `mux://KEY` and `twitch://KEY` have the key in place of the host. A path is kept for the schemes of web and
//! storage only: the path of another scheme may be a secret.
//!
//! A URL may be escaped, in JSON (`https:\/\/`) or for another URL's path or query (`https%3A%2F%2F`): it is read without
//! the escapes, and if something is removed it is written with them again.
//!
//! Passwords are often written unescaped, with a `/` or an `@` in them: the last `@` before the query ends them, and what
//! cannot be a host and a port is not mistaken for a host. So a path with an `@` in it loses its host; that is the lesser
//! harm.

use std::borrow::Cow;

/// Replaces what was removed.
const GONE: &str = "***";

/// Schemes whose path is a location.
const WITH_PATH: [&str; 15] =
    ["http", "https", "ws", "wss", "s3", "gs", "gcs", "oss", "az", "abfs", "abfss", "wasb", "wasbs", "file", "grpc"];
/// Schemes of media services that have the key in place of the host.
const WITHOUT_HOST: [&str; 2] = ["mux", "twitch"];

/// The kind of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scrub {
    /// A URL.
    Url,
    /// A URL that media is sent to.
    StreamUrl,
    /// Prose, such as an error message, that may contain URLs.
    Text,
}

impl Scrub {
    /// The text without credentials.
    pub(super) fn apply(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::Url => unescaped_too(url(text, false)),
            Self::StreamUrl => unescaped_too(url(text, true)),
            Self::Text => prose(text),
        }
    }
}

fn url(text: &str, stream: bool) -> Cow<'_, str> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let is = |name: &&str| scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(name));
    let has_host = !WITHOUT_HOST.iter().any(&is);
    let host_only = stream || (scheme.is_some() && !WITH_PATH.iter().any(is));
    let query = rest.find(['?', '#']).unwrap_or(rest.len());
    let user_end = rest[..query].rfind('@').map_or(0, |at| at + 1);
    let (user, place) = rest.split_at(user_end);
    let (host, tail) = place.split_at(place.find(['/', '?', '#']).unwrap_or(place.len()));
    // A password with a `?` or a `#` in it: its `@` comes later. A URL with a scheme has a host.
    let is_broken = scheme.is_some() && !is_host(host);
    let has_host = has_host && !is_broken;
    let host_only = host_only || is_broken;
    let kept_tail = if host_only { "" } else { &tail[..tail.find(['?', '#']).unwrap_or(tail.len())] };

    let keeps_all = user.is_empty() && kept_tail.len() == tail.len() && (has_host || rest.is_empty());
    // A stream URL without a scheme, or with a scheme without a host, may be only a key.
    let key_only = host_only && (!has_host || (scheme.is_none() && !text.is_empty()));
    if keeps_all && !key_only {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(text.len());
    if let Some(scheme) = scheme {
        kept.push_str(scheme);
        kept.push_str("://");
    }
    if key_only {
        kept.push_str(GONE);
        return Cow::Owned(kept);
    }
    if !user.is_empty() {
        kept.push_str(GONE);
        kept.push('@');
    }
    kept.push_str(host);
    kept.push_str(kept_tail);
    if let Some(separator) = tail[kept_tail.len()..].chars().next() {
        kept.push(separator);
        kept.push_str(GONE);
    }
    Cow::Owned(kept)
}

/// A host, with or without a port: `a.example:80`, `[::1]:80`, `10.0.0.1`.
fn is_host(text: &str) -> bool {
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    match text.strip_prefix('[') {
        Some(rest) => {
            rest.split_once(']').is_some_and(|(_, port)| port.strip_prefix(':').map_or(port.is_empty(), is_port))
        }
        None => text.split_once(':').is_none_or(|(_, port)| is_port(port)),
    }
}

/// The start of a URL in prose: before the letters of its scheme.
fn scheme_start(text: &str, colon: usize) -> usize {
    let scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    colon - text.as_bytes()[..colon].iter().rev().take_while(|byte| scheme(byte)).count()
}

/// The end of a URL in prose that begins at `start`: at its closing quote if it is in quotes (Go uses `\\"` for a quote
/// inside), else at the next space, or after the `@` that ends a password with spaces in it.
fn url_end(text: &str, start: usize, colon: usize) -> usize {
    let ends = |c: char| c.is_whitespace() || c.is_control();
    let at = colon + 3;
    if let Some(quote) = text[..start].chars().next_back().filter(|c| matches!(c, '"' | '\'' | '`' | '<')) {
        let closing = if quote == '<' { '>' } else { quote };
        let backslashes = |end: usize| text[..end].bytes().rev().take_while(|&byte| byte == b'\\').count();
        let level = backslashes(start - 1);
        // Quoted as often as the opening one; outside of all quoting a backslash itself may be escaped.
        let closes = |end: &usize| {
            let run = backslashes(at + end);
            if level == 0 { run.is_multiple_of(2) } else { run <= level }
        };
        let close = text[at..].match_indices(closing).map(|(end, _)| end).find(closes);
        if let Some(close) = close.filter(|close| !text[at..at + close].contains('\n')) {
            return at + close;
        }
    }
    let end = |from: usize| text[from..].find(ends).map_or(text.len(), |length| from + length);
    let first = end(at);
    let authority = &text[at..first];
    let authority = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
    if text[at..first].contains('@') || is_host(authority) {
        return first;
    }
    let next_url = text[first..].find("://").map_or(text.len(), |next| first + next);
    match text[first..next_url].rfind('@') {
        Some(password_end) => end(first + password_end),
        None => first,
    }
}

/// Parts of an unreadable URL that Go quotes.
const QUOTED_PARTS: [&str; 3] = ["invalid port \"", "invalid URL escape \"", "invalid userinfo \""];

/// The start and end of the first escaped `://`.
fn escaped_separator(text: &str) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let colon = |at: usize| match bytes.get(at) {
        Some(b':') => Some(at + 1),
        Some(b'%') => escape_at(bytes, at).filter(|(byte, _)| *byte == b':').map(|(_, end)| end),
        _ => None,
    };
    let slash = |at: usize| match bytes.get(at) {
        Some(b'/') => Some(at + 1),
        Some(b'\\') => {
            let end = at + bytes[at..].iter().take_while(|&&byte| byte == b'\\').count();
            (bytes.get(end) == Some(&b'/')).then_some(end + 1)
        }
        Some(b'%') => escape_at(bytes, at).filter(|(byte, _)| *byte == b'/').map(|(_, end)| end),
        _ => None,
    };
    (0..bytes.len()).find_map(|at| {
        let end = slash(slash(colon(at)?)?)?;
        (&text[at..end] != "://").then_some((at, end))
    })
}

/// The byte of a percent escape, however often the percent sign itself is escaped, and the end of the escape.
fn escape_at(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let mut digits = at + 1;
    while bytes.get(digits..digits + 2) == Some(b"25") {
        digits += 2;
    }
    let hex = std::str::from_utf8(bytes.get(digits..digits + 2)?).ok()?;
    Some((u8::from_str_radix(hex, 16).ok()?, digits + 2))
}

/// Removes possible secrets from URLs that are escaped within a text: everything after the host, and the user.
fn unescaped_too(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.contains(['\\', '%']) {
        return text;
    }
    let mut kept = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some((colon, after)) = escaped_separator(rest) {
        // As a part of another URL it ends where that part ends.
        let is_part = rest[colon..after].contains('%');
        let ends = |c: char| {
            c.is_whitespace() || c.is_control() || matches!(c, '"' | '`' | '<' | '>') || (is_part && c == '&')
        };
        let end = rest[after..].find(ends).map_or(rest.len(), |length| after + length);
        // A quote that is escaped itself ends it before its backslashes.
        let end = after + rest[after..end].trim_end_matches('\\').len();
        let (separator, place) = (&rest[colon..after], &rest[after..end]);
        kept.push_str(&rest[..colon]);
        kept.push_str(separator);
        let scheme = &rest[scheme_start(rest, colon)..colon];
        let plain = plain_of(place);
        let whole = format!("{scheme}://{plain}");
        match url(&whole, false) {
            Cow::Borrowed(_) => kept.push_str(place),
            Cow::Owned(scrubbed) => {
                let scrubbed = scrubbed.split_once("://").map_or(GONE, |(_, place)| place);
                let (colon, slash) = if is_part { ("%3A", "%2F") } else { (":", "\\/") };
                kept.push_str(&scrubbed.replace(':', colon).replace('/', slash));
            }
        }
        rest = &rest[end..];
    }
    kept.push_str(rest);
    Cow::Owned(kept)
}

/// The text without its escapes. If it is not UTF-8 then, it is one part.
fn plain_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let escape = if bytes[at] == b'%' { escape_at(bytes, at) } else { None };
        let is_escaping = bytes[at] == b'\\' && matches!(bytes.get(at + 1), Some(b'/' | b'\\'));
        if !is_escaping {
            plain.push(escape.map_or(bytes[at], |(byte, _)| byte));
        }
        at = escape.map_or(at + 1, |(_, end)| end);
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn prose(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return unescaped_too(Cow::Borrowed(text));
    }
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(colon) = rest.find("://") {
        let start = scheme_start(rest, colon);
        let end = url_end(rest, start, colon);
        kept.push_str(&rest[..start]);
        kept.push_str(&url(&rest[start..end], false));
        rest = &rest[end..];
    }
    kept.push_str(rest);
    for part in QUOTED_PARTS {
        let mut from = 0;
        while let Some(at) = kept[from..].find(part) {
            let quoted = from + at + part.len();
            let length =
                kept[quoted..].find("\" ").or_else(|| kept[quoted..].rfind('"')).unwrap_or(kept.len() - quoted);
            kept.replace_range(quoted..quoted + length, GONE);
            from = quoted + GONE.len();
        }
    }
    unescaped_too(Cow::Owned(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_user_query_and_fragment() {
        for (before, after) in [
            ("https://example.com/hook", "https://example.com/hook"),
            ("https://u:p@example.com:8443/a/b?token=x#y", "https://***@example.com:8443/a/b?***"),
            ("https://example.com/a#token", "https://example.com/a#***"),
            ("https://u@p@example.com", "https://***@example.com"),
            ("u:p@proxy:3128", "***@proxy:3128"),
            ("rtmp://example.com/x", "rtmp://example.com/***"),
            ("not a url", "not a url"),
            ("https://user:pa/ss@host", "https://***@host"),
            ("https://user:pa/s@s/@host/path?q", "https://***@host/path?***"),
            ("https://user:pa?ss@host/path", "https://***"),
            ("https://user:pa#ss@host", "https://***"),
            ("https://user:pass", "https://***"),
            ("HTTPS://u:p@[::1]:8443/a", "HTTPS://***@[::1]:8443/a"),
            ("https://host/cb?email=a@b", "https://host/cb?***"),
            ("whip://example.com/KEY", "whip://example.com/***"),
            ("whips://u:p@example.com/KEY", "whips://***@example.com/***"),
            ("rist://example.com:1/KEY?secret=x", "rist://example.com:1/***"),
            ("what-comes-next://example.com/KEY", "what-comes-next://example.com/***"),
            ("s3://bucket/recordings/a.mp4", "s3://bucket/recordings/a.mp4"),
            ("redis://:pa/ss@host:6379/0", "redis://***@host:6379/***"),
            ("房间", "房间"),
            ("", ""),
        ] {
            assert_eq!(Scrub::Url.apply(before), after);
        }
    }

    #[test]
    fn stream_urls_keep_their_host_at_most() {
        for (before, after) in [
            ("rtmp://a.example.com/live2/abcd-efgh", "rtmp://a.example.com/***"),
            ("RTMPS://u:p@example.com:443/rtmp/FB-1?s=2", "RTMPS://***@example.com:443/***"),
            ("srt://example.com:9998?streamid=key&passphrase=x", "srt://example.com:9998?***"),
            ("https://example.com/whip/key", "https://example.com/***"),
            ("rtmp://example.com", "rtmp://example.com"),
            ("mux://key", "mux://***"),
            ("twitch://key", "twitch://***"),
            ("live_key", "***"),
            ("", ""),
        ] {
            assert_eq!(Scrub::StreamUrl.apply(before), after);
        }
    }

    #[test]
    fn urls_in_prose_are_scrubbed_and_the_prose_is_kept() {
        for (before, after) in [
            ("no url here: a://", "no url here: a://"),
            (
                r#"Post "https://u:p@example.com/x?k=1": refused, then rtmp://h/app/key failed"#,
                r#"Post "https://***@example.com/x?***": refused, then rtmp://h/*** failed"#,
            ),
            ("(mux://key)", "(mux://***"),
            (
                r#"Post "https://user:pass@host/x": dial tcp: refused"#,
                r#"Post "https://***@host/x": dial tcp: refused"#,
            ),
            (r#"Post "https://user:pa/ss@host/x": dial tcp"#, r#"Post "https://***@host/x": dial tcp"#),
            (r#"Post "https://user:pa\"s s@host/x": dial tcp"#, r#"Post "https://***@host/x": dial tcp"#),
            (
                r#"desc = \"Post \\\"https://u:p@host/\\\": EOF\" b"#,
                r#"desc = \"Post \\\"https://***@host/\\\": EOF\" b"#,
            ),
            (r#"{"url": "rtmps://h:443/live/KEY", "a": 1}"#, r#"{"url": "rtmps://h:443/***", "a": 1}"#),
            (
                r#"parse "https://user:pa/ss@host": invalid port ":pa" after host"#,
                r#"parse "https://***@host": invalid port "***" after host"#,
            ),
            (
                r#"parse "https://u:p%zz@host": invalid URL escape "%zz""#,
                r#"parse "https://***@host": invalid URL escape "***""#,
            ),
            ("cannot reach https://user:pa ss@host/x: refused", "cannot reach https://***@host/x: refused"),
            ("cannot reach https://user:pa'ss@host: refused", "cannot reach https://***@host: refused"),
            ("url=whip://h/w/KEY failed, mail a@b", "url=whip://h/*** failed, mail a@b"),
            ("see https://a.example/x and write to a@b", "see https://a.example/x and write to a@b"),
            ("<rtmp://h/app/key> '\u{301}https://u:p@h/'", "<rtmp://h/***> '\u{301}https://***@h/'"),
            ("é://ü@ö", "é://***@ö"),
            (r#"{"url":"rtmps:\/\/h:443\/live\/KEY","a":1}"#, r#"{"url":"rtmps:\/\/h:443\/***","a":1}"#),
            (r#"{\"url\":\"https:\\/\\/u:p@h\\/x?t=1\"}"#, r#"{\"url\":\"https:\\/\\/***@h\/x?***\"}"#),
            (r"https:\/\/example.com\/hook is gone", r"https:\/\/example.com\/hook is gone"),
            ("to=rtmp%3A%2F%2Fh%2Fapp%2FKEY&x=1", "to=rtmp%3A%2F%2Fh%2F***&x=1"),
            ("to=https%3a%2f%2fu%3Ap%40h%2Fx failed", "to=https%3a%2f%2f***@h%2Fx failed"),
            ("to=https%253A%252F%252Fu%253Ap%2540h%252Fx", "to=https%253A%252F%252F***@h%2Fx"),
            ("see https%3A%2F%2Fexample.com%2Fa, 100%", "see https%3A%2F%2Fexample.com%2Fa, 100%"),
            ("http://proxy/get/rtmps%3A%2F%2Fh%2FKEY: EOF", "http://proxy/get/rtmps%3A%2F%2Fh%2F*** EOF"),
            ("half an escape: %3A%2F, %3, a:%2", "half an escape: %3A%2F, %3, a:%2"),
        ] {
            assert_eq!(Scrub::Text.apply(before), after);
        }
    }
}
