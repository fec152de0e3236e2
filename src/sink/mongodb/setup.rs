//! What comes before delivery and beside it: reaching the server, and a look at its collections and indexes.
//!
//! Delivery needs the server and its limits only. The look holds it up for a few seconds at most, so that nothing is sent to what is
//! known to be unsuitable; what fails in it is a warning, and a doubt, which has the worker look again soon.

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

/// What a look at the collections and indexes found.
#[derive(Debug)]
struct Findings {
    warnings: Vec<String>,
    /// Something could not be looked at or made now.
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

    /// The same; the driver itself waits for an answer without end.
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

    /// Looks at the collections, and makes the indexes that are not there. Records are worth more than either: what fails, or
    /// takes longer than `limit`, is a warning. Only what cannot keep records is an error.
    async fn findings(&self, database: &Database, limit: Duration) -> Result<Findings, SinkError> {
        let mut findings = Findings { warnings: Vec::new(), failed: false, unfinished: false };
        let name = database.name();
        let unusual = timeout(limit, unusual_collections(database, &self.options.streams)).await;
        let unusual = unusual
            .map_or_else(|_| Err("no answer in time".to_owned()), |inspected| inspected.map_err(|e| self.told(&e)));
        match unusual {
            Ok(unusual) => {
                let (suitable, unsuitable): (Vec<_>, Vec<_>) = unusual.into_iter().partition(|found| found.is_suitable);
                *self.unsuitable.lock() = unsuitable.into_iter().next().map(|found| found.message);
                findings.warnings.extend(suitable.into_iter().map(|found| found.message));
            }
            Err(why) => findings.fail(format!("the collections of {name} were not looked at"), &why),
        }
        // Also where that was found before, and nobody knows of a change.
        if let Some(unsuitable) = &*self.unsuitable.lock() {
            return Err(self.error(SinkErrorKind::Unsuitable, unsuitable));
        }
        let indexes = self.options.streams.iter().map(|&stream| async move {
            let made_before = self.indexed.lock().contains(&stream);
            let made = indexes::create(database, stream, self.options.expiration.is_some(), made_before);
            (stream, timeout(limit, made).await)
        });
        // One that hangs keeps none of the others from being made.
        for (stream, made) in join_all(indexes).await {
            match made {
                Ok(Ok(warnings)) => {
                    self.indexed.lock().insert(stream);
                    findings.warnings.extend(warnings);
                }
                Ok(Err(error)) => {
                    findings.fail(format!("indexes of {name}.{stream} were not made"), &self.told(&error))
                }
                // A large collection takes its time, and goes on without us.
                Err(_) => {
                    findings.unfinished = true;
                    findings.warnings.push(format!("indexes of {name}.{stream} are still being built"));
                }
            }
        }
        Ok(findings)
    }

    /// Reaches the server and looks; where that failed it is looked at again soon.
    pub(super) async fn set_up(&self, limit: Duration) -> Result<Vec<String>, SinkError> {
        let doubts = self.identity.doubts();
        let inspected = async {
            let ready = self.reach().await?;
            let findings = self.findings(&ready.database, limit).await?;
            Ok::<_, SinkError>((ready, findings))
        };
        let (ready, findings) = inspected.await.inspect_err(|_| self.identity.doubt())?;
        *self.ready.write() = Some(Arc::new(ready));
        // What takes a long time is not begun again and again beside itself.
        if findings.failed || (findings.unfinished && limit < self.options.timeout) {
            self.identity.doubt();
        } else {
            self.identity.believe(doubts);
        }
        Ok(findings.warnings)
    }
}

/// What stands in every insert: unordered, so that one refused document stops no other; and when it counts as done.
fn insert_options(concern: Option<&WriteConcern>) -> Result<RawDocumentBuf, Error> {
    let mut options = rawdoc! { "ordered": false };
    if let Some(concern) = concern {
        options.append(bson::raw::cstr!("writeConcern"), bson::serialize_to_raw_document_buf(concern)?);
    }
    Ok(options)
}
