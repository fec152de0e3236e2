//! `export` and `import`: a sink's backlog into a file, and records from a file into the spools.
//!
//! An export is resumable: `FILE.progress` (how many bytes of FILE are valid, and where each stream continues) exists until
//! the export is complete. Bytes written after its last update are overwritten, so that no record is exported twice.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Common, Failure, Outcome, backlog, block_on, client::Client, output, records, send::all_kept};
use crate::{
    app::{Stopped, batches},
    config::units::human_count,
    files,
    ingest::{Accepted, Dropped},
    inspect::{Inspected, Query},
    record::Stream,
    spool::raw::{RawReader, RawWriter},
};

/// How often the progress file is updated.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// Maximum bytes of records per import request.
const PIECE: usize = 4 << 20;

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Name of the sink
    sink: String,
    /// Output file; created readable for this user only
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Export records as received, not redacted, in the format that `import` reads; without it, documents, one per line
    #[arg(long)]
    raw: bool,
    /// Only this stream
    #[arg(long)]
    stream: Option<Stream>,
    /// Overwrite FILE
    #[arg(long)]
    force: bool,
}

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// A file written by `export --raw` or `recover`
    file: PathBuf,
    /// Import into this sink's spool only [default: into all]
    #[arg(long)]
    sink: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Progress {
    sink: String,
    /// The only stream, if only one was requested.
    #[serde(default)]
    stream: Option<Stream>,
    raw: bool,
    bytes: u64,
    records: u64,
    /// The next sequence number of each stream.
    next: BTreeMap<Stream, u64>,
    /// Which segments could not be read, if any: their records can be before `next`.
    #[serde(default)]
    unread: Option<String>,
}

pub(super) fn export(common: &Common, args: &ExportArgs) -> Outcome {
    let config = common.config_of_spools()?;
    block_on(async {
        let snapshot = backlog::snapshot(&config).await?;
        let sink = backlog::sink_of(&snapshot, &args.sink)?;
        let total = match args.stream {
            Some(stream) => sink.streams.get(&stream).map_or(0, |figures| figures.records),
            None => sink.records,
        };
        let mut export = Export::open(args)?;
        export.record_unread(sink.unread_error.clone());
        let resumed = export.progress.records;
        let bar = bar(total + resumed);
        bar.set_position(resumed);
        let query = Query {
            streams: args.stream.map_or_else(|| Stream::ALL.to_vec(), |stream| vec![stream]),
            from: export.progress.next.clone(),
            raw: args.raw,
            ..Query::default()
        };
        export.begin()?;
        let shared = Arc::new(Mutex::new(export));
        let result = records::each(&config, &args.sink, query, {
            let (shared, bar) = (Arc::clone(&shared), bar.clone());
            move |inspected| {
                shared.lock().map_err(|_| "the export was aborted")?.push(&inspected)?;
                bar.inc(1);
                Ok(true)
            }
        })
        .await;
        bar.finish_and_clear();
        let mut export = shared.lock().map_err(|_| "the export was aborted")?;
        export.checkpoint()?;
        export.record_unread(result?);
        let records = export.finish()?;
        if common.json {
            return output::json(&json!({ "records": records, "resumed_after": resumed, "file": args.output }));
        }
        output::line(format!("{} records of {} in {}", human_count(records), args.sink, args.output.display()))
    })
}

struct Export {
    path: PathBuf,
    progress: Progress,
    out: Option<Out>,
    renewed: Instant,
    skipped: u64,
}

enum Out {
    Lines(BufWriter<File>),
    Raw(RawWriter<BufWriter<File>>),
}

impl Export {
    fn open(args: &ExportArgs) -> Result<Self, Failure> {
        let beside = progress_file(&args.output);
        let mut progress =
            Progress { sink: args.sink.clone(), stream: args.stream, raw: args.raw, ..Progress::default() };
        if args.force {
            remove(&beside)?;
            remove(&args.output)?;
        } else if let Some(text) = read_progress(&beside)? {
            progress = serde_json::from_slice(&text)?;
            if (&progress.sink, progress.stream, progress.raw) != (&args.sink, args.stream, args.raw) {
                let message = format!("{} belongs to another export: give --force to start again", beside.display());
                return Err(Failure::usage(message));
            }
        } else if fs::symlink_metadata(&args.output).is_ok() {
            let message = format!("{} already exists: give --force to overwrite it", args.output.display());
            return Err(Failure::usage(message));
        }
        Ok(Self { path: args.output.clone(), progress, out: None, renewed: Instant::now(), skipped: 0 })
    }

    fn record_unread(&mut self, unread: Option<String>) {
        self.progress.unread = self.progress.unread.take().or(unread);
    }

    /// Opens the file at the position of the last checkpoint.
    fn begin(&mut self) -> Outcome {
        let failed = |error: io::Error| format!("{}: {error}", self.path.display());
        // First, so that the next call recognises the file as its own after any interruption.
        self.save_progress()?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let mut file = files::open_private(&self.path, &mut options).map_err(failed)?;
        file.set_len(self.progress.bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let out = BufWriter::with_capacity(1 << 20, file);
        self.out = Some(if self.progress.raw { Out::Raw(RawWriter::new(out)?) } else { Out::Lines(out) });
        Ok(())
    }

    fn push(&mut self, inspected: &Inspected) -> Outcome {
        match self.out.as_mut().ok_or("the export's file is closed")? {
            Out::Lines(out) => match &inspected.document {
                Some(document) => {
                    out.write_all(document.get().as_bytes())?;
                    out.write_all(b"\n")?;
                    self.progress.records += 1;
                }
                None => {
                    self.skipped += 1;
                    let reason = inspected.error.as_deref().unwrap_or("no document");
                    output::complain(format!(
                        "livekit-spool: {} record {}: {reason}: left out",
                        inspected.stream, inspected.seq
                    ));
                }
            },
            Out::Raw(out) => {
                let record = STANDARD.decode(inspected.record.as_deref().unwrap_or_default())?;
                out.push(inspected.stream, inspected.received_at, &record)?;
                self.progress.records += 1;
            }
        }
        self.progress.next.insert(inspected.stream, inspected.seq + 1);
        if self.renewed.elapsed() >= CHECKPOINT {
            self.checkpoint()?;
            self.begin()?;
        }
        Ok(())
    }

    /// Makes the written bytes durable, then updates the progress file. A raw file gets its end here; another part can
    /// follow it.
    fn checkpoint(&mut self) -> Outcome {
        let out = match self.out.take() {
            None => return Ok(()),
            Some(Out::Lines(out)) => out,
            Some(Out::Raw(out)) => out.finish()?,
        };
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_data()?;
        self.progress.bytes = file.stream_position()?;
        self.save_progress()?;
        self.renewed = Instant::now();
        Ok(())
    }

    fn save_progress(&self) -> Outcome {
        let beside = progress_file(&self.path);
        let fresh = beside.with_extension("progress-new");
        let failed = |error: io::Error| format!("{}: {error}", beside.display());
        remove(&fresh)?;
        let progress = serde_json::to_vec(&self.progress)?;
        let opened = files::open_private(&fresh, OpenOptions::new().write(true).create_new(true));
        let mut file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("{}: its directory does not exist: create it first", self.path.display())
            }
            _ => failed(error),
        })?;
        let written = file.write_all(&progress).and_then(|()| fs::rename(&fresh, &beside));
        Ok(written.map_err(|error| {
            // Otherwise it would occupy the last space of a full disk.
            let _ = fs::remove_file(&fresh);
            failed(error)
        })?)
    }

    fn finish(&mut self) -> Result<u64, Failure> {
        remove(&progress_file(&self.path))?;
        let skipped = (self.skipped > 0).then(|| format!("{} make no document: --raw exports them too", self.skipped));
        let unread = self.progress.unread.as_ref().map(|error| format!("{error}: then export again with --force"));
        match [skipped, unread].into_iter().flatten().reduce(|skipped, unread| format!("{skipped}; {unread}")) {
            None => Ok(self.progress.records),
            Some(left_out) => {
                let message = format!("{} records exported; {left_out}", self.progress.records);
                Err(Failure::new(super::Exit::Partial, message))
            }
        }
    }
}

fn progress_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".progress");
    PathBuf::from(name)
}

/// The progress of an interrupted export; `None` if there is none.
fn read_progress(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let failed = |error: io::Error| Failure::from(format!("{}: {error}", path.display()));
    let mut file = match files::open_private(path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(failed)?;
    Ok(Some(text))
}

fn remove(path: &Path) -> Outcome {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", path.display()).into()),
        _ => Ok(()),
    }
}

pub(super) fn import(common: &Common, args: &ImportArgs) -> Outcome {
    let config = common.config_of_spools()?;
    let named = |error: &dyn std::fmt::Display| Failure::from(format!("{}: {error}", args.file.display()));
    let file = File::open(&args.file).map_err(|error| named(&error))?;
    let bar = ProgressBar::new(file.metadata().map(|metadata| metadata.len()).unwrap_or_default());
    let mut reader = RawReader::new(BufReader::with_capacity(1 << 20, file)).map_err(|error| named(&error))?;
    block_on(async {
        let into = match Client::find(&config.data_dir).await? {
            Some(client) => Into::Running(client),
            None => Into::Stopped(Box::new(Stopped::open(config).map_err(Failure::operation)?)),
        };
        let (mut records, mut piece) = (0, RawWriter::new(Vec::new())?);
        let (mut held, mut dropped) = (0, Dropped::default());
        let broken = loop {
            let (record, error) = match reader.next() {
                Some(Ok(record)) => (Some(record), None),
                Some(Err(error)) => (None, Some(error)),
                None => (None, None),
            };
            let is_end = record.is_none();
            if let Some(record) = record {
                piece.push(record.stream, record.received_at, &record.bytes)?;
                held += record.bytes.len();
            }
            if (is_end || held >= PIECE) && piece.records() > 0 {
                records += piece.records();
                let full = std::mem::replace(&mut piece, RawWriter::new(Vec::new())?);
                dropped.merge(into.send(full.finish()?, args.sink.as_deref()).await?);
                held = 0;
                bar.set_position(reader.offset());
            }
            if is_end {
                break error;
            }
        };
        bar.finish_and_clear();
        if common.json {
            output::json(&Accepted { records, dropped: dropped.clone() })?;
        } else {
            output::line(format!("{} records imported", human_count(records)))?;
        }
        match broken {
            Some(error) => Err(Failure::new(super::Exit::Partial, format!("{}: {error}", args.file.display()))),
            None => all_kept(&dropped),
        }
    })
}

/// The target of an import.
enum Into {
    Running(Client),
    Stopped(Box<Stopped>),
}

impl Into {
    /// Sends records; returns which of them were dropped.
    async fn send(&self, framed: Vec<u8>, sink: Option<&str>) -> Result<Dropped, Failure> {
        match self {
            Self::Running(client) => {
                let sink = sink.map(|sink| format!("?sink={}", super::client::encoded(sink))).unwrap_or_default();
                let accepted: Accepted = client.post_bytes(&format!("import{sink}"), framed.into()).await?;
                Ok(accepted.dropped)
            }
            Self::Stopped(stopped) => stopped.import(sink, &batches(&framed)?).await.map_err(Failure::operation),
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    match ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} records, {per_sec}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
