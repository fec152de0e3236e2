//! Connection strings: their schemes, and what of them is shown to people.

use schemars::json_schema;

use crate::setting::kind;

/// The address of a MongoDB server.
pub struct MongodbUri;

kind!([] MongodbUri => String, @SECRET, "mongodb://… or mongodb+srv://…",
    |text| address(text, &["mongodb", "mongodb+srv"]),
    |uri| without_secrets(uri),
    json_schema!({ "type": "string", "pattern": r"^\s*mongodb(\+srv)?://." }));

/// The address of a Redis server.
pub struct RedisUrl;

kind!([] RedisUrl => String, @SECRET, "redis://… or rediss://…",
    |text| address(text, &["redis", "rediss"]),
    |url| without_secrets(url),
    json_schema!({ "type": "string", "pattern": r"^\s*rediss?://." }));

/// Reads a URI with one of these schemes. It may contain a password, so no message repeats it.
pub(super) fn address(text: &str, schemes: &[&str]) -> Result<String, String> {
    let text = text.trim();
    let wrong = match text.split_once("://") {
        Some((scheme, rest)) if schemes.contains(&scheme) && !rest.is_empty() => return Ok(text.to_owned()),
        Some((scheme, _)) if schemes.contains(&scheme) => "names no host",
        Some(_) => "has another scheme",
        None => "is not a URI",
    };
    Err(wrong.to_owned())
}

/// Replaces what may be a secret.
const HIDDEN: &str = "***";

/// The scheme and the hosts with the path; user, password and query are left out.
///
/// The last `@` ends the user's part, so that a password with an unescaped `@` or `/` in it is not shown either. In a
/// malformed URI, anything that is not a list of hosts with ports is not shown at all: it may be a misplaced password.
#[must_use]
pub fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
    let query = rest.find(['?', '#']).unwrap_or(rest.len());
    let (before, after) = rest.split_at(query);
    let place = before.rsplit_once('@').map_or(before, |(_, place)| place);
    let (hosts, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    // An `@` after a `?` may belong to a query, or to a password with a `?` in it: it is unknown.
    let is_plain = !after.contains('@') && hosts.split(',').all(is_host) && path.bytes().all(is_of_a_path);
    let shown = if is_plain { place } else { HIDDEN };
    match scheme {
        Some(scheme) if is_scheme(scheme) => format!("{scheme}://{shown}"),
        // `mongodb:/user:password@host`, a password alone
        _ => HIDDEN.to_owned(),
    }
}

/// `host`, `host:port`, `[::1]:port`.
fn is_host(text: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_after = |after: &str| after.is_empty() || after.strip_prefix(':').is_some_and(is_port);
    match text.strip_prefix('[') {
        Some(rest) => {
            rest.split_once(']').is_some_and(|(ip, after)| ip.parse::<std::net::Ipv6Addr>().is_ok() && is_after(after))
        }
        None => {
            let (name, after) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            !name.is_empty() && name.bytes().all(is_name) && is_after(after)
        }
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

const fn is_of_a_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/')
}

/// The URI with `***` for the password and for the options that are not among the harmless ones (in lower case):
/// `mongodb://u:***@h/db?authSource=x`. Of a malformed one, no more is shown than its short address has.
pub(super) fn redacted(uri: &str, harmless: &[&str]) -> String {
    let address = without_secrets(uri);
    let Some((scheme, place)) = address.split_once("://").filter(|(_, place)| *place != HIDDEN) else {
        return address;
    };
    let rest = uri.split_once("://").map_or("", |(_, rest)| rest);
    let (before, after) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let user = before.rsplit_once('@').map_or_else(String::new, |(user, _)| format!("{}@", user_of(user)));
    let options = match after.strip_prefix('?') {
        Some(options) => {
            format!("?{}", options.split('&').map(|text| option(text, harmless)).collect::<Vec<_>>().join("&"))
        }
        None if after.is_empty() => String::new(),
        None => format!("#{HIDDEN}"),
    };
    format!("{scheme}://{user}{place}{options}")
}

/// A name without a password may be one, or a token.
fn user_of(user: &str) -> String {
    match user.split_once(':') {
        Some((name, _)) if name.bytes().all(is_plain) => format!("{name}:{HIDDEN}"),
        Some(_) => format!("{HIDDEN}:{HIDDEN}"),
        None => HIDDEN.to_owned(),
    }
}

fn option(option: &str, harmless: &[&str]) -> String {
    match option.split_once('=') {
        Some((name, value)) if harmless.contains(&name.to_ascii_lowercase().as_str()) => {
            let is_shown = value.bytes().all(|byte| is_plain(byte) || matches!(byte, b'$' | b'%' | b':' | b'/' | b','));
            format!("{name}={}", if is_shown { value } else { HIDDEN })
        }
        Some((name, _)) if name.bytes().all(is_plain) => format!("{name}={HIDDEN}"),
        _ if option.is_empty() => String::new(),
        _ => HIDDEN.to_owned(),
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'+')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_password_and_query_never_show() {
        assert_eq!(without_secrets("mongodb://u:p@h1:1,h2:2/db?x=secret"), "mongodb://h1:1,h2:2/db");
        assert_eq!(without_secrets("redis://:pa@ss/w@host:6379/0"), "redis://host:6379/0");
        assert_eq!(without_secrets("redis://[::1]:6379"), "redis://[::1]:6379");
        assert_eq!(without_secrets("mongodb+srv://u:p@db.example.com"), "mongodb+srv://db.example.com");
    }

    #[test]
    fn of_a_uri_with_a_slip_in_it_nothing_is_shown_that_may_be_a_password() {
        for slip in [
            "mongodb://user:hunter2",
            "mongodb://user:hunter2/db",
            "mongodb://user:hunter2%40host/db",
            "mongodb://user:hun?ter2@host/db",
            "mongodb://user:hun#ter2@host/db",
            "mongodb://host/?tlsCertificateKeyFilePassword=x@hunter2",
            "mongodb://host:27017:hunter2/",
            "mongodb://host,user:hunter2,other/",
            "mongodb:/user:hunter2@host/",
            "mongodb//user:hunter2@host",
            "redis://:hunter2",
            "redis://:hunter2/0",
            "redis:hunter2",
            "user:hunter2@://host",
            "hunter2",
            "redis://host/user:hunter2",
        ] {
            let shown = without_secrets(slip);
            assert!(!shown.contains("hunter2") && !shown.contains("hun") && !shown.contains("ter2"), "{slip}: {shown}");
        }
    }

    #[test]
    fn user_and_harmless_options_are_shown_and_everything_else_is_starred() {
        let harmless = ["authsource", "protocol", "replicaset", "tls", "tlscafile", "w"];
        for (uri, shown) in [
            ("mongodb://u:SEKRIT@h/db?authSource=x&replicaSet=rs0", "mongodb://u:***@h/db?authSource=x&replicaSet=rs0"),
            ("mongodb+srv://u:SEKRIT@h/?w=majority&tls=true", "mongodb+srv://u:***@h/?w=majority&tls=true"),
            ("mongodb://h1:1,h2:2", "mongodb://h1:1,h2:2"),
            (
                "mongodb://h/?authSource=$external&tlsCAFile=/a/b.pem",
                "mongodb://h/?authSource=$external&tlsCAFile=/a/b.pem",
            ),
            (
                "mongodb://h/?tlsCertificateKeyFilePassword=SEKRIT&x=SEKRIT",
                "mongodb://h/?tlsCertificateKeyFilePassword=***&x=***",
            ),
            (
                "mongodb://h/?AuthMechanismProperties=AWS_SESSION_TOKEN:SEKRIT",
                "mongodb://h/?AuthMechanismProperties=***",
            ),
            ("redis://:SEKRIT@h:1/0?protocol=resp3", "redis://:***@h:1/0?protocol=resp3"),
            ("redis://:SEK@RI/T@h:1/0", "redis://:***@h:1/0"),
            ("redis://SEKRIT@h:1/0#SEKRIT", "redis://***@h:1/0#***"),
            ("mongodb://SEK/RIT:x@h/?SEKRIT&w=SEK;RIT&&SEK/RIT=1", "mongodb://***:***@h/?***&w=***&&***"),
            ("mongodb://SEKRIT%3Ax:y@h/", "mongodb://***:***@h/"),
            ("mongodb://u:SEK?RIT@h/", "mongodb://***"),
            ("mongodb:/u:SEKRIT@h/", "***"),
        ] {
            assert_eq!(redacted(uri, &harmless), shown, "{uri}");
        }
    }
}
