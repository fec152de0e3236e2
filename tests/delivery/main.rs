//! Delivery end to end below the ingest ports: a real spool, the worker, a sink, and servers and networks that misbehave.
//!
//! The check is always the same: each record that the spool took arrives exactly once, whatever happened on the way.

#[path = "../support/mod.rs"]
mod support;

mod conformance;
mod http;
mod http_refused;
mod http_tls;
mod mongodb;
mod mongodb_setup;
mod mongodb_truth;
mod outages;
mod pipeline;
mod postgresql;
mod postgresql_faults;
mod postgresql_hostile;
mod postgresql_setup;
mod postgresql_tls;
mod postgresql_truth;
mod postgresql_views;
mod redis;
mod redis_cluster;
mod redis_tls;
mod redis_truth;
mod resp;
mod step_down;
