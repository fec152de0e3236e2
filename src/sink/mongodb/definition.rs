//! What the configuration knows of this type of sink.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use mongodb::options::{Acknowledgment, ConnectionString};

use super::{MongoOptions, MongoSink, index_status, objection};
use crate::{
    document::Encoder,
    record::Stream,
    sink::{
        IndexStatus, InvalidOption, Sink, SinkOptions,
        url::{redacted, without_secrets},
    },
};

/// Options of the URI whose values are no secrets, in lower case.
#[rustfmt::skip]
const HARMLESS: [&str; 36] = [
    "appname", "authmechanism", "authsource", "compressors", "connecttimeoutms", "directconnection",
    "heartbeatfrequencyms", "journal", "loadbalanced", "localthresholdms", "maxconnecting", "maxidletimems",
    "maxpoolsize", "maxstalenessseconds", "minpoolsize", "readconcernlevel", "readpreference", "readpreferencetags",
    "replicaset", "retryreads", "retrywrites", "serverselectiontimeoutms", "servermonitoringmode", "sockettimeoutms",
    "srvmaxhosts", "srvservicename", "ssl", "tls", "tlsallowinvalidcertificates", "tlsallowinvalidhostnames",
    "tlscafile", "tlsinsecure", "uuidrepresentation", "w", "waitqueuetimeoutms", "wtimeoutms",
];

#[async_trait]
impl SinkOptions for MongoOptions {
    const KIND: &'static str = "mongodb";
    const EXAMPLE: &'static str = "mongo";
    const REQUIRED: Option<(&'static str, &'static str)> =
        Some(("uri", "missing: expected mongodb://… or mongodb+srv://…"));
    const FILES: &'static [(&'static str, &'static str)] = &[("uri_file", "uri")];

    fn set_common(&mut self, labels: BTreeMap<String, String>, streams: Vec<Stream>, timeout: Duration) {
        (self.labels, self.streams, self.timeout) = (labels, streams, timeout);
    }

    /// The driver's objections to the URI, its write concern, the name of the database.
    fn check(&self) -> Result<(), InvalidOption> {
        let refused = |reason| InvalidOption::new("uri", format!("uri {}: {reason}", without_secrets(&self.uri)));
        if let Some(reason) = objection::to(&self.uri) {
            return Err(refused(reason));
        }
        let uri = ConnectionString::parse(self.uri.as_str()).map_err(|error| refused(error.to_string()))?;
        if uri.write_concern.as_ref().and_then(|concern| concern.w.as_ref()) == Some(&Acknowledgment::Nodes(0)) {
            let message = "uri: w=0 is refused, because a record could be lost without notice: leave it out (majority, \
                           journaled) or use w=1";
            return Err(InvalidOption::new("uri", message));
        }
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || "/\\.\"$*<>:|?".contains(c);
        if self.database.is_empty() || self.database.len() > 63 || self.database.contains(forbidden) {
            let message = format!(
                "database {:?}: use 1 to 63 bytes without spaces or any of / \\ . \" $ * < > : | ?",
                self.database
            );
            return Err(InvalidOption::new("database", message));
        }
        Ok(())
    }

    fn address(&self) -> String {
        format!("{} (database {})", without_secrets(&self.uri), self.database)
    }

    fn redacted(&self) -> Vec<(&'static str, String)> {
        vec![("uri", redacted(&self.uri, &HARMLESS))]
    }

    fn build(&self, encoder: &Arc<Encoder>) -> Result<Arc<dyn Sink>, InvalidOption> {
        Ok(Arc::new(MongoSink::new(self.clone(), Arc::clone(encoder))?))
    }

    async fn indexes(&self, encoder: &Arc<Encoder>) -> Result<Vec<IndexStatus>, String> {
        index_status::compare(self, encoder).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_uri(uri: &str) -> MongoOptions {
        MongoOptions { uri: uri.to_owned(), ..MongoOptions::default() }
    }

    #[test]
    fn unacknowledged_writes_are_refused() {
        let refused = with_uri("mongodb://db/?w=0").check().expect_err("w=0");
        assert!(refused.key == "uri" && refused.message.contains("w=0 is refused"), "{refused}");
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
        let refused = options.check().expect_err("a dot");
        assert!(refused.key == "database" && refused.message.contains("\"a.b\""), "{refused}");
    }
}
