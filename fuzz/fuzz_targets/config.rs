//! The configuration: any text is a configuration, or what is wrong with it has its line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use livekit_spool::config::{ConfigError, parse};

fn environment(name: &str) -> Option<String> {
    match name {
        "A" => Some("7890".to_owned()),
        "B" => Some("- {x: \"'#\n".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fuzz_target!(|text: &str| {
    check(parse(Some(("fuzz.yaml", text)), &environment).err(), text);
    // The same as LiveKit's own, in a variable, without a file.
    let variable = |name: &str| if name == "LIVEKIT_CONFIG" { Some(text.to_owned()) } else { environment(name) };
    check(parse(None, &variable).err(), text);
});

fn check(error: Option<ConfigError>, text: &str) {
    match error {
        None => {}
        Some(error @ ConfigError::NoSink { .. }) => drop(error.to_string()),
        Some(ConfigError::Read { .. }) => panic!("no file is read"),
        Some(ConfigError::Invalid(problems)) => {
            assert!(!problems.is_empty());
            let lines = text.split(['\n', '\r']).count();
            for problem in problems {
                assert!((1..=lines).contains(&problem.place.line), "{problem} is not in the {lines} lines");
                assert!(!problem.message.is_empty());
            }
        }
    }
}
