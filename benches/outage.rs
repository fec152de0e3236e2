//! What an outage costs: processor time, memory, files, connections, attempts; and whether they stay flat.
//!
//! ```sh
//! cargo bench --bench outage                                   # an hour's attempts with short pauses: some seconds
//! cargo bench --bench outage -- --sink http                    # of one type of sink: mongodb, postgresql, http
//! cargo bench --bench outage -- --minutes 60                   # the hour, with the default pauses; one type after the other
//! cargo bench --profile dev --bench outage -- --minutes 60     # the same, built in less time
//! ```

#[path = "../tests/support/mod.rs"]
mod support;

#[path = "../tests/outage/hour.rs"]
mod hour;
#[path = "../tests/outage/servers.rs"]
mod servers;

use std::time::Duration;

use servers::Kind;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |key: &str| {
        let at = arguments.iter().position(|argument| argument == key)?;
        Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{key} takes a value")).as_str())
    };
    let clock = value("--minutes").map_or(hour::Clock::Attempts, |minutes| {
        let minutes: f64 = minutes.parse().expect("--minutes takes a number");
        hour::Clock::Real(Duration::from_secs_f64(minutes * 60.0))
    });
    let kinds: Vec<Kind> = value("--sink").map_or(Kind::ALL.to_vec(), |name| {
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == name);
        vec![kind.unwrap_or_else(|| panic!("--sink takes one of {:?}", Kind::ALL.map(Kind::as_str)))]
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut flat = true;
    for kind in kinds {
        let report = runtime.block_on(hour::run(kind, clock));
        report.print();
        for complaint in report.complaints() {
            println!("{}: NOT FLAT: {complaint}", kind.as_str());
            flat = false;
        }
    }
    std::process::exit(i32::from(!flat));
}
