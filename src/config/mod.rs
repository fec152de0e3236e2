//! The configuration: each field with its unit, default and reason.
