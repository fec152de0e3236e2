//! Tools that look at a spool from outside. They change no byte of it.
//!
//! [`verify`] checks all of it, [`recover`] takes records out of whatever is left of one, [`raw`] is the format of exported records.
//! A spool that is not open is looked at through [`queue_copy`].

pub(crate) mod queue_copy;
pub mod raw;
pub(crate) mod recover;
pub(crate) mod verify;
