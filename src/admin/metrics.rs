//! `/metrics`
use crate::status::Snapshot;
/// The metrics of a snapshot.
pub fn render(_s: &Snapshot) -> String {
    String::new()
}
