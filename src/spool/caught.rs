//! Panics as errors: sled panics on damaged files, and a bug must not silence a thread that others wait for.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a call; a panic becomes its message. What the call had begun to change is the caller's to put in order.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "no message".to_owned())
    })
}
