//! Recognises repeated webhooks: LiveKit sends one again if the answer was late or lost. Its record would have the same id;
//! it is neither stored nor counted twice.

use std::collections::{HashSet, VecDeque};

use parking_lot::Mutex;

/// SHA-256 of a webhook's content.
pub(super) type ContentHash = [u8; 32];

/// Webhooks that are remembered: LiveKit retries for seconds only.
const MAX: usize = 4096;

/// The last webhooks that were answered OK and kept by all sinks of that time.
#[derive(Debug, Default)]
pub(super) struct Repeats(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The sinks of that time: other sinks do not have them.
    sinks: u64,
    by_age: VecDeque<ContentHash>,
    all: HashSet<ContentHash>,
}

impl Repeats {
    /// Tells whether a webhook is already durable in these sinks.
    pub(super) fn knows(&self, hash: &ContentHash, sinks: u64) -> bool {
        let known = self.0.lock();
        known.sinks == sinks && known.all.contains(hash)
    }

    /// Remembers a webhook that these sinks have.
    pub(super) fn remember(&self, hash: ContentHash, sinks: u64) {
        let mut known = self.0.lock();
        if known.sinks != sinks {
            *known = Known { sinks, ..Known::default() };
        }
        if !known.all.insert(hash) {
            return;
        }
        known.by_age.push_back(hash);
        if known.by_age.len() > MAX
            && let Some(oldest) = known.by_age.pop_front()
        {
            known.all.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered_for_the_sinks_that_have_them() {
        let repeats = Repeats::default();
        let hash = |number: usize| {
            let mut hash = ContentHash::default();
            hash[..8].copy_from_slice(&number.to_le_bytes());
            hash
        };
        for number in 0..=MAX {
            assert!(!repeats.knows(&hash(number), 1));
            repeats.remember(hash(number), 1);
            repeats.remember(hash(number), 1);
        }
        assert!(!repeats.knows(&hash(0), 1) && repeats.knows(&hash(1), 1) && repeats.knows(&hash(MAX), 1));
        assert!(!repeats.knows(&hash(MAX), 2), "another sink has not got it");
        repeats.remember(hash(7), 2);
        assert!(!repeats.knows(&hash(MAX), 1) && repeats.knows(&hash(7), 2));
    }
}
