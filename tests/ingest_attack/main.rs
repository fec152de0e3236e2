//! The real binary against those who mean it ill, or just know no better.

#[path = "../support/mod.rs"]
mod support;

mod counted;
mod memory;
mod siege;
mod silent;
mod wire;

/// Held by each test: some measure, some take all of a machine.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
