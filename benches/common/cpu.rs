//! Processor time, as the kernel's scheduler counts it: in nanoseconds, where `getrusage` counts ticks.

use std::path::Path;

/// Seconds of all threads of this process.
pub(crate) fn seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
    threads.map(|thread| seconds_of(&thread.path().join("schedstat"))).sum()
}

/// Seconds of the thread with this `schedstat`; 0 if it has ended.
pub(crate) fn seconds_of(schedstat: &Path) -> f64 {
    let text = std::fs::read_to_string(schedstat).unwrap_or_default();
    text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok()).unwrap_or_default() / 1e9
}
