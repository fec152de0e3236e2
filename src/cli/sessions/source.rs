//! Where sessions are read from, of which time, and what every subcommand prints.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    app::NoSuchSink,
    archive::{self, Archive, Limits, Query, Read},
    cli::{Common, Exit, Failure, Outcome, output},
    config::units::parse_duration,
    session::Time,
};

/// The most bytes of documents that are held at the same time.
const MAX_BYTES: u64 = 256 << 20;

/// Where sessions are read from, and how they are printed.
#[derive(Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// Name of the sink [default: the first that can be read]
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// Maximum time for reading
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print CSV for spreadsheets
    #[arg(long, conflicts_with = "json")]
    pub(super) csv: bool,
}

impl SourceArgs {
    pub(super) fn open(&self, common: &Common) -> Result<Arc<dyn Archive>, Failure> {
        let config = common.load_config()?;
        let refused = |error: archive::OpenError| Failure::usage(error.to_string());
        let Some(name) = &self.sink else {
            return archive::open_first(&config.sinks).map(|(_, archive)| archive).map_err(refused);
        };
        let Some(sink) = config.sinks.iter().find(|sink| sink.name.as_str() == name) else {
            let names = config.sinks.iter().map(|sink| sink.name.to_string()).collect();
            return Err(Failure::usage(NoSuchSink { name: name.clone(), names }.to_string()));
        };
        archive::open(sink).map_err(refused)
    }

    pub(super) fn limits(&self, rooms: usize) -> Limits {
        Limits { time: self.timeout, bytes: MAX_BYTES, rooms }
    }
}

/// A time range.
#[derive(Debug, clap::Args)]
pub(super) struct RangeArgs {
    /// From this long ago, or from this time: 24h, 7d, 2026-11-22, 2026-11-22T10:00:00Z
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = moment)]
    since: Moment,
    /// Until this long ago, or until this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Moment>,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Ago(Duration),
    At(Time),
}

impl Moment {
    fn from(self, now: Time) -> Time {
        match self {
            Self::Ago(ago) => Time(now.0.saturating_sub(i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX))),
            Self::At(at) => at,
        }
    }
}

fn moment(text: &str) -> Result<Moment, String> {
    let dated = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    if let Ok(at) = humantime::parse_rfc3339_weak(&dated) {
        return Ok(Moment::At(time(at)));
    }
    let ago = parse_duration(text);
    ago.map(Moment::Ago).map_err(|_| "is neither a duration (24h, 7d) nor a UTC time (2026-11-22T10:00:00Z)".to_owned())
}

pub(super) fn time(at: SystemTime) -> Time {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

impl RangeArgs {
    /// The time of asking, and the range.
    pub(super) fn query(&self) -> Result<(Time, Query), Failure> {
        let now = time(SystemTime::now());
        let (from, to) = (self.since.from(now), self.until.map_or(now, |until| until.from(now)));
        if from >= to {
            return Err(Failure::usage("--since has to be before --until"));
        }
        Ok((now, Query { from, to, room_name: None, room_prefix: None }))
    }
}

/// Which rooms a pattern of `--room` names.
pub(super) fn of_rooms(query: &mut Query, pattern: Option<&str>) {
    match pattern.map(|pattern| (pattern, pattern.strip_suffix('*'))) {
        Some((_, Some(prefix))) => query.room_prefix = Some(prefix.to_owned()),
        Some((name, None)) => query.room_name = Some(name.to_owned()),
        None => {}
    }
}

/// Shows on a terminal how many rooms were read.
pub(super) fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    bar.enable_steady_tick(Duration::from_millis(200));
    match ProgressStyle::with_template("{spinner} {human_pos} of {human_len} sessions read, {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Says what the answer lacks; the command then exits with 4.
pub(super) fn is_whole(read: &Read) -> Outcome {
    let lacks = read.lacks();
    match lacks.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Exit::Partial, lacks.join("; "))),
    }
}

/// Prints lines of CSV.
pub(super) fn print_csv(lines: impl IntoIterator<Item = String>) -> Outcome {
    for line in lines {
        if !output::csv_while_read(&line)? {
            break;
        }
    }
    Ok(())
}

/// A time, or nothing.
pub(super) fn at(time: Option<Time>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_an_instant_or_a_duration_back() {
        assert_eq!(moment("24h"), Ok(Moment::Ago(Duration::from_secs(86_400))));
        assert_eq!(moment("7d"), Ok(Moment::Ago(Duration::from_secs(604_800))));
        let midnight = Moment::At(Time(1_795_305_600_000_000_000));
        for text in ["2026-11-22", "2026-11-22T00:00:00Z", "2026-11-22 00:00:00"] {
            assert_eq!(moment(text), Ok(midnight), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01", "24", "-1h"] {
            assert!(moment(text).is_err(), "{text}");
        }
        assert_eq!(Moment::Ago(Duration::MAX).from(Time(0)), Time(i64::MIN + 1));
    }

    #[test]
    fn a_star_at_the_end_makes_a_prefix() {
        let query = |pattern| {
            let mut query = Query { from: Time(0), to: Time(1), room_name: None, room_prefix: None };
            of_rooms(&mut query, pattern);
            (query.room_name, query.room_prefix)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(query(None), (None, None));
        assert_eq!(query(Some("a*b")), (some("a*b"), None));
        assert_eq!(query(Some("a*")), (None, some("a")));
    }
}
