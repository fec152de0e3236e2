//! livekit-server 1.11.0 as integrations/livekit-server builds it (`tests/servers` gets it). Everything stays on loopback.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::{child::Process, eventually, free_port, test_server};

/// The API key of the server, and its secret.
pub const API_KEY: &str = "devkey";
pub const API_SECRET: &str = "a-secret-for-the-tests-of-livekit-spool";

/// A livekit-server that sends its analytics to livekit-spool.
pub struct Livekit {
    /// Where clients connect.
    pub port: u16,
    /// Where media goes.
    pub media: u16,
    metrics: String,
    pub process: Process, // before the directory: what it logged there is shown when the test fails
    _directory: TempDir,
}

impl Livekit {
    /// `spool`: where livekit-spool takes records.
    pub async fn start(spool: &str) -> Self {
        Self::start_with(spool, "node_ip: 127.0.0.1", "").await
    }

    /// `rtc`: more keys of that section, as YAML in braces. `sections`: more sections, a line each.
    pub async fn start_with(spool: &str, rtc: &str, sections: &str) -> Self {
        let directory = super::directory("livekit");
        let (port, metrics, media) = (free_port(), free_port(), free_port());
        // Without a STUN server of their own, clients would ask one on the internet.
        let config = format!(
            "port: {port}\n\
             bind_addresses: [127.0.0.1]\n\
             prometheus: {{ port: {metrics} }}\n\
             rtc: {{ udp_port: {media}, {rtc}, use_external_ip: false, enable_loopback_candidate: true, \
                     interfaces: {{ includes: [lo] }}, stun_servers: [\"127.0.0.1:{media}\"] }}\n\
             room: {{ empty_timeout: 1, departure_timeout: 1 }}\n\
             keys: {{ {API_KEY}: {API_SECRET} }}\n\
             {sections}"
        );
        let file = directory.path().join("livekit.yaml");
        fs::write(&file, config).expect("LiveKit's config");
        let analytics = [("LIVEKIT_ANALYTICS_URL", spool), ("LIVEKIT_ANALYTICS_API_KEY", API_KEY)];
        let process = Process::start(
            "livekit-server",
            &test_server("livekit/livekit-server"),
            &["--config", utf8(&file)],
            &analytics,
            &directory.path().join("log"),
        );
        let livekit = Self {
            port,
            media,
            metrics: format!("http://127.0.0.1:{metrics}/metrics"),
            process,
            _directory: directory,
        };
        eventually("livekit-server is up", || async { reqwest::get(&livekit.metrics).await.is_ok() }).await;
        livekit
    }

    /// What our analytics service in it counts, over all labels that agree with these.
    pub async fn counted(&self, metric: &str, labels: &[(&str, &str)]) -> u64 {
        let page = reqwest::get(&self.metrics).await.expect("LiveKit's metrics").text().await.expect("text");
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let start = format!("livekit_analytics_{metric}{{");
        let lines = page.lines().filter(|line| line.starts_with(&start));
        let matching = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
        matching.map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).expect("a number") as u64).sum()
    }

    /// Bytes that it has not sent yet.
    pub async fn held(&self, stream: &str) -> u64 {
        self.counted("held_bytes", &[("stream", stream)]).await
    }

    /// Records, by what became of them.
    pub async fn records(&self, stream: &str, outcome: &str) -> u64 {
        self.counted("records_total", &[("stream", stream), ("outcome", outcome)]).await
    }
}

/// A path that is part of a command.
pub fn utf8(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}
