//! `run --demo`: sends real LiveKit records to the process's own gRPC port, as a LiveKit server would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::task::JoinHandle;

use crate::{
    app::App,
    config::Config,
    demo,
    ingest::{
        AuthOptions,
        client::{Client, Credentials, Target},
    },
    tasks,
};

/// Starts the demo sender. If it cannot send, that is logged and the process continues.
pub(super) fn start(app: &App, rate: u32) -> JoinHandle<()> {
    let (target, stop) = (target(&app.config(), app.grpc_address()), app.stopping().clone());
    let page = app.admin_address().map(|address| format!("http://{address}/#sessions"));
    tasks::spawn(async move {
        let client = match target.and_then(|target| Client::new(&target).map_err(|error| error.to_string())) {
            Ok(client) => client,
            Err(reason) => return tracing::warn!(reason, "the demo cannot send"),
        };
        tracing::info!(
            rate,
            "the demo sends recorded LiveKit events and stats, with new ids and times of the last minutes"
        );
        let tell = || {
            tracing::info!(
                page = page.as_deref().unwrap_or("off"),
                "the demo's rooms are sessions now: open the page, or run \
                                                                    `livekit-spool sessions`"
            );
        };
        if let Err(status) = demo::run(&client, rate, tell, stop.cancelled()).await {
            tracing::warn!(code = ?status.code(), reason = status.message(), "the demo was refused");
        }
    })
}

/// The demo's address and credentials.
fn target(config: &Config, address: Option<&str>) -> Result<Target, String> {
    let address = address.ok_or("ingest.grpc.listen is none")?;
    if config.ingest.tls.is_some() {
        return Err("it does not support TLS: remove ingest.tls, or use `livekit-spool send`".to_owned());
    }
    let credentials = match &config.ingest.auth.options() {
        AuthOptions::None => Credentials::None,
        AuthOptions::Tokens(tokens) => tokens.first().cloned().map_or(Credentials::None, Credentials::Token),
        AuthOptions::Livekit => match config.ingest.auth.keys.first_key_value() {
            Some((key, secret)) => Credentials::Livekit { key: key.clone(), secret: secret.clone() },
            None => Credentials::None,
        },
        AuthOptions::MutualTls => return Err("it has no client certificate".to_owned()),
    };
    let url = match address.parse::<SocketAddr>() {
        Ok(address) => format!("http://{}", reachable(address)),
        Err(_) => address.to_owned(),
    };
    Ok(Target { url, ca: None, credentials })
}

/// The address at which this machine reaches its own listener: a client cannot connect to "every interface".
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
