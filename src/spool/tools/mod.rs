//! Tools that look at a spool from outside. They change no byte of it.
//!
//! [`inspect`] shows what a stopped spool holds, [`verify`] checks all of it, [`recover`] takes records out of whatever is left of one,
//! [`raw`] is the format of exported records.

pub(crate) mod inspect;
mod queue_copy;
pub mod raw;
pub(crate) mod recover;
pub(crate) mod verify;
