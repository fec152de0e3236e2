//! `verify`: checks every checksum of every spool, of a running and a stopped process. `recover`: copies records out of any
//! directory.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufWriter},
    path::PathBuf,
};

use super::{
    Common, Exit, Failure, Outcome, block_on,
    client::{Client, encoded},
    output, records,
};
use crate::{
    app,
    config::{
        Config,
        units::{human_count, human_size},
    },
    files,
    record::SinkName,
    spool::{self, Finding, Severity, VerifyReport, raw::RawWriter},
    tasks,
};

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Name of the sink [default: every spool in the data directory]
    sink: Option<String>,
}

/// Arguments of `recover`.
#[derive(Debug, clap::Args)]
pub struct RecoverArgs {
    /// A spool, a part of one, its quarantine, or one of its files
    directory: PathBuf,
    /// Output file; in the format that `import` reads, not redacted, readable for this user only
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(super) fn verify(common: &Common, args: &VerifyArgs) -> Outcome {
    let config = common.config_of_spools()?;
    block_on(async {
        let there = app::spools_in(&config.data_dir)?;
        let chosen = match &args.sink {
            Some(sink) => records::stopped_spool(&config, sink)?.into_iter().collect(),
            None => there,
        };
        let client = Client::find(&config.data_dir).await?;
        let mut reports = Vec::new();
        for sink in chosen {
            reports.push(match &client {
                Some(client) => client.get(&format!("sinks/{}/verify", encoded(sink.as_str()))).await?,
                None => check(&config, sink).await?,
            });
        }
        if common.json {
            output::json(&reports)?;
        } else if reports.is_empty() {
            output::line(format!("there are no spools in {}", config.data_dir.display()))?;
        } else {
            reports.iter().try_for_each(show)?;
        }
        match reports.iter().map(|report| report.problems).sum::<u64>() {
            0 => Ok(()),
            problems => Err(Failure::new(Exit::Partial, format!("{problems} problems found"))),
        }
    })
}

async fn check(config: &Config, sink: SinkName) -> Result<VerifyReport, Failure> {
    let (directory, options) = (config.data_dir.join(sink.as_str()), app::spool_options(config, &sink));
    Ok(tasks::run_blocking(move || spool::verify(&directory, options)).await??)
}

fn show(report: &VerifyReport) -> Outcome {
    let result = if report.problems == 0 { "sound" } else { "damaged" };
    output::line(format!("{}: {result}", report.directory.display()))?;
    output::line(format!(
        "  {} files, {} blocks, {}; {} records, {} dead letters, {} queue entries",
        human_count(report.files),
        human_count(report.blocks),
        human_size(report.bytes),
        human_count(report.records),
        human_count(report.dead_letters),
        human_count(report.queue_entries)
    ))?;
    for (stream, records) in &report.lost {
        output::line(format!("  lost of {stream}: {} records", human_count(*records)))?;
    }
    if report.quarantine_bytes > 0 {
        output::line(format!("  in quarantine/: {}", human_size(report.quarantine_bytes)))?;
    }
    report.findings.iter().try_for_each(|finding| output::line(format!("  {}", described(finding))))?;
    match report.more_findings {
        0 => Ok(()),
        more => output::line(format!("  and {more} more")),
    }
}

fn described(finding: &Finding) -> String {
    let mark = if finding.severity == Severity::Problem { '!' } else { '-' };
    let at = finding.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
    let lost = finding.records_lost.map(|records| format!(" ({records} records lost)")).unwrap_or_default();
    format!("{mark} {}{at}: {}{lost}", finding.file.display(), finding.what)
}

pub(super) fn recover(common: &Common, args: &RecoverArgs) -> Outcome {
    let config = common.config_in_force()?;
    let keys = app::keys(&config);
    let named = |error: &dyn std::fmt::Display| Failure::from(format!("{}: {error}", args.output.display()));
    let file = files::open_private(&args.output, OpenOptions::new().write(true).create_new(true));
    let file: File = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("{} already exists: name another file", args.output.display()))
        }
        _ => named(&error),
    })?;
    let mut out = RawWriter::new(BufWriter::with_capacity(1 << 20, file)).map_err(|error| named(&error))?;
    let recovered =
        spool::recover(&args.directory, keys.as_ref(), &mut out).map_err(Failure::from).and_then(|report| {
            let file = out.finish().map_err(|error| named(&error))?;
            file.into_inner().map_err(|error| named(&error.into_error()))?.sync_all().map_err(|error| named(&error))?;
            Ok(report)
        });
    let report = recovered.inspect_err(|_| {
        // The file is incomplete, and would make the next attempt fail.
        let _ = std::fs::remove_file(&args.output);
    })?;
    if common.json {
        output::json(&report)?;
    } else {
        let (total, blocks) = (human_count(report.total()), human_count(report.blocks));
        output::line(format!("{total} records of {blocks} blocks in {}", args.output.display()))?;
        for place in &report.damaged {
            let (file, offset) = (place.file.display(), place.offset);
            output::line(format!("  ! {file} at byte {offset}: {} bytes: {}", place.bytes, place.reason))?;
        }
        for (key, records) in &report.locked {
            output::line(format!("  ! {records} records need key {key}: add it to spool.encryption (old_keys)"))?;
        }
    }
    let damaged = report.damaged.len() as u64 + report.more_damaged;
    if damaged == 0 && report.locked.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Partial, left(damaged, &report.locked)))
}

/// What was not recovered, and why.
fn left(damaged: u64, locked: &BTreeMap<String, u64>) -> String {
    let places = (damaged > 0).then(|| format!("{damaged} damaged places"));
    let keys = locked.keys().cloned().collect::<Vec<_>>().join(", ");
    let records: u64 = locked.values().sum();
    let locked =
        (records > 0).then(|| format!("{records} records are encrypted with keys that are not configured ({keys})"));
    places.into_iter().chain(locked).collect::<Vec<_>>().join("; ")
}
