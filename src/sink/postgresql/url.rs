//! The URL as libpq has it: `postgresql://user:password@host1:5432,host2/database?parameter=value&…`.
//!
//! Read here and not by the driver, which knows fewer parameters. An unknown parameter is an error that names it, since
//! one that is ignored may be the one that makes the connection safe. No message repeats a value: it may be a password
//! in the wrong place.

use std::{path::PathBuf, time::Duration};

use tokio_postgres::{
    Config,
    config::{ChannelBinding, SslNegotiation},
};

use super::target::{Attributes, Host, Roots, Target, Tls};

const PORT: u16 = 5432;
const SCHEMES: [&str; 2] = ["postgresql", "postgres"];

/// The parameters that livekit-spool knows, besides `user` and `password`; every other one is refused. Their values are no
/// secrets.
pub(super) const HARMLESS: [&str; 22] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "connect_timeout",
    "client_encoding",
    "options",
    "application_name",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "target_session_attrs",
    "load_balance_hosts",
];

/// Reads a URL.
///
/// # Errors
/// When it is no such URL; the error has none of its values.
pub(super) fn parse(url: &str) -> Result<Target, String> {
    let (scheme, rest) = url.trim().split_once("://").ok_or("is not a URL: expected postgresql://…")?;
    if !SCHEMES.contains(&scheme) {
        return Err("has another scheme: expected postgresql://…".to_owned());
    }
    if rest.contains('#') {
        return Err("has a # that is not escaped: write %23".to_owned());
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    // Else a part of the password would pass for a database or a parameter, and be shown as one.
    if query.contains('@') || path.contains(['@', '/']) {
        return Err(
            "has an @ or / after the hosts that is not escaped: write %40 and %2F, in the password too".to_owned()
        );
    }
    let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
    let mut read = Parameters::default();
    if !user.is_empty() {
        let (name, password) = user.split_once(':').map_or((user, None), |(name, password)| (name, Some(password)));
        read.set("user", decoded("the user", name)?)?;
        if let Some(password) = password {
            read.set("password", decoded("the password", password)?)?;
        }
    }
    if !path.is_empty() {
        read.set("dbname", decoded("the database", path)?)?;
    }
    let mut ports = Vec::new();
    for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
        let (name, port) = divided(host)?;
        read.hosts.push(decoded("a host", name)?);
        ports.push(port.to_owned());
    }
    read.ports = if ports.iter().all(String::is_empty) { Vec::new() } else { ports };
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or("has a parameter without a value")?;
        let name = decoded("the name of a parameter", name)?;
        let value = decoded(&name, value)?;
        read.set(&name, value)?;
    }
    read.into_target()
}

/// `host`, `host:port`, `[::1]:port`.
fn divided(host: &str) -> Result<(&str, &str), String> {
    let wrong =
        || "has a host that cannot be read: write host, host:port or [::1]:port, and escape the password".to_owned();
    if let Some(rest) = host.strip_prefix('[') {
        let (name, after) = rest.split_once(']').ok_or_else(wrong)?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((name, port)),
            None if after.is_empty() => Ok((name, "")),
            None => Err(wrong()),
        };
    }
    match host.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(wrong()),
        Some(parts) => Ok(parts),
        None => Ok((host, "")),
    }
}

/// Without percent-encoding.
fn decoded(what: &str, text: &str) -> Result<String, String> {
    let wrong = || format!("{what} is not percent-encoded: write % as %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let [high, low, after @ ..] = rest else { return Err(wrong()) };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(*high).zip(digit(*low)).map(|(high, low)| high * 16 + low).ok_or_else(wrong)?;
        bytes.push(u8::try_from(value).map_err(|_| wrong())?);
        rest = after;
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8"))?;
    if text.contains('\0') { Err(format!("{what} contains a NUL")) } else { Ok(text) }
}

/// What was read so far.
#[derive(Default)]
struct Parameters {
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<String>,
    config: Config,
    tls: Option<Tls>,
    roots: Option<Roots>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    attributes: Option<Attributes>,
    shuffled: bool,
    connect_timeout: Option<Duration>,
    application_name: Option<String>,
    direct: bool,
}

impl Parameters {
    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        let list = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
        let one_of = |words: &str| format!("{name}: expected one of {words}");
        match name {
            "host" => self.hosts = list(),
            "hostaddr" => self.addresses = list(),
            "port" => self.ports = list(),
            "user" => drop(self.config.user(value)),
            "password" => drop(self.config.password(value)),
            "dbname" => drop(self.config.dbname(value)),
            "options" => drop(self.config.options(value)),
            "application_name" => self.application_name = Some(value),
            "fallback_application_name" => drop(self.application_name.get_or_insert(value)),
            "client_encoding" => {
                if !["utf8", "utf-8", "unicode", "auto"].contains(&value.to_ascii_lowercase().as_str()) {
                    return Err("client_encoding: documents are UTF-8; leave it out".to_owned());
                }
            }
            "connect_timeout" => self.connect_timeout = seconds(name, &value)?,
            "keepalives" => drop(self.config.keepalives(value != "0")),
            "keepalives_idle" => {
                if let Some(idle) = seconds(name, &value)? {
                    self.config.keepalives_idle(idle);
                }
            }
            "keepalives_interval" => {
                if let Some(interval) = seconds(name, &value)? {
                    self.config.keepalives_interval(interval);
                }
            }
            "keepalives_count" => {
                let count = value.parse().map_err(|_| format!("{name}: expected a whole number"))?;
                self.config.keepalives_retries(count);
            }
            "tcp_user_timeout" => {
                let millis = value.parse().map_err(|_| format!("{name}: expected milliseconds"))?;
                self.config.tcp_user_timeout(Duration::from_millis(millis));
            }
            "sslmode" => {
                self.tls = Some(match value.as_str() {
                    "disable" => Tls::Disable,
                    "allow" => Tls::Allow,
                    "prefer" => Tls::Prefer,
                    "require" => Tls::Require,
                    "verify-ca" => Tls::VerifyCa,
                    "verify-full" => Tls::VerifyFull,
                    _ => return Err(one_of("disable, allow, prefer, require, verify-ca, verify-full")),
                });
            }
            "sslnegotiation" => {
                self.direct = match value.as_str() {
                    "postgres" => false,
                    "direct" => true,
                    _ => return Err(one_of("postgres, direct")),
                };
            }
            "sslrootcert" => {
                self.roots = match value.as_str() {
                    "" => None,
                    "system" => Some(Roots::System),
                    _ => Some(Roots::File(value.into())),
                };
            }
            "sslcert" => self.certificate = (!value.is_empty()).then(|| value.into()),
            "sslkey" => self.key = (!value.is_empty()).then(|| value.into()),
            "channel_binding" => {
                let binding = match value.as_str() {
                    "disable" => ChannelBinding::Disable,
                    "prefer" => ChannelBinding::Prefer,
                    "require" => ChannelBinding::Require,
                    _ => return Err(one_of("disable, prefer, require")),
                };
                self.config.channel_binding(binding);
            }
            "target_session_attrs" => {
                self.attributes = Some(match value.as_str() {
                    "any" => Attributes::Any,
                    "read-write" => Attributes::ReadWrite,
                    "primary" => Attributes::Primary,
                    "read-only" | "standby" | "prefer-standby" => {
                        return Err(format!("{name}: records are written: use read-write, primary or any"));
                    }
                    _ => return Err(one_of("read-write, primary, any")),
                });
            }
            "load_balance_hosts" => {
                self.shuffled = match value.as_str() {
                    "disable" => false,
                    "random" => true,
                    _ => return Err(one_of("disable, random")),
                };
            }
            _ => {
                // A name may be a part of a password with an `&` in it.
                let name = if is_word(name) { name } else { "(not a word)" };
                return Err(format!("unknown parameter {name}: known are user, password, {}", HARMLESS.join(", ")));
            }
        }
        Ok(())
    }

    fn into_target(self) -> Result<Target, String> {
        let Self { hosts, addresses, ports, mut config, tls, roots, certificate, key, attributes, .. } = self;
        let count = hosts.len().max(addresses.len());
        if count == 0 {
            return Err("names no host: a socket is given as host=/run/postgresql".to_owned());
        }
        if ![0, count].contains(&addresses.len()) || ![0, count].contains(&hosts.len()) {
            return Err("hostaddr: expected one for each host".to_owned());
        }
        if ![0, 1, count].contains(&ports.len()) {
            return Err("port: expected one, or one for each host".to_owned());
        }
        let mut targets = Vec::with_capacity(count);
        for i in 0..count {
            let address = match addresses.get(i).filter(|address| !address.is_empty()) {
                Some(address) => Some(address.parse().map_err(|_| "hostaddr: expected an IP address".to_owned())?),
                None => None,
            };
            let name = hosts.get(i).filter(|name| !name.is_empty()).or(addresses.get(i)).cloned().unwrap_or_default();
            if name.is_empty() {
                return Err("has an empty host".to_owned());
            }
            let port = match ports.get(i).or(ports.first()).map(String::as_str) {
                None | Some("") => PORT,
                Some(port) => port.parse().ok().filter(|&port| port > 0).ok_or("has a port that is no number")?,
            };
            targets.push(Host { name, address, port });
        }
        config.application_name(self.application_name.unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned()));
        let tls = match (tls, &roots) {
            // As libpq: the operating system has many authorities, any of which could vouch for another host.
            (None | Some(Tls::VerifyFull), Some(Roots::System)) => Tls::VerifyFull,
            (Some(_), Some(Roots::System)) => return Err("sslrootcert: system needs sslmode=verify-full".to_owned()),
            (Some(Tls::VerifyCa | Tls::VerifyFull), None) => {
                return Err(
                    "sslrootcert: missing: expected the file of the authority's certificate, or system".to_owned()
                );
            }
            (tls, _) => tls.unwrap_or(Tls::Prefer),
        };
        if self.direct {
            if matches!(tls, Tls::Disable | Tls::Allow | Tls::Prefer) {
                return Err("sslnegotiation: direct needs sslmode=require or more".to_owned());
            }
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        let identity = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err("sslcert and sslkey: expected both or neither".to_owned()),
        };
        let attributes = attributes.unwrap_or(Attributes::ReadWrite);
        let (shuffled, connect_timeout) = (self.shuffled, self.connect_timeout);
        Ok(Target { hosts: targets, driver: config, tls, roots, identity, attributes, shuffled, connect_timeout })
    }
}

/// Zero and less mean no limit of its own.
fn seconds(name: &str, value: &str) -> Result<Option<Duration>, String> {
    let seconds: i32 = value.parse().map_err(|_| format!("{name}: expected whole seconds"))?;
    Ok(u64::try_from(seconds).ok().filter(|&seconds| seconds > 0).map(Duration::from_secs))
}

fn is_word(text: &str) -> bool {
    text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::{Host as DriverHost, SslMode};

    use super::*;

    fn target(url: &str) -> Target {
        parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn error(url: &str) -> String {
        parse(url).expect_err(url)
    }

    #[test]
    fn a_url_is_read_as_libpq_reads_it() {
        let of =
            target("postgresql://me:s%40crt@h1:5433,h2,[::1]:1/my%20db?target_session_attrs=any&connect_timeout=7");
        let hosts: Vec<_> = of.hosts.iter().map(|host| (host.name.as_str(), host.port)).collect();
        assert_eq!(hosts, [("h1", 5433), ("h2", 5432), ("::1", 1)]);
        assert_eq!((of.user(), of.database(), of.attributes), (Some("me"), Some("my db"), Attributes::Any));
        assert_eq!(of.connect_timeout, Some(Duration::from_secs(7)));
        let config = of.config(&of.hosts[1], SslMode::Disable, Duration::from_secs(1));
        assert_eq!(config.get_password(), Some(&b"s@crt"[..]));
        assert_eq!(config.get_application_name(), Some("livekit-spool"));
        assert!(matches!(config.get_hosts(), [DriverHost::Tcp(name)] if name == "h2"));
        assert_eq!(target("postgres://h").tls, Tls::Prefer);
    }

    #[test]
    fn hosts_may_be_parameters_sockets_and_addresses() {
        let socket = target("postgresql:///db?host=/run/postgresql&port=5433");
        assert!(socket.hosts[0].is_socket() && socket.hosts[0].port == 5433);
        assert!(target("postgresql://%2Frun%2Fpostgresql/db").hosts[0].is_socket());
        let both = target("postgresql:///db?host=a,b&hostaddr=10.0.0.1,10.0.0.2&port=1,2");
        assert_eq!(both.hosts[1], Host { name: "b".to_owned(), address: "10.0.0.2".parse().ok(), port: 2 });
        let one_port = target("postgresql://a,b/?port=7");
        assert!(one_port.hosts.iter().all(|host| host.port == 7));
    }

    #[test]
    fn checking_the_servers_certificate_needs_an_authority() {
        assert_eq!(target("postgresql://h/?sslrootcert=system").tls, Tls::VerifyFull);
        assert_eq!(target("postgresql://h/?sslmode=verify-ca&sslrootcert=/ca.pem").tls, Tls::VerifyCa);
        assert!(error("postgresql://h/?sslmode=verify-full").contains("sslrootcert"));
        assert!(error("postgresql://h/?sslmode=require&sslrootcert=system").contains("verify-full"));
        assert!(error("postgresql://h/?sslcert=/a").contains("sslkey"));
        assert!(error("postgresql://h/?sslnegotiation=direct").contains("sslmode"));
    }

    #[test]
    fn an_unknown_parameter_is_named_with_those_that_are_known() {
        let text = error("postgresql://h/?sslmod=require");
        assert!(text.contains("unknown parameter sslmod:") && text.contains("sslmode"), "{text}");
        for refused in ["service", "passfile", "sslcrl", "gssencmode", "replication", "require_auth"] {
            assert!(error(&format!("postgresql://h/?{refused}=x")).contains(&format!("unknown parameter {refused}")));
        }
    }

    #[test]
    fn what_only_reads_is_refused_since_records_are_written() {
        for only in ["read-only", "standby", "prefer-standby"] {
            assert!(error(&format!("postgresql://h/?target_session_attrs={only}")).contains("read-write"));
        }
    }

    #[test]
    fn no_error_has_a_value_of_the_url() {
        for url in [
            "postgresql://user:hunter2",
            "postgresql://user:hunter2/db",
            "postgresql://user:hun/hunter2@host/db",
            "postgresql://user:123/hunter2@host/db",
            "postgresql://user:123/hunter2@host",
            "postgresql://user:123?hunter=2@host",
            "postgresql://user:hunter2%@host",
            "postgresql://user:hunter2%zz@host",
            "postgresql://user:hunter2#x@host",
            "postgresql://user:a?hunter2@host",
            "postgresql://user:a?hunter2=b&HUNTER2hunter2=1@host",
            "postgresql://host:hunter2/",
            "postgresql://host/?port=hunter2",
            "postgresql://host/?sslmode=hunter2",
            "postgresql://host/?connect_timeout=hunter2",
            "postgresql://host/?hostaddr=hunter2",
            "mysql://user:hunter2@host",
            "hunter2",
        ] {
            let text = error(url);
            assert!(!text.contains("hunter"), "{url}: {text}");
        }
        assert!(!format!("{:?}", target("postgresql://u:hunter2@h/d")).contains("hunter2"));
    }
}
