//! What the headers of a request say about who sent it, read alike on every port.

use http::HeaderValue;

/// The token of `Authorization: Bearer <token>`; the scheme's case does not matter (RFC 9110).
pub(crate) fn bearer(header: &HeaderValue) -> Option<&str> {
    let (scheme, token) = header.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim_start();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
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
}
