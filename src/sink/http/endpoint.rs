//! Where requests go: the method, the URL, and with them the headers that are the same for all requests.
//!
//! All of it is checked when the configuration is read. User and password of the URL become basic authentication; they
//! and the query are never shown.

use http::{HeaderMap, Method, Uri, header::AUTHORIZATION};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::{
    headers::{authorization, headers},
    options::{HttpCompression, HttpFormat, HttpMethod, HttpOptions},
};
use crate::{record::Stream, secret::Secret, sink::InvalidOption};

/// The least length of what is hidden: shorter secrets would hide words.
pub(super) const MIN_SECRET: usize = 4;

/// The constant part of each request.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    /// For people: without user, password and query.
    pub(super) address: String,
    /// What must not be shown if an answer repeats it.
    pub(super) secrets: Vec<Secret>,
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
        let secrets = secrets(options, of_url.as_ref());
        if let Some(value) = authorization(options, of_url)? {
            headers.insert(AUTHORIZATION, value);
        }
        check_tls(options, &url)?;
        check_signature(options)?;
        let method = match options.method {
            HttpMethod::Post => Method::POST,
            HttpMethod::Put => Method::PUT,
        };
        Ok(Self { method, uri, headers, address: shown(&url), secrets, url })
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

/// Passwords, tokens, the values of headers and of the query, as they are and as the URL has them.
fn secrets(options: &HttpOptions, of_url: Option<&(String, Secret)>) -> Vec<Secret> {
    let given = [&options.token, &options.password, &options.api_secret].into_iter().flatten();
    let given = given.chain(options.headers.values()).chain(of_url.map(|(_, password)| password));
    let url = Url::parse(&options.url).ok();
    let query = url.iter().flat_map(|url| url.query_pairs().map(|(_, value)| Secret::new(value)));
    let pairs = url.iter().flat_map(|url| url.query().unwrap_or_default().split('&'));
    let raw = pairs.filter_map(|pair| pair.split_once('=').map(|(_, value)| value));
    let raw = raw.chain(url.iter().filter_map(Url::password)).map(Secret::new);
    given.cloned().chain(query).chain(raw).filter(|secret| secret.expose().len() >= MIN_SECRET).collect()
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
        (Some(_), Some(_), Some(_)) if options.compression != HttpCompression::None => {
            wrong("compress", "is none with sign: livekit: receivers check the signature of the body as it is sent")
        }
        (Some(_), Some(_), Some(_)) if options.format == HttpFormat::Array => {
            wrong("format", "is record with sign: livekit: a webhook is one event")
        }
        (Some(_), Some(_), Some(_)) if !options.labels.is_empty() => {
            wrong("sign", "livekit sends what LiveKit sends, which has no place for labels: remove them")
        }
        (Some(_), Some(_), Some(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::*;
    use crate::sink::http::options::HttpSignature;

    fn with_url(url: &str) -> HttpOptions {
        HttpOptions { url: url.to_owned(), ..HttpOptions::default() }
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
    fn a_signature_needs_its_key_its_secret_and_events_alone() {
        let signed = HttpOptions {
            sign: Some(HttpSignature::Livekit),
            api_key: Some("API1".to_owned()),
            api_secret: Some(Secret::new("hunter2")),
            streams: vec![Stream::Events],
            ..HttpOptions::default()
        };
        assert_eq!(Endpoint::of(&signed).expect("signed").headers[CONTENT_TYPE], "application/webhook+json");
        for (wrong, key) in [
            (HttpOptions { api_key: None, ..signed.clone() }, "api_key"),
            (HttpOptions { api_secret: None, ..signed.clone() }, "api_secret"),
            (HttpOptions { sign: None, ..signed.clone() }, "api_key"),
            (HttpOptions { streams: Stream::ALL.to_vec(), ..signed.clone() }, "sign"),
            (HttpOptions { labels: [("a".to_owned(), "b".to_owned())].into(), ..signed.clone() }, "sign"),
            (HttpOptions { token: Some(Secret::new("hunter2")), ..signed.clone() }, "token"),
            (HttpOptions { compression: HttpCompression::Gzip, ..signed.clone() }, "compress"),
            (HttpOptions { format: HttpFormat::Array, ..signed.clone() }, "format"),
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
