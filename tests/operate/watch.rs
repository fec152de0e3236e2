//! `backlog --watch` on a terminal of its own, which `script` (util-linux) makes.

use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
};

use super::{event, nowhere, send, support};
use support::process::{BINARY, Spool};

/// A shell on a terminal, that runs `backlog --watch`, then says how it ended and what became of the terminal.
struct Terminal {
    shell: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn open(spool: &Spool, columns: u16, lines: u16) -> Self {
        Self::open_and_resize(spool, columns, lines, "")
    }

    /// Besides, runs a command that sets other sizes meanwhile.
    fn open_and_resize(spool: &Spool, columns: u16, lines: u16, resize: &str) -> Self {
        let watch = format!("'{BINARY}' backlog --watch --config config.yaml");
        let commands = format!(
            "stty cols {columns} rows {lines}; {resize} {watch}; echo \"ended with $?\"; stty -a; echo that is all"
        );
        let mut shell = Command::new("script")
            .args(["--quiet", "--flush", "--command", &commands, "/dev/null"])
            .current_dir(spool.directory())
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script, of util-linux");
        let (keys, mut output) = (shell.stdin.take().expect("a pipe"), shell.stdout.take().expect("a pipe"));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                written.lock().expect("no panic while reading").extend_from_slice(&piece[..length]);
            }
        });
        Self { shell, keys, shown }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("no panic while reading")).into_owned()
    }

    async fn shows(&self, part: &str) {
        support::eventually(&format!("{part:?} on the screen"), || async { self.text().contains(part) }).await;
    }

    fn press(&mut self, key: &[u8]) {
        self.keys.write_all(key).and_then(|()| self.keys.flush()).expect("the terminal takes keys");
    }

    /// What the shell said of the end; fails unless the terminal is as it was.
    async fn end(mut self) -> String {
        self.shows("that is all").await;
        self.shell.wait().expect("the shell's end");
        let text = self.text();
        let left = text.rfind("\u{1b}[?1049l").unwrap_or_else(|| panic!("the screen was not restored: {text:?}"));
        let after = text[left..].to_owned();
        assert!(after.contains(" icanon") && after.contains(" echo "), "the terminal stays raw: {after}");
        assert!(after.contains("\u{1b}[?25h"), "the cursor stays hidden: {after:?}");
        after
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_screen_shows_queues_and_errors_and_gives_the_terminal_back() {
    let spool = nowhere("mongo").files("files").start().await;
    send(&spool, (0..1_234).map(|i| event(&format!("AE_{i}"), "r")).collect()).await;
    for key in [&b"q"[..], b"\x1b", b"\x03"] {
        let mut terminal = Terminal::open(&spool, 80, 24);
        // Words: what is between them is a move of the cursor.
        for word in ["accepting", "mongo", "files", "unavailable", "1,234", "errors", "refused", "delivery", "quit"] {
            terminal.shows(word).await;
        }
        terminal.press(key);
        assert!(terminal.end().await.contains("ended with 0"), "{key:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_hour_is_drawn_where_there_is_space_for_it() {
    let spool = nowhere("mongo").files("files").start().await;
    send(&spool, (0..1_234).map(|i| event(&format!("AE_{i}"), "r")).collect()).await;
    support::eventually("the backlog is in the history", || async {
        let text = reqwest::get(format!("{}/api/v1/history", spool.admin())).await.unwrap().text().await.unwrap();
        text.contains("1234")
    })
    .await;
    for (columns, lines) in [(80, 24), (40, 24)] {
        let mut terminal = Terminal::open(&spool, columns, lines);
        for word in ["changes", "backlog", "highest", "5 min ago", "▼", "▲", "█", "1,234"] {
            terminal.shows(word).await;
        }
        terminal.press(b"q");
        assert!(terminal.end().await.contains("ended with 0"), "{columns} × {lines}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_changes_its_size_is_drawn_again_whatever_the_size() {
    let spool = nowhere("mongo").files("files").start().await;
    send(&spool, vec![event("AE_1", "r")]).await;
    let sizes = ["1 1", "40 12", "200 3", "12 60", "60 10", "40 24"];
    let resize: Vec<String> = sizes
        .iter()
        .map(|size| size.split_once(' ').expect("two numbers"))
        .map(|(columns, lines)| format!("sleep 1.3; stty cols {columns} rows {lines};"))
        .collect();
    // The title, which is nothing on the screen, says that all sizes were there.
    let resize = format!("( {} sleep 1.5; printf '\\033]0;all sizes\\007' ) < /dev/tty &", resize.concat());
    let mut terminal = Terminal::open_and_resize(&spool, 80, 24, &resize);
    terminal.shows("empty").await;
    terminal.shows("all sizes").await;
    let text = terminal.text();
    let last = text.rfind("\u{1b}[2J").map(|at| &text[at..]).expect("the screen was cleared for a new size");
    assert!(last.contains("changes") && !last.contains("empty in"), "{last:?}");
    terminal.press(b"q");
    assert!(terminal.end().await.contains("ended with 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_terminal_gets_a_line_a_sink_and_a_stopped_process_is_said() {
    let spool = nowhere("mongo").prepare();
    let mut small = Terminal::open(&spool, 30, 5);
    small.shows("stopped").await;
    small.press(b"q");
    assert!(small.end().await.contains("ended with 0"));
    let mut stopped = Terminal::open(&spool, 80, 24);
    stopped.shows("running").await;
    stopped.press(b"q");
    stopped.end().await;
}

#[test]
fn without_a_terminal_it_says_what_to_do_instead() {
    let spool = nowhere("mongo").prepare();
    let output = spool.command(&["backlog", "--watch"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--json"), "{output:?}");
}
