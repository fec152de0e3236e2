//! What a type of sink adds to the configuration, and how the sink is made from it. A new type implements
//! [`SinkOptions`] in its own module and is named once in `config::sinks`.
//!
//! Uses `document`, `record`.

use std::{collections::BTreeMap, fmt::Debug, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use super::Sink;
use crate::{
    document::{Encoder, Labels},
    record::Stream,
};

/// The options of one type of sink.
#[async_trait]
pub trait SinkOptions: Clone + Debug + Default + PartialEq + Eq + Serialize + DeserializeOwned + JsonSchema {
    /// The type's word in the configuration.
    const KIND: &'static str;

    /// The name of the example in the documented config file.
    const EXAMPLE: &'static str;

    /// The key without which the sink has no destination, and what is expected of it.
    const REQUIRED: Option<(&'static str, &'static str)> = None;

    /// Keys whose values may be in files of their own: the key that names the file, and the key itself.
    const FILES: &'static [(&'static str, &'static str)] = &[];

    /// Takes over what the sink has like every other: its labels, its streams, and the timeout of its flushes.
    fn set_common(&mut self, labels: BTreeMap<String, String>, streams: Vec<Stream>, timeout: Duration);

    /// Checks what can be checked without reaching the destination.
    ///
    /// # Errors
    /// When the options cannot work with any destination.
    fn check(&self) -> Result<(), InvalidOption>;

    /// The address for people; without secrets.
    fn address(&self) -> String;

    /// What is shown to people in place of values that may contain secrets, by their keys.
    fn redacted(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The directory that the sink writes into.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// The sink, not connected yet.
    ///
    /// # Errors
    /// When [`check`](Self::check) finds a problem, or a label cannot be a key.
    fn build(&self, encoder: &Arc<Encoder>) -> Result<Arc<dyn Sink>, InvalidOption>;

    /// The indexes that are there, compared with those that should be; none if such a sink has no indexes.
    ///
    /// # Errors
    /// When the destination cannot be reached, or does not list its indexes.
    async fn indexes(&self, encoder: &Arc<Encoder>) -> Result<Vec<IndexStatus>, String> {
        let _ = encoder;
        Ok(Vec::new())
    }
}

/// An option that cannot work with any destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidOption {
    /// The option's key in the configuration.
    pub key: &'static str,
    /// What is wrong and what is allowed; without secrets.
    pub message: String,
}

impl InvalidOption {
    pub(super) fn new(key: &'static str, message: impl Into<String>) -> Self {
        Self { key, message: message.into() }
    }
}

/// The labels for each document.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> Result<Labels, InvalidOption> {
    let labels = labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Labels::new(labels).map_err(|error| InvalidOption::new("labels", format!("labels: {error}")))
}

/// An index of a destination.
#[derive(Debug, Serialize)]
pub struct IndexStatus {
    /// The collection, table or stream that it belongs to.
    pub collection: String,
    /// Its name.
    pub index: String,
    /// How it compares with what should be there.
    pub state: IndexState,
    /// What differs, and the remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How an index compares with what should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexState {
    /// As it should be.
    Ok,
    /// It does not exist: it is created when the sink is reached next.
    Missing,
    /// It exists with other options.
    Differs,
    /// It is not one of livekit-spool's.
    Extra,
}

impl IndexState {
    /// The state's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Differs => "differs",
            Self::Extra => "extra",
        }
    }
}
