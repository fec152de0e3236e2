//! Where requests go and what each of them has: the method, the URL and the headers that are the same for all.
//!
//! All of it is checked when the configuration is read. User and password of the URL become basic authentication; they
//! and the query are never shown.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT},
};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::options::{HttpCompression, HttpFormat, HttpMethod, HttpOptions, HttpSignature};
use crate::{record::Stream, secret::Secret, sink::InvalidOption};

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

/// The constant part of each request.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    /// For people: without user, password and query.
    pub(super) address: String,
    url: Url,
}

impl Endpoint {
    /// Checks all that has to do with the URL, the headers and the credentials.
    ///
    /// # Errors
    /// Names the key that cannot work; never the value of a secret.
    pub(super) fn of(options: &HttpOptions) -> Result<Self, InvalidOption> {
        let mut url = parse(&options.url).map_err(|message| InvalidOption::new("url", message))?;
        let of_url = credentials(&url)?;
        // Neither can fail: the URL has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let uri = url.as_str().parse().map_err(|_| InvalidOption::new("url", "is no URL that can be requested"))?;
        let mut headers = headers(options)?;
        if let Some(value) = authorization(options, of_url)? {
            headers.insert(AUTHORIZATION, value);
        }
        check_tls(options, &url)?;
        check_signature(options)?;
        let method = match options.method {
            HttpMethod::Post => Method::POST,
            HttpMethod::Put => Method::PUT,
        };
        Ok(Self { method, uri, headers, address: shown(&url), url })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// True if credentials or records go over a network unencrypted.
    pub(super) fn is_exposed(&self) -> bool {
        let is_loopback = match self.url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            None => false,
        };
        !self.is_tls() && !is_loopback
    }

    /// Where a redirection leads, if it stays on the host; else what it leads to, for people.
    pub(super) fn redirected(&self, from: &Uri, location: &str) -> Result<Uri, String> {
        let from = Url::parse(&from.to_string()).unwrap_or_else(|_| self.url.clone());
        let Ok(target) = from.join(location) else { return Err("an address that cannot be read".to_owned()) };
        let is_same = target.origin() == self.url.origin() && target.username().is_empty();
        match target.as_str().parse() {
            Ok(uri) if is_same => Ok(uri),
            _ => Err(shown(&target)),
        }
    }
}

/// Reads the URL. A message never repeats it: it may contain a password.
fn parse(text: &str) -> Result<Url, String> {
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("has a space or a control character in it: write %20 for a space".to_owned());
    }
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err("expected http://… or https://…".to_owned());
    }
    if url.fragment().is_some() {
        return Err("has a #fragment, which is never sent: write %23 for a # that belongs to it".to_owned());
    }
    if url.port() == Some(0) {
        return Err("has port 0".to_owned());
    }
    Ok(url)
}

/// Scheme, host, port and path; what is not plain in the path is left out, it may be a secret.
fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let path: String = url.path().chars().take_while(|c| c.is_ascii_alphanumeric() || "/-_.~%".contains(*c)).collect();
    let path = if path == "/" { "" } else { &path };
    format!("{}://{host}{port}{path}", url.scheme())
}

fn credentials(url: &Url) -> Result<Option<(String, Secret)>, InvalidOption> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
        decoded.map_err(|_| InvalidOption::new("url", "has a user or password that is not UTF-8"))
    };
    Ok(Some((decoded(url.username())?, Secret::new(decoded(url.password().unwrap_or_default())?))))
}

/// The headers of every request, without the authorization.
fn headers(options: &HttpOptions) -> Result<HeaderMap, InvalidOption> {
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
fn authorization(
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

fn check_tls(options: &HttpOptions, url: &Url) -> Result<(), InvalidOption> {
    if options.tls.is_some() && url.scheme() != "https" {
        return Err(InvalidOption::new("tls", "is given, and the url is http://…: write https://…"));
    }
    Ok(())
}

fn check_signature(options: &HttpOptions) -> Result<(), InvalidOption> {
    let wrong = |key, message: &str| Err(InvalidOption::new(key, message));
    match (options.sign, &options.api_key, &options.api_secret) {
        (None, None, None) => Ok(()),
        (None, Some(_), _) => wrong("api_key", "is given without sign: livekit"),
        (None, None, Some(_)) => wrong("api_secret", "is given without sign: livekit"),
        (Some(_), None, _) => wrong("api_key", "missing: sign: livekit needs the key that the receiver knows"),
        (Some(_), Some(_), None) => wrong("api_secret", "missing: sign: livekit needs the secret of the api_key"),
        (Some(_), Some(_), Some(_)) if options.streams != [Stream::Events] => {
            wrong("sign", "livekit sends events only: add streams: [events] to this sink")
        }
        (Some(_), Some(_), Some(_)) if !options.labels.is_empty() => {
            wrong("sign", "livekit sends what LiveKit sends, which has no place for labels: remove them")
        }
        (Some(_), Some(_), Some(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn urls_of_every_form_are_requested_as_written_and_shown_without_secrets() {
        for (url, uri, address) in [
            ("http://host", "http://host/", "http://host"),
            ("HTTPS://Host:443/a/b?c=d", "https://host/a/b?c=d", "https://host/a/b"),
            ("http://host:80/", "http://host/", "http://host"),
            (
                "http://host:8123/?query=INSERT%20INTO%20t",
                "http://host:8123/?query=INSERT%20INTO%20t",
                "http://host:8123",
            ),
            ("http://[::1]:8080/x", "http://[::1]:8080/x", "http://[::1]:8080/x"),
            ("http://bücher.example/ä", "http://xn--bcher-kva.example/%C3%A4", "http://xn--bcher-kva.example/%C3%A4"),
            ("https://me:hunter2@host/p", "https://host/p", "https://host/p"),
            ("https://host/p;hunter2", "https://host/p;hunter2", "https://host/p"),
        ] {
            let endpoint = Endpoint::of(&with_url(url)).expect(url);
            assert_eq!((endpoint.uri.to_string().as_str(), endpoint.address.as_str()), (uri, address), "{url}");
            assert!(!format!("{endpoint:?}").contains("hunter2") || url.contains(";hunter2"), "{url}");
        }
    }

    #[test]
    fn urls_that_cannot_be_requested_are_refused_without_showing_them() {
        for url in [
            "http://me:hunter2@host/a b",
            "http://me:hunter2@host/\u{1}",
            "http://me:hunter2@host/#part",
            "http://me:hunter2@:80/",
            "http://me:hunter2@host:99999/",
            "http://me:hunter2@host:0/",
            "http://me:hunter2@[::1/",
            "ftp://me:hunter2@host/",
            "me:hunter2@host",
            "http://",
            "",
        ] {
            let error = refused(&with_url(url));
            assert!(error.starts_with("url: ") && !error.contains("hunter2"), "{url}: {error}");
        }
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

    #[test]
    fn a_signature_needs_its_key_its_secret_and_events_alone() {
        let signed = HttpOptions {
            sign: Some(HttpSignature::Livekit),
            api_key: Some("API1".to_owned()),
            api_secret: Some(Secret::new("hunter2")),
            streams: vec![Stream::Events],
            ..HttpOptions::default()
        };
        assert_eq!(Endpoint::of(&signed).expect("signed").headers[CONTENT_TYPE], WEBHOOK);
        for (wrong, key) in [
            (HttpOptions { api_key: None, ..signed.clone() }, "api_key"),
            (HttpOptions { api_secret: None, ..signed.clone() }, "api_secret"),
            (HttpOptions { sign: None, ..signed.clone() }, "api_key"),
            (HttpOptions { streams: Stream::ALL.to_vec(), ..signed.clone() }, "sign"),
            (HttpOptions { labels: [("a".to_owned(), "b".to_owned())].into(), ..signed.clone() }, "sign"),
            (HttpOptions { token: Some(Secret::new("hunter2")), ..signed.clone() }, "token"),
        ] {
            assert!(refused(&wrong).starts_with(key), "{}", refused(&wrong));
        }
    }

    #[test]
    fn a_redirection_is_followed_on_the_same_host_only() {
        let endpoint = Endpoint::of(&with_url("https://host/a/b?q=1")).expect("options");
        let to = |location: &str| endpoint.redirected(&endpoint.uri, location);
        assert_eq!(to("/c").unwrap(), "https://host/c");
        assert_eq!(to("c?d").unwrap(), "https://host/a/c?d");
        assert_eq!(to("https://HOST:443/c").unwrap(), "https://host/c");
        for (elsewhere, shown) in [
            ("http://host/c", "http://host/c"),
            ("https://host:444/c?hunter2", "https://host:444/c"),
            ("https://other/c", "https://other/c"),
            ("//other/c", "https://other/c"),
            ("https://u:hunter2@host/c", "https://host/c"),
            ("file:///etc/passwd", "file:///etc/passwd"),
            ("https://[", "an address that cannot be read"),
        ] {
            assert_eq!(to(elsewhere).expect_err(elsewhere), shown);
        }
    }

    #[test]
    fn what_goes_over_a_network_unencrypted_is_known() {
        for (url, exposed) in [
            ("http://127.0.0.1:1", false),
            ("http://localhost", false),
            ("http://[::1]", false),
            ("https://host", false),
            ("http://host", true),
            ("http://10.0.0.1", true),
        ] {
            assert_eq!(Endpoint::of(&with_url(url)).expect(url).is_exposed(), exposed, "{url}");
        }
    }
}
