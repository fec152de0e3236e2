//! The status page: one document that loads nothing else, with a content security policy that allows only its own script and
//! style. `page/`: its views, `status` (with the plots of `history`), `sessions` (the list) and `session` (one, with its
//! `chart`), share what `common` has; `page.js` starts them.

use std::sync::LazyLock;

use axum::{
    http::HeaderValue,
    response::{Html, IntoResponse},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

const STYLE: &str = concat!(include_str!("page/status.css"), include_str!("page/sessions.css"));
const SCRIPT: &str = concat!(
    include_str!("page/common.js"),
    include_str!("page/history.js"),
    include_str!("page/status.js"),
    include_str!("page/chart.js"),
    include_str!("page/session.js"),
    include_str!("page/sessions.js"),
    include_str!("page/page.js")
);

static PAGE: LazyLock<String> =
    LazyLock::new(|| include_str!("page/page.html").replace("{{style}}", STYLE).replace("{{script}}", SCRIPT));

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; connect-src 'self'; form-action 'none'; \
         base-uri 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

/// Serves the page.
pub(super) async fn show() -> impl IntoResponse {
    Html(PAGE.as_str())
}

/// The content security policy: the page's own script and style, by their hashes.
pub(super) fn policy() -> HeaderValue {
    POLICY.clone()
}
