//! The result of a command: success, or a failure with a message and an exit code.

use std::fmt;

use crate::{
    app::{DirectoryError, OperateError, RunError, SinkStartError},
    ingest::ServeError,
    spool::OpenError,
};

/// The exit codes of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It failed.
    Failed = 1,
    /// The arguments or the configuration are not valid.
    Usage = 2,
    /// It needs a running process and none runs, or the other way round.
    NotRunning = 3,
    /// It was done in part.
    Partial = 4,
}

/// Why a command failed: the message and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// For people: what happened and what to do about it. Empty if everything is printed already.
    pub message: String,
}

impl Failure {
    /// A failure with this exit code.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Wrong arguments.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A failed operation on a stopped process's directory. The exit code is the same as with a running process.
    pub(super) fn operation(error: OperateError) -> Self {
        let exit = match &error {
            OperateError::NoSuchSink(_)
            | OperateError::PathInSpool(_)
            | OperateError::Directory(DirectoryError::Missing { .. }) => Exit::Usage,
            OperateError::Directory(DirectoryError::InUse { .. }) => Exit::NotRunning,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }

    /// Why the process could not start.
    pub(super) fn start(error: RunError) -> Self {
        let exit = match &error {
            RunError::Directory(DirectoryError::InUse { .. })
            | RunError::Sink(SinkStartError::Spool { source: OpenError::InUse { .. }, .. }) => Exit::NotRunning,
            RunError::AdminExposed { .. }
            | RunError::PathInSpool(_)
            | RunError::SamePath(_)
            | RunError::SameAddress { .. }
            | RunError::Tls(_) => Exit::Usage,
            RunError::Serve(error) if !matches!(error, ServeError::Io(_)) => Exit::Usage,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}

/// The result of a command.
pub type Outcome = Result<(), Failure>;
