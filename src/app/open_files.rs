//! How many files and connections the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// With fewer, the default configuration's number of connections cannot be reached.
const ENOUGH: u64 = 4_096;

/// Raises the limit on open files to what the system allows: the usual 1,024 is less than the connections that the default
/// configuration accepts. Only programs that use `select` need the low limit.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Some(max) = limit.maximum.filter(|max| *max < ENOUGH) {
        tracing::warn!(
            limit = max,
            "only {max} files and connections may be open (ulimit -n): senders, sinks and spools share them and fail \
             beyond it with \"too many open files\"; allow {ENOUGH} or more (LimitNOFILE=, --ulimit nofile=)"
        );
    }
    if limit.current == limit.maximum {
        return;
    }
    let shown = |files: Option<u64>| files.map_or_else(|| "unlimited".to_owned(), |files| files.to_string());
    let (from, to) = (shown(limit.current), shown(limit.maximum));
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => tracing::debug!(%from, %to, "raised the limit on open files"),
        Err(error) => tracing::warn!(%error, %from, %to, "could not raise the limit on open files"),
    }
}
