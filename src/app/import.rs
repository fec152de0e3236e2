//! `import`: puts records into the spools without the ingest ports; in a running process and in a stopped one's directory.

use super::{App, OperateError, Stopped, sinks::filter};
use crate::{
    config::Config,
    ingest::{Append, Dropped, Filter, Refusal, drops_newest},
    record::{RecordBatch, RecordBatchBuilder, SinkName, Stream, UnixMillis},
    spool::{Appended, Spool, raw::RawReader},
};

impl App {
    /// Puts records into a sink's spool; without a name into all, each filtered as for ingest. Returns what full spools
    /// dropped by their policy.
    ///
    /// # Errors
    /// When there is no such sink, or a spool does not accept them.
    pub async fn import(&self, name: Option<&str>, batches: &[RecordBatch]) -> Result<Dropped, OperateError> {
        let mut dropped = Dropped::default();
        let into = importing(&self.config(), name);
        for (name, filter) in into.ok_or_else(|| self.no_such_sink(name.unwrap_or_default()))? {
            append(&name, &*self.spool(name.as_str()).await?, &filter, batches, &mut dropped).await?;
        }
        Ok(dropped)
    }
}

impl Stopped {
    /// As [`App::import`].
    ///
    /// # Errors
    /// As there.
    pub async fn import(&self, name: Option<&str>, batches: &[RecordBatch]) -> Result<Dropped, OperateError> {
        let mut dropped = Dropped::default();
        let into = importing(&self.config, name);
        for (name, filter) in into.ok_or_else(|| self.no_such_sink(name.unwrap_or_default()))? {
            self.with_spool(name.as_str(), async |spool| append(&name, spool, &filter, batches, &mut dropped).await)
                .await?;
        }
        Ok(dropped)
    }
}

/// The target of an import and its filter: a sink that was named gets all records. `None`: there is no such sink.
fn importing(config: &Config, name: Option<&str>) -> Option<Vec<(SinkName, Filter)>> {
    let mut sinks = config.sinks.iter();
    match name {
        Some(name) => {
            let sink = sinks.find(|sink| sink.name.as_str() == name)?;
            Some(vec![(sink.name.clone(), Filter::default())])
        }
        None => Some(sinks.map(|sink| (sink.name.clone(), filter(sink))).collect()),
    }
}

async fn append(
    sink: &SinkName,
    spool: &Spool,
    filter: &Filter,
    batches: &[RecordBatch],
    dropped: &mut Dropped,
) -> Result<(), OperateError> {
    for batch in batches.iter().filter_map(|batch| filter.apply(batch)) {
        let records = u64::from(batch.count());
        let appended = Append::append(spool, batch).await.map_err(|error| Refusal::of(sink, error))?;
        if let Appended::Dropped { limit } = appended {
            dropped.add(sink, records, drops_newest(limit));
        }
    }
    Ok(())
}

/// The batches of a file of `export --raw`: consecutive records with the same stream and receive time form one batch.
///
/// # Errors
/// When the bytes are not such a file.
pub(crate) fn batches(framed: &[u8]) -> Result<Vec<RecordBatch>, String> {
    let mut batches = Vec::new();
    let mut open: Option<(RecordBatchBuilder, Stream, UnixMillis)> = None;
    for record in RawReader::new(framed).map_err(|error| error.to_string())? {
        let record = record.map_err(|error| error.to_string())?;
        let fits = open.as_ref().is_some_and(|(builder, stream, at)| {
            *stream == record.stream && *at == record.received_at && builder.len() < 1 << 20
        });
        if !fits && let Some((builder, _, at)) = open.take() {
            batches.push(builder.build(at));
        }
        let (builder, ..) =
            open.get_or_insert_with(|| (RecordBatchBuilder::new(record.stream), record.stream, record.received_at));
        builder.push(&record.bytes);
    }
    batches.extend(open.map(|(builder, _, at)| builder.build(at)));
    Ok(batches)
}
