//! The sessions of recordings are those of tests/data/sessions; `UPDATE_SESSIONS=1 cargo test --lib session::tests::golden`
//! writes them.

use std::{env, fs, path::Path};

use super::{documents, json, sessions};
use crate::{
    document::{DocumentOptions, JsonStyle},
    session::Session,
};

/// One of the seven rooms of livekit-1.11 shows the form of all.
const SHOWN: &str = "RM_AsAriw3HaLMK";

#[test]
fn recordings_make_the_sessions_that_are_checked_in() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut recordings = vec![data.join("livekit-1.11")];
    let found = fs::read_dir(data.join("sessions")).unwrap().map(|entry| entry.unwrap().path());
    recordings.extend(found.filter(|path| path.join("events.pb").exists()));
    let mut compared = Vec::new();
    for recording in recordings {
        let read = |name| fs::read(recording.join(name)).unwrap();
        let made = documents(&read("events.pb"), &read("stats.pb"), DocumentOptions::default(), JsonStyle::Relaxed);
        let name = recording.file_name().unwrap().to_str().unwrap();
        for (room, session) in sessions(&made) {
            if name != "livekit-1.11" || room == SHOWN {
                compare(&data.join("sessions").join(format!("{name}.json")), &session);
                compared.push(name.to_owned());
            }
        }
    }
    compared.sort();
    assert_eq!(
        compared,
        ["late", "livekit-1.11", "loss_down", "loss_up", "never", "reconnect", "resume", "tcp", "turn"]
    );
}

fn compare(path: &Path, session: &Session) {
    let made = format!("{:#}\n", json(session));
    if env::var_os("UPDATE_SESSIONS").is_some() {
        fs::write(path, &made).unwrap();
    }
    let golden = fs::read_to_string(path).unwrap_or_default();
    assert!(
        golden == made,
        "{}: line {} differs; UPDATE_SESSIONS=1 writes the file",
        path.display(),
        golden.lines().zip(made.lines()).take_while(|(golden, made)| golden == made).count() + 1
    );
}
