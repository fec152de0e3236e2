//! The servers of an outage: for each type of sink four, and each is away in its own way.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bson::doc;

use crate::support::{
    postgres::Postgres,
    proxy::{Mode, Proxy},
    receiver::{Answer, Receiver},
    wire::{Reply, WireServer, error},
};

/// A type of sink whose server can be away for an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Mongodb,
    Postgresql,
    Http,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Mongodb, Self::Postgresql, Self::Http];

    /// The word in the configuration.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Mongodb => "mongodb",
            Self::Postgresql => "postgresql",
            Self::Http => "http",
        }
    }

    /// The sinks, by the way in which their server is away, and the attempts that each makes in an hour: pauses of 15 s on
    /// average, and what an attempt takes.
    pub(crate) const fn sinks(self) -> [(&'static str, u64); 4] {
        match self {
            // The driver looks for a silent server, and gives up after seconds, instead of sending to it.
            Self::Mongodb => [("refused", 180), ("silent", 200), ("hung-up", 240), ("stepped-down", 240)],
            // A silent server is waited for until the batch's timeout: 30 s.
            Self::Postgresql => [("refused", 240), ("silent", 80), ("hung-up", 240), ("read-only", 240)],
            Self::Http => [("refused", 240), ("silent", 80), ("hung-up", 240), ("overloaded", 240)],
        }
    }
}

/// Four servers of one type, each behind a proxy.
pub(crate) struct Servers {
    kind: Kind,
    away: Arc<AtomicBool>,
    pub(crate) proxies: Vec<Proxy>,
    _wire: Vec<WireServer>,
    _receivers: Vec<Receiver>,
    /// One for all: each sink has a database of its own.
    postgres: Option<Postgres>,
}

impl Servers {
    pub(crate) async fn start(kind: Kind) -> Self {
        let away = Arc::new(AtomicBool::new(false));
        let (mut proxies, mut wire, mut receivers, mut postgres) = (Vec::new(), Vec::new(), Vec::new(), None);
        for (sink, _) in kind.sinks() {
            let gone = Arc::clone(&away);
            let gone = move || gone.load(Ordering::SeqCst);
            let address = match kind {
                Kind::Mongodb => {
                    let server = WireServer::scripted(move |command| match command.name.as_str() {
                        "insert" if gone() && sink == "hung-up" => Reply::HangUp,
                        "insert" if gone() => Reply::Answer(error(10107, "NotWritablePrimary", "stepped down")),
                        // Accepted, and not kept: this process must not grow.
                        "insert" => Reply::Answer(doc! { "ok": 1.0, "n": command.documents.len() as i64 }),
                        _ => Reply::Healthy,
                    })
                    .await;
                    let address = server.address();
                    wire.push(server);
                    address
                }
                Kind::Postgresql => {
                    if postgres.is_none() {
                        postgres = Some(Postgres::start().await);
                    }
                    let server = postgres.as_ref().expect("it was just started");
                    server.run(&format!("CREATE DATABASE \"{sink}\" OWNER livekit")).await;
                    server.address()
                }
                Kind::Http => {
                    let receiver = Receiver::start(move |_| match sink {
                        "hung-up" if gone() => Answer::HangUp,
                        _ if gone() => Answer::Status(503, "too much"),
                        _ => Answer::Status(200, ""),
                    })
                    .await;
                    let address = receiver.address();
                    receivers.push(receiver);
                    address
                }
            };
            proxies.push(Proxy::start(&address).await);
        }
        Self { kind, away, proxies, _wire: wire, _receivers: receivers, postgres }
    }

    /// The keys of a sink that say where its server is. `searching`: how long the MongoDB driver looks for it.
    pub(crate) fn destination(&self, sink: usize, searching: &str) -> String {
        let address = self.proxies[sink].address();
        match self.kind {
            Kind::Mongodb => {
                format!("type: mongodb, uri: \"mongodb://{address}/?directConnection=true{searching}\", database: test")
            }
            Kind::Postgresql => {
                let (database, _) = self.kind.sinks()[sink];
                format!("type: postgresql, url: \"postgresql://livekit:livekit@{address}/{database}\"")
            }
            Kind::Http => format!("type: http, url: \"http://{address}/in\""),
        }
    }

    pub(crate) async fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
        for ((sink, _), proxy) in self.kind.sinks().iter().zip(&self.proxies) {
            match *sink {
                "refused" if away => proxy.set(Mode::Refuse).await,
                "silent" if away => proxy.set(Mode::Blackhole).await,
                _ => proxy.set(Mode::Pass).await,
            }
        }
        if let Some(postgres) = &self.postgres {
            let hang_up = if away { HANG_UP } else { "DROP TRIGGER hang_up ON livekit.events" };
            postgres.run_in("hung-up", hang_up).await;
            let only = if away { "on" } else { "off" };
            postgres.run(&format!("ALTER DATABASE \"read-only\" SET default_transaction_read_only = {only}")).await;
            // A session keeps what it began with.
            postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'read-only'").await;
        }
    }
}

/// Each statement that writes ends its own connection.
const HANG_UP: &str = "
    CREATE OR REPLACE FUNCTION hang_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
    CREATE TRIGGER hang_up BEFORE INSERT ON livekit.events FOR EACH STATEMENT EXECUTE FUNCTION hang_up()";
