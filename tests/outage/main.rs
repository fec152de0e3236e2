//! An hour-long outage leaves nothing behind. It runs alone in its binary: what it measures is the whole process.
//!
//! Here the hour is compressed to its attempts; `cargo bench --bench outage -- --minutes 60` takes the hour.

#[path = "../support/mod.rs"]
mod support;

mod hour;
mod servers;

#[tokio::test(flavor = "multi_thread")]
async fn the_attempts_of_an_hour_long_outage_leave_processor_time_memory_files_and_connections_flat() {
    for kind in servers::Kind::ALL {
        let report = hour::run(kind, hour::Clock::Attempts).await;
        report.print();
        assert_eq!(report.complaints(), Vec::<String>::new(), "{}", kind.as_str());
    }
}
