//! The destination of the PostgreSQL sink, and the checks that need no server.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use super::{
    target::{Host, Target},
    url::parse,
};
use crate::{
    record::Stream,
    setting::{Expiration, Is, Text, kind},
    sink::{
        InvalidOption,
        url::{address, without_secrets},
    },
};

/// PostgreSQL cuts longer names.
const MAX_NAME: usize = 63;
/// The beginning of the names that PostgreSQL keeps for itself.
const RESERVED: &str = "pg_";

/// Where and how the PostgreSQL sink delivers.
#[serde_as]
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresqlOptions {
    /// postgresql: the URL as libpq has it, with sslmode, sslrootcert, target_session_attrs, several hosts; or url_file
    #[serde_as(as = "Is<PostgresqlUrl>")]
    #[schemars(example = "postgresql://livekit@127.0.0.1/livekit")]
    pub url: String,
    /// postgresql: a file that holds the url
    #[serde_as(as = "Option<Is<Text>>")]
    pub url_file: Option<PathBuf>,
    /// postgresql: the schema of the tables events, stats and node_rooms; created if the user may
    #[serde_as(as = "Is<SchemaName>")]
    pub schema: String,
    /// postgresql: rows are removed this long after they were stored, a whole day at a time; never: they are kept
    #[serde_as(as = "Is<Expiration>")]
    pub expiration: Option<Duration>,
    /// Static fields added to each document.
    #[serde(skip)]
    pub labels: BTreeMap<String, String>,
    /// The streams of this sink: they get tables.
    #[serde(skip)]
    pub streams: Vec<Stream>,
    /// The timeout of connecting or of one batch.
    #[serde(skip)]
    pub timeout: Duration,
}

/// The address of a PostgreSQL server.
struct PostgresqlUrl;

kind!([] PostgresqlUrl => String, @SECRET, "postgresql://…",
    |text| address(text, &["postgresql", "postgres"]),
    |url| without_secrets(url),
    json_schema!({ "type": "string", "pattern": r"^\s*postgres(ql)?://." }));

/// The name of a schema.
struct SchemaName;

kind!([] SchemaName => String, @TEXT, "the name of a schema, 1 to 63 bytes",
    |text| match text {
        "" => Err("is empty".to_owned()),
        text if text.len() > MAX_NAME => Err("is longer than 63 bytes".to_owned()),
        text if text.contains('\0') => Err("contains a NUL".to_owned()),
        text if text.starts_with(RESERVED) => Err("begins with pg_, which PostgreSQL keeps for itself".to_owned()),
        text => Ok(text.to_owned()),
    },
    |name| name,
    json_schema!({ "type": ["string", "number", "boolean"], "minLength": 1, "maxLength": 63 }));

impl Default for PostgresqlOptions {
    fn default() -> Self {
        Self {
            url: "postgresql://127.0.0.1/livekit".to_owned(),
            url_file: None,
            schema: "livekit".to_owned(),
            expiration: Some(Duration::from_secs(768 * 3600)),
            labels: BTreeMap::new(),
            streams: Stream::ALL.to_vec(),
            timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for PostgresqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresqlOptions")
            .field("url", &without_secrets(&self.url))
            .field("schema", &self.schema)
            .field("expiration", &self.expiration)
            .field("labels", &self.labels)
            .field("streams", &self.streams)
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl PostgresqlOptions {
    /// The address for people: scheme, hosts and database; a socket by its directory.
    pub(super) fn shown_address(&self) -> String {
        let shown = without_secrets(&self.url);
        match parse(&self.url) {
            Ok(target) if self.url.contains(":///") || target.hosts.iter().any(Host::is_socket) => {
                let hosts: Vec<&str> = target.hosts.iter().map(|host| host.name.as_str()).collect();
                let is_plain =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_' | b',');
                let hosts = hosts.join(",");
                if hosts.bytes().all(is_plain) { format!("postgresql://{hosts}") } else { shown }
            }
            _ => shown,
        }
    }

    /// The parameters of the connection.
    pub(super) fn target(&self) -> Result<Target, InvalidOption> {
        parse(&self.url)
            .map_err(|reason| InvalidOption::new("url", format!("url {}: {reason}", without_secrets(&self.url))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{setting::Kind, sink::SinkOptions};

    fn with_url(url: &str) -> PostgresqlOptions {
        PostgresqlOptions { url: url.to_owned(), ..PostgresqlOptions::default() }
    }

    #[test]
    fn a_bad_url_is_named_without_its_password() {
        assert!(with_url("postgresql://user:secret@host:5433/db?sslmode=require").check().is_ok());
        let error = with_url("postgresql://user:secret@host/db?sslmod=x").check().expect_err("unknown").to_string();
        assert!(error.contains("postgresql://host/db") && error.contains("sslmod:"), "{error}");
        assert!(!error.contains("secret"), "{error}");
        assert!(!format!("{:?}", with_url("postgresql://:secret@host")).contains("secret"));
    }

    #[test]
    fn the_address_has_hosts_and_database_and_no_user() {
        assert_eq!(with_url("postgresql://u:p@h1:1,h2/db?sslmode=disable").address(), "postgresql://h1:1,h2/db");
        assert_eq!(
            with_url("postgresql:///db?host=/run/postgresql&password=x").address(),
            "postgresql:///run/postgresql"
        );
    }

    #[test]
    fn a_schema_may_have_any_name_that_postgresql_takes() {
        let read = <SchemaName as Kind<String>>::read;
        for name in ["livekit", "My \"Schema\"", "räume", "1"] {
            assert_eq!(read(name).as_deref(), Ok(name));
        }
        for name in ["", "pg_mine", "a\0b", &"x".repeat(64)] {
            assert!(read(name).is_err(), "{name:?}");
        }
    }
}
