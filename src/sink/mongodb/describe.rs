//! The driver's errors for people: one line with what failed, where and why. The driver's own text is a dump of the
//! topology.

use std::{fmt::Write, io};

use mongodb::error::{Error, ErrorKind};

/// The maximum number of characters of a foreign text.
const LENGTH: usize = 200;
/// The maximum number of servers that are named.
const SERVERS: usize = 4;

/// What failed and why; the caller has already written `address`, so it is not repeated.
pub(super) fn describe(error: &Error, address: &str, user: Option<&str>) -> String {
    match error.kind.as_ref() {
        ErrorKind::Command(answer) => {
            format!("{} (code {} {})", shortened(&answer.message), answer.code, answer.code_name)
        }
        ErrorKind::Authentication { message, .. } => authentication(message, user),
        ErrorKind::ServerSelection { message, .. } => selection(message, address, user),
        ErrorKind::ConnectionPoolCleared { message, .. } => match cause_within(message) {
            Some(cause) if is_authentication(cause) => authentication(cause, user),
            Some(cause) => format!("its connections were closed, since another operation failed: {}", plain(cause)),
            None => shortened(message),
        },
        ErrorKind::Io(error) => connection(error),
        ErrorKind::DnsResolve { message, .. } => format!("its name cannot be resolved: {}", shortened(message)),
        ErrorKind::InvalidTlsConfig { message, .. } => format!("TLS: {}", shortened(message)),
        other => shortened(&other.to_string()),
    }
}

/// One line, shortened if it is long.
pub(super) fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn connection(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            format!("cannot be reached: {}", plain(&error.to_string()))
        }
        _ => format!("the connection failed: {}", plain(&error.to_string())),
    }
}

fn is_authentication(cause: &str) -> bool {
    cause.to_lowercase().contains("authentication fail")
}

fn authentication(message: &str, user: Option<&str>) -> String {
    let whose = user.map(|user| format!(" for user {user}")).unwrap_or_default();
    match is_authentication(message) {
        true => format!("authentication failed{whose}"),
        false => format!("authentication failed{whose}: {}", shortened(message)),
    }
}

/// A server in the text of a failed selection.
struct Server<'a> {
    address: &'a str,
    role: &'a str,
    /// Why its type is unknown.
    cause: Option<&'a str>,
}

/// Reads the driver's text:
///
/// ```text
/// Server selection timeout: No available servers. Topology: { Type: …, Servers: [ { Address: db:27017, Type: Unknown,
/// Error: Kind: I/O error: Connection refused (os error 111), labels: {…}, source: … }, { Address: … } ] }
/// ```
fn servers(message: &str) -> Vec<Server<'_>> {
    let parts = message.split("{ Address: ").skip(1);
    parts
        .filter_map(|part| {
            let (address, rest) = part.split_once(", Type: ")?;
            let role = rest.split([',', ' ']).next()?;
            Some(Server { address, role, cause: cause_within(rest) })
        })
        .collect()
}

/// The kind of an error inside the text of another one.
fn cause_within(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("Kind: ")?;
    Some(rest.split_once(", labels: {").map_or(rest, |(cause, _)| cause))
}

/// Without the driver's headings and the capital after them.
fn plain(cause: &str) -> String {
    let cause = cause.strip_prefix("I/O error: ").unwrap_or(cause);
    if matches!(cause, "timed out" | "TimedOut") {
        return "no answer in time".to_owned();
    }
    let mut rest = cause.chars();
    let second_is_lower = cause.chars().nth(1).is_some_and(char::is_lowercase);
    match rest.next() {
        Some(first) if second_is_lower => shortened(&format!("{}{}", first.to_lowercase(), rest.as_str())),
        _ => shortened(cause),
    }
}

fn selection(message: &str, address: &str, user: Option<&str>) -> String {
    let servers = servers(message);
    if let Some(cause) = servers.iter().filter_map(|server| server.cause).find(|cause| is_authentication(cause)) {
        return authentication(cause, user);
    }
    match &servers[..] {
        [] if message.contains("Topology: {") => {
            "no server was found, or none of this replica set; check the hosts and replicaSet in the uri".to_owned()
        }
        [] => shortened(message),
        [alone] if alone.role == "Unknown" && address.contains(alone.address) => alone.state(),
        _ => {
            let mut text = match message.contains("ReadPreference(Primary)") || message.contains("No available servers")
            {
                true => "no primary among ".to_owned(),
                false => "no server that suits the read preference among ".to_owned(),
            };
            for (i, server) in servers.iter().take(SERVERS).enumerate() {
                let comma = if i > 0 { ", " } else { "" };
                // Writing to a String never fails.
                let _ = write!(text, "{comma}{} ({})", server.address, server.state());
            }
            if let Some(more) = servers.len().checked_sub(SERVERS).filter(|&more| more > 0) {
                let _ = write!(text, " and {more} more");
            }
            text
        }
    }
}

impl Server<'_> {
    fn state(&self) -> String {
        match (self.role, self.cause) {
            ("Unknown", Some(cause)) => format!("cannot be reached: {}", plain(cause)),
            ("Unknown", None) => "has not answered yet".to_owned(),
            ("RsPrimary", _) => "primary".to_owned(),
            ("RsSecondary", _) => "secondary".to_owned(),
            ("RsArbiter", _) => "arbiter".to_owned(),
            ("RsOther", _) => "starting or recovering".to_owned(),
            ("RsGhost", _) => "in no replica set yet".to_owned(),
            (role, _) => role.to_lowercase(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, TcpListener},
        sync::Arc,
    };

    use bson::doc;
    use mongodb::Client;

    use super::*;

    fn described(kind: ErrorKind) -> String {
        describe(&Error::from(kind), "mongodb://db:27017/openvidu", Some("me"))
    }

    fn unused_port() -> u16 {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a port").port()
    }

    async fn description_of(uri: &str) -> String {
        let client = Client::with_uri_str(uri).await.expect("a client");
        let error = client.database("openvidu").run_command(doc! { "ping": 1 }).await.expect_err("nobody is there");
        describe(&error, uri, None)
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_cannot_be_reached_and_the_text_says_why() {
        let port = unused_port();
        let text = description_of(&format!("mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=500")).await;
        assert_eq!(text, "cannot be reached: connection refused (os error 111)");
    }

    #[tokio::test]
    async fn of_a_replica_set_each_server_is_named_with_its_cause() {
        let (a, b) = (unused_port(), unused_port());
        let text = description_of(&format!(
            "mongodb://127.0.0.1:{a},127.0.0.1:{b}/?replicaSet=rs&serverSelectionTimeoutMS=500"
        ))
        .await;
        assert!(text.starts_with("no primary among 127.0.0.1:"), "{text}");
        for port in [a, b] {
            let part = format!("127.0.0.1:{port} (cannot be reached: connection refused (os error 111))");
            assert!(text.contains(&part), "{text}");
        }
    }

    #[test]
    fn servers_are_read_out_of_the_text_of_a_failed_selection() {
        let text = "Server selection timeout: None of the available servers suitable for criteria \
                    ReadPreference(Primary). Topology: { Type: ReplicaSetNoPrimary, Set Name: rs, Servers: [ \
                    { Address: a:27017, Type: RsSecondary, Average RTT: 1ms, Replica Set Name: rs }, \
                    { Address: b:27017, Type: Unknown, Error: Kind: I/O error: timed out, labels: {\"x\"}, source: None, \
                    server response: None }, { Address: c:27017, Type: Unknown } ] }";
        assert_eq!(
            selection(text, "mongodb://a,b,c/openvidu", None),
            "no primary among a:27017 (secondary), b:27017 (cannot be reached: no answer in time), c:27017 (has not \
             answered yet)"
        );
        let none =
            "Server selection timeout: No available servers. Topology: { Type: ReplicaSetNoPrimary, Set Name: rs }";
        assert!(selection(none, "mongodb://a/openvidu", None).contains("check the hosts and replicaSet"));
    }

    #[test]
    fn a_selection_that_failed_for_the_password_names_the_user() {
        let text = "Server selection timeout: No available servers. Topology: { Type: Single, Servers: [ { Address: \
                    db:27017, Type: Unknown, Error: Kind: SCRAM failure: Authentication failed., labels: {}, source: \
                    None, server response: None } ] }";
        assert_eq!(selection(text, "mongodb://db:27017/openvidu", Some("me")), "authentication failed for user me");
    }

    #[test]
    fn a_connection_that_fails_is_described_by_its_meaning() {
        let io = |kind: io::ErrorKind| described(ErrorKind::Io(Arc::new(kind.into())));
        assert_eq!(io(io::ErrorKind::TimedOut), "no answer in time");
        assert_eq!(io(io::ErrorKind::UnexpectedEof), "the server closed the connection");
        assert_eq!(io(io::ErrorKind::ConnectionReset), "the connection failed: connection reset");
    }

    #[test]
    fn an_unknown_text_is_cut_between_characters_and_stays_one_line() {
        let text = shortened(&format!("first\nsecond {}", "ü".repeat(500)));
        assert!(text.starts_with("first second ü") && text.ends_with("ü…"), "{text}");
        assert_eq!(text.chars().count(), LENGTH + 1);
        assert_eq!(selection(&"x".repeat(900), "", None).chars().count(), LENGTH + 1);
    }
}
