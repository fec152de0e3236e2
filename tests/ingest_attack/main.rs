//! The real binary against those who mean it ill, or just know no better.

#[path = "../support/mod.rs"]
mod support;

mod counted;
mod siege;
