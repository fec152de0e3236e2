//! The kinds of values a config holds: how each is read from a scalar, and what to tell who wrote another.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    model::EncryptionKey,
    reader::nearest,
    units::{human_duration, human_size, parse_duration, parse_size},
    yaml::{self, Value},
};
use crate::{
    ingest::LivekitKeys,
    record::{SinkName, Stream},
    secret::Secret,
};

/// A scalar as it stands in the file, variables expanded.
pub(super) struct Found<'a> {
    pub(super) text: &'a str,
    pub(super) quoted: bool,
    /// As it stands in the file, variables not expanded: what one holds may be a secret in the wrong place.
    pub(super) written: &'a str,
}

/// What can be guessed over the network within hours opens no admin port.
const MIN_ADMIN_TOKEN_LENGTH: usize = 8;

type Read<T> = Box<dyn Fn(&Found<'_>) -> Result<T, String>>;

/// How a value is read, and what is expected in its place.
pub(super) struct Kind<T> {
    expected: String,
    secret: bool,
    read: Read<T>,
}

impl<T: 'static> Kind<T> {
    fn new(expected: impl Into<String>, read: impl Fn(&Found<'_>) -> Result<T, String> + 'static) -> Self {
        Self { expected: expected.into(), secret: false, read: Box::new(read) }
    }

    /// One of this kind, or a word that means "none".
    pub(super) fn or_word(self, words: &'static [&'static str]) -> Kind<Option<T>> {
        let expected = format!("{} or {}", self.expected, words.join(" or "));
        let secret = self.secret;
        let read = move |found: &Found<'_>| {
            if words.contains(&found.text) { Ok(None) } else { (self.read)(found).map(Some) }
        };
        Kind { expected, secret, read: Box::new(read) }
    }
}

impl<T> Kind<T> {
    pub(super) fn expected(&self) -> &str {
        &self.expected
    }

    /// A value that must not be repeated in a message.
    pub(super) const fn is_secret(&self) -> bool {
        self.secret
    }

    pub(super) fn read(&self, found: &Found<'_>) -> Result<T, String> {
        (self.read)(found)
    }
}

pub(super) fn boolean() -> Kind<bool> {
    Kind::new("true or false", |found| match (found.text, found.quoted) {
        ("true" | "True" | "TRUE", false) => Ok(true),
        ("false" | "False" | "FALSE", false) => Ok(false),
        (_, true) => Err("is a text in quotes".to_owned()),
        _ => Err("is no truth value".to_owned()),
    })
}

/// A boolean as LiveKit's own reader takes it: the words of YAML 1.1 too.
pub(super) fn go_boolean() -> Kind<bool> {
    let plain = boolean();
    Kind::new("true or false", move |found| match found.text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Ok(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Ok(false),
        _ => plain.read(found),
    })
}

pub(super) fn number(min: u64, max: u64) -> Kind<u64> {
    Kind::new(format!("a whole number from {min} to {max}"), move |found| {
        if found.quoted {
            return Err("is a text in quotes".to_owned());
        }
        let number: i128 = found.text.replace('_', "").parse().map_err(|_| "is no whole number".to_owned())?;
        if number < 0 {
            return Err("is negative".to_owned());
        }
        u64::try_from(number)
            .ok()
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| (if number < i128::from(min) { "is too small" } else { "is too large" }).to_owned())
    })
}

pub(super) fn integer(min: i64, max: i64) -> Kind<i64> {
    Kind::new(format!("a whole number from {min} to {max}"), move |found| {
        let number: i64 = found.text.parse().map_err(|_| "is no whole number".to_owned())?;
        if (min..=max).contains(&number) { Ok(number) } else { Err("is out of range".to_owned()) }
    })
}

pub(super) fn duration(min: Duration, max: Duration) -> Kind<Duration> {
    let expected =
        format!("a duration from {} to {}, such as 500ms or 1h30m", human_duration(min), human_duration(max));
    Kind::new(expected, move |found| {
        let value = parse_duration(found.text)?;
        if value < min {
            Err("is too short".to_owned())
        } else if value > max {
            Err("is too long".to_owned())
        } else {
            Ok(value)
        }
    })
}

pub(super) fn size(min: u64, max: u64) -> Kind<u64> {
    let expected = format!("a size from {} to {}, such as 64MiB or 8GiB", human_size(min), human_size(max));
    Kind::new(expected, move |found| {
        let value = parse_size(found.text)?;
        if value < min {
            Err("is too small".to_owned())
        } else if value > max {
            Err("is too large".to_owned())
        } else {
            Ok(value)
        }
    })
}

pub(super) fn text() -> Kind<String> {
    Kind::new("a text", |found| {
        if found.text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(found.text.to_owned()) }
    })
}

pub(super) fn secret() -> Kind<Secret> {
    let mut kind = Kind::new("a text (it is never shown)", |found| {
        // Spaces around a secret are a slip of the tool that wrote it, unless somebody put quotes around them.
        let text = if found.quoted { found.text.trim_end_matches(['\n', '\r']) } else { found.text.trim() };
        if text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(Secret::new(text)) }
    });
    kind.secret = true;
    kind
}

/// What opens the admin port.
pub(super) fn admin_token() -> Kind<Secret> {
    let secret = secret();
    let mut kind = Kind::new(
        format!("{MIN_ADMIN_TOKEN_LENGTH} characters or more (`openssl rand -hex 16` makes such a token)"),
        move |found| {
            let token = secret.read(found)?;
            let is_short = token.expose().chars().count() < MIN_ADMIN_TOKEN_LENGTH;
            if is_short { Err("is too easily guessed".to_owned()) } else { Ok(token) }
        },
    );
    kind.secret = true;
    kind
}

/// The key of an encrypted spool.
pub(super) fn encryption_key() -> Kind<EncryptionKey> {
    let mut kind =
        Kind::new("32 bytes, as 64 hex digits or in Base64 (`openssl rand -hex 32` makes such a key)", |found| {
            EncryptionKey::parse(found.text).ok_or_else(|| "is no key".to_owned())
        });
    kind.secret = true;
    kind
}

/// LiveKit API keys and their secrets as text, which LiveKit reads as YAML.
pub(super) fn api_keys() -> Kind<LivekitKeys> {
    let mut kind = Kind::new("`key: secret`, one a line, as in LIVEKIT_KEYS", |found| {
        let Ok(Value::Map(pairs)) = yaml::parse(found.text).map(|node| node.value) else {
            return Err("is something else".to_owned());
        };
        let pairs = pairs.into_iter().map(|(key, node)| match node.value {
            Value::Scalar(secret) if !secret.is_null() && !secret.text.is_empty() => {
                Some((key.text, Secret::new(secret.text)))
            }
            _ => None,
        });
        let keys: Option<LivekitKeys> = pairs.collect();
        keys.filter(|keys| !keys.is_empty()).ok_or_else(|| "is something else".to_owned())
    });
    kind.secret = true;
    kind
}

/// A URI with one of the schemes; it may hold a password, so it is never repeated.
pub(super) fn uri(schemes: &'static [&'static str]) -> Kind<Secret> {
    let list = schemes.iter().map(|scheme| format!("{scheme}://…")).collect::<Vec<_>>().join(" or ");
    let mut kind = Kind::new(list, move |found| {
        let text = found.text.trim();
        match text.split_once("://") {
            Some((scheme, rest)) if schemes.contains(&scheme) && !rest.is_empty() => Ok(Secret::new(text)),
            Some((scheme, _)) if schemes.contains(&scheme) => Err("names no host".to_owned()),
            Some(_) => Err("has another scheme".to_owned()),
            None => Err("is no URI".to_owned()),
        }
    });
    kind.secret = true;
    kind
}

pub(super) fn path() -> Kind<PathBuf> {
    Kind::new("a path", |found| {
        if found.text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(PathBuf::from(found.text)) }
    })
}

/// A file that holds a secret.
#[derive(Debug, Clone)]
pub(super) struct SecretFile {
    pub(super) path: PathBuf,
    /// For messages.
    pub(super) written: String,
}

pub(super) fn secret_file() -> Kind<SecretFile> {
    let path = path();
    Kind::new("a path", move |found| Ok(SecretFile { path: path.read(found)?, written: found.written.to_owned() }))
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

impl Listen {
    /// A port on loopback.
    pub(super) fn local(port: u16) -> Self {
        Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// True where only this machine can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `127.0.0.1:7890`, `[::1]:7890`, `localhost:7890`, `:7890` (every interface, as in Go).
pub(super) fn socket_address() -> Kind<SocketAddr> {
    Kind::new("an address and port such as 127.0.0.1:7890 or [::1]:7890", |found| parse_address(found.text))
}

/// An address, or `unix:/path/to/socket`.
pub(super) fn listen() -> Kind<Listen> {
    Kind::new("an address and port such as 127.0.0.1:7890, or unix:/path/to/socket", |found| {
        match found.text.strip_prefix("unix:") {
            Some("") => Err("names no path".to_owned()),
            Some(path) => Ok(Listen::Unix(PathBuf::from(path))),
            None => parse_address(found.text).map(Listen::Tcp),
        }
    })
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| "has no port".to_owned())?;
    let port = port.parse().map_err(|_| "has no port from 0 to 65535".to_owned())?;
    let ip: IpAddr = match host {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        "" => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Err("is no IP address and port".to_owned()),
    };
    Ok(SocketAddr::new(ip, port))
}

pub(super) fn sink_name() -> Kind<SinkName> {
    Kind::new("1 to 64 lower-case letters, digits, - or _", |found| match found.text {
        // The data folder's own file has that name.
        "lock" => Err("is the name of a file in the data folder".to_owned()),
        name => SinkName::new(name).map_err(|_| "cannot name a folder".to_owned()),
    })
}

pub(super) fn stream() -> Kind<Stream> {
    choice(&[("events", Stream::Events), ("stats", Stream::Stats), ("node_rooms", Stream::NodeRooms)])
}

/// One of some words.
pub(super) fn choice<T: Clone + 'static>(words: &[(&'static str, T)]) -> Kind<T> {
    let words = words.to_vec();
    let names: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
    Kind::new(format!("one of {}", names.join(", ")), move |found| {
        words.iter().find(|(word, _)| *word == found.text).map(|(_, value)| value.clone()).ok_or_else(|| {
            let meant = nearest(found.text, &names).map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
            format!("is not known{meant}")
        })
    })
}

/// How long documents live: a duration, `0` or `never`.
pub(super) fn or_never() -> Kind<Option<Duration>> {
    let century = Duration::from_secs(100 * 365 * 86_400);
    duration(Duration::from_secs(1), century).or_word(&["never", "0", "0s"])
}
