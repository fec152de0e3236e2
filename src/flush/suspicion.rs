//! When a record that its sink fails by name, for a reason that may pass, becomes a dead letter: one rule for all
//! sinks.
//!
//! Only on this evidence: it was sent *alone*, another record was sent next and accepted, and it failed alone again
//! right after. This has to happen [`ROUNDS`] times, with `reject_after` or more from the first to the last. A failure
//! together with other records in one batch is no evidence: a throttled or broken server fails whatever arrives at that
//! moment.
//!
//! A reason that goes away is no evidence: if a record that failed before is accepted later, the evidence begins again for
//! all records that failed for that kind of reason. Pure: the caller provides the time, and what was delivered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

/// The least number of lone failures around another record's success.
const ROUNDS: u32 = 5;
/// Words of a reason without a code that define its kind.
const KIND_WORDS: usize = 4;
/// The most kinds of reasons that are kept: the one whose records were accepted longest ago is removed first.
const MAX_KINDS: usize = 64;

/// The evidence against records: each of them failed alone this often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspicion {
    /// The kind of reason for which they fail.
    kind: Arc<str>,
    /// When the first failure that counts occurred.
    since: Option<Instant>,
    rounds: u32,
}

impl Suspicion {
    /// They failed for this reason, together with others or while nothing was delivered: no evidence yet.
    pub(super) fn after_failure(before: Option<&Self>, reason: &str) -> Self {
        let kind = kind_of(reason);
        match before {
            Some(before) if *before.kind == *kind => before.clone(),
            _ => Self { kind: kind.into(), since: None, rounds: 0 },
        }
    }
}

/// The evidence of a sink's failures so far.
#[derive(Debug)]
pub(super) struct Evidence {
    reject_after: Duration,
    /// When a record that had failed for this kind of reason was last accepted.
    delivered: BTreeMap<Arc<str>, Instant>,
}

impl Evidence {
    pub(super) fn new(reject_after: Duration) -> Self {
        Self { reject_after, delivered: BTreeMap::new() }
    }

    /// They failed alone just before and just after another record was accepted; true if they are at fault.
    pub(super) fn failed_alone(&self, suspicion: &mut Suspicion, now: Instant) -> bool {
        let begun = suspicion.since.filter(|since| self.delivered.get(&suspicion.kind).is_none_or(|at| at < since));
        if begun.is_none() {
            suspicion.rounds = 0;
        }
        let since = begun.unwrap_or(now);
        suspicion.since = Some(since);
        suspicion.rounds += 1;
        suspicion.rounds >= ROUNDS && now.duration_since(since) >= self.reject_after
    }

    /// Some of those that had failed were accepted after all.
    pub(super) fn delivered(&mut self, suspicion: &Suspicion, now: Instant) {
        self.delivered.insert(Arc::clone(&suspicion.kind), now);
        if self.delivered.len() > MAX_KINDS
            && let Some(oldest) = self.delivered.iter().min_by_key(|(_, at)| **at).map(|(kind, _)| Arc::clone(kind))
        {
            self.delivered.remove(&oldest);
        }
    }

    /// When to try these alone again, at the earliest: not while their kind of reason passes by itself.
    pub(super) fn next_trial(&self, suspicion: &Suspicion, tried: Option<Instant>) -> Option<Instant> {
        let last = tried.max(self.delivered.get(&suspicion.kind).copied());
        last.map(|last| last + self.reject_after / ROUNDS)
    }
}

/// The kind of a reason: its code, or else its first words. Too coarse is better than too fine, because it makes fewer
/// dead letters.
fn kind_of(reason: &str) -> String {
    let code = reason.rsplit_once("code ").map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
    match code.flatten() {
        Some(code) if !code.is_empty() => format!("code {code}"),
        _ => {
            let words = reason.split_whitespace().take_while(|word| word.chars().all(char::is_alphabetic));
            words.take(KIND_WORDS).collect::<Vec<_>>().join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn suspicion() -> Suspicion {
        Suspicion::after_failure(None, "bad value (code 2)")
    }

    #[test]
    fn many_failures_at_once_are_no_evidence_and_neither_are_few_over_a_long_time() {
        let (evidence, start) = (Evidence::new(LONG), Instant::now());
        let mut often = suspicion();
        assert!((0..50).all(|_| !evidence.failed_alone(&mut often, start)));
        assert!(evidence.failed_alone(&mut often, start + LONG));
        let mut rarely = suspicion();
        for round in 0..ROUNDS - 1 {
            assert!(!evidence.failed_alone(&mut rarely, start + round * LONG));
        }
        assert!(evidence.failed_alone(&mut rarely, start + ROUNDS * LONG));
    }

    #[test]
    fn what_fails_together_with_others_counts_neither_as_a_failure_nor_as_time() {
        let (evidence, start) = (Evidence::new(LONG), Instant::now());
        let mut beside = suspicion();
        for _ in 0..100 {
            beside = Suspicion::after_failure(Some(&beside), "another value (code 2)");
        }
        assert_eq!(beside, suspicion());
        assert!((0..ROUNDS).all(|_| !evidence.failed_alone(&mut beside, start + 2 * LONG)));
    }

    #[test]
    fn a_reason_that_passed_begins_again_for_all_and_others_do_not() {
        let (mut evidence, start) = (Evidence::new(LONG), Instant::now());
        let (mut same, mut other) = (suspicion(), Suspicion::after_failure(None, "no (code 61)"));
        for suspicion in [&mut same, &mut other] {
            assert!((0..ROUNDS).all(|_| !evidence.failed_alone(suspicion, start)));
        }
        evidence.delivered(&suspicion(), start + LONG / 2);
        assert!(!evidence.failed_alone(&mut same, start + LONG) && evidence.failed_alone(&mut other, start + LONG));
        assert!((1..ROUNDS).all(|_| !evidence.failed_alone(&mut same, start + LONG)));
        assert!(evidence.failed_alone(&mut same, start + 2 * LONG));
    }

    #[test]
    fn a_reason_is_of_a_kind_by_its_code_or_its_first_words() {
        for (reason, kind) in [
            ("bad value (code 2)", "code 2"),
            ("code 17 of AE_1 (code 8000): no", "code 8000"),
            ("ERR max number of clients reached", "ERR max number of"),
            ("WRONG id AE_1 of room", "WRONG id"),
            ("", ""),
        ] {
            assert_eq!(kind_of(reason), kind);
        }
    }

    #[test]
    fn kinds_are_few_however_many_reasons_there_are() {
        let mut evidence = Evidence::new(LONG);
        for code in 0..1000 {
            evidence.delivered(&Suspicion::after_failure(None, &format!("code {code}")), Instant::now());
        }
        assert_eq!(evidence.delivered.len(), MAX_KINDS);
    }
}
