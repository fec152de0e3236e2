//! `sessions`: one line per session, and below it what stands out most.

use std::{num::NonZeroUsize, time::Duration};

use serde_json::json;

use super::source::{RangeArgs, SourceArgs, at, bar, is_whole, of_rooms, print_csv};
use crate::{
    archive::summaries,
    cli::{Common, Outcome, output},
    config::units::{human_count, human_duration, human_size},
    csv,
    printable::one_line,
    session::{State, Summary},
};

/// The most sessions that are compared for the worst ones.
const COMPARED: usize = 2000;
/// Room names are cut to this many characters.
const NAME: usize = 24;

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    range: RangeArgs,
    /// Only rooms of this name; with * at the end, of this prefix
    #[arg(long, value_name = "NAME")]
    room: Option<String>,
    /// The worst first: most problems, then most warnings, then the lowest score
    #[arg(long)]
    worst: bool,
    /// Maximum number of sessions
    #[arg(short, value_name = "N", default_value = "50")]
    n: NonZeroUsize,
    #[command(flatten)]
    source: SourceArgs,
}

pub(super) async fn list(common: &Common, args: &ListArgs) -> Outcome {
    let archive = args.source.open(common)?;
    let (now, mut query) = args.range.query()?;
    of_rooms(&mut query, args.room.as_deref());
    let most = args.n.get();
    let limits = args.source.limits(if args.worst { COMPARED.max(most) } else { most });
    let bar = bar();
    let progress = |read: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(read as u64);
    };
    let found = summaries(&*archive, &query, &limits, now, &progress).await;
    bar.finish_and_clear();
    let (mut sessions, mut read) = found?;
    if args.worst {
        sessions.sort_by(Summary::worst_first);
        sessions.truncate(most);
    } else if sessions.len() >= most {
        // As many as asked for: that there are more is no fault.
        read.complete_from = None;
    }
    if args.source.csv {
        print_csv(std::iter::once(csv::line(HEADINGS)).chain(sessions.iter().map(csv_of)))?;
    } else if common.json {
        output::json(&json!({
            "sessions": sessions,
            "complete_from": read.complete_from,
            "cut": read.cut,
            "unread": read.unread,
        }))?;
    } else if sessions.is_empty() {
        output::line(format!("no sessions from {} to {} in {}", query.from, query.to, archive.address()))?;
    } else {
        table(&sessions, output::width().into()).iter().try_for_each(output::line)?;
    }
    is_whole(&read)
}

/// A session's length so far.
fn length(session: &Summary) -> f64 {
    session.ended_at.unwrap_or(session.last_at).since(session.started_at).max(0.0)
}

const HEADINGS: [&str; 18] = [
    "room_sid",
    "room_name",
    "started_at",
    "ended_at",
    "last_at",
    "state",
    "settled",
    "seconds",
    "participants",
    "peak_participants",
    "connection_minutes",
    "bytes_in",
    "bytes_out",
    "min_score",
    "max_loss",
    "problems",
    "warnings",
    "worst",
];

fn csv_of(session: &Summary) -> String {
    let number = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
    let cells = [
        session.room_sid.clone(),
        session.room_name.clone(),
        session.started_at.to_string(),
        at(session.ended_at),
        session.last_at.to_string(),
        word(session.state).to_owned(),
        session.settled.to_string(),
        length(session).to_string(),
        session.totals.participants.to_string(),
        session.totals.peak_participants.to_string(),
        (session.totals.connection_seconds / 60.0).to_string(),
        session.totals.bytes_in.to_string(),
        session.totals.bytes_out.to_string(),
        number(session.min_score),
        number(session.max_loss),
        session.problems.to_string(),
        session.warnings.to_string(),
        session.worst.clone().unwrap_or_default(),
    ];
    csv::line(cells.iter().map(String::as_str))
}

/// As JSON has it.
pub(super) const fn word(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Ended => "ended",
        State::Lost => "lost",
    }
}

/// Characters that fit, with `…` where some were left out.
pub(super) fn fitted(text: &str, most: usize) -> String {
    let text = one_line(text);
    match text.chars().count() <= most {
        true => text.into_owned(),
        false => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

fn table(sessions: &[Summary], width: usize) -> Vec<String> {
    let headings = ["started", "room", "session", ">length", ">people", ">in", ">out", ">loss", ">score"];
    let cells = |session: &Summary| {
        let started = session.started_at.to_string().replace('T', " ");
        let seconds = Duration::from_secs_f64(length(session).round());
        let length = match session.state {
            State::Ended => human_duration(seconds),
            State::Active => format!("{}…", human_duration(seconds)),
            State::Lost => format!("{}?", human_duration(seconds)),
        };
        [
            started.chars().take(16).collect(),
            fitted(&session.room_name, NAME),
            one_line(&session.room_sid).into_owned(),
            length,
            human_count(session.totals.participants as u64),
            human_size(session.totals.bytes_in),
            human_size(session.totals.bytes_out),
            session.max_loss.map_or_else(|| "-".to_owned(), percent),
            session.min_score.map_or_else(|| "-".to_owned(), |score| format!("{score:.1}")),
        ]
    };
    let rows: Vec<[String; 9]> = std::iter::once(headings.map(|heading| heading.trim_start_matches('>').to_owned()))
        .chain(sessions.iter().map(cells))
        .collect();
    let widths: Vec<usize> = (0..headings.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut lines = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let padded = row.iter().zip(&widths).zip(headings).map(|((cell, &width), heading)| {
            let space = " ".repeat(width - cell.chars().count());
            if heading.starts_with('>') { format!("{space}{cell}") } else { format!("{cell}{space}") }
        });
        lines.push(padded.collect::<Vec<_>>().join("  ").trim_end().to_owned());
        let session = i.checked_sub(1).and_then(|i| sessions.get(i));
        lines.extend(session.and_then(worst).map(|worst| format!("    {}", fitted(&worst, width.saturating_sub(4)))));
    }
    lines
}

/// What stands out most, and how much more there is.
fn worst(session: &Summary) -> Option<String> {
    let count = session.problems + session.warnings;
    let worst = session.worst.as_ref().filter(|_| count > 0)?;
    Some(match count {
        1 => worst.clone(),
        more => format!("{worst} (+{})", more - 1),
    })
}

/// A share, in percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}
