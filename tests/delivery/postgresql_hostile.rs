//! The PostgreSQL sink and servers that are none: they ask for the password to repeat it, and never stop talking.

use std::time::Duration;

use livekit_spool::sink::{Sink, SinkErrorKind, postgresql::PostgresqlOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::pipeline::postgresql_sink_with;

/// What the server does once it knows the password.
#[derive(Debug, Clone)]
enum Deed {
    /// An error with this text, in which `{}` is the password.
    Refuse(&'static str),
    /// Lets the client in, and sends these bytes for ever in answer to its first request.
    Talk(Vec<u8>),
    /// Sends these bytes for ever in place of an answer to the password.
    TalkAtOnce(Vec<u8>),
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message").to_be_bytes();
    [&[kind], &length[..], body].concat()
}

async fn serve(mut client: TcpStream, deed: Deed) -> std::io::Result<()> {
    let length = client.read_u32().await? as usize;
    client.read_exact(&mut vec![0; length - 4]).await?;
    client.write_all(&message(b'R', &3_u32.to_be_bytes())).await?;
    assert_eq!(client.read_u8().await?, b'p');
    let mut password = vec![0; client.read_u32().await? as usize - 4];
    client.read_exact(&mut password).await?;
    let password = String::from_utf8_lossy(&password).trim_end_matches('\0').to_owned();
    let endless = match deed {
        Deed::Refuse(text) => {
            let text = format!("SFATAL\0VFATAL\0C28P01\0M{}\0\0", text.replace("{}", &password));
            client.write_all(&message(b'E', text.as_bytes())).await?;
            return Ok(());
        }
        Deed::Talk(bytes) => {
            client.write_all(&message(b'R', &0_u32.to_be_bytes())).await?;
            client.write_all(&message(b'Z', b"I")).await?;
            client.read_u8().await?;
            bytes
        }
        Deed::TalkAtOnce(bytes) => bytes,
    };
    loop {
        client.write_all(&endless).await?;
    }
}

async fn server(deed: Deed) -> (String, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url =
        format!("postgresql://me:hunter2secret@{}/db?sslmode=disable", listener.local_addr().expect("its address"));
    let end = CancellationToken::new();
    let accepting = async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, deed.clone()));
        }
    };
    tokio::spawn(end.clone().run_until_cancelled_owned(accepting));
    (url, end.drop_guard())
}

fn sink(url: &str) -> std::sync::Arc<dyn Sink> {
    let options = PostgresqlOptions { url: url.to_owned(), timeout: Duration::from_secs(20), ..Default::default() };
    postgresql_sink_with(options)
}

#[tokio::test]
async fn a_server_that_repeats_the_password_does_not_get_it_shown() {
    let (url, _end) = server(Deed::Refuse("\u{1b}[2Jno {} here: {}")).await;
    let error = sink(&url).initialize().await.expect_err("it refuses");
    assert_eq!(error.kind, SinkErrorKind::Unauthorized);
    assert!(error.message.contains("\\u001b[2Jno *** here: ***") && !error.message.contains("hunter2"), "{error}");
}

/// Megabytes of memory that this process uses now.
fn megabytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") / 1024
}

#[tokio::test]
async fn a_server_that_never_stops_talking_costs_little_memory() {
    let names: Vec<u8> = (0..10_000).flat_map(|i| message(b'S', format!("name{i}\0{i}\0").as_bytes())).collect();
    let notice = message(b'N', format!("SNOTICE\0VNOTICE\0C00000\0M{}\0\0", "spam".repeat(10_000)).as_bytes());
    let row = message(b'D', b"\0\x01\0\0\0\x04text");
    let huge = [&b"E"[..], &0x7FFF_FFFF_u32.to_be_bytes(), &[b'x'; 65536]].concat();
    let head = message(b'T', b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xFF\xFF\xFF\xFF\xFF\xFF\0\0");
    for (what, deed) in [
        ("settings", Deed::Talk(names.clone())),
        ("notices", Deed::Talk(notice.clone())),
        ("rows", Deed::Talk([head, row.repeat(10_000)].concat())),
        ("one error", Deed::Talk(huge.clone())),
        ("one error at once", Deed::TalkAtOnce(huge)),
        ("notices at once", Deed::TalkAtOnce(notice)),
    ] {
        let (url, _end) = server(deed).await;
        let before = megabytes();
        let error = sink(&url).initialize().await.expect_err("no server");
        assert!(!error.message.contains("hunter2") && error.message.len() < 500, "{what}: {error}");
        assert!(megabytes() < before + 700, "{what}: {before} to {} MB", megabytes());
    }
}
