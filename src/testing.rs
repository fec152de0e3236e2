//! What the tests of several modules share.

use std::env;

use proptest::prelude::ProptestConfig;

/// How often a property is tried: so often, or as `PROPTEST_CASES` says. Failures are not kept in files: what they shrink
/// to becomes a test with a name. `PROPTEST_RNG_SEED` repeats a run.
pub(crate) fn cases(usual: u32) -> ProptestConfig {
    let cases = env::var("PROPTEST_CASES").map_or(usual, |cases| cases.parse().expect("PROPTEST_CASES is a number"));
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
