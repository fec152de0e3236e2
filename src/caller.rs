//! What the headers of a request say about its sender. Every HTTP port uses these checks.
//!
//! A port that only this machine can reach, and that asks for no credentials, can still be reached by a web page: any page
//! may have the browser on this machine send requests here. Two things reveal such a request:
//!
//! - `Host`, if the page's own name points at this address (DNS rebinding). It has to be `localhost`, an IP address, a name
//!   of the configuration, or a name without a dot, which public DNS does not have (`livekit-spool`, in a cluster);
//! - `Sec-Fetch-Site` and `Origin`, if the page requests this address openly (a form, an image, `fetch` with and without
//!   CORS): no browser lets a page forge or omit both. Another port of this machine is another site, too.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{HOST, ORIGIN},
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The token of `Authorization: Bearer <token>`; the scheme's case does not matter (RFC 9110).
pub(crate) fn bearer(header: &HeaderValue) -> Option<&str> {
    let (scheme, token) = header.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim_start();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The name by which a request calls this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    /// `localhost`, 127.0.0.1, `[::1]`
    Loopback,
    /// Another IP address, a name of the configuration, or one without a dot.
    Known,
}

impl Host {
    /// From a request's headers and target; the error is a name that is not ours.
    pub(crate) fn of(headers: &HeaderMap, target: &Uri, hosts: &[String]) -> Result<Self, String> {
        let mut given = headers.get_all(HOST).iter();
        let (host, more) = (given.next().and_then(|host| host.to_str().ok()).unwrap_or_default(), given.next());
        // A target with a host in it (absolute form) overrides the header.
        let named = target.authority().map(http::uri::Authority::as_str).into_iter().chain([host]);
        let judged: Option<Vec<Self>> = named.map(|name| Self::named(name, hosts)).collect();
        let judged = judged.filter(|_| more.is_none()).ok_or_else(|| host.to_owned())?;
        Ok(if judged.contains(&Self::Known) { Self::Known } else { Self::Loopback })
    }

    fn named(authority: &str, hosts: &[String]) -> Option<Self> {
        let name = name_of(authority);
        if name.eq_ignore_ascii_case("localhost") {
            return Some(Self::Loopback);
        }
        match name.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if ip.is_loopback() => Some(Self::Loopback),
            // Browsers let pages request 0.0.0.0, which is this machine, without an origin.
            Ok(ip) => (!ip.is_unspecified()).then_some(Self::Known),
            Err(_) if is_listed(name, hosts) => Some(Self::Known),
            Err(_) => (!name.is_empty() && name.bytes().all(is_of_a_label)).then_some(Self::Known),
        }
    }
}

/// Tells whether a browser sends this for a page of another site: such a request is refused.
pub(crate) fn is_cross_site(headers: &HeaderMap, hosts: &[String]) -> bool {
    let site_is_ours = |site: &HeaderValue| [&b"same-origin"[..], b"none"].contains(&site.as_bytes());
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let origin_is_ours = |origin: &HeaderValue| {
        let Some((scheme, origin)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else {
            return false;
        };
        let port = |authority: &str| match authority[authority.rfind(']').unwrap_or(0)..].rsplit_once(':') {
            Some((_, port)) => port.to_owned(),
            None => (if scheme == "https" { "443" } else { "80" }).to_owned(),
        };
        let same = name_of(origin).eq_ignore_ascii_case(name_of(host)) && port(origin) == port(host);
        ["http", "https"].contains(&scheme) && (same || is_listed(name_of(origin), hosts))
    };
    !headers.get_all(SEC_FETCH_SITE).iter().all(site_is_ours) || !headers.get_all(ORIGIN).iter().all(origin_is_ours)
}

/// A host with its port, without the port and the brackets.
fn name_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(name, _)| name),
    }
}

fn is_listed(name: &str, hosts: &[String]) -> bool {
    hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
}

const fn is_of_a_label(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        for header in ["Bearer a.b", "bearer a.b", "BEARER a.b", "Bearer  a.b "] {
            assert_eq!(bearer(&HeaderValue::from_static(header)), Some("a.b"), "{header}");
        }
        for header in ["", "Bearer", "Bearer ", "a.b", "Basic a.b", "Bearera.b", "Bearer\ta.b"] {
            assert_eq!(bearer(&HeaderValue::from_static(header)), None, "{header:?}");
        }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        lines.iter().map(line).collect()
    }

    #[test]
    fn a_host_is_this_machine_a_known_one_or_a_strangers() {
        let hosts = ["spool.example".to_owned()];
        let of = |host: &str| Host::of(&headers(&[("host", host)]), &Uri::from_static("/"), &hosts);
        for host in ["localhost", "LOCALHOST:7892", "127.0.0.1:7892", "127.8.8.8", "[::1]:7892", "[::ffff:127.0.0.1]"] {
            assert_eq!(of(host), Ok(Host::Loopback), "{host}");
        }
        for host in ["10.0.0.5:7892", "[fd00::1]:80", "spool.example", "Spool.Example:443", "livekit-spool:7892", "x"] {
            assert_eq!(of(host), Ok(Host::Known), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7892",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "spool.example.evil.example",
            "0.0.0.0:7892",
            "[::]:7892",
            "evil.example.",
            "a@evil.example",
            "",
            ":7892",
        ] {
            assert_eq!(of(host), Err(host.to_owned()), "{host}");
        }
    }

    #[test]
    fn two_hosts_none_and_one_in_the_target_are_judged_too() {
        let target = Uri::from_static("/");
        assert!(Host::of(&HeaderMap::new(), &target, &[]).is_err());
        let mut two = headers(&[("host", "localhost")]);
        two.append(HOST, HeaderValue::from_static("localhost"));
        assert!(Host::of(&two, &target, &[]).is_err());
        let local = headers(&[("host", "localhost")]);
        assert!(Host::of(&local, &Uri::from_static("http://evil.example/"), &[]).is_err());
        assert_eq!(Host::of(&local, &Uri::from_static("http://127.0.0.1/"), &[]), Ok(Host::Loopback));
    }

    #[test]
    fn what_a_page_of_another_site_sends_is_known_by_its_headers() {
        let hosts = ["spool.example".to_owned()];
        for lines in [
            &[][..],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
            &[("origin", "http://127.0.0.1:7892"), ("sec-fetch-site", "same-origin")],
            &[("origin", "https://spool.example")],
        ] {
            let with_host = [&[("host", "127.0.0.1:7892")], lines].concat();
            assert!(!is_cross_site(&headers(&with_host), &hosts), "{lines:?}");
        }
        for lines in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "whatever comes")],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "http://evil.example")],
            &[("origin", "http://127.0.0.1:3000")],
            &[("origin", "http://127.0.0.1")],
            &[("origin", "http://127.0.0.1:7892.evil.example")],
            &[("origin", "file://127.0.0.1:7892")],
            &[("origin", "http://127.0.0.1:7892"), ("sec-fetch-site", "cross-site")],
            &[("origin", "http://evil.example"), ("sec-fetch-site", "same-origin")],
        ] {
            let with_host = [&[("host", "127.0.0.1:7892")], lines].concat();
            assert!(is_cross_site(&headers(&with_host), &hosts), "{lines:?}");
        }
        assert!(!is_cross_site(&headers(&[("host", "h"), ("origin", "https://h:443")]), &[]));
        assert!(!is_cross_site(&headers(&[("host", "[::1]:1"), ("origin", "http://[::1]:1")]), &[]));
        assert!(is_cross_site(&headers(&[("host", "[::1]"), ("origin", "http://[::1]:1")]), &[]));
    }
}
