//! Takes credentials out of URLs, in fields that are URLs and in texts that quote some.
//!
//! `***` stands for what was taken out: user and password, the query and fragment (tokens, signatures, pass phrases), and
//! in URLs that media is sent to or fetched from all that follows the host: RTMP has the stream key in its path, SRT in
//! its query. `mux://KEY` and `twitch://KEY` have the key where others have the host.

use std::borrow::Cow;

/// Stands for what was taken out.
const GONE: &str = "***";

/// Schemes of media streams; those that end with `false` have no host.
const STREAMS: [(&str, bool); 10] = [
    ("rtmp", true),
    ("rtmps", true),
    ("rtmpt", true),
    ("rtmpe", true),
    ("rtmpte", true),
    ("rtsp", true),
    ("rtsps", true),
    ("srt", true),
    ("mux", false),
    ("twitch", false),
];

/// What a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scrub {
    /// A URL.
    Url,
    /// A URL that media is sent to.
    StreamUrl,
    /// Prose, an error message say, that may hold URLs.
    Text,
}

impl Scrub {
    /// The text without credentials.
    pub(super) fn apply(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::Url => url(text, false),
            Self::StreamUrl => url(text, true),
            Self::Text => prose(text),
        }
    }
}

fn url(text: &str, stream: bool) -> Cow<'_, str> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let known = scheme.and_then(|scheme| STREAMS.iter().find(|(name, _)| scheme.eq_ignore_ascii_case(name)));
    let (host_only, has_host) = match known {
        Some((_, has_host)) => (true, *has_host),
        None => (stream, true),
    };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    let user_end = authority.rfind('@').map_or(0, |at| at + 1);
    let (user, host) = authority.split_at(user_end);
    let kept_tail = if host_only { "" } else { &tail[..tail.find(['?', '#']).unwrap_or(tail.len())] };

    let keeps_all = user.is_empty() && kept_tail.len() == tail.len() && (has_host || rest.is_empty());
    // A stream URL without a scheme, or of a scheme without a host, may be nothing but a key.
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

/// Where a URL in prose begins: back over the letters of its scheme.
fn scheme_start(text: &str, colon: usize) -> usize {
    let scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    colon - text.as_bytes()[..colon].iter().rev().take_while(|byte| scheme(byte)).count()
}

fn prose(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(colon) = rest.find("://") {
        let start = scheme_start(rest, colon);
        let ends = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`' | '<' | '>');
        let end = rest[colon + 3..].find(ends).map_or(rest.len(), |length| colon + 3 + length);
        kept.push_str(&rest[..start]);
        kept.push_str(&url(&rest[start..end], false));
        rest = &rest[end..];
    }
    kept.push_str(rest);
    Cow::Owned(kept)
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
            ("é://ü@ö", "é://***@ö"),
        ] {
            assert_eq!(Scrub::Text.apply(before), after);
        }
    }
}
