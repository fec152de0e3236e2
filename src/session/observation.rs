//! What stands out in a session, in words. Each threshold is a constant with its reason.

use std::{cmp::Reverse, collections::BTreeSet};

use super::model::{
    Connection, Interval, Job, Observation, Participant, Quality, Session, Severity, State, Subscription, Time, Track,
};

/// LiveKit gives up the search for a path of the packets after 15 s; a client may have tried twice.
const NEVER_ACTIVE_SECONDS: f64 = 30.0;
/// A connect takes some round trips: 25 to 105 ms in one place, a second across the world. From here on people wait.
const SLOW_CONNECT_MS: u64 = 2_000;
/// From here on people believe that it does not work.
const VERY_SLOW_CONNECT_MS: u64 = 10_000;
/// Opus conceals a percent or two; from 3% on speech suffers and video freezes between retransmissions.
const LOSS: f64 = 0.03;
/// Of one interval; a short bad time is heard too, even if the whole call is below the limit.
const INTERVAL_LOSS: f64 = 0.08;
/// Fewer packets make no percentage: about 2 s of audio.
const MIN_PACKETS: u64 = 100;
/// The E-model (ITU-T G.107) calls less than 3.1 "many users dissatisfied".
const LOW_SCORE: f64 = 3.1;
/// A low score for less is a hiccup.
const LOW_SCORE_SECONDS: f64 = 10.0;
/// Subscribers need some time: a track for less says nothing.
const UNSEEN_SECONDS: f64 = 10.0;
/// A full reconnect takes less than half a second in one place; a person who joins again takes longer.
const REJOIN_SECONDS: f64 = 5.0;
/// One resume is a change of network; more of them are a bad one.
const MANY_RESUMES: usize = 2;

/// What stands out, worst first.
pub(super) fn observe(session: &Session, now: Time) -> Vec<Observation> {
    let mut seen = Vec::new();
    for participant in &session.participants {
        for connection in &participant.connections {
            let who = Who::of(participant, connection);
            seen.extend(slow_connect(&who));
            seen.extend(transport(&who));
            seen.extend(reconnects(&who));
            seen.extend(ending(&who));
            seen.extend(upstream(&who));
            seen.extend(downstream(&who));
            seen.extend(low_scores(&who));
            seen.extend(subscriptions(&who));
            seen.extend(connection.published.iter().filter_map(|track| unseen(&who, track, session, now)));
        }
        seen.extend(never_active(participant, session, now));
        seen.extend(rejoins(participant));
    }
    seen.extend(jobs("egress", &session.egresses));
    seen.extend(jobs("ingress", &session.ingresses));
    seen.extend(jobs("SIP call", &session.sip_calls));
    seen.extend(webhooks(session));
    seen.extend(no_end(session));
    seen.sort_by_key(|seen| Reverse(seen.severity));
    seen
}

/// Whom an observation is about.
struct Who<'a> {
    participant: &'a Participant,
    connection: &'a Connection,
}

impl<'a> Who<'a> {
    fn of(participant: &'a Participant, connection: &'a Connection) -> Self {
        Self { participant, connection }
    }

    fn name(&self) -> &'a str {
        name(self.participant, &self.connection.sid)
    }

    fn observation(&self, severity: Severity, kind: &'static str, text: String) -> Observation {
        let identity = Some(self.participant.identity.clone()).filter(|identity| !identity.is_empty());
        Observation {
            severity,
            kind,
            text,
            identity,
            connection_sid: Some(self.connection.sid.clone()),
            track_sid: None,
        }
    }

    fn of_track(&self, severity: Severity, kind: &'static str, text: String, track: &str) -> Observation {
        Observation { track_sid: Some(track.to_owned()), ..self.observation(severity, kind, text) }
    }
}

fn name<'a>(participant: &'a Participant, sid: &'a str) -> &'a str {
    if participant.identity.is_empty() { sid } else { &participant.identity }
}

fn slow_connect(who: &Who<'_>) -> Option<Observation> {
    let millis = who.connection.connect_ms.filter(|&millis| millis >= SLOW_CONNECT_MS)?;
    let severity = if millis >= VERY_SLOW_CONNECT_MS { Severity::Warning } else { Severity::Note };
    let text = format!("{} took {:.1} s to connect", who.name(), millis as f64 / 1000.0);
    Some(who.observation(severity, "slow_connect", text))
}

/// Whether media could flow, by any record that says so. TRACK_SUBSCRIBED does not: LiveKit subscribes clients that never get
/// through.
fn got_through(connection: &Connection) -> bool {
    let published = |track: &Track| track.published_at.is_some() || track.upstream.packets > 0;
    connection.active_at.is_some()
        || connection.published.iter().any(published)
        || connection.subscribed.iter().any(|received| received.downstream.packets > 0)
}

/// Clients try again: all attempts of a participant are one observation.
fn never_active(participant: &Participant, session: &Session, now: Time) -> Option<Observation> {
    // Of one that is not known to have left, the record that it got through may be missing too.
    let end = if session.state == State::Active { now } else { session.ended_at.unwrap_or(session.last_at) };
    let waited = |connection: &&Connection| {
        let seconds = connection.left_at.unwrap_or(end).since(connection.joined_at?);
        let is_over = connection.left_at.is_some() || seconds >= NEVER_ACTIVE_SECONDS;
        (!got_through(connection) && is_over).then_some(seconds)
    };
    let attempts = participant.connections.iter();
    let failed: Vec<(&Connection, f64)> = attempts.filter_map(|of| Some((of, waited(&of)?))).collect();
    let (connection, _) = failed.first()?;
    let who = Who::of(participant, connection);
    let longest = failed.iter().map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    let times = if failed.len() == 1 { String::new() } else { format!(" {} times", failed.len()) };
    let reason = failed.iter().find_map(|(connection, _)| connection.reason.as_ref());
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let (severity, end) = if participant.connections.iter().any(got_through) {
        (Severity::Warning, ", and got through another time")
    } else {
        (Severity::Problem, "")
    };
    let name = who.name();
    let text = format!("{name} joined{times}, but media never flowed: waited up to {longest:.1} s{reason}{end}");
    Some(who.observation(severity, "never_active", text))
}

fn transport(who: &Who<'_>) -> Option<Observation> {
    let transport = who.connection.transport.as_deref()?.to_ascii_lowercase();
    let kind = match transport.as_str() {
        "tcp" => "over_tcp",
        "turn" => "over_turn",
        _ => return None,
    };
    let text = format!("{} was connected over {}", who.name(), transport.to_uppercase());
    Some(who.observation(Severity::Note, kind, text))
}

fn reconnects(who: &Who<'_>) -> Option<Observation> {
    let (resumed, reconnected) = (who.connection.resumed_at.len(), who.connection.reconnected_at.len());
    if resumed + reconnected == 0 {
        return None;
    }
    let severity = if reconnected > 0 || resumed >= MANY_RESUMES { Severity::Warning } else { Severity::Note };
    let parts = [(resumed, "resumed its connection"), (reconnected, "reconnected")];
    let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{what} {}", times(*count)));
    let text = format!("{} {}", who.name(), parts.collect::<Vec<_>>().join(" and "));
    Some(who.observation(severity, "reconnected", text))
}

fn times(count: usize) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// A participant that came back under a new SID. A client that reconnects in full leaves by its own wish, as LiveKit sees it, and
/// joins again at once.
fn rejoins(participant: &Participant) -> Option<Observation> {
    if participant.identity.is_empty() {
        return None;
    }
    let (mut lost, mut quick) = (Vec::new(), Vec::new());
    let connections: Vec<&Connection> = participant.connections.iter().filter(|of| got_through(of)).collect();
    for pair in connections.windows(2) {
        let pause = pair[0].left_at.zip(pair[1].joined_at).map(|(left, joined)| joined.since(left));
        let is_lost = |reason: &str| is_failure(reason) || reason == "DUPLICATE_IDENTITY";
        if pair[0].reason.as_deref().is_some_and(is_lost) || pause.is_some_and(|seconds| seconds < 0.0) {
            lost.push(pair[1]);
        } else if pause.is_some_and(|seconds| seconds < REJOIN_SECONDS) {
            quick.push(pair[1]);
        }
    }
    let who = Who::of(participant, lost.first().or(quick.first())?);
    let parts = [
        (lost.len(), "after a lost connection".to_owned()),
        (quick.len(), format!("within {REJOIN_SECONDS} s of leaving, as a client does that reconnects")),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, how)| format!("{} {how}", times(*count)));
    let text = format!("{} joined again {}", who.name(), parts.collect::<Vec<_>>().join(" and "));
    Some(who.observation(Severity::Warning, "rejoined", text))
}

fn is_failure(reason: &str) -> bool {
    matches!(
        reason,
        "JOIN_FAILURE"
            | "SIGNAL_CLOSE"
            | "CONNECTION_TIMEOUT"
            | "MEDIA_FAILURE"
            | "STATE_MISMATCH"
            | "AGENT_ERROR"
            | "SIP_TRUNK_FAILURE"
    )
}

fn ending(who: &Who<'_>) -> Option<Observation> {
    let reason = who.connection.reason.as_deref().filter(|reason| is_failure(reason))?;
    // Said by `never_active` otherwise.
    who.connection.active_at?;
    let text = format!("the connection of {} was lost ({reason})", who.name());
    Some(who.observation(Severity::Warning, "connection_lost", text))
}

/// Packets of several tracks in one direction.
#[derive(Default)]
struct Loss {
    sent: u64,
    lost: u64,
    /// The highest of an interval, and its length.
    worst: Option<(f64, f64)>,
}

impl Loss {
    fn add(&mut self, sent: u64, lost: u64, intervals: &[Interval]) {
        self.sent = self.sent.saturating_add(sent);
        self.lost = self.lost.saturating_add(lost);
        for interval in intervals.iter().filter(|interval| interval.packets >= MIN_PACKETS) {
            let loss = interval.loss.unwrap_or(0.0);
            if self.worst.is_none_or(|(worst, _)| loss > worst) {
                self.worst = Some((loss, interval.to.since(interval.from)));
            }
        }
    }

    fn share(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { self.lost as f64 / self.sent as f64 }
    }

    fn stands_out(&self) -> bool {
        let worst = self.worst.map_or(0.0, |(worst, _)| worst);
        self.sent >= MIN_PACKETS && (self.share() >= LOSS || worst >= INTERVAL_LOSS)
    }

    /// "4.8% (412 of 8583 packets; 9.1% in the worst 30 s)"
    fn words(&self) -> String {
        let worst = self.worst.filter(|(worst, _)| *worst > self.share());
        let worst = worst.map(|(worst, seconds)| format!("; {} in the worst {seconds:.0} s", percent(worst)));
        let (lost, sent) = (self.lost, self.sent);
        format!("{} ({lost} of {sent} packets{})", percent(self.share()), worst.unwrap_or_default())
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// What did not arrive when it was sent: some of it came late, when LiveKit had asked for it again. Subscribers miss it too.
fn upstream(who: &Who<'_>) -> Option<Observation> {
    let (mut loss, mut late) = (Loss::default(), 0_u64);
    let mut subscribers: BTreeSet<&str> = BTreeSet::new();
    for track in &who.connection.published {
        let Quality { packets, lost, retransmitted, intervals, .. } = &track.upstream;
        loss.add(packets.saturating_add(*lost), lost.saturating_add(*retransmitted), intervals);
        late = late.saturating_add(*retransmitted);
        subscribers.extend(track.subscribers.iter().map(String::as_str));
    }
    let late = if late == 0 { String::new() } else { format!("; {late} of them came late") };
    let subscribers = match subscribers.len() {
        0 => String::new(),
        1 => "; its subscriber missed them too".to_owned(),
        several => format!("; its {several} subscribers missed them too"),
    };
    let text = || format!("{} lost {} on the way to LiveKit{late}{subscribers}", who.name(), loss.words());
    loss.stands_out().then(|| who.observation(Severity::Warning, "loss_upstream", text()))
}

/// LiveKit has taken off what the publisher lost; what it sent again after that was not there in time.
fn downstream(who: &Who<'_>) -> Option<Observation> {
    let mut loss = Loss::default();
    for subscription in &who.connection.subscribed {
        let Quality { packets, lost, retransmitted, intervals, .. } = &subscription.downstream;
        let sent = (*packets).max(*lost);
        loss.add(sent, lost.saturating_add(*retransmitted).min(sent), intervals);
    }
    let text = || format!("{} lost {} on the way from LiveKit", who.name(), loss.words());
    loss.stands_out().then(|| who.observation(Severity::Warning, "loss_downstream", text()))
}

fn low_scores(who: &Who<'_>) -> Vec<Observation> {
    let up = who.connection.published.iter().map(|track| (&track.sid, &track.source, &track.upstream, "published"));
    let down = who
        .connection
        .subscribed
        .iter()
        .map(|subscription| (&subscription.track_sid, &subscription.source, &subscription.downstream, "received"));
    up.chain(down)
        .filter_map(|(sid, source, quality, way)| {
            let low = quality.intervals.iter().filter(|interval| interval.score.is_some_and(|score| score < LOW_SCORE));
            let seconds: f64 = low.map(|interval| interval.to.since(interval.from)).sum();
            let text = || {
                let lowest = quality.min_score.unwrap_or(LOW_SCORE);
                format!(
                    "the score of {source} that {} {way} was below {LOW_SCORE} for {seconds:.0} s (lowest {lowest:.1} of 4.5)",
                    who.name()
                )
            };
            (seconds >= LOW_SCORE_SECONDS).then(|| who.of_track(Severity::Warning, "low_score", text(), sid))
        })
        .collect()
}

fn subscriptions(who: &Who<'_>) -> Vec<Observation> {
    let failed = |subscription: &Subscription| {
        let error = subscription.error.as_ref()?;
        let never = subscription.spans.is_empty() && subscription.downstream.packets == 0;
        let (severity, end) = if never { (Severity::Problem, "") } else { (Severity::Note, ", and later succeeded") };
        let publisher = &subscription.publisher_identity;
        let of = if publisher.is_empty() { String::new() } else { format!(" of {publisher}") };
        let text = format!("{} could not subscribe to {}{of} ({error}){end}", who.name(), subscription.source);
        Some(who.of_track(severity, "subscription_failed", text, &subscription.track_sid))
    };
    who.connection.subscribed.iter().filter_map(failed).collect()
}

/// A track that nobody received, although somebody else was there who could have; an ingress only publishes.
fn unseen(who: &Who<'_>, track: &Track, session: &Session, now: Time) -> Option<Observation> {
    let from = track.published_at.filter(|_| track.subscribers.is_empty())?;
    let end = |connection: &Connection| connection.left_at.or(session.ended_at).unwrap_or(session.last_at.min(now));
    let to = track.unpublished_at.unwrap_or(end(who.connection));
    // Several may have no identity.
    let is_other = |other: &&Participant| !std::ptr::eq(*other, who.participant) && other.kind != "INGRESS";
    let others = session.participants.iter().filter(is_other);
    let together = others
        .flat_map(|other| &other.connections)
        .filter_map(|other| Some(to.min(end(other)).since(from.max(other.active_at?))))
        .reduce(f64::max)?;
    if together < UNSEEN_SECONDS {
        return None;
    }
    let text = format!(
        "{} published {} for {:.0} s, and nobody subscribed although others were there",
        who.name(),
        track.source,
        to.since(from)
    );
    Some(who.of_track(Severity::Note, "nobody_subscribed", text, &track.sid))
}

fn jobs(what: &'static str, jobs: &[Job]) -> Vec<Observation> {
    let is_failure =
        |status: &str| matches!(status, "EGRESS_FAILED" | "EGRESS_ABORTED" | "ENDPOINT_ERROR" | "SCS_ERROR");
    let failed = |job: &&Job| job.error.is_some() || is_failure(&job.status);
    let (kind, severity) = match what {
        "egress" => ("egress_failed", Severity::Warning),
        "ingress" => ("ingress_failed", Severity::Warning),
        // Somebody on the telephone could not take part.
        _ => ("sip_call_failed", Severity::Problem),
    };
    jobs.iter()
        .filter(failed)
        .map(|job| {
            let error = job.error.as_deref().unwrap_or(&job.status);
            let text = format!("the {what} {} failed: {error}", job.id);
            Observation { severity, kind, text, identity: None, connection_sid: None, track_sid: None }
        })
        .collect()
}

fn webhooks(session: &Session) -> Option<Observation> {
    let failed: Vec<_> = session.webhooks.iter().filter(|webhook| webhook.error.is_some()).collect();
    let last = failed.last()?;
    let text = format!(
        "{} of {} webhooks failed, the last one ({}) with: {}",
        failed.len(),
        session.webhooks.len(),
        last.event,
        last.error.as_deref().unwrap_or_default()
    );
    let kind = "webhook_failed";
    Some(Observation { severity: Severity::Warning, kind, text, identity: None, connection_sid: None, track_sid: None })
}

fn no_end(session: &Session) -> Option<Observation> {
    let text =
        || format!("no end was sent: the last record is of {}; its node died, or records are missing", session.last_at);
    let severity = Severity::Warning;
    (session.state == State::Lost).then(|| Observation {
        severity,
        kind: "no_end",
        text: text(),
        identity: None,
        connection_sid: None,
        track_sid: None,
    })
}
