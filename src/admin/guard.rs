//! Access control: who can read and who can act.
//! | connection | read | act |
//! |---|---|---|
//! | the socket in the data directory (0600) | yes | yes |
//! | TCP, bound to loopback, `Host` is this machine | yes | with the token |
//! | TCP otherwise | with the token | with the token |
//!
//! Requests made by other web pages are refused, whether they use a host name of their own (`Host`, DNS rebinding) or the
//! browser of a user (`Origin`, `Sec-Fetch-Site`), see [`caller`](crate::caller): such a page could make this machine scan
//! its spools, even if it cannot read the answer. Only the status page itself can be linked to. With the token, any host
//! name is allowed.
//!
//! LiveKit Cloud's APIs ([`is_cloud`]) always need a token over TCP, as in the cloud: the admin token, or one that a LiveKit
//! API key has signed and that grants `roomList`.
//!
//! `/healthz` and `/readyz` are open: without access they answer yes or no, and nothing else.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

use super::{
    page,
    problem::{Problem, RpcStatus},
};
use crate::{
    app::App,
    caller::{self, Host},
    config::AdminConfig,
    ingest::{OpenRequest, ReaderRefused},
};

/// Where the first generation of LiveKit Cloud's API is, and the second.
pub(super) const CLOUD_V0: &str = "/api/project/";
pub(super) const CLOUD_V1: &str = "/v1/";

fn is_cloud(path: &str) -> bool {
    path.starts_with(CLOUD_V0) || path.starts_with(CLOUD_V1)
}

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Over the socket: a client that can open it owns the data directory.
    Socket,
    /// Over TCP.
    Tcp {
        /// Bound to loopback.
        is_private: bool,
    },
}

/// Whether the client can learn why records are not accepted: sinks' names, figures of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MayKnow(pub(super) bool);

/// Wraps the routes in the access control.
pub(super) fn guarded(routes: Router, app: Arc<App>, access: Access) -> Router {
    routes.layer(middleware::from_fn_with_state((app, access), check))
}

async fn check(State((app, access)): State<(Arc<App>, Access)>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(access);
    let admitted = admit(&app, access, request.method(), request.uri(), request.headers());
    let may_know = match access {
        Access::Socket => true,
        Access::Tcp { is_private } => {
            let caller = Caller { config: &app.config().admin, is_private, headers: request.headers() };
            caller.may_know(request.uri())
        }
    };
    request.extensions_mut().insert(MayKnow(may_know));
    let mut response = match admitted {
        Ok(()) => {
            if may_know || is_cloud(request.uri().path()) {
                // A request that needs no credentials shows none: its connection is closed first for a new one.
                request.extensions().get::<OpenRequest>().inspect(|open_request| open_request.mark_authorized());
            }
            next.run(request).await
        }
        Err(problem) => {
            if problem.status == StatusCode::UNAUTHORIZED {
                app.count_refused(&problem.message);
            }
            match request.uri().path().starts_with(CLOUD_V1) {
                true => RpcStatus(problem).into_response(),
                false => problem.into_response(),
            }
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, page::policy()),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ] {
        headers.insert(name, value);
    }
    response
}

/// Allows a request, or returns why not; a streamed answer checks it again while it lasts.
pub(super) fn admit(
    app: &App,
    access: Access,
    method: &Method,
    target: &Uri,
    headers: &HeaderMap,
) -> Result<(), Problem> {
    match access {
        Access::Socket => Ok(()),
        Access::Tcp { is_private } => {
            let config = app.config();
            let caller = Caller { config: &config.admin, is_private, headers };
            match is_cloud(target.path()) {
                true => caller.admit_to_cloud(|| app.admit_reader(headers)),
                false => caller.admit(method, target),
            }
        }
    }
}

/// The client of a request.
struct Caller<'a> {
    config: &'a AdminConfig,
    is_private: bool,
    headers: &'a HeaderMap,
}

impl Caller<'_> {
    fn admit_to_cloud(&self, admit_reader: impl FnOnce() -> Result<(), ReaderRefused>) -> Result<(), Problem> {
        if caller::is_cross_site(self.headers, &self.config.hosts) {
            return Err(other_site());
        }
        if self.token() == Some(true) {
            return Ok(());
        }
        admit_reader().map_err(|refused| match refused {
            ReaderRefused::Unauthenticated(why) => Problem::new(
                StatusCode::UNAUTHORIZED,
                format!("{why}; this needs a token of a LiveKit API key that grants roomList, or admin.token"),
            ),
            ReaderRefused::Denied(why) => Problem::new(StatusCode::FORBIDDEN, why),
        })
    }

    fn admit(&self, method: &Method, target: &Uri) -> Result<(), Problem> {
        let (config, path, reads) = (self.config, target.path(), matches!(*method, Method::GET | Method::HEAD));
        if matches!(path, "/healthz" | "/readyz") {
            return Ok(());
        }
        // The page itself is the same for everyone and can be linked to; its data comes from the API.
        let is_page = path == "/" && reads;
        if !is_page && caller::is_cross_site(self.headers, &config.hosts) {
            return Err(other_site());
        }
        let token = self.token();
        if token == Some(true) {
            return Ok(());
        }
        let is_public = config.public_metrics && path == "/metrics" && reads;
        let host = match Host::of(self.headers, target, &config.hosts) {
            Err(_) if is_public => Host::Known,
            host => host.map_err(|name| {
                let message = format!("the name {name:?} is not allowed: add it to admin.hosts, or use the IP address");
                Problem::new(StatusCode::MISDIRECTED_REQUEST, message)
            })?,
        };
        let is_open = is_public || is_page || (self.is_private && host == Host::Loopback && reads);
        match token {
            None if is_open => Ok(()),
            Some(false) if is_page => Ok(()),
            _ if config.token.is_some() => {
                // A wrong token is refused even if none is needed, so that the client notices.
                Err(Problem::new(StatusCode::UNAUTHORIZED, "this request needs `Authorization: Bearer <admin.token>`"))
            }
            _ => {
                let reason = "actions over TCP need admin.token in the configuration; the command line needs none";
                Err(Problem::new(StatusCode::FORBIDDEN, reason))
            }
        }
    }

    /// Whether the request has the right token; `None` also if no token is configured.
    fn token(&self) -> Option<bool> {
        let token = self.config.token.as_ref()?;
        let presented = self.headers.get(header::AUTHORIZATION)?;
        Some(caller::bearer(presented).is_some_and(|presented| token.matches(presented)))
    }

    /// Whether the client can read the status and, if a token is configured, presented it.
    fn may_know(&self, target: &Uri) -> bool {
        let reads_openly = || {
            self.is_private
                && !caller::is_cross_site(self.headers, &self.config.hosts)
                && Host::of(self.headers, target, &self.config.hosts) == Ok(Host::Loopback)
        };
        match &self.config.token {
            Some(_) => self.token() == Some(true),
            None => reads_openly(),
        }
    }
}

fn other_site() -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "a web page of another site sent this request: it is refused")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn config(token: Option<&str>) -> AdminConfig {
        AdminConfig {
            listen: None,
            token: token.map(Secret::new),
            hosts: vec!["spool.example".to_owned()],
            ..AdminConfig::default()
        }
    }

    fn status(token: Option<&str>, is_private: bool, request: &str, host: &str, presented: Option<&str>) -> u16 {
        let (method, path) = request.split_once(' ').unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(presented) = presented {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {presented}")).unwrap());
        }
        let caller = Caller { config: &config(token), is_private, headers: &headers };
        let admitted = caller.admit(&method.parse().unwrap(), &path.parse().unwrap());
        admitted.map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    #[test]
    fn on_loopback_reading_is_free_and_acting_needs_the_token() {
        let (get, post) = ("GET /api/v1/status", "POST /api/v1/sinks/a/pause");
        for host in ["127.0.0.1:7892", "localhost:7892", "[::1]:7892", "localhost"] {
            assert_eq!(status(Some("t"), true, get, host, None), 200, "{host}");
            assert_eq!(status(Some("t"), true, post, host, None), 401, "{host}");
            assert_eq!(status(Some("t"), true, post, host, Some("t")), 200, "{host}");
            assert_eq!(status(Some("t"), true, get, host, Some("x")), 401, "{host}");
            assert_eq!(status(None, true, post, host, None), 403, "{host}");
        }
    }

    #[test]
    fn beyond_loopback_reading_needs_the_token_too() {
        let get = "GET /api/v1/status";
        assert_eq!(status(Some("t"), false, get, "10.0.0.5:7892", None), 401);
        assert_eq!(status(Some("t"), false, get, "10.0.0.5:7892", Some("t")), 200);
        assert_eq!(status(Some("t"), true, get, "spool.example", None), 401, "a proxy in front of loopback");
        assert_eq!(status(Some("t"), true, get, "spool.example", Some("t")), 200);
        assert_eq!(status(Some("t"), false, "GET /metrics", "10.0.0.5", None), 401);
        assert_eq!(status(Some("t"), false, "GET /", "10.0.0.5", None), 200);
        assert_eq!(status(None, false, "GET /readyz", "anything.example", None), 200);
    }

    #[test]
    fn a_host_name_that_is_not_configured_is_refused() {
        for host in ["evil.example", "evil.example:7892", "", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert_eq!(status(None, true, "GET /api/v1/status", host, None), 421, "{host}");
            assert_eq!(status(None, true, "GET /", host, None), 421, "{host}");
        }
    }

    /// The answer to a request that a page of another site makes a browser send.
    fn from_a_page(request: &str, lines: &[(&'static str, &'static str)]) -> u16 {
        let (method, path) = request.split_once(' ').unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:7892"));
        for (name, value) in lines {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        let caller = Caller { config: &config(None), is_private: true, headers: &headers };
        let admitted = caller.admit(&method.parse().unwrap(), &path.parse().unwrap());
        admitted.map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    #[test]
    fn requests_of_other_web_pages_are_refused_but_the_page_can_be_linked_to() {
        let attacks = [
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")][..],
            &[("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:3000")],
            &[("origin", "null")],
            &[("origin", "https://evil.example"), ("access-control-request-method", "POST")],
        ];
        for lines in attacks {
            for request in [
                "GET /api/v1/sinks/a/records",
                "GET /api/v1/status",
                "HEAD /api/v1/status",
                "GET /metrics",
                "POST /api/v1/sinks/a/purge",
                "OPTIONS /api/v1/sinks/a/purge",
            ] {
                assert_eq!(from_a_page(request, lines), 403, "{request} {lines:?}");
            }
            assert_eq!(from_a_page("GET /", lines), 200, "{lines:?}");
        }
        assert_eq!(from_a_page("GET /api/v1/status", &[("sec-fetch-site", "same-origin")]), 200);
    }

    #[test]
    fn the_cloud_apis_need_a_token_even_on_loopback_and_refuse_other_web_pages() {
        let admit = |presented: Option<&'static str>, site: Option<&'static str>, reader: Result<(), ReaderRefused>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:7892"));
            presented.map(|token| headers.insert(header::AUTHORIZATION, HeaderValue::from_static(token)));
            site.map(|site| headers.insert("sec-fetch-site", HeaderValue::from_static(site)));
            let caller = Caller { config: &config(Some("t")), is_private: true, headers: &headers };
            caller.admit_to_cloud(|| reader).map_or_else(|problem| problem.status.as_u16(), |()| 200)
        };
        let unknown = || Err(ReaderRefused::Unauthenticated("no token".to_owned()));
        assert_eq!(admit(None, None, unknown()), 401);
        assert_eq!(admit(Some("Bearer x"), None, unknown()), 401);
        assert_eq!(admit(Some("Bearer x"), None, Err(ReaderRefused::Denied("no grant"))), 403);
        assert_eq!(admit(Some("Bearer t"), None, unknown()), 200);
        assert_eq!(admit(Some("Bearer x"), None, Ok(())), 200);
        assert_eq!(admit(Some("Bearer x"), Some("cross-site"), Ok(())), 403);
        for path in ["/api/project/p/sessions", "/v1/projects/p/sessions", "/v1/"] {
            assert!(is_cloud(path), "{path}");
        }
        for path in ["/", "/api/v1/sessions", "/api/v1/status", "/metrics"] {
            assert!(!is_cloud(path), "{path}");
        }
    }

    #[test]
    fn public_metrics_and_the_token_need_no_name() {
        let public = AdminConfig { public_metrics: true, ..config(Some("t")) };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("spool.monitoring.svc.cluster.local:7892"));
        let admit = |config: &AdminConfig, headers: &HeaderMap, path: &str| {
            let caller = Caller { config, is_private: false, headers };
            let admitted = caller.admit(&Method::GET, &path.parse().unwrap());
            admitted.map_or_else(|problem| problem.status.as_u16(), |()| 200)
        };
        assert_eq!(admit(&public, &headers, "/metrics"), 200);
        assert_eq!(admit(&public, &headers, "/api/v1/status"), 421);
        assert_eq!(admit(&config(Some("t")), &headers, "/metrics"), 421);
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("bearer t"));
        assert_eq!(admit(&config(Some("t")), &headers, "/metrics"), 200);
        assert_eq!(admit(&config(Some("t")), &headers, "/api/v1/status"), 200);
    }

    #[test]
    fn why_records_are_not_accepted_is_shown_only_with_access_to_the_status_and_the_token_if_there_is_one() {
        let may_know = |token: Option<&str>, is_private: bool, host: &'static str, presented: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(presented) = presented {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_static(presented));
            }
            let caller = Caller { config: &config(token), is_private, headers: &headers };
            caller.may_know(&Uri::from_static("/readyz"))
        };
        assert!(may_know(None, true, "127.0.0.1:7892", None));
        assert!(may_know(Some("t"), false, "any.example", Some("Bearer t")));
        assert!(!may_know(Some("t"), true, "127.0.0.1:7892", None));
        assert!(!may_know(Some("t"), false, "10.0.0.5", None));
        assert!(!may_know(Some("t"), false, "10.0.0.5", Some("Bearer x")));
        assert!(!may_know(None, true, "evil.example", None));
    }
}
