//! `backlog --watch`: a small live screen. `q`, Escape or Ctrl-C leaves it.

use std::{io::IsTerminal, time::Duration};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Cell, Paragraph, Row, Table},
};

use super::{Failure, Outcome, backlog};
use crate::{
    config::{
        Config,
        units::{human_count, human_size},
    },
    status::{SinkStatus, Snapshot, State},
};

const REFRESH: Duration = Duration::from_secs(1);
/// How soon a key is answered.
const KEYS: Duration = Duration::from_millis(100);

pub(super) async fn run(config: &Config) -> Outcome {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::usage("--watch needs a terminal; with --json it prints a line a second instead"));
    }
    let mut terminal = ratatui::init();
    let result = watch(&mut terminal, config).await;
    ratatui::restore();
    result
}

async fn watch(terminal: &mut DefaultTerminal, config: &Config) -> Outcome {
    loop {
        let seen = backlog::snapshot(config).await;
        terminal.draw(|frame| match &seen {
            Ok(snapshot) => draw(frame, snapshot),
            Err(failure) => frame.render_widget(Paragraph::new(failure.message.as_str()).red(), frame.area()),
        })?;
        if tokio::task::spawn_blocking(wants_to_leave).await?? {
            return Ok(());
        }
    }
}

/// Waits for the next refresh; true where a key says to leave.
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

fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot) {
    let troubles: Vec<Line<'_>> = snapshot.sinks.iter().flat_map(trouble).collect();
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(4),
        Constraint::Length(troubles.len().clamp(1, 8) as u16 + 2),
        Constraint::Length(1),
    ])
    .split(frame.area());

    frame.render_widget(Paragraph::new(headline(snapshot)), areas[0]);
    frame.render_widget(sinks(snapshot), areas[1]);
    let errors = if troubles.is_empty() { vec![Line::from("none").green()] } else { troubles };
    frame.render_widget(Paragraph::new(errors).block(Block::bordered().title(" last errors ")), areas[2]);
    frame.render_widget(Paragraph::new("q leaves").dark_gray(), areas[3]);
}

fn headline(snapshot: &Snapshot) -> Vec<Line<'_>> {
    let state = match &snapshot.process {
        Some(process) if process.ready => Span::from("taking records").green(),
        Some(_) => Span::from("not taking records").red(),
        None => Span::from("not running").yellow(),
    };
    let taken = snapshot
        .ingest
        .as_ref()
        .map_or_else(String::new, |ingest| format!(", {} taken, {:.0}/s", human_count(ingest.records), ingest.rate));
    vec![
        Line::from(vec![Span::from("livekit-spool ").bold(), state, Span::from(taken)]),
        Line::from(format!("{}: {} free", snapshot.data_dir, human_size(snapshot.disk.free_bytes))).dark_gray(),
    ]
}

fn sinks(snapshot: &Snapshot) -> Table<'_> {
    let header = Row::new(["sink", "state", "records", "oldest", "in/s", "out/s", "drained in", "dead"]).dark_gray();
    let rows = snapshot.sinks.iter().map(|sink| {
        let delivery = sink.delivery.as_ref();
        let rate = |rate: Option<f64>| rate.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.0}"));
        let drained = match delivery.and_then(|delivery| delivery.drain_seconds) {
            _ if sink.records == 0 => "–".to_owned(),
            Some(seconds) => backlog::age(Some(seconds)),
            None => "grows".to_owned(),
        };
        Row::new(vec![
            Cell::from(sink.name.as_str()).bold(),
            Cell::from(sink.state.as_str()).style(colour(sink.state)),
            Cell::from(human_count(sink.records)),
            Cell::from(backlog::age(sink.oldest_age_seconds)),
            Cell::from(rate(delivery.map(|delivery| delivery.rate_in))),
            Cell::from(rate(delivery.map(|delivery| delivery.rate_out))),
            Cell::from(drained),
            Cell::from(human_count(sink.dead_letters)),
        ])
    });
    let widths = [
        Constraint::Min(8),
        Constraint::Length(17),
        Constraint::Length(11),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(10),
        Constraint::Length(6),
    ];
    Table::new(rows, widths).header(header).column_spacing(1)
}

fn trouble(sink: &SinkStatus) -> Vec<Line<'_>> {
    let is_now = sink.state.is_trouble() || sink.spool_error.is_some();
    let texts = [sink.spool_error.as_ref(), sink.last_error.as_ref()];
    let style = if is_now { Style::new().fg(Color::Red) } else { Style::new().fg(Color::DarkGray) };
    texts.into_iter().flatten().map(|text| Line::styled(format!("{}: {text}", sink.name), style)).collect()
}

fn colour(state: State) -> Style {
    Style::new().fg(match state {
        State::Idle => Color::Green,
        State::Delivering | State::Connecting => Color::Blue,
        state if state.is_trouble() => Color::Red,
        _ => Color::Yellow,
    })
}
