//! The authorization of a sender, for as long as its connection, stream or body is open.
//!
//! A stream or a long body outlives neither its token nor the rules that accepted it: a pass ends when the token expires,
//! and at a reload after which the same credentials are refused.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::rules::{LEEWAY_SECONDS, NumericDate, Presented, Rules};

/// The wall clock is read again after this time at the latest: it may have been set, or the machine may have slept.
const MAX_SLEEP: Duration = Duration::from_secs(30);

/// Says why the credentials are no longer valid.
type Judge = fn(&Rules, &Presented) -> Result<(), String>;

/// The authorization of a sender.
#[derive(Debug)]
pub(super) struct Pass {
    rules: watch::Receiver<Arc<Rules>>,
    presented: Presented,
    judge: Judge,
    until: Option<NumericDate>,
}

impl Pass {
    /// For credentials that the current rules accept, until the token expires.
    pub(super) fn new(
        rules: watch::Receiver<Arc<Rules>>,
        presented: Presented,
        until: Option<NumericDate>,
        judge: Judge,
    ) -> Self {
        // The leeway is for clocks that differ: a token that is accepted only because of it does not end at once.
        let until = until.map(|NumericDate(at)| {
            NumericDate(if at > NumericDate::now().0 { at } else { at + LEEWAY_SECONDS as f64 })
        });
        Self { rules, presented, judge, until }
    }

    /// Returns when the pass ends, and why.
    pub(super) async fn ended(&mut self) -> String {
        loop {
            let result = (self.judge)(&self.rules.borrow_and_update(), &self.presented);
            if let Err(why) = result {
                return format!("no longer authorized: {why}");
            }
            tokio::select! {
                () = reached(self.until) => return "the token has expired: connect again with a new one".to_owned(),
                changed = self.rules.changed() => if changed.is_err() {
                    // Nobody can change the rules any more.
                    reached(self.until).await;
                }
            }
        }
    }
}

/// Returns when the wall clock shows this time; never, if there is none.
async fn reached(until: Option<NumericDate>) {
    let Some(NumericDate(until)) = until else { return std::future::pending().await };
    loop {
        let left = until - NumericDate::now().0;
        if left <= 0.0 {
            return;
        }
        tokio::time::sleep(Duration::from_secs_f64(left.min(MAX_SLEEP.as_secs_f64()))).await;
    }
}
