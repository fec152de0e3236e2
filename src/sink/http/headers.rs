//! The headers that are the same for all requests: what the configuration gives, the authorization, and what the sink sets
//! itself, which the configuration cannot give.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT},
};

use super::options::{HttpCompression, HttpFormat, HttpOptions, HttpSignature};
use crate::{secret::Secret, sink::InvalidOption};

/// The stream of a request's records.
pub(super) const STREAM: HeaderName = HeaderName::from_static("livekit-spool-stream");
/// The id of a request's only record.
pub(super) const RECORD_ID: HeaderName = HeaderName::from_static("livekit-spool-id");
/// The same for a request that is sent again.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Headers that the sink or its connection sets.
const OWN: [&str; 17] = [
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "idempotency-key",
    "keep-alive",
    "livekit-spool-id",
    "livekit-spool-stream",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// What LiveKit sends its webhooks as: so that a receiver checks the signature before it parses.
const WEBHOOK: &str = "application/webhook+json";

/// The headers of every request, without the authorization.
pub(super) fn headers(options: &HttpOptions) -> Result<HeaderMap, InvalidOption> {
    let bad = |name: &str, why: &str| InvalidOption::new("headers", format!("{name:?} {why}"));
    let mut headers = HeaderMap::new();
    let content_type = match (options.sign, options.format) {
        (Some(HttpSignature::Livekit), _) => WEBHOOK,
        (None, HttpFormat::Ndjson) => "application/x-ndjson",
        (None, HttpFormat::Array | HttpFormat::Record) => "application/json",
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    // The answer's first line is read, as text.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("livekit-spool/", env!("CARGO_PKG_VERSION"))));
    match options.compression {
        HttpCompression::None => {}
        HttpCompression::Gzip => _ = headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip")),
        HttpCompression::Zstd => _ = headers.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd")),
    }
    let mut given = Vec::new();
    for (name, value) in &options.headers {
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(name, "is no name of a header"))?;
        if given.contains(&key) {
            return Err(bad(name, "is given twice: names of headers have no upper and lower case"));
        }
        if OWN.contains(&key.as_str()) {
            let why = if key == "host" { "is set by the sink, from the url" } else { "is set by the sink itself" };
            return Err(bad(name, why));
        }
        if key == CONTENT_TYPE && options.sign.is_some() {
            return Err(bad(name, "is set by the sink itself: sign: livekit sends what LiveKit sends"));
        }
        let value = secret_value(value.expose());
        let why = "has a value with a line break, a control character or a letter beyond ASCII";
        headers.insert(key.clone(), value.ok_or_else(|| bad(name, why))?);
        given.push(key);
    }
    Ok(headers)
}

/// The `Authorization` header, from the one place that gives it.
pub(super) fn authorization(
    options: &HttpOptions,
    of_url: Option<(String, Secret)>,
) -> Result<Option<HeaderValue>, InvalidOption> {
    let given = [
        ("token", options.token.is_some()),
        ("user", options.user.is_some()),
        ("url", of_url.is_some()),
        ("sign", options.sign.is_some()),
        ("headers", options.headers.keys().any(|name| name.eq_ignore_ascii_case("authorization"))),
    ];
    let given: Vec<&'static str> = given.iter().filter(|(_, is_given)| *is_given).map(|(key, _)| *key).collect();
    if let [first, second, ..] = given[..] {
        let message = format!("authenticates the requests, and so does {second}: keep one of them");
        return Err(InvalidOption::new(first, message));
    }
    if options.password.is_some() && options.user.is_none() {
        return Err(InvalidOption::new("password", "is given without user"));
    }
    let (key, value) = if let Some(token) = &options.token {
        ("token", format!("Bearer {}", token.expose()))
    } else {
        let password = || options.password.clone().unwrap_or_else(|| Secret::new(""));
        let basic = options.user.clone().map(|user| (user, password()));
        let key = if basic.is_some() { "user" } else { "url" };
        let Some((user, password)) = basic.or(of_url) else { return Ok(None) };
        if user.contains(':') {
            return Err(InvalidOption::new(key, "has a : in the user, which basic authentication cannot send"));
        }
        (key, format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{}", password.expose()))))
    };
    let value = secret_value(&value);
    let why = "has a line break, a control character or a letter beyond ASCII in it";
    value.map(Some).ok_or_else(|| InvalidOption::new(key, why))
}

/// A value that every server reads the same.
fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok().filter(|_| text.is_ascii())?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;
    use crate::sink::http::endpoint::Endpoint;

    fn with_url(url: &str) -> HttpOptions {
        HttpOptions { url: url.to_owned(), ..HttpOptions::default() }
    }

    fn with_header(name: &str, value: &str) -> HttpOptions {
        HttpOptions { headers: [(name.to_owned(), Secret::new(value))].into(), ..HttpOptions::default() }
    }

    fn refused(options: &HttpOptions) -> String {
        let error = Endpoint::of(options).expect_err("refused");
        format!("{}: {}", error.key, error.message)
    }

    #[test]
    fn credentials_come_from_one_place_and_are_sent_as_the_standard_has_them() {
        let authorization = |options: &HttpOptions| {
            let endpoint = Endpoint::of(options).expect("options");
            endpoint.headers.get(AUTHORIZATION).map(|value| value.to_str().expect("ASCII").to_owned())
        };
        assert_eq!(authorization(&HttpOptions::default()), None);
        let token = HttpOptions { token: Some(Secret::new("t0k3n")), ..HttpOptions::default() };
        assert_eq!(authorization(&token).as_deref(), Some("Bearer t0k3n"));
        let (user, password) = (Some("Aladdin".to_owned()), Some(Secret::new("open sesame")));
        let basic = HttpOptions { user, password, ..HttpOptions::default() };
        assert_eq!(authorization(&basic).as_deref(), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        let in_url = with_url("http://Aladdin:open%20sesame@host");
        assert_eq!(authorization(&in_url).as_deref(), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        let header = with_header("authorization", "ApiKey hunter2");
        assert_eq!(authorization(&header).as_deref(), Some("ApiKey hunter2"));
        for two in [
            HttpOptions { token: Some(Secret::new("hunter2")), ..basic.clone() },
            HttpOptions { url: in_url.url.clone(), ..basic.clone() },
            HttpOptions { token: Some(Secret::new("hunter2")), ..header.clone() },
        ] {
            let error = refused(&two);
            assert!(error.contains("keep one of them") && !error.contains("hunter2"), "{error}");
        }
        let alone = HttpOptions { user: None, ..basic.clone() };
        assert!(refused(&alone).contains("without user"));
        let colon = HttpOptions { user: Some("a:b".to_owned()), ..basic };
        assert!(refused(&colon).starts_with("user: "));
        let split = HttpOptions { token: Some(Secret::new("hunter2\r\nX-Evil: 1")), ..HttpOptions::default() };
        assert!(refused(&split).starts_with("token: ") && !refused(&split).contains("hunter2"));
    }

    #[test]
    fn headers_that_split_a_request_or_that_the_sink_sets_are_refused() {
        for (name, value) in [
            ("X-Key", "a\r\nX-Evil: 1"),
            ("X-Key", "hunter2\n"),
            ("X-Key", "hunter2\u{0}"),
            ("X-Key", "hünter2"),
            ("X Key", "v"),
            ("X-Key:", "v"),
            ("", "v"),
            ("Größe", "v"),
            ("Content-Length", "0"),
            ("transfer-encoding", "chunked"),
            ("Host", "other"),
            ("CONNECTION", "close"),
            ("Idempotency-Key", "mine"),
            ("Content-Encoding", "br"),
            ("Expect", "100-continue"),
        ] {
            let error = refused(&with_header(name, value));
            assert!(error.starts_with("headers: ") && !error.contains("hunter2"), "{name}: {error}");
        }
        let twice = HttpOptions {
            headers: [("X-Key", "a"), ("x-key", "b")].map(|(name, value)| (name.to_owned(), Secret::new(value))).into(),
            ..HttpOptions::default()
        };
        assert!(refused(&twice).contains("twice"));
        let own_type = Endpoint::of(&with_header("Content-Type", "application/json")).expect("allowed");
        assert_eq!(own_type.headers[CONTENT_TYPE], "application/json");
    }
}
