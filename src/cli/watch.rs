//! `backlog --watch`: a small live screen, with the last hour if there is space for it. `q`, Escape, Ctrl-C and SIGTERM end
//! it.

use std::{cmp::Reverse, io::IsTerminal, time::Duration};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Cell, Paragraph, Row, Table, Wrap},
};
use tokio::signal::unix::{SignalKind, signal};

use super::{Common, Failure, Outcome, backlog, block_on, client::Client, sparklines};
use crate::{
    app::History,
    config::{
        Config,
        units::{human_count, human_size},
    },
    printable::{one_line, printable},
    status::{Change, SinkState, SinkStatus, Snapshot, age_seconds},
    tasks,
};

const REFRESH: Duration = Duration::from_secs(1);
/// Maximum delay until a key is handled.
const KEYS: Duration = Duration::from_millis(100);
/// Smaller screens have no space for a table and show one line per sink.
const LEAST_COLUMNS: u16 = 60;
const LEAST_LINES: u16 = 10;

pub(super) fn run(common: &Common) -> Outcome {
    // The screen can be opened before the first `run`, when there is no data directory.
    let config = common.config_in_force()?;
    block_on(on_terminal(&config))
}

async fn on_terminal(config: &Config) -> Outcome {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::usage("--watch needs a terminal: with --json it prints a line per second instead"));
    }
    let mut terminal = ratatui::try_init().map_err(|error| format!("could not use the terminal: {error}"))?;
    let result = watch(&mut terminal, config).await;
    ratatui::restore();
    result
}

async fn watch(terminal: &mut DefaultTerminal, config: &Config) -> Outcome {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut past = Past::default();
    loop {
        let seen = backlog::snapshot(config).await;
        past.renew(config, seen.as_ref().ok()).await;
        terminal.draw(|frame| match &seen {
            Ok(snapshot) => draw(frame, snapshot, &past.history),
            Err(failure) => {
                let text = Paragraph::new(printable(&failure.message)).red().wrap(Wrap { trim: true });
                frame.render_widget(text, frame.area());
            }
        })?;
        tokio::select! {
            leave = tasks::run_blocking(wants_to_leave) => if leave?? {
                return Ok(());
            },
            _ = terminate.recv() => return Ok(()),
        }
    }
}

/// The last hour, requested when it has a new point or a state has changed.
#[derive(Debug, Default)]
struct Past {
    history: History,
    /// Process and newest change of the last request.
    of: Option<(u32, Option<Change>)>,
}

impl Past {
    async fn renew(&mut self, config: &Config, seen: Option<&Snapshot>) {
        let Some((snapshot, process)) = seen.and_then(|seen| Some((seen, seen.process.as_ref()?))) else {
            *self = Self::default();
            return;
        };
        let of = Some((process.pid, snapshot.changes.last().cloned()));
        let age = (snapshot.at - self.history.at).unsigned_abs();
        if self.of == of && age < self.history.step_millis.unsigned_abs() {
            return;
        }
        if let Ok(Some(client)) = Client::find(&config.data_dir).await
            && let Ok(history) = client.get("history").await
        {
            *self = Self { history, of };
        }
    }
}

/// Waits for the next refresh; returns true if a key ends the screen.
fn wants_to_leave() -> std::io::Result<bool> {
    let until = std::time::Instant::now() + REFRESH;
    while std::time::Instant::now() < until {
        if !event::poll(KEYS)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Ok(true);
            }
            Event::Key(key) if matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) => return Ok(true),
            Event::Resize(..) => return Ok(false),
            _ => {}
        }
    }
    Ok(false)
}

fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot, history: &History) {
    let area = frame.area();
    if area.width < LEAST_COLUMNS || area.height < LEAST_LINES {
        return draw_small(frame, snapshot, history);
    }
    let mut problems: Vec<Line<'_>> = snapshot.sinks.iter().flat_map(|sink| problem(snapshot, sink)).collect();
    if problems.is_empty() {
        problems.push(Line::from("none").green());
    }
    // Long errors are wrapped; all of them together get at most half the screen.
    let problems_height = (height(&problems, area.width - 2) + 2).min(area.height / 2);
    let left = area.height.saturating_sub(3 + problems_height);
    // A free line, if there is one, is below the table.
    let table_height = u16::try_from(snapshot.sinks.len() + 2).unwrap_or(u16::MAX).min(left);
    let drawn = sparklines::draw(history, &order(snapshot), area.width, left - table_height);
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(table_height),
        Constraint::Length(height(&drawn, area.width)),
        Constraint::Min(0),
        Constraint::Length(problems_height),
        Constraint::Length(1),
    ])
    .split(area);

    frame.render_widget(Paragraph::new(headline(snapshot)), areas[0]);
    frame.render_widget(sinks(snapshot, areas[1]), areas[1]);
    frame.render_widget(Paragraph::new(drawn), areas[2]);
    let errors = Paragraph::new(problems).wrap(Wrap { trim: true });
    frame.render_widget(errors.block(Block::bordered().title(" last errors ")), areas[4]);
    frame.render_widget(Paragraph::new("q: quit").dark_gray(), areas[5]);
}

fn draw_small(frame: &mut Frame<'_>, snapshot: &Snapshot, history: &History) {
    let area = frame.area();
    let lines: Vec<Line<'_>> = snapshot.sinks.iter().map(brief).collect();
    let lines_height = height(&lines, area.width).min(area.height);
    let drawn = sparklines::draw(history, &order(snapshot), area.width, area.height - lines_height);
    let areas = Layout::vertical([Constraint::Length(lines_height), Constraint::Min(0)]).split(area);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), areas[0]);
    frame.render_widget(Paragraph::new(drawn), areas[1]);
}

/// The sinks in the order in which their last hour is drawn: first those with a problem, then the largest backlogs.
fn order(snapshot: &Snapshot) -> Vec<&str> {
    let mut sinks: Vec<&SinkStatus> = snapshot.sinks.iter().collect();
    sinks.sort_by_key(|sink| (!has_problem(sink), Reverse(sink.records)));
    sinks.into_iter().map(|sink| sink.name.as_str()).collect()
}

fn has_problem(sink: &SinkStatus) -> bool {
    sink.state.is_failing() || sink.spool_error.is_some() || sink.unread_error.is_some()
}

/// Lines that a text takes on the screen.
fn height(lines: &[Line<'_>], columns: u16) -> u16 {
    let columns = usize::from(columns).max(1);
    let height: usize = lines.iter().map(|line| line.width().div_ceil(columns).max(1)).sum();
    u16::try_from(height).unwrap_or(u16::MAX)
}

fn brief(sink: &SinkStatus) -> Line<'_> {
    let records = format!(" {} records, {} dead", human_count(sink.records), human_count(sink.dead_letters));
    Line::from(vec![
        Span::from(sink.name.as_str()).bold(),
        Span::from(" "),
        Span::styled(sink.state.as_str(), colour(sink.state)),
        Span::from(records),
    ])
}

fn headline(snapshot: &Snapshot) -> Vec<Line<'_>> {
    let state = match &snapshot.process {
        Some(process) if process.ready => Span::from("accepting records").green(),
        Some(_) => Span::from("not accepting records").red(),
        None => Span::from("not running").yellow(),
    };
    let accepted = snapshot
        .ingest
        .as_ref()
        .map_or_else(String::new, |ingest| format!(", {} accepted, {:.0}/s", human_count(ingest.records), ingest.rate));
    vec![
        Line::from(vec![Span::from("livekit-spool ").bold(), state, Span::from(accepted)]),
        Line::from(format!("{}: {} free", snapshot.data_dir, human_size(snapshot.disk.free_bytes))).dark_gray(),
    ]
}

const COLUMN_SPACING: u16 = 2;
const COLUMNS: [&str; 8] = ["sink", "state", "records", "oldest", "in/s", "out/s", "empty in", "dead"];

/// The table, as far as it fits the area; every column as wide as its content, a long name as the remaining width.
fn sinks(snapshot: &Snapshot, area: Rect) -> Table<'_> {
    let space = usize::from(area.height).saturating_sub(1);
    let shown = if snapshot.sinks.len() > space { space.saturating_sub(1) } else { snapshot.sinks.len() };
    let cells: Vec<[String; 8]> = snapshot.sinks[..shown].iter().map(cells).collect();
    let width = |column: usize| {
        let widest = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        u16::try_from(widest.max(COLUMNS[column].len())).unwrap_or(u16::MAX)
    };
    let mut widths: Vec<u16> = (0..COLUMNS.len()).map(width).collect();
    let others = widths[1..].iter().fold(0_u16, |sum, width| sum.saturating_add(width + COLUMN_SPACING));
    widths[0] = widths[0].min(area.width.saturating_sub(others).max(8));
    let right = |text: String| Line::from(text).right_aligned();
    let mut rows: Vec<Row<'_>> = cells
        .into_iter()
        .zip(&snapshot.sinks)
        .map(|(row, sink)| {
            Row::new(row.into_iter().enumerate().map(|(column, text)| match column {
                0 => Cell::from(text).bold(),
                1 => Cell::from(text).style(colour(sink.state)),
                _ => Cell::from(right(text)),
            }))
        })
        .collect();
    if shown < snapshot.sinks.len() {
        rows.push(Row::new([format!("and {} more", snapshot.sinks.len() - shown)]));
    }
    let header = COLUMNS.iter().enumerate().map(|(column, name)| match column {
        0 | 1 => Cell::from(*name),
        _ => Cell::from(right((*name).to_owned())),
    });
    Table::new(rows, widths).header(Row::new(header).dark_gray()).column_spacing(COLUMN_SPACING)
}

fn cells(sink: &SinkStatus) -> [String; 8] {
    let delivery = sink.delivery.as_ref();
    let rate = |rate: Option<f64>| rate.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.0}"));
    let empty_in = match delivery.map(|delivery| delivery.empty_in_seconds) {
        // Between two flushes there is always a small backlog.
        _ if sink.records == 0 || sink.state == SinkState::Idle => "–".to_owned(),
        Some(Some(seconds)) => backlog::age(Some(seconds)),
        Some(None) => "grows".to_owned(),
        None => "–".to_owned(),
    };
    [
        sink.name.clone(),
        sink.state.as_str().to_owned(),
        human_count(sink.records),
        backlog::age(sink.oldest_age_seconds),
        rate(delivery.map(|delivery| delivery.rate_in)),
        rate(delivery.map(|delivery| delivery.rate_out)),
        empty_in,
        human_count(sink.dead_letters),
    ]
}

/// What is wrong with a sink, for how long, and what to do; past errors in grey.
fn problem<'s>(snapshot: &Snapshot, sink: &'s SinkStatus) -> Vec<Line<'s>> {
    let style = Style::new().fg(if has_problem(sink) { Color::Red } else { Color::DarkGray });
    let since = sink.since.filter(|_| sink.state.is_failing()).map_or_else(String::new, |since| {
        format!(" {} for {}", sink.state.as_str(), backlog::age(Some(age_seconds(snapshot.at, since))))
    });
    let texts = [sink.spool_error.as_ref(), sink.unread_error.as_ref(), sink.last_error.as_ref()];
    let errors = texts
        .into_iter()
        .flatten()
        .map(|text| Line::styled(format!("{}{since}: {}", sink.name, one_line(text)), style));
    errors
        .chain(sink.advice.iter().map(|text| Line::from(format!("→ {}: {}", sink.name, one_line(text))).yellow()))
        .collect()
}

fn colour(state: SinkState) -> Style {
    Style::new().fg(match state {
        SinkState::Idle => Color::Green,
        SinkState::Delivering | SinkState::Connecting => Color::Blue,
        state if state.is_failing() => Color::Red,
        _ => Color::Yellow,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{app, config};

    #[test]
    fn the_last_hours_of_sinks_with_a_problem_are_drawn_first_and_then_those_of_the_largest_backlogs() {
        let data = tempfile::tempdir().unwrap();
        let sinks = ["a", "b", "c", "d", "e"].map(|name| format!("{{ name: {name}, type: file, path: out-{name} }}"));
        let text = format!("data_dir: {}\nsinks: [{}]\n", data.path().display(), sinks.join(", "));
        let mut snapshot = app::of_stopped(&config::parse(Some(("c.yaml", &text)), &|_| None).unwrap()).unwrap();
        for (sink, records) in snapshot.sinks.iter_mut().zip([0, 7, 9, 1, 3]) {
            (sink.state, sink.records) = (SinkState::Idle, records);
        }
        snapshot.sinks[3].spool_error = Some("it does not open".to_owned());
        snapshot.sinks[4].state = SinkState::Unavailable;
        assert_eq!(order(&snapshot), ["e", "d", "c", "b", "a"]);
    }
}
