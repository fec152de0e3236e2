//! Which of two statements stores the next rows.
//!
//! COPY is a third faster, but refuses all of its rows if one is there already, and what it had stored by then stays behind as
//! dead rows. INSERT … ON CONFLICT takes any rows. So rows go by COPY while none is expected to be there: not at the start,
//! not after a failure or a batch that nobody waited for, and not after rows that were there.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// So many statements go by INSERT after a sign that rows may be there already.
const CAREFUL: u32 = 4;

/// Chooses the statement.
#[derive(Debug)]
pub(super) struct Way {
    careful: AtomicU32,
    /// The server, or something before it, does not take COPY.
    is_refused: AtomicBool,
}

impl Default for Way {
    fn default() -> Self {
        Self { careful: AtomicU32::new(CAREFUL), is_refused: AtomicBool::new(false) }
    }
}

/// A statement under way; unless it [succeeds](Self::stored), its rows may be there already when they come again.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    way: &'a Way,
    by_copy: bool,
    has_succeeded: bool,
}

impl Way {
    /// Begins a statement.
    pub(super) fn begin(&self) -> Attempt<'_> {
        let by_copy = self.careful.load(Ordering::Relaxed) == 0 && !self.is_refused.load(Ordering::Relaxed);
        Attempt { way: self, by_copy, has_succeeded: false }
    }
}

impl Attempt<'_> {
    pub(super) const fn by_copy(&self) -> bool {
        self.by_copy
    }

    /// COPY refused rows: they go by INSERT, which says why, and the next ones too. `for_good`: it is not COPY's rows that are
    /// refused, but COPY.
    pub(super) fn copy_failed(&mut self, for_good: bool) {
        self.by_copy = false;
        self.way.careful.store(CAREFUL, Ordering::Relaxed);
        if for_good {
            self.way.is_refused.store(true, Ordering::Relaxed);
        }
    }

    /// All rows are stored; `were_new`: none was there.
    pub(super) fn stored(mut self, were_new: bool) {
        self.has_succeeded = true;
        if !were_new {
            self.way.careful.store(CAREFUL, Ordering::Relaxed);
        } else if !self.by_copy {
            let _ = self.way.careful.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.has_succeeded {
            self.way.careful.store(CAREFUL, Ordering::Relaxed);
        }
    }
}

/// True if a code says that COPY is refused, whatever the rows: by row-level security, or a pooler or proxy that does not know
/// it or loses prepared statements.
pub(super) fn refuses_copy(code: &str) -> bool {
    matches!(code, "0A000" | "42601" | "26000" | "42P05" | "08P01" | "22P03" | "22P04")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(way: &Way, were_new: bool) -> bool {
        let attempt = way.begin();
        let by_copy = attempt.by_copy();
        attempt.stored(were_new);
        by_copy
    }

    #[test]
    fn rows_go_by_copy_after_some_that_were_new() {
        let way = Way::default();
        let by_copy: Vec<bool> = (0..CAREFUL + 2).map(|_| store(&way, true)).collect();
        assert_eq!(by_copy.iter().filter(|by_copy| **by_copy).count(), 2);
        assert!(by_copy.ends_with(&[true, true]));
    }

    #[test]
    fn after_rows_that_were_there_a_failure_or_a_dropped_batch_they_go_by_insert() {
        let way = Way::default();
        let settle = || {
            for _ in 0..CAREFUL {
                store(&way, true);
            }
        };
        settle();
        way.begin().copy_failed(false);
        assert!(!store(&way, true));
        settle();
        drop(way.begin());
        assert!(!store(&way, false), "the batch was dropped");
        (1..CAREFUL).for_each(|_| assert!(!store(&way, true)));
        assert!(!store(&way, true) && store(&way, true));
    }

    #[test]
    fn where_copy_is_not_taken_it_is_not_tried_again() {
        let way = Way::default();
        way.begin().copy_failed(true);
        (0..3 * CAREFUL).for_each(|_| assert!(!store(&way, true)));
        for code in ["0A000", "42601", "26000"] {
            assert!(refuses_copy(code));
        }
        assert!(!refuses_copy("23505") && !refuses_copy("22P05"));
    }
}
