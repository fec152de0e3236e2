//! The status page, the API and the metrics: over TCP for people and Prometheus, over a Unix socket for the CLI.
//! - `guard` decides who can read and who can act;
//! - `api` and `records` answer `/api/v1/…`, described by `openapi.json`; `extract` reads their requests, `json` writes
//!   answers, `answer` streams long ones, `problem` is the error answer;
//! - `sessions` answers for sessions, here and at the paths of LiveKit Cloud's APIs;
//! - [`metrics`] renders `/metrics`;
//! - `page/`: the page, served as one document.
//!
//! Uses `app`, `archive`, `caller`, `config`, `csv`, `document`, `flush`, `histogram`, `ingest`, `inspect`, `record`, `session`,
//! `spool`, `status`, `tasks`.

mod answer;
mod api;
mod extract;
mod guard;
pub mod metrics;
mod page;
mod problem;
mod records;
mod routes;
mod server;
mod sessions;

pub use server::{Bound, bind};
