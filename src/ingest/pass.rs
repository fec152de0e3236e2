//! That somebody was let in, for as long as what they opened is open.
//!
//! A stream or a long body outlives neither its token nor the rules that let it in: a pass ends when the token does, and at
//! a reload after which the same credentials would not be let in any more.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::rules::{LEEWAY_SECONDS, NumericDate, Presented, Rules};

/// The wall clock is looked at again after this time at the latest: it may have been set, or the machine have slept.
const MAX_SLEEP: Duration = Duration::from_secs(30);

/// Says why what somebody presents is good no more.
type Judge = fn(&Rules, &Presented) -> Result<(), String>;

/// That somebody was let in.
#[derive(Debug)]
pub(super) struct Pass {
    rules: watch::Receiver<Arc<Rules>>,
    presented: Presented,
    judge: Judge,
    until: Option<NumericDate>,
}

impl Pass {
    /// Of what was presented and let in under the rules as they are, until its token expires.
    pub(super) fn new(
        rules: watch::Receiver<Arc<Rules>>,
        presented: Presented,
        until: Option<NumericDate>,
        judge: Judge,
    ) -> Self {
        // The leeway is for clocks that differ: who was let in by it alone is not turned away at once.
        let until = until.map(|NumericDate(at)| {
            NumericDate(if at > NumericDate::now().0 { at } else { at + LEEWAY_SECONDS as f64 })
        });
        Self { rules, presented, judge, until }
    }

    /// Returns when it is over, and why.
    pub(super) async fn ended(&mut self) -> String {
        loop {
            let verdict = (self.judge)(&self.rules.borrow_and_update(), &self.presented);
            if let Err(why) = verdict {
                return format!("no longer let in: {why}");
            }
            tokio::select! {
                () = reached(self.until) => return "the token has expired: connect again with a new one".to_owned(),
                changed = self.rules.changed() => if changed.is_err() {
                    // nobody can change the rules any more
                    reached(self.until).await;
                }
            }
        }
    }
}

/// Returns when the wall clock shows this time; never, where there is none.
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
