//! A Redis server in a few lines: asks a closure what to answer to each command; and a cluster's slots.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{self, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

/// What to answer.
pub(crate) enum Answer {
    /// What a healthy server does: JSON.SET keeps the document.
    Healthy,
    /// These bytes of the protocol.
    Raw(String),
    /// An error reply: its code and text.
    Error(String),
    /// The connection is closed.
    HangUp,
    /// No answer ever comes; the connection stays open.
    Silence,
}

type Script = Box<dyn Fn(&[String]) -> Answer + Send + Sync>;

pub(crate) struct RespServer {
    address: SocketAddr,
    kept: Arc<Mutex<HashMap<String, String>>>,
    end: CancellationToken,
}

impl RespServer {
    pub(crate) async fn start(script: impl Fn(&[String]) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (kept, end): (Arc<Mutex<HashMap<String, String>>>, _) = (Arc::default(), CancellationToken::new());
        let script: Arc<Script> = Arc::new(Box::new(script));
        let (all, ended) = (Arc::clone(&kept), end.clone());
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, kept) = (Arc::clone(&script), Arc::clone(&all));
                tokio::spawn(ended.clone().run_until_cancelled_owned(async move {
                    // A client that hangs up ends its connection; nothing else does.
                    let _ = serve(stream, &script, &kept).await;
                }));
            }
        }));
        Self { address, kept, end }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Documents by key.
    pub(crate) fn kept(&self) -> HashMap<String, String> {
        self.kept.lock().expect("no panic under this lock").clone()
    }
}

impl Drop for RespServer {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

async fn serve(stream: TcpStream, script: &Script, kept: &Mutex<HashMap<String, String>>) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    loop {
        let mut command = Vec::new();
        for _ in 0..number(&mut from, '*').await? {
            let mut text = vec![0; number(&mut from, '$').await? + 2];
            from.read_exact(&mut text).await?;
            command.push(String::from_utf8_lossy(&text[..text.len() - 2]).into_owned());
        }
        let reply = match script(&command) {
            Answer::Error(text) => format!("-{text}\r\n"),
            Answer::Raw(text) => text,
            Answer::HangUp => return Ok(()),
            Answer::Silence => std::future::pending().await,
            Answer::Healthy => match &*command[0] {
                "JSON.SET" => {
                    kept.lock().expect("no panic under this lock").insert(command[1].clone(), command[3].clone());
                    "+OK\r\n".to_owned()
                }
                "EXPIRE" => ":1\r\n".to_owned(),
                "WAITAOF" => "*2\r\n:1\r\n:0\r\n".to_owned(),
                "JSON.TYPE" => "$-1\r\n".to_owned(),
                _ => "+OK\r\n".to_owned(),
            },
        };
        to.write_all(reply.as_bytes()).await?;
    }
}

async fn number(from: &mut (impl AsyncBufReadExt + Unpin), sign: char) -> io::Result<usize> {
    let mut line = String::new();
    if from.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.trim_end().strip_prefix(sign).and_then(|text| text.parse().ok()).ok_or(io::ErrorKind::InvalidData.into())
}

/// What a cluster of these nodes answers to CLUSTER SHARDS.
pub(crate) fn shards(nodes: &[&str]) -> Answer {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let shard = |node: &&str| {
        let (host, port) = node.split_once(':').expect("host:port");
        let fields =
            [bulk("port"), format!(":{port}\r\n"), bulk("ip"), bulk(host), bulk("endpoint"), bulk(host)].concat();
        format!("*4\r\n{}*0\r\n{}*1\r\n*6\r\n{fields}", bulk("slots"), bulk("nodes"))
    };
    Answer::Raw(format!("*{}\r\n{}", nodes.len(), nodes.iter().map(shard).collect::<String>()))
}

/// A hash tag's slot: CRC-16 as the cluster specification has it.
pub(crate) fn slot_of(tag: &str) -> u16 {
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 })
    });
    crc % 16_384
}
