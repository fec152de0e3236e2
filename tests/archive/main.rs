//! Sessions read back from what sinks have stored: the same from every archive as from the records themselves.

#[path = "../support/mod.rs"]
mod support;

mod edges;
mod files;
mod mongodb;
mod postgresql;
mod questions;
mod servers;
mod truth;
