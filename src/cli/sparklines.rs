//! The last hour of each sink as text: four lines with its state changes, backlog, rate in and rate out. The newest value is
//! on the right; a column without data is blank.

use std::ops::Range;

use ratatui::{
    style::Stylize,
    text::{Line, Span},
};

use crate::{
    app::{History, POINTS, Point, SinkHistory},
    config::units::human_count,
    status::SinkState,
};

/// The bars, from zero to the highest value.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The spans that can be drawn, in points: 5, 10, 20, 30 and 60 minutes.
const SPANS: [usize; 5] = [30, 60, 120, 180, POINTS];
/// A line of bars.
struct Series {
    label: &'static str,
    /// The value of a point that is drawn.
    value: fn(&Point) -> f64,
    write: fn(f64) -> String,
}

const SERIES: [Series; 3] = [
    Series { label: "backlog", value: |point| point.records as f64, write: |records| human_count(records as u64) },
    Series { label: "in", value: |point| point.rate_in.into(), write: rate },
    Series { label: "out", value: |point| point.rate_out.into(), write: rate },
];
/// Lines per sink.
const LINES: usize = SERIES.len() + 1;
/// Columns of the longest label.
const LABEL: usize = 7;
/// Minimum number of columns for the bars.
const MIN_BARS: usize = 8;
const MAX_NAME: usize = 16;
const HIGHEST: &str = "highest";
const LEGEND: [(SinkState, &str); 3] =
    [(SinkState::Unavailable, "problem"), (SinkState::Idle, "healthy"), (SinkState::Paused, "other")];

/// The lines that fit into this many columns and lines: a heading and as many of these sinks as possible, in their order;
/// none if no sink fits. If some are left out, that is the last line, or in the heading if no line is free.
pub(super) fn draw(history: &History, order: &[&str], columns: u16, lines: u16) -> Vec<Line<'static>> {
    let fitting = usize::from(lines).saturating_sub(1) / LINES;
    let known = order.iter().filter_map(|name| history.sinks.get_key_value(*name));
    let mut sinks: Vec<(&String, &SinkHistory)> = known.filter(|(_, sink)| !sink.points.is_empty()).collect();
    let left_out = sinks.len().saturating_sub(fitting);
    sinks.truncate(fitting);
    let longest = sinks.iter().map(|(_, sink)| sink.points.len()).max().unwrap_or_default();
    let span = SPANS.into_iter().find(|span| longest <= *span).unwrap_or(POINTS);
    let highest = |sink, series: &Series| (series.write)(highest_of(sink, span, series.value));
    let values = sinks.iter().flat_map(|(_, sink)| SERIES.iter().map(|series| highest(sink, series).len()));
    let widest = values.max().unwrap_or_default().max(HIGHEST.len());
    let name = sinks.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default().min(MAX_NAME);
    let columns = usize::from(columns).saturating_sub(name + LABEL + widest + 3);
    if sinks.is_empty() || columns < MIN_BARS {
        return Vec::new();
    }
    let hint = (left_out > 0).then(|| format!("{left_out} more: make the terminal taller"));
    let has_free_line = usize::from(lines) > 1 + sinks.len() * LINES;
    let in_heading = hint.clone().filter(|_| !has_free_line).unwrap_or_else(legend);
    let indent = name + LABEL + 2;
    let mut drawn = vec![heading(span, indent, columns, widest, &in_heading)];
    for (sink_name, sink) in sinks {
        drawn.push(Line::from(vec![
            Span::from(format!("{:<name$} ", cut(sink_name, name))).bold(),
            Span::from(format!("{:<LABEL$} ", "changes")).dark_gray(),
            Span::from(changes(history, sink, span, columns)).yellow(),
        ]));
        for series in &SERIES {
            drawn.push(Line::from(vec![
                Span::from(format!("{:name$} {:<LABEL$} ", "", series.label)).dark_gray(),
                Span::from(bars(sink, span, columns, series.value)).blue(),
                Span::from(format!(" {:>widest$}", highest(sink, series))),
            ]));
        }
    }
    if let Some(hint) = hint.filter(|_| has_free_line) {
        drawn.push(Line::from(cut(&hint, indent + columns)).dark_gray());
    }
    drawn
}

fn legend() -> String {
    LEGEND.map(|(state, meaning)| format!("{} {meaning}", mark(state))).join("  ")
}

/// The heading, with this text in its middle if there is space for it.
fn heading(span: usize, indent: usize, columns: usize, widest: usize, text: &str) -> Line<'static> {
    let (begin, end) = (format!("{} min ago", span * 60 / POINTS), "now");
    let space = columns.saturating_sub(begin.len() + end.len());
    let text = if text.chars().count() + 2 <= space { text } else { "" };
    let times = if space > 0 { format!("{begin}{text:^space$}{end}") } else { format!("{end:>columns$}") };
    Line::from(format!("{:indent$}{times} {HIGHEST:>widest$}", "")).dark_gray()
}

fn cut(name: &str, columns: usize) -> String {
    if name.chars().count() <= columns {
        return name.to_owned();
    }
    name.chars().take(columns - 1).chain(['…']).collect()
}

/// The mark of a change to this state.
fn mark(state: SinkState) -> char {
    match state {
        state if state.is_failing() => '▼',
        SinkState::Idle | SinkState::Delivering => '▲',
        _ => '◆',
    }
}

fn changes(history: &History, sink: &SinkHistory, span: usize, columns: usize) -> String {
    let mut shown = vec![' '; columns];
    let begin = history.at + history.step_millis - history.step_millis * span as i64;
    for change in &sink.changes {
        let Ok(since) = usize::try_from(change.at - begin) else { continue };
        let column = since * columns / (history.step_millis.unsigned_abs() as usize * span);
        // Of several changes in a column, a problem is shown.
        let column = &mut shown[column.min(columns - 1)];
        if *column != mark(SinkState::Unavailable) {
            *column = mark(change.state);
        }
    }
    shown.into_iter().collect()
}

/// A bar for each column: the highest of its points.
fn bars(sink: &SinkHistory, span: usize, columns: usize, value: fn(&Point) -> f64) -> String {
    let top = highest_of(sink, span, value);
    (0..columns)
        .map(|column| {
            let begin = column * span / columns;
            let end = ((column + 1) * span / columns).max(begin + 1);
            let Some(value) = known(sink, span, begin..end).map(value).reduce(f64::max) else { return ' ' };
            if value <= 0.0 {
                return BARS[0];
            }
            let steps = BARS.len() - 2;
            BARS[1 + ((value / top * steps as f64) as usize).min(steps)]
        })
        .collect()
}

/// The points of these steps of a span that ends with the newest step.
fn known(sink: &SinkHistory, span: usize, steps: Range<usize>) -> impl Iterator<Item = &Point> {
    let before = span.saturating_sub(sink.points.len());
    let skipped = sink.points.len().saturating_sub(span);
    let places = steps.filter_map(move |step| Some(skipped + step.checked_sub(before)?));
    places.filter_map(|place| sink.points.get(place)?.as_ref())
}

fn highest_of(sink: &SinkHistory, span: usize, value: fn(&Point) -> f64) -> f64 {
    known(sink, span, 0..span).map(value).fold(0.0, f64::max)
}

fn rate(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}/s") } else { format!("{}/s", human_count(rate.round() as u64)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::StateChange;

    const NOW: i64 = 1_800_000_000_000;

    fn sink(records: impl IntoIterator<Item = Option<u64>>) -> SinkHistory {
        let point = |records| Point { records, rate_in: records as f32, rate_out: 0.0 };
        SinkHistory { points: records.into_iter().map(|records| records.map(point)).collect(), changes: [].into() }
    }

    fn text(history: &History, columns: u16, lines: u16) -> Vec<String> {
        let order: Vec<&str> = history.sinks.keys().map(String::as_str).collect();
        text_of(history, &order, columns, lines)
    }

    fn text_of(history: &History, order: &[&str], columns: u16, lines: u16) -> Vec<String> {
        draw(history, order, columns, lines).iter().map(|line| line.to_string().trim_end().to_owned()).collect()
    }

    fn of(sinks: &[(&str, SinkHistory)]) -> History {
        let sinks = sinks.iter().map(|(name, sink)| ((*name).to_owned(), sink.clone())).collect();
        History { at: NOW, sinks, ..History::default() }
    }

    #[test]
    fn an_hour_is_drawn_with_its_gap_its_changes_and_its_highest_values() {
        let mut mongo = sink((0..360).map(|step| (!(90..180).contains(&step)).then_some(step * 10)));
        let change = |minutes_ago: i64, state| StateChange { at: NOW - minutes_ago * 60_000, state, reason: None };
        mongo.changes =
            [change(59, SinkState::Idle), change(44, SinkState::Unavailable), change(1, SinkState::Paused)].into();
        assert_eq!(
            text(&of(&[("mongo", mongo)]), 70, 5),
            [
                "              60 min ago   ▼ problem  ▲ healthy  ◆ other   now highest",
                "mongo changes ▲           ▼                                  ◆",
                "      backlog ▂▂▂▂▂▂▂▂▃▃▃▃            ▅▅▅▅▅▅▅▅▆▆▆▆▆▆▆▆▇▇▇▇▇▇▇█   3,590",
                "      in      ▂▂▂▂▂▂▂▂▃▃▃▃            ▅▅▅▅▅▅▅▅▆▆▆▆▆▆▆▆▇▇▇▇▇▇▇█ 3,590/s",
                "      out     ▁▁▁▁▁▁▁▁▁▁▁▁            ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁   0.0/s",
            ]
        );
    }

    #[test]
    fn a_young_sink_is_drawn_over_less_time() {
        assert_eq!(
            text(&of(&[("a", sink([Some(0), None, Some(8)]))]), 45, 9),
            [
                "          5 min ago               now highest",
                "a changes",
                "  backlog                          ▁█       8",
                "  in                               ▁█   8.0/s",
                "  out                              ▁▁   0.0/s",
            ]
        );
    }

    #[test]
    fn the_sinks_are_drawn_in_their_order_and_the_number_left_out_is_shown() {
        let history = of(&["a", "b", "c", "d"].map(|name| (name, sink([Some(1)]))));
        let order = ["c", "removed", "a", "d", "b"];
        let drawn = text_of(&history, &order, 80, 10);
        assert!(drawn[1].starts_with("c changes") && drawn[5].starts_with("a changes"), "{drawn:#?}");
        assert_eq!((drawn.len(), &*drawn[9]), (10, "2 more: make the terminal taller"));
        let drawn = text_of(&history, &order, 80, 9);
        assert!(drawn.len() == 9 && drawn[0].contains(" 2 more: make the terminal taller "), "{drawn:#?}");
        let drawn = text_of(&history, &order, 80, 24).join("\n");
        assert!(!drawn.contains("more") && drawn.contains("healthy"), "{drawn}");
    }

    #[test]
    fn what_does_not_fit_is_left_out_whatever_the_screen() {
        let names: Vec<String> = (0..9).map(|number| format!("a-name-of-some-length-{number}")).collect();
        let sinks: Vec<_> = names.iter().map(|name| (name.as_str(), sink((0..360).map(|_| Some(u64::MAX))))).collect();
        let history = of(&sinks);
        let columns = [0, 1, 20, 30, 40, 50, 60, 80, 133, 500];
        for (columns, lines) in
            columns.into_iter().flat_map(|columns| (0..12).chain([40]).map(move |lines| (columns, lines)))
        {
            let order: Vec<&str> = names.iter().map(String::as_str).collect();
            let drawn = draw(&history, &order, columns, lines);
            assert!(drawn.len() <= lines.into(), "{columns}×{lines}");
            assert!(drawn.iter().all(|line| line.width() <= columns.into()), "{columns}×{lines}: {drawn:?}");
            let has_hint = drawn.last().is_some_and(|line| line.to_string().contains(" more"));
            let others = usize::from(!drawn.is_empty()) + usize::from(has_hint);
            assert_eq!(drawn.len() % LINES, others, "whole sinks: {columns}×{lines}");
            assert_eq!(has_hint, !drawn.is_empty() && lines % 4 != 1 && lines < 37, "{columns}×{lines}");
        }
        assert_eq!(text(&History::default(), 80, 24), [""; 0]);
    }
}
