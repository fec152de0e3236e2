//! `send`: sends bundled records or files to any address.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Common, Exit, Failure, Outcome, output};
use crate::{
    config::{LogConfig, LogFormat, LogLevel},
    demo::{self, DEFAULT_RATE, Playback, Progress, Tagged},
    ingest::{
        Dropped, Secret,
        client::{Client, Credentials, Target},
    },
    logging,
    record::{
        Stream,
        json::{records_from_json, records_from_ndjson},
        wire::delimited,
    },
};

const SHOW_INTERVAL: Duration = Duration::from_millis(200);

/// Arguments of `send`.
#[derive(Debug, Clone, clap::Args)]
pub struct SendArgs {
    /// Files with records [default: bundled real LiveKit records, with new ids and times of the last minutes]
    ///
    /// Protobuf records, each after its length as a varint, or JSON (a record, an array, LiveKit's batches, or one per
    /// line). They are sent unchanged; from the second round on with new ids and current times.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Stream of the files' records [default: by their names, else events]
    #[arg(long, value_parser = PossibleValuesParser::new(["events", "stats", "node_rooms"]).try_map(|name| name.parse::<Stream>()))]
    pub kind: Option<Stream>,
    /// Address: http://host:port, https://host:port or unix:/path
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7890")]
    pub to: String,
    /// Records per second; 0: as fast as they are acknowledged [default: 100, for files 0]
    #[arg(long, value_name = "N")]
    pub rate: Option<u32>,
    /// Number of records [default: all, once]
    #[arg(long, value_name = "N", conflicts_with = "forever")]
    pub count: Option<u64>,
    /// Repeat the records until interrupted
    #[arg(long)]
    pub forever: bool,
    /// Token of `ingest.auth.tokens`
    #[arg(long, value_name = "TOKEN", env = "LIVEKIT_SPOOL_TOKEN", hide_env_values = true, conflicts_with = "api_key")]
    pub token: Option<String>,
    /// LiveKit API key, for `ingest.auth: livekit`
    #[arg(long, value_name = "KEY", env = "LIVEKIT_API_KEY", requires = "api_secret")]
    pub api_key: Option<String>,
    /// LiveKit API secret
    #[arg(long, value_name = "SECRET", env = "LIVEKIT_API_SECRET", hide_env_values = true)]
    pub api_secret: Option<String>,
    /// CA of the server's certificate (PEM), for https
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// Sends, with progress on stderr; ends at the last record, or when interrupted.
///
/// # Errors
/// When a file cannot be read, the address is not valid, records are refused for good, or some were not kept.
pub async fn run(common: &Common, args: &SendArgs) -> Outcome {
    // An address that does not answer is tried forever, so the progress says so.
    logging::start(&LogConfig { level: LogLevel::Warn, format: LogFormat::Human }, common.log_format)?;
    let client = Client::new(&target(args)).map_err(|error| Failure::usage(error.to_string()))?;
    let (records, round) = records(args)?;
    let total = args.count.or((!args.forever).then_some(round as u64));
    let rate = args.rate.unwrap_or(if args.files.is_empty() { DEFAULT_RATE } else { 0 });
    let progress = Progress::default();
    let (bar, began) = (bar(total), Instant::now());
    let show = async {
        loop {
            bar.set_position(progress.acknowledged());
            bar.set_message(match progress.retries() {
                0 => String::new(),
                retries => format!("{retries} resent"),
            });
            tokio::time::sleep(SHOW_INTERVAL).await;
        }
    };
    let records = records.take(total.map_or(usize::MAX, |total| usize::try_from(total).unwrap_or(usize::MAX)));
    let result = tokio::select! {
        result = demo::send(&client, records, rate, &progress) => result,
        () = show => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    bar.finish_and_clear();
    let (sent, seconds, dropped) = (progress.acknowledged(), began.elapsed().as_secs_f64(), progress.dropped());
    if common.json {
        let mut answer = json!({ "acknowledged": sent, "resent_batches": progress.retries(), "seconds": seconds });
        if !dropped.is_empty() {
            answer["dropped"] = json!(dropped);
        }
        output::json(&answer)?;
    } else {
        output::line(format!("{sent} records acknowledged in {seconds:.1} s"))?;
    }
    result.map_err(|status| format!("{} refused the records: {}: {}", args.to, status.code(), status.message()))?;
    all_kept(&dropped)
}

/// Fails if a receiver answered OK and did not keep all records.
pub(super) fn all_kept(dropped: &Dropped) -> Outcome {
    if dropped.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Partial, format!("not all records are kept: dropped {dropped}")))
}

fn target(args: &SendArgs) -> Target {
    let credentials = match (&args.token, &args.api_key, &args.api_secret) {
        (Some(token), ..) => Credentials::Token(Secret::new(token.as_str())),
        (None, Some(key), Some(secret)) => {
            Credentials::Livekit { key: key.clone(), secret: Secret::new(secret.as_str()) }
        }
        _ => Credentials::None,
    };
    Target { url: args.to.clone(), ca: args.ca.clone(), credentials }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{bar:30} {human_pos}/{human_len} records, {per_sec} {msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {human_pos} records, {per_sec} {msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The records, repeated without end, and how many a round has.
fn records(args: &SendArgs) -> Result<(Box<dyn Iterator<Item = Tagged>>, usize), Failure> {
    if args.files.is_empty() {
        let playback = Playback::new();
        let round = playback.round();
        return Ok((Box::new(playback), round));
    }
    let mut read = Vec::new();
    for file in &args.files {
        read.extend(read_file(file, args.kind)?);
    }
    if read.is_empty() {
        return Err(Failure::usage("the files contain no records"));
    }
    let round = read.len();
    let again = read.clone().into_iter().cycle().map(demo::restamp);
    Ok((Box::new(read.into_iter().chain(again)), round))
}

fn read_file(file: &Path, kind: Option<Stream>) -> Result<Vec<Tagged>, Failure> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let by_name = Stream::ALL.into_iter().find(|stream| name.contains(stream.as_str()));
    let stream = kind.or(by_name).unwrap_or(Stream::Events);
    let named = |problem: String| Failure::from(format!("{}: {problem}", file.display()));
    let bytes = fs::read(file).map_err(|error| named(error.to_string()))?;
    if bytes.trim_ascii_start().starts_with(b"{") || bytes.trim_ascii_start().starts_with(b"[") {
        let lines = name.ends_with(".ndjson") || name.ends_with(".jsonl");
        let parse = if lines { records_from_ndjson } else { records_from_json };
        let batch = parse(stream, &bytes).map_err(|error| named(error.to_string()))?.build(0);
        return Ok(batch.iter().map(|record| (stream, record.to_vec())).collect());
    }
    let records: Vec<_> = delimited(&bytes).map(|record| (stream, record.to_vec())).collect();
    let framed: usize = records.iter().map(|(_, record)| varint_len(record.len()) + record.len()).sum();
    if framed != bytes.len() {
        return Err(named(format!("not length-delimited protobuf records: no record begins at byte {framed}")));
    }
    Ok(records)
}

/// Bytes of a length as a varint.
const fn varint_len(length: usize) -> usize {
    (usize::BITS - (length | 1).leading_zeros()).div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_content_and_name() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let stats = write("stats.pb", &[2, 0x10, 1, 0]);
        assert_eq!(read_file(&stats, None).unwrap(), [(Stream::Stats, vec![0x10, 1]), (Stream::Stats, vec![])]);
        assert_eq!(read_file(&stats, Some(Stream::Events)).unwrap()[0].0, Stream::Events);
        let lines = write("a.ndjson", b"{\"id\": \"AE_1\"}\n{\"id\": \"AE_2\"}\n");
        assert_eq!(read_file(&lines, None).unwrap().len(), 2);
        let array = write("b.json", b"[{\"id\": \"AE_1\"}]");
        assert_eq!(read_file(&array, None).unwrap().len(), 1);
        let cut = write("c.pb", &[2, 0x10, 1, 9, 1]);
        let message = read_file(&cut, None).unwrap_err().message;
        assert!(
            message.contains("c.pb: not length-delimited protobuf records: no record begins at byte 3"),
            "{message}"
        );
    }
}
