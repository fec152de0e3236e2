//! A session as text: what stands out, then a timeline with a bar for each participant and track, then what else there was.

use std::time::Duration;

use super::list::{fitted, percent, word};
use crate::{
    config::units::{human_count, human_duration, human_size},
    printable::{self, one_line},
    session::{Connection, Job, Participant, Quality, Session, Severity, Span, Subscription, Time, Track},
};

/// What is shown besides.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct What {
    pub(super) events: bool,
    /// False: of the tracks that were received, only those with problems.
    pub(super) all_tracks: bool,
}

/// The columns before a bar.
const LABEL: usize = 26;
/// From this share on, loss is a problem.
const LOSS: f64 = 0.02;
/// Below this score, quality is a problem: LiveKit calls it poor or worse.
const SCORE: f64 = 3.5;
/// A bar's heights, for scores from 1 to 4.5.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The lines, each at most `width` columns wide.
pub(super) fn draw(session: &Session, width: usize, what: What) -> Vec<String> {
    let mut lines = header(session, width);
    let axis = Axis::of(session, width.saturating_sub(LABEL).max(10));
    lines.push(String::new());
    lines.push(row("", &axis.labels()));
    let mut left_out = 0;
    for participant in &session.participants {
        of_participant(participant, &axis, width, what, &mut left_out, &mut lines);
    }
    lines.push(String::new());
    lines.push("░ joined  █ connected  ! reconnected   tracks: ▁…█ score 1…4.5  ─ no score  m muted".to_owned());
    if left_out > 0 {
        lines.push(format!("{left_out} tracks that were received without problems are not shown: --all shows them"));
    }
    let others = others(session);
    if !others.is_empty() {
        lines.push(String::new());
    }
    lines.extend(others.iter().flat_map(|line| wrapped(line, "    ", width)));
    if what.events {
        lines.push(String::new());
        lines.extend(session.moments.iter().map(|moment| {
            let who = moment.identity.as_deref().or(moment.connection_sid.as_deref()).unwrap_or_default();
            let line = format!("{} {} {who} {}", millis(moment.at), moment.kind, moment.detail);
            one_line(line.trim_end()).into_owned()
        }));
    }
    lines
}

fn header(session: &Session, width: usize) -> Vec<String> {
    let totals = &session.totals;
    let name = one_line(&session.room_name);
    let settled = match session.settled {
        true => "",
        false => ", not final yet: records may still come",
    };
    let end = session.ended_at.unwrap_or(session.last_at);
    let until = if session.ended_at.is_some() { "to" } else { "last record at" };
    let mut lines = vec![format!("{name}  {}  {}{settled}", one_line(&session.room_sid), word(session.state))];
    lines.extend(wrapped(
        &format!(
            "{} {until} {} UTC, {}; {} participants, at most {} at the same time; {:.1} connection minutes; in {}, out {}",
            session.started_at.to_string().chars().take(10).chain([' ']).chain(clock(session.started_at).chars()).collect::<String>(),
            clock(end),
            length(end.since(session.started_at)),
            human_count(totals.participants as u64),
            human_count(totals.peak_participants as u64),
            totals.connection_seconds / 60.0,
            human_size(totals.bytes_in),
            human_size(totals.bytes_out),
        ),
        "",
        width,
    ));
    if !session.observations.is_empty() {
        lines.push(String::new());
    }
    for observation in &session.observations {
        let severity = match observation.severity {
            Severity::Problem => "problem",
            Severity::Warning => "warning",
            Severity::Note => "note   ",
        };
        lines.extend(wrapped(&format!("{severity}  {}", observation.text), "         ", width));
    }
    lines
}

fn of_participant(
    participant: &Participant,
    axis: &Axis,
    width: usize,
    what: What,
    left_out: &mut usize,
    lines: &mut Vec<String>,
) {
    let kind = if participant.kind == "STANDARD" { String::new() } else { format!(" {}", participant.kind) };
    let mut label =
        format!("{}{kind}", if participant.identity.is_empty() { "(unknown)" } else { &participant.identity });
    for connection in &participant.connections {
        lines.push(row(&label, &axis.presence(connection)));
        lines.extend(wrapped(&format!("  {}", about(connection)), "    ", width));
        for track in &connection.published {
            let label = format!("  ↑ {} {}", one_of(&[&track.source, &track.kind]), track.mime);
            lines.push(row(&label, &axis.track(&published(track), &track.muted, &track.upstream)));
            lines.extend(wrapped(&format!("      {}", about_track(track)), "      ", width));
        }
        for subscription in &connection.subscribed {
            if !what.all_tracks && !has_problem(subscription) {
                *left_out += 1;
                continue;
            }
            let publisher = one_of(&[&subscription.publisher_identity, &subscription.track_sid]);
            let label = format!("  ↓ {publisher} {}", subscription.source);
            lines.push(row(&label, &axis.track(&subscription.spans, &[], &subscription.downstream)));
            lines.extend(wrapped(&format!("      {}", about_subscription(subscription)), "      ", width));
        }
        // Of the same participant's next connection.
        label = "  again".to_owned();
    }
}

fn has_problem(subscription: &Subscription) -> bool {
    let quality = &subscription.downstream;
    subscription.error.is_some()
        || quality.loss.is_some_and(|loss| loss >= LOSS)
        || quality.min_score.is_some_and(|score| score < SCORE)
}

fn one_of<'a>(texts: &[&'a str]) -> &'a str {
    texts.iter().copied().find(|text| !text.is_empty()).unwrap_or("?")
}

fn published(track: &Track) -> Vec<Span> {
    track.published_at.map(|from| Span { from, to: track.unpublished_at }).into_iter().collect()
}

fn about(connection: &Connection) -> String {
    let mut parts = vec![connection.sid.clone()];
    let client = &connection.client;
    let joined = |texts: &[&String]| {
        texts.iter().filter(|text| !text.is_empty()).map(|text| text.as_str()).collect::<Vec<_>>().join(" ")
    };
    match (connection.active_at, connection.connect_ms) {
        (None, _) if connection.aborted => parts.push("gave up before it was connected".to_owned()),
        (None, _) => parts.push("never connected".to_owned()),
        (Some(_), Some(ms)) => parts.push(format!("connected in {ms} ms")),
        (Some(_), None) => {}
    }
    parts.extend(connection.transport.clone());
    parts.push(joined(&[&client.sdk, &client.sdk_version]));
    parts.push(joined(&[&client.browser, &client.browser_version]));
    parts.push(joined(&[&client.os, &client.os_version]));
    parts.extend([client.device.clone(), client.network.clone()]);
    parts.extend(connection.region.clone());
    parts.push(length(connection.seconds));
    parts.extend(connection.reason.as_ref().map(|reason| format!("left: {reason}")));
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

fn about_track(track: &Track) -> String {
    let mut parts = Vec::new();
    if track.width > 0 {
        parts.push(format!("{}x{}", track.width, track.height));
    }
    if track.layers > 1 {
        parts.push(format!("{} layers", track.layers));
    }
    parts.push(match track.subscribers.len() {
        0 => "nobody received it".to_owned(),
        n => format!("received by {n}"),
    });
    parts.extend(of_quality(&track.upstream));
    parts.join(", ")
}

fn about_subscription(subscription: &Subscription) -> String {
    let mut parts = Vec::new();
    parts.extend(subscription.error.as_ref().map(|error| format!("failed: {error}")));
    parts.extend(subscription.subscribe_ms.map(|ms| format!("after {ms:.0} ms")));
    parts.extend(of_quality(&subscription.downstream));
    if parts.is_empty() {
        parts.push("no stats".to_owned());
    }
    parts.join(", ")
}

fn of_quality(quality: &Quality) -> Vec<String> {
    let mut parts = Vec::new();
    let rates = quality.intervals.iter().filter_map(|interval| interval.bitrate);
    parts.extend(rates.reduce(f64::max).map(|rate| format!("up to {:.0} kbit/s", rate / 1000.0)));
    parts.extend(quality.loss.map(|loss| format!("loss {}", percent(loss))));
    parts.extend(quality.max_rtt_ms.map(|rtt| format!("RTT up to {rtt} ms")));
    parts.extend(quality.max_jitter_us.map(|jitter| format!("jitter up to {:.1} ms", f64::from(jitter) / 1000.0)));
    if let (Some(mean), Some(lowest)) = (quality.mean_score, quality.min_score) {
        parts.push(format!("score {mean:.1} (lowest {lowest:.1})"));
    }
    parts
}

/// Egress, ingress, SIP calls, webhooks and API calls.
fn others(session: &Session) -> Vec<String> {
    let job = |what: &str, job: &Job| {
        let time = |at: Option<Time>| at.map_or_else(|| "?".to_owned(), clock);
        let error = job.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let span = format!("{} to {}", time(job.started_at), time(job.ended_at));
        format!("{what} {} {} {} {span}{error}", job.id, job.kind, job.status)
    };
    let mut lines = Vec::new();
    lines.extend(session.egresses.iter().map(|egress| job("egress", egress)));
    lines.extend(session.ingresses.iter().map(|ingress| job("ingress", ingress)));
    lines.extend(session.sip_calls.iter().map(|call| job("SIP call", call)));
    if !session.webhooks.is_empty() {
        let slowest = session.webhooks.iter().map(|webhook| webhook.queue_ms + webhook.send_ms).fold(0.0, f64::max);
        lines.push(format!("{} webhooks, the slowest took {slowest:.0} ms", session.webhooks.len()));
    }
    for webhook in &session.webhooks {
        let failed =
            |error| format!("webhook {} at {} to {} failed: {error}", webhook.event, clock(webhook.at), webhook.url);
        lines.extend(webhook.error.as_ref().map(failed));
    }
    lines.extend(session.api_calls.iter().map(|call| {
        format!("{} {}.{} {} in {:.0} ms", clock(call.at), call.service, call.method, call.status, call.duration_ms)
    }));
    lines
}

/// The session's time, divided into the cells of a bar.
struct Axis {
    from: Time,
    to: Time,
    cells: usize,
}

impl Axis {
    fn of(session: &Session, cells: usize) -> Self {
        let to = session.ended_at.unwrap_or(session.last_at).max(session.started_at);
        Self { from: session.started_at, to, cells }
    }

    /// The cell that a time is in; times outside are in the first or the last.
    fn cell(&self, at: Time) -> usize {
        let share = at.since(self.from) / self.to.since(self.from).max(1e-9);
        ((share * self.cells as f64).max(0.0) as usize).min(self.cells - 1)
    }

    /// Cells from one time to another; `None`: to the end.
    fn fill(&self, bar: &mut [char], from: Time, to: Option<Time>, with: char) {
        if from > self.to {
            return;
        }
        let last = self.cell(to.unwrap_or(self.to));
        bar[self.cell(from)..=last.max(self.cell(from))].fill(with);
    }

    fn blank(&self) -> Vec<char> {
        vec![' '; self.cells]
    }

    /// The times at the beginning, in the middle and at the end.
    fn labels(&self) -> String {
        let middle = Time(self.from.0 + (self.to.0 - self.from.0) / 2);
        let texts = [clock(self.from), clock(middle), clock(self.to)];
        let space = self.cells.saturating_sub(texts.iter().map(String::len).sum());
        let (left, right) = (space / 2, space - space / 2);
        if space < 2 {
            return texts[0].clone();
        }
        format!("{}{}{}{}{}", texts[0], " ".repeat(left), texts[1], " ".repeat(right), texts[2])
    }

    fn presence(&self, connection: &Connection) -> String {
        let mut bar = self.blank();
        let from = connection.joined_at.or(connection.active_at);
        let end = connection.left_at;
        if let Some(from) = from {
            self.fill(&mut bar, from, end, '░');
        }
        if let Some(active_at) = connection.active_at {
            self.fill(&mut bar, active_at, end, '█');
        }
        for &at in connection.resumed_at.iter().chain(&connection.reconnected_at) {
            bar[self.cell(at)] = '!';
        }
        bar.into_iter().collect()
    }

    fn track(&self, spans: &[Span], muted: &[Span], quality: &Quality) -> String {
        let mut bar = self.blank();
        for span in spans {
            self.fill(&mut bar, span.from, span.to, '─');
        }
        for interval in &quality.intervals {
            if let Some(score) = interval.score {
                self.fill(&mut bar, interval.from, Some(interval.to), height(score));
            }
        }
        for span in muted {
            self.fill(&mut bar, span.from, span.to, 'm');
        }
        bar.into_iter().collect()
    }
}

/// A score from 1 to 4.5.
fn height(score: f64) -> char {
    let step = ((score - 1.0) / 3.5 * (HEIGHTS.len() - 1) as f64).round();
    HEIGHTS[step.clamp(0.0, (HEIGHTS.len() - 1) as f64) as usize]
}

fn row(label: &str, bar: &str) -> String {
    let label = fitted(label, LABEL - 1);
    let space = " ".repeat(LABEL - label.chars().count());
    format!("{label}{space}{bar}").trim_end().to_owned()
}

/// Like [`printable::wrapped`], of a text from outside.
fn wrapped(text: &str, indent: &str, width: usize) -> Vec<String> {
    printable::wrapped(&one_line(text), indent, width)
}

fn length(seconds: f64) -> String {
    human_duration(Duration::from_secs_f64(seconds.clamp(0.0, 1e10).round()))
}

/// `10:43:46`
fn clock(at: Time) -> String {
    at.to_string().chars().skip(11).take(8).collect()
}

/// `10:43:46.748`
fn millis(at: Time) -> String {
    format!("{}.{:03}", clock(at), at.0.rem_euclid(1_000_000_000) / 1_000_000)
}
