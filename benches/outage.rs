//! What an outage costs: processor time, memory, files, connections, attempts; and whether they stay flat.
//!
//! ```sh
//! cargo bench --bench outage                                   # an hour's attempts with short pauses: some seconds
//! cargo bench --bench outage -- --minutes 60                   # the hour, with the default pauses
//! cargo bench --profile dev --bench outage -- --minutes 60     # the same, built in less time
//! ```

#[path = "../tests/support/mod.rs"]
mod support;

#[path = "../tests/outage/hour.rs"]
mod hour;

use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let minutes = arguments.iter().position(|argument| argument == "--minutes").map(|at| {
        let minutes = arguments.get(at + 1).and_then(|minutes| minutes.parse::<f64>().ok());
        minutes.expect("--minutes takes a number")
    });
    let clock =
        minutes.map_or(hour::Clock::Attempts, |minutes| hour::Clock::Real(Duration::from_secs_f64(minutes * 60.0)));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let report = runtime.block_on(hour::run(clock));
    report.print();
    let complaints = report.complaints();
    for complaint in &complaints {
        println!("NOT FLAT: {complaint}");
    }
    std::process::exit(i32::from(!complaints.is_empty()));
}
