//! Who may see and do what.
//!
//! | over | see | do |
//! |---|---|---|
//! | the socket in the data folder (0600) | yes | yes |
//! | TCP, bound to loopback, `Host` is this machine | yes | with the token |
//! | TCP otherwise | with the token | with the token |
//!
//! `Host` must be an IP address, `localhost` or one of `admin.hosts`: a web page that points its own name at this address
//! (DNS rebinding) gets nothing. `/healthz` and `/readyz` are open: they tell nothing.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

use super::{api::Problem, page};
use crate::{app::App, config::AdminConfig};

/// How a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Over the socket: whoever can open it owns the data folder.
    Socket,
    /// Over TCP.
    Tcp {
        /// Bound to loopback.
        is_private: bool,
    },
}

/// The routes, for those who may.
pub(super) fn guarded(routes: Router, app: Arc<App>, access: Access) -> Router {
    routes.layer(middleware::from_fn_with_state((app, access), check))
}

async fn check(State((app, access)): State<(Arc<App>, Access)>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(access);
    let verdict = match access {
        Access::Socket => Ok(()),
        Access::Tcp { is_private } => {
            admit(&app.config().admin, is_private, request.method(), request.uri().path(), request.headers())
        }
    };
    let mut response = match verdict {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            if problem.status == StatusCode::UNAUTHORIZED {
                app.count_refused(&problem.message);
            }
            problem.into_response()
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

fn admit(
    config: &AdminConfig,
    is_private: bool,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<(), Problem> {
    if matches!(path, "/healthz" | "/readyz") {
        return Ok(());
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = Host::of(host, &config.hosts).ok_or_else(|| {
        let message = format!("the name {host:?} is not known here: add it to admin.hosts, or use the IP address");
        Problem::new(StatusCode::MISDIRECTED_REQUEST, message)
    })?;
    // The page itself is the same for everyone; what it shows comes from the API.
    if path == "/" && method == Method::GET {
        return Ok(());
    }
    let is_open = is_private && host == Host::Loopback && matches!(*method, Method::GET | Method::HEAD);
    let is_open = is_open || (config.public_metrics && path == "/metrics");
    let Some(token) = &config.token else {
        let reason = "actions over TCP need admin.token in the configuration; the command line needs none";
        return if is_open { Ok(()) } else { Err(Problem::new(StatusCode::FORBIDDEN, reason)) };
    };
    let presented = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::trim);
    match presented {
        Some(presented) if token.matches(presented) => Ok(()),
        // A wrong token is refused even where none is needed: whoever sends it should know.
        None if is_open => Ok(()),
        _ => Err(Problem::new(StatusCode::UNAUTHORIZED, "this needs `Authorization: Bearer <admin.token>`")),
    }
}

/// What a request calls this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    /// `localhost`, 127.0.0.1, `[::1]`
    Loopback,
    /// Another IP address, or a name of the configuration.
    Known,
}

impl Host {
    fn of(header: &str, hosts: &[String]) -> Option<Self> {
        let name = match header.strip_prefix('[') {
            Some(rest) => rest.split(']').next()?,
            None => header.rsplit_once(':').map_or(header, |(name, _)| name),
        };
        if name.eq_ignore_ascii_case("localhost") {
            return Some(Self::Loopback);
        }
        match name.parse::<IpAddr>() {
            Ok(ip) if ip.to_canonical().is_loopback() => Some(Self::Loopback),
            Ok(_) => Some(Self::Known),
            Err(_) => hosts.iter().any(|host| host.eq_ignore_ascii_case(name)).then_some(Self::Known),
        }
    }
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
            public_metrics: false,
        }
    }

    fn status(token: Option<&str>, is_private: bool, request: &str, host: &str, presented: Option<&str>) -> u16 {
        let (method, path) = request.split_once(' ').unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(presented) = presented {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {presented}")).unwrap());
        }
        let verdict = admit(&config(token), is_private, &method.parse().unwrap(), path, &headers);
        verdict.map_or_else(|problem| problem.status.as_u16(), |()| 200)
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
    fn a_name_that_is_not_ours_gets_nothing() {
        for host in ["evil.example", "evil.example:7892", "", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert_eq!(status(None, true, "GET /api/v1/status", host, None), 421, "{host}");
            assert_eq!(status(None, true, "GET /", host, None), 421, "{host}");
        }
    }
}
