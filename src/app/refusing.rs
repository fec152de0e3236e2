//! Why a sink's spool keeps no records now, and what to do about it: for the status, `/readyz` and the metrics. The texts
//! name no path; the log does.

use std::fmt;

use crate::{
    config::units::human_size,
    ingest::{CannotAppend, Refused, drops_newest},
    spool::{Appended, OpenError, SpoolStatus, WhenFull, WriterState},
};

/// A spool that keeps no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusing {
    /// A limit is reached.
    Full(String),
    /// A limit is reached, and the configured policy drops new records: calls are answered OK.
    DropsNewest(String),
    /// It cannot write.
    Failed(String),
    /// It does not open: why, and what to do.
    NotOpen(String, &'static str),
}

impl Refusing {
    /// From the result of an append; `None` if the batch was kept.
    pub(super) fn of_append(result: &Result<Appended, CannotAppend>) -> Option<Self> {
        match result {
            Ok(Appended::Kept) => None,
            Ok(Appended::Dropped { limit }) => Some(Self::DropsNewest(drops_newest(*limit))),
            Err(error) if error.reason == Refused::Full => Some(Self::Full(error.message.clone())),
            Err(error) => Some(Self::Failed(error.message.clone())),
        }
    }

    /// From the reason why the spool does not open.
    pub(super) fn of_open_error(error: &OpenError) -> Self {
        Self::NotOpen(error.cause(), error.remedy())
    }

    /// From the spool's own state; `None` if it accepts records.
    pub(super) fn of_status(status: &SpoolStatus, when_full: WhenFull) -> Option<Self> {
        match status.writer {
            // A reload or a stop closes it.
            WriterState::Taking | WriterState::Stopped => None,
            WriterState::Full => {
                let (used, max) = (human_size(status.disk_bytes), human_size(status.max_bytes));
                let free = human_size(status.free_bytes);
                let full =
                    format!("its spool is full ({used} of max_bytes {max} are used, {free} are free on the disk)");
                Some(if when_full == WhenFull::DropNewest { Self::DropsNewest(full) } else { Self::Full(full) })
            }
            WriterState::Failed => Some(Self::Failed(
                "its spool cannot be written: the last error in `livekit-spool backlog` says why".into(),
            )),
        }
    }

    /// What to do.
    pub(super) const fn remedy(&self) -> &'static str {
        match self {
            Self::Full(_) | Self::DropsNewest(_) => {
                "make the sink available again, free disk space, or raise spool.max_bytes and `livekit-spool reload`"
            }
            Self::Failed(_) => {
                "check the disk; if the sink's directory in data_dir was moved or removed, put it back; if records are still \
                 refused then, restart livekit-spool"
            }
            Self::NotOpen(_, remedy) => remedy,
        }
    }

    /// Whether a call fails because of it, where the sink is required.
    pub(super) const fn fails_calls(&self) -> bool {
        !matches!(self, Self::DropsNewest(_))
    }
}

impl fmt::Display for Refusing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(why) | Self::Failed(why) => write!(f, "the spool accepts no records: {why}"),
            Self::DropsNewest(why) => write!(f, "the spool drops new records: {why}"),
            Self::NotOpen(why, _) => write!(f, "the spool does not open: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::spool::{FullLimit, Spool, SpoolOptions};

    async fn of(writer: WriterState, when_full: WhenFull) -> Option<Refusing> {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path(), SpoolOptions::default()).unwrap();
        let status = SpoolStatus { writer, ..spool.status() };
        spool.close().await;
        Refusing::of_status(&status, when_full)
    }

    #[tokio::test]
    async fn a_spool_that_accepts_no_records_fails_calls_and_says_what_to_do() {
        for writer in [WriterState::Taking, WriterState::Stopped] {
            assert_eq!(of(writer, WhenFull::Reject).await, None);
        }
        for (writer, named) in [(WriterState::Full, "raise spool.max_bytes"), (WriterState::Failed, "put it back")] {
            for when_full in [WhenFull::Reject, WhenFull::Block, WhenFull::DropOldest] {
                let refusing = of(writer, when_full).await.unwrap();
                assert!(
                    refusing.fails_calls() && refusing.remedy().contains(named),
                    "{writer:?} {when_full:?}: {refusing}"
                );
            }
        }
        let failed = of(WriterState::Failed, WhenFull::Reject).await.unwrap().to_string();
        assert!(failed.contains("cannot be written") && !failed.contains('/'), "{failed}");
    }

    #[tokio::test]
    async fn a_full_spool_that_drops_new_records_fails_no_calls_but_one_that_cannot_write_does() {
        let full = of(WriterState::Full, WhenFull::DropNewest).await.unwrap();
        assert!(!full.fails_calls() && full.to_string().contains("drops new records"), "{full}");
        assert!(of(WriterState::Failed, WhenFull::DropNewest).await.unwrap().fails_calls());
    }

    #[test]
    fn a_spool_that_does_not_open_fails_calls_and_says_why_without_a_path_and_what_to_do() {
        let io = |kind: ErrorKind| OpenError::Io { path: "/secret".into(), source: kind.into() };
        for (error, why, what_to_do) in [
            (io(ErrorKind::PermissionDenied), "permission denied", "chown"),
            (io(ErrorKind::NotADirectory), "not a directory", "move away"),
            (io(ErrorKind::ReadOnlyFilesystem), "read-only", "writable"),
            (io(ErrorKind::Other), "other error", "check the disk"),
            (OpenError::InUse { path: "/secret".into() }, "another process", "stop"),
            (OpenError::OtherFormat { path: "/secret".into(), found: 1, known: 2 }, "version 1", "that wrote it"),
            (OpenError::TooSmall { name: "x".into(), max_bytes: 1, least: 2 }, "too small", "raise spool.max_bytes"),
            (OpenError::WrongKey { path: "/secret".into(), key: "5a".into() }, "key 5a", "add the key"),
        ] {
            let refusing = Refusing::of_open_error(&error);
            let (text, remedy) = (refusing.to_string(), refusing.remedy());
            assert!(refusing.fails_calls() && !text.contains('/') && !remedy.contains('/'), "{text}: {remedy}");
            assert!(
                text.contains("does not open") && text.contains(why) && remedy.contains(what_to_do),
                "{text}: {remedy}"
            );
            assert!(remedy.contains("`livekit-spool reload`"), "{remedy}");
        }
    }

    #[test]
    fn the_result_of_an_append_says_it_too() {
        let refused = |reason| Refusing::of_append(&Err(CannotAppend { reason, message: "no".to_owned() }));
        assert_eq!(refused(Refused::Full), Some(Refusing::Full("no".to_owned())));
        assert_eq!(refused(Refused::Unavailable), Some(Refusing::Failed("no".to_owned())));
        assert_eq!(Refusing::of_append(&Ok(Appended::Kept)), None);
        let dropped = Refusing::of_append(&Ok(Appended::Dropped { limit: FullLimit::NoSpace })).unwrap();
        assert!(!dropped.fails_calls() && dropped.to_string().contains("drops new records"), "{dropped}");
    }
}
