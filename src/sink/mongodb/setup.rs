//! The setup before delivery and in parallel with it: reaching the server, and checking its collections and indexes.
//!
//! Delivery needs only the server and its limits. The check delays it for a few seconds at most, so that nothing is sent to
//! a collection that is known to be unsuitable. A failure of the check is a warning, and a doubt, which makes the worker
//! check again soon.

use std::{sync::Arc, time::Duration};

use bson::{RawDocumentBuf, doc, rawdoc};
use futures::future::join_all;
use mongodb::{Database, error::Error, options::WriteConcern};
use tokio::time::timeout;

use super::{
    MongoSink, Ready, SinkError, SinkErrorKind,
    collections::unusual_collections,
    command::{Limits, Recipe},
    fault::kind_of,
    indexes,
};

/// The findings of a check of collections and indexes.
#[derive(Debug)]
struct Findings {
    warnings: Vec<String>,
    /// Something could not be checked or created now.
    failed: bool,
    /// Something takes longer.
    unfinished: bool,
}

impl Findings {
    fn fail(&mut self, what: String, why: &str) {
        self.failed = true;
        self.warnings.push(format!("{what}, which is tried again soon; records are delivered meanwhile: {why}"));
    }
}

impl MongoSink {
    /// Reaches the server and reads its limits: all that delivery needs.
    async fn reach(&self) -> Result<Ready, SinkError> {
        let late = |_| self.error(SinkErrorKind::Timeout, "no answer in time");
        let reached = timeout(self.options.timeout, self.reach_untimed()).await.map_err(late)?;
        reached.map_err(|error| self.driver_error(&error))
    }

    /// The same without a timeout; the driver waits for an answer without limit.
    async fn reach_untimed(&self) -> Result<Ready, Error> {
        let database = self.client().await?.database(&self.options.database);
        let limits = match database.run_command(doc! { "hello": 1 }).await {
            Ok(hello) => Limits::from_hello(&RawDocumentBuf::try_from(&hello)?),
            // Servers before 4.4.2 do not know it.
            Err(error) if kind_of(&error) == SinkErrorKind::Unnamed => Limits::default(),
            Err(error) => return Err(error),
        };
        let recipe = Recipe {
            labels: self.labels.clone(),
            expiration: self.options.expiration.map(|expiration| expiration.as_millis() as u64),
            options: insert_options(database.write_concern())?,
        };
        Ok(Ready { database, recipe, limits })
    }

    /// Checks the collections and creates the missing indexes. Records are more important than either: a failure, or
    /// exceeding `limit`, is a warning. Only a collection that cannot keep records is an error.
    async fn findings(&self, database: &Database, limit: Duration) -> Result<Findings, SinkError> {
        let mut findings = Findings { warnings: Vec::new(), failed: false, unfinished: false };
        let name = database.name();
        let unusual = timeout(limit, unusual_collections(database, &self.options.streams)).await;
        let unusual = unusual.map_or_else(
            |_| Err("no answer in time".to_owned()),
            |inspected| inspected.map_err(|e| self.describe_error(&e)),
        );
        match unusual {
            Ok(unusual) => {
                let (suitable, unsuitable): (Vec<_>, Vec<_>) = unusual.into_iter().partition(|found| found.is_suitable);
                *self.unsuitable.lock() = unsuitable.into_iter().next().map(|found| found.message);
                findings.warnings.extend(suitable.into_iter().map(|found| found.message));
            }
            Err(why) => findings.fail(format!("the collections of {name} were not checked"), &why),
        }
        // Also if that was found before, and no change is known.
        if let Some(unsuitable) = &*self.unsuitable.lock() {
            return Err(self.error(SinkErrorKind::Unsuitable, unsuitable));
        }
        let indexes = self.options.streams.iter().map(|&stream| async move {
            let made_before = self.indexed.lock().contains(&stream);
            let made = indexes::create(database, stream, self.options.expiration.is_some(), made_before);
            (stream, timeout(limit, made).await)
        });
        // If one hangs, the others are still created.
        for (stream, made) in join_all(indexes).await {
            match made {
                Ok(Ok(warnings)) => {
                    self.indexed.lock().insert(stream);
                    findings.warnings.extend(warnings);
                }
                Ok(Err(error)) => {
                    findings.fail(format!("indexes of {name}.{stream} were not created"), &self.describe_error(&error))
                }
                // A large collection needs time, and the server continues without us.
                Err(_) => {
                    findings.unfinished = true;
                    findings.warnings.push(format!("indexes of {name}.{stream} are still being built"));
                }
            }
        }
        Ok(findings)
    }

    /// Reaches the server and checks; after a failure the check is repeated soon.
    pub(super) async fn set_up(&self, limit: Duration) -> Result<Vec<String>, SinkError> {
        let doubts = self.identity.doubts();
        let inspected = async {
            let ready = self.reach().await?;
            let findings = self.findings(&ready.database, limit).await?;
            Ok::<_, SinkError>((ready, findings))
        };
        let (ready, findings) = inspected.await.inspect_err(|_| self.identity.doubt())?;
        *self.ready.write() = Some(Arc::new(ready));
        // A long check is not started again while it runs.
        if findings.failed || (findings.unfinished && limit < self.options.timeout) {
            self.identity.doubt();
        } else {
            self.identity.believe(doubts);
        }
        Ok(findings.warnings)
    }
}

/// Part of every insert: unordered, so that one refused document stops no other; and the write concern.
fn insert_options(concern: Option<&WriteConcern>) -> Result<RawDocumentBuf, Error> {
    let mut options = rawdoc! { "ordered": false };
    if let Some(concern) = concern {
        options.append(bson::raw::cstr!("writeConcern"), bson::serialize_to_raw_document_buf(concern)?);
    }
    Ok(options)
}
