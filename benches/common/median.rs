//! The middle of repeated measurements: one slow turn on a noisy machine does not move it.

/// The median, the upper one of two; `None` of no values.
pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
