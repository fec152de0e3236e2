//! Drives a headless Chromium over its debugging pipe (file descriptors 3 and 4, JSON messages that end in a zero byte).

use std::{
    env,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{TIMEOUT, child::Process, directory};

/// A page in a browser of its own; both end with this.
pub(crate) struct Page {
    commands: File,
    messages: Receiver<Value>,
    session: String,
    next: u64,
    /// Console errors, exceptions, refused loads.
    complaints: Vec<String>,
    _browser: Process,
    _directory: TempDir,
}

impl Page {
    /// Starts a browser with an empty page.
    ///
    /// # Panics
    /// Where there is no Chromium: `tests/servers` installs one.
    pub(crate) fn open(width: u32, height: u32) -> Self {
        let directory = directory("browser");
        let (to, from) = (directory.path().join("to"), directory.path().join("from"));
        for pipe in [&to, &from] {
            assert!(Command::new("mkfifo").arg(pipe).status().expect("mkfifo").success());
        }
        let script = format!(
            "exec {} --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions \
             --user-data-dir='{}' --remote-debugging-pipe about:blank 3<'{}' 4>'{}'",
            browser(),
            directory.path().join("profile").display(),
            to.display(),
            from.display()
        );
        let log = directory.path().join("log");
        let browser = Process::start("chromium", Path::new("sh"), &["-c", &script], &[], &log);
        // Opened for both directions: opening a pipe for one of them waits for the other side.
        let open = |path: &PathBuf| OpenOptions::new().read(true).write(true).open(path).expect("a pipe");
        let (commands, answers) = (open(&to), open(&from));
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0) {
                let Ok(message) = message else { return };
                let Ok(message) = serde_json::from_slice(&message) else { return };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut page = Self {
            commands,
            messages,
            session: String::new(),
            next: 0,
            complaints: Vec::new(),
            _browser: browser,
            _directory: directory,
        };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = page.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        page.session = attached["sessionId"].as_str().expect("a session").to_owned();
        let screen = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        page.call("Emulation.setDeviceMetricsOverride", screen);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            page.call(domain, json!({}));
        }
        page
    }

    /// Sends a command and waits for its answer.
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut command = json!({"id": self.next, "method": method, "params": parameters});
        if !self.session.is_empty() {
            command["sessionId"] = Value::from(self.session.clone());
        }
        let mut text = serde_json::to_vec(&command).expect("JSON");
        text.push(0);
        self.commands.write_all(&text).expect("the browser takes commands");
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left).unwrap_or_else(|_| panic!("no answer to {method}"));
            if message["id"] == self.next {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        let is_complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => parameters["type"] == "error" || parameters["type"] == "warning",
            Some("Log.entryAdded") => parameters["entry"]["level"] == "error",
            _ => false,
        };
        if is_complaint {
            self.complaints.push(parameters.to_string());
        }
    }

    /// Opens an address.
    pub(crate) fn go(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({"url": url}));
        assert!(answer["errorText"].is_null(), "{url}: {}", answer["errorText"]);
    }

    /// The value of an expression.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Presses a key where the focus is: Enter, Escape, an arrow.
    pub(crate) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "ArrowLeft" => (37, ""),
            "ArrowUp" => (38, ""),
            "ArrowRight" => (39, ""),
            "ArrowDown" => (40, ""),
            _ => panic!("the code of {key}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut pressed = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if !text.is_empty() {
                pressed["text"] = Value::from(text);
            }
            self.call("Input.dispatchKeyEvent", pressed);
        }
    }

    /// Waits until an expression is true.
    pub(crate) fn wait_for(&mut self, expression: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while self.value(expression) != Value::Bool(true) {
            let body = self.value("document.body.innerText");
            assert!(Instant::now() < deadline, "never true: {expression}\n{}", body.as_str().unwrap_or_default());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the page complained of so far.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        // The answer comes behind all events that were on their way.
        self.value("0");
        self.complaints.clone()
    }

    /// Saves a picture in the directory that SPOOL_TEST_SCREENSHOTS names, if it names one.
    pub(crate) fn picture(&mut self, name: &str) {
        let Some(directory) = env::var_os("SPOOL_TEST_SCREENSHOTS") else { return };
        let answer = self.call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}));
        let png = STANDARD.decode(answer["data"].as_str().expect("a picture")).expect("Base64");
        std::fs::write(Path::new(&directory).join(format!("{name}.png")), png).expect("a picture");
    }
}

fn browser() -> &'static str {
    ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()))
        .expect("a Chromium on PATH: `tests/servers` (or tests/run) installs one")
}
