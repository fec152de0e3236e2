//! Tools that read a spool from outside. They change no byte of it.
//!
//! [`verify`] checks all of it, [`recover`] extracts records from whatever is left of one, [`raw`] is the format of
//! exported records. [`queue_copy`] reads the queue of a spool that is not open.

pub(crate) mod queue_copy;
pub mod raw;
pub(crate) mod recover;
pub(crate) mod verify;
