//! Connection strings for `config show`: as configured, with stars for what may be a secret. The short address in the status
//! and the log leaves out more (`sink::url`).

use crate::sink::url::without_secrets;

const HIDDEN: &str = "***";

/// Options whose values are no secrets, in lower case. The value of any other option is not shown.
#[rustfmt::skip]
const HARMLESS: [&str; 37] = [
    "appname", "authmechanism", "authsource", "compressors", "connecttimeoutms", "directconnection", "heartbeatfrequencyms",
    "journal", "loadbalanced", "localthresholdms", "maxconnecting", "maxidletimems", "maxpoolsize", "maxstalenessseconds",
    "minpoolsize", "protocol", "readconcernlevel", "readpreference", "readpreferencetags", "replicaset", "retryreads",
    "retrywrites", "serverselectiontimeoutms", "servermonitoringmode", "sockettimeoutms", "srvmaxhosts", "srvservicename",
    "ssl", "tls", "tlsallowinvalidcertificates", "tlsallowinvalidhostnames", "tlscafile", "tlsinsecure",
    "uuidrepresentation", "w", "waitqueuetimeoutms", "wtimeoutms",
];

/// The URI with `***` for the password and for options that may be secret: `mongodb://u:***@h/db?authSource=x`. Of a
/// malformed one, no more is shown than its short address has.
pub(super) fn starred(uri: &str) -> String {
    let address = without_secrets(uri);
    let Some((scheme, place)) = address.split_once("://").filter(|(_, place)| *place != HIDDEN) else {
        return address;
    };
    let rest = uri.split_once("://").map_or("", |(_, rest)| rest);
    let (before, after) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let user = before.rsplit_once('@').map_or_else(String::new, |(user, _)| format!("{}@", user_of(user)));
    let options = match after.strip_prefix('?') {
        Some(options) => format!("?{}", options.split('&').map(option).collect::<Vec<_>>().join("&")),
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

fn option(option: &str) -> String {
    match option.split_once('=') {
        Some((name, value)) if HARMLESS.contains(&name.to_ascii_lowercase().as_str()) => {
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
    fn user_and_harmless_options_are_shown_and_everything_else_is_starred() {
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
            assert_eq!(starred(uri), shown, "{uri}");
        }
    }
}
