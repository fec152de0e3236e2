//! Connection strings for people: where to, never with what secret.

/// The scheme and the hosts with the path; user, password and query are left out, as are unreadable ones.
///
/// The last `@` ends the user's part, so that a password with a stray `@` or `/` in it does not show either.
#[must_use]
pub fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let place = place.split(['?', '#']).next().unwrap_or_default();
    if scheme.is_empty() { place.to_owned() } else { format!("{scheme}://{place}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_password_and_query_never_show() {
        assert_eq!(without_secrets("mongodb://u:p@h1:1,h2:2/db?x=secret"), "mongodb://h1:1,h2:2/db");
        assert_eq!(without_secrets("redis://:pa@ss/w@host:6379/0"), "redis://host:6379/0");
        assert_eq!(without_secrets("no scheme at all?x"), "no scheme at all");
    }
}
