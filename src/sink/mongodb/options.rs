//! The destination of the MongoDB sink, and the checks that need no server.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use mongodb::options::{Acknowledgment, ConnectionString};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use super::objection;
use crate::{
    document::Labels,
    record::Stream,
    setting::{Expiration, Is, Text},
    sink::url::{MongodbUri, without_secrets},
};

/// The database of OpenVidu's fork.
const DEFAULT_DATABASE: &str = "openvidu";

/// Where and how the MongoDB sink delivers.
#[serde_as]
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MongoOptions {
    /// mongodb: the connection string, or uri_file; write concern majority + journal unless it says otherwise; w=0 is
    /// refused
    #[serde_as(as = "Is<MongodbUri>")]
    #[schemars(example = "mongodb://127.0.0.1:27017/")]
    pub uri: String,
    /// mongodb: a file that holds the uri
    #[serde_as(as = "Option<Is<Text>>")]
    pub uri_file: Option<PathBuf>,
    /// mongodb: the database; its collections are named after the streams
    #[serde_as(as = "Is<Text>")]
    pub database: String,
    /// mongodb, redis: documents expire after this (in MongoDB by a TTL index on openvidu_expire_at); never: they are kept
    #[serde_as(as = "Is<Expiration>")]
    pub expiration: Option<Duration>,
    /// Static fields added to each document.
    #[serde(skip)]
    pub labels: BTreeMap<String, String>,
    /// The streams of this sink: their collections get indexes.
    #[serde(skip)]
    pub streams: Vec<Stream>,
    /// The timeout of a command, a connection or the choice of a server, unless the URI says otherwise.
    #[serde(skip)]
    pub timeout: Duration,
}

impl Default for MongoOptions {
    fn default() -> Self {
        Self {
            uri: "mongodb://127.0.0.1:27017".to_owned(),
            uri_file: None,
            database: DEFAULT_DATABASE.to_owned(),
            expiration: Some(Duration::from_secs(768 * 3600)),
            labels: BTreeMap::new(),
            streams: Stream::ALL.to_vec(),
            timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for MongoOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoOptions")
            .field("uri", &without_secrets(&self.uri))
            .field("database", &self.database)
            .field("expiration", &self.expiration)
            .field("labels", &self.labels)
            .field("streams", &self.streams)
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl MongoOptions {
    /// Checks what can be checked without a server: the driver's objections to the URI, its write concern, the name of the
    /// database.
    ///
    /// # Errors
    /// When the driver cannot read the URI, when the URI has `w=0`, or when the name of the database is not valid.
    pub fn check(&self) -> Result<(), MongoOptionsError> {
        let refused = |reason| MongoOptionsError::Uri { uri: without_secrets(&self.uri), reason };
        if let Some(reason) = objection::to(&self.uri) {
            return Err(refused(reason));
        }
        let uri = ConnectionString::parse(self.uri.as_str()).map_err(|error| refused(error.to_string()))?;
        if uri.write_concern.as_ref().and_then(|concern| concern.w.as_ref()) == Some(&Acknowledgment::Nodes(0)) {
            return Err(MongoOptionsError::Unacknowledged);
        }
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || "/\\.\"$*<>:|?".contains(c);
        if self.database.is_empty() || self.database.len() > 63 || self.database.contains(forbidden) {
            return Err(MongoOptionsError::Database(self.database.clone()));
        }
        self.labels().map(drop)
    }

    /// The labels for each document.
    pub(super) fn labels(&self) -> Result<Labels, MongoOptionsError> {
        let labels = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Labels::new(labels).map_err(|error| MongoOptionsError::Label(error.to_string()))
    }
}

/// Options that cannot work with any server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MongoOptionsError {
    /// The driver cannot read the URI.
    #[error("uri {uri}: {reason}")]
    Uri {
        /// The URI, without its secrets.
        uri: String,
        /// The error of the driver.
        reason: String,
    },
    /// `w=0`: MongoDB would not say whether it has stored a record.
    #[error(
        "uri: w=0 is refused, because a record could be lost without notice: leave it out (majority, journaled) or use w=1"
    )]
    Unacknowledged,
    /// No database can have this name.
    #[error("database {0:?}: use 1 to 63 bytes without spaces or any of / \\ . \" $ * < > : | ?")]
    Database(String),
    /// A label cannot be a key in a document.
    #[error("labels: {0}")]
    Label(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_uri(uri: &str) -> MongoOptions {
        MongoOptions { uri: uri.to_owned(), ..MongoOptions::default() }
    }

    #[test]
    fn unacknowledged_writes_are_refused() {
        assert_eq!(with_uri("mongodb://db/?w=0").check(), Err(MongoOptionsError::Unacknowledged));
        assert_eq!(with_uri("mongodb://db/?w=1").check(), Ok(()));
        assert_eq!(with_uri("mongodb+srv://db.example.com/?w=majority").check(), Ok(()));
    }

    #[test]
    fn a_bad_uri_is_named_without_its_password() {
        let error = with_uri("mongodb://me:p@ss/word@db:port/").check().expect_err("not a URI").to_string();
        assert!(error.contains("uri") && !error.contains("ss/word") && !error.contains("p@ss"), "{error}");
        assert!(with_uri("postgres://db").check().is_err());
    }

    #[test]
    fn an_option_that_the_driver_refuses_is_named_whoever_logs_in() {
        for (option, named) in [
            ("socketTimeoutMS=1000", "socketTimeoutMS"),
            ("retryWrite=true", "retryWrite: "),
            ("nonsense=1", "nonsense: "),
            ("tls=maybe", "tls: "),
            ("connectTimeoutMS=x", "connectTimeoutMS: "),
            ("maxPoolSize=0", "maxPoolSize"),
            ("readPreference=nearby", "readPreference: "),
            ("maxStalenessSeconds=90", "maxStalenessSeconds: "),
            ("authMechanism=NONE", "authMechanism: "),
            ("directConnection=1", "directConnection: "),
            ("tls", "tls: "),
            ("tlsCAFile=/nowhere/ca.pem", "/nowhere/ca.pem"),
            ("tlsCertificateKeyFile=/nowhere/key.pem", "/nowhere/key.pem"),
            ("heartbeatFrequencyMS=1", "heartbeatFrequencyMS"),
        ] {
            for (user, tls) in [("", ""), ("me:hunter2@", ""), ("", "retryWrites=true&"), ("me:hunter2@", "appName=x&")]
            {
                let tls = if option.contains("File") { format!("{tls}tls=true&") } else { tls.to_owned() };
                let error =
                    with_uri(&format!("mongodb://{user}db/?{tls}{option}")).check().expect_err(option).to_string();
                assert!(error.contains(named), "{option}: {error}");
                assert!(!error.contains("percent-encoded") && !error.contains("hunter2"), "{option}: {error}");
            }
        }
        let two =
            with_uri("mongodb://me:hunter2@a,b/?directConnection=true").check().expect_err("two hosts").to_string();
        assert!(two.contains("directConnection") && !two.contains("hunter2"), "{two}");
        for secret in
            ["tlsCertificateKeyFilePassword=hunter2&tls=no", "authMechanismProperties=hunter2", "proxyPassword=hunter2"]
        {
            let error = with_uri(&format!("mongodb://db/?{secret}")).check().expect_err(secret).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        for right in [
            "mongodb://me:p%40ss@a,b/?replicaSet=rs&readPreferenceTags=dc:x&readPreference=nearest&w=1",
            "mongodb://me:p@db/?authSource=admin&tls=true",
            "mongodb+srv://me:p@db.example.com/?retryWrites=true&appName=x&srvMaxHosts=2",
        ] {
            assert_eq!(with_uri(right).check(), Ok(()), "{right}");
        }
        let srv =
            with_uri("mongodb+srv://me:p@db.example.com/?tlsCAFile=/nowhere/ca.pem").check().expect_err("no file");
        assert!(srv.to_string().contains("/nowhere/ca.pem"), "{srv}");
    }

    #[test]
    fn debug_shows_no_password() {
        let shown = format!("{:?}", with_uri("mongodb://me:hunter2@db/?tlsCertificateKeyFilePassword=hunter3"));
        assert!(shown.contains("db") && !shown.contains("hunter"), "{shown}");
    }

    #[test]
    fn a_database_name_that_no_server_accepts_is_refused() {
        let options = MongoOptions { database: "a.b".to_owned(), ..MongoOptions::default() };
        assert_eq!(options.check(), Err(MongoOptionsError::Database("a.b".to_owned())));
    }
}
