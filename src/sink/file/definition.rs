//! What the configuration knows of this type of sink.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use super::{FileOptions, FileSink};
use crate::{
    document::Encoder,
    record::Stream,
    sink::{InvalidOption, Sink, SinkOptions},
};

impl SinkOptions for FileOptions {
    const KIND: &'static str = "file";
    const EXAMPLE: &'static str = "files";

    fn set_common(&mut self, labels: BTreeMap<String, String>, _streams: Vec<Stream>, _timeout: Duration) {
        self.labels = labels;
    }

    fn check(&self) -> Result<(), InvalidOption> {
        Ok(())
    }

    fn address(&self) -> String {
        self.path.display().to_string()
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn build(&self, encoder: &Arc<Encoder>) -> Result<Arc<dyn Sink>, InvalidOption> {
        Ok(Arc::new(FileSink::new(self.clone(), Arc::clone(encoder))?))
    }
}
