//! What a list shows of a session.

use std::cmp::{Ordering, Reverse};

use super::model::{Connection, Session, Severity, State, Summary};

impl Summary {
    /// What a list shows of a session.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        let connections = || session.participants.iter().flat_map(|participant| &participant.connections);
        let upstream = connections().flat_map(|connection| &connection.published).map(|track| &track.upstream);
        let downstream = connections().flat_map(|connection| &connection.subscribed).map(|track| &track.downstream);
        let qualities = || upstream.clone().chain(downstream.clone());
        let count = |severity| session.observations.iter().filter(|seen| seen.severity == severity).count();
        let is_present = |connection: &Connection| connection.left_at.is_none() && connection.joined_at.is_some();
        let present = session.participants.iter().filter(|who| who.connections.iter().any(is_present)).count();
        Self {
            room_sid: session.room_sid.clone(),
            room_name: session.room_name.clone(),
            started_at: session.started_at,
            ended_at: session.ended_at,
            last_at: session.last_at,
            state: session.state,
            settled: session.settled,
            totals: session.totals.clone(),
            present: if session.state == State::Active { present } else { 0 },
            egresses: session.egresses.len(),
            min_score: qualities().filter_map(|quality| quality.min_score).reduce(f64::min),
            max_loss: qualities().filter_map(|quality| quality.loss).reduce(f64::max),
            problems: count(Severity::Problem),
            warnings: count(Severity::Warning),
            worst: session.observations.first().map(|seen| seen.text.clone()),
        }
    }

    /// The worst first: most problems, then most warnings, then the lowest score; among equals the newest.
    #[must_use]
    pub fn worst_first(&self, other: &Self) -> Ordering {
        let counts = |summary: &Self| Reverse((summary.problems, summary.warnings));
        let score = |summary: &Self| summary.min_score.unwrap_or(f64::INFINITY);
        counts(self)
            .cmp(&counts(other))
            .then(score(self).total_cmp(&score(other)))
            .then(other.started_at.cmp(&self.started_at))
    }
}
