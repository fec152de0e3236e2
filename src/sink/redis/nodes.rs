//! Connections: a few per node, and which node has which of a cluster's slots.
//!
//! A batch has a connection to itself: WAITAOF speaks of the writes of its own connection, and holds up what comes after it.

use std::{collections::HashMap, fmt, time::Duration};

use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};

/// The node that the URL names.
pub(super) const FIRST: &str = "";

/// A cluster's hash slots.
const SLOTS: u16 = 16_384;

/// The server's nodes: one, unless it is a cluster.
pub(super) struct Nodes {
    first: ConnectionInfo,
    timeout: Duration,
    idle: Mutex<HashMap<String, Vec<Connection>>>,
    /// Learned from redirections; a slot that is not here is asked of the first node.
    slots: Mutex<HashMap<u16, String>>,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("first", self.first.addr()).finish_non_exhaustive()
    }
}

impl Nodes {
    pub(super) fn new(first: ConnectionInfo, timeout: Duration) -> Self {
        Self { first, timeout, idle: Mutex::default(), slots: Mutex::default() }
    }

    /// Where a slot's keys go.
    pub(super) fn node_of(&self, slot: u16) -> String {
        self.slots.lock().get(&slot).cloned().unwrap_or_else(|| FIRST.to_owned())
    }

    pub(super) fn learn(&self, slot: u16, node: String) {
        self.slots.lock().insert(slot, node);
    }

    /// A connection to a node, an idle one or a new one.
    pub(super) async fn take(&self, node: &str) -> RedisResult<Connection> {
        if let Some(idle) = self.idle.lock().get_mut(node).and_then(Vec::pop) {
            return Ok(idle);
        }
        let info = self.first.clone();
        let info = match self.address_of(node) {
            Some(address) => info.set_addr(address),
            None => info,
        };
        Connection::open(info, self.timeout).await
    }

    pub(super) fn give_back(&self, node: &str, connection: Connection) {
        self.idle.lock().entry(node.to_owned()).or_default().push(connection);
    }

    /// After a failure: idle connections to the node are likely dead, and its slots may have moved.
    pub(super) fn forget(&self, node: &str) {
        self.idle.lock().remove(node);
        self.slots.lock().retain(|_, of| of != node);
    }

    pub(super) fn close(&self) {
        self.idle.lock().clear();
    }

    /// A redirection names host and port only; how to connect (TLS, its certificates) is as the URL says.
    fn address_of(&self, node: &str) -> Option<ConnectionAddr> {
        let (host, port) = node.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let own = |of: &str| if host.is_empty() { of.to_owned() } else { host.to_owned() };
        match self.first.addr().clone() {
            ConnectionAddr::Tcp(of, _) => Some(ConnectionAddr::Tcp(own(&of), port)),
            ConnectionAddr::TcpTls { host: of, insecure, tls_params, .. } => {
                Some(ConnectionAddr::TcpTls { host: own(&of), port, insecure, tls_params })
            }
            _ => None,
        }
    }
}

/// A connection, and whether its writes can be waited for until they are on disk.
pub(super) struct Connection {
    redis: MultiplexedConnection,
    not_fsynced: Option<&'static str>,
}

impl Connection {
    async fn open(info: ConnectionInfo, timeout: Duration) -> RedisResult<Self> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(timeout / 3)).set_response_timeout(Some(timeout));
        let mut redis = Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?;
        let waited: RedisResult<Value> =
            redis::cmd("WAITAOF").arg(1).arg(0).arg(timeout.as_millis() as u64 / 2).query_async(&mut redis).await;
        let not_fsynced = match waited {
            Ok(_) => None,
            Err(error) => Some(why(&error).ok_or(error)?),
        };
        Ok(Self { redis, not_fsynced })
    }

    pub(super) fn redis(&mut self) -> &mut MultiplexedConnection {
        &mut self.redis
    }

    /// True where WAITAOF says when writes are on disk.
    pub(super) fn fsyncs(&self) -> bool {
        self.not_fsynced.is_none()
    }

    pub(super) fn why_not_fsynced(&self) -> Option<&'static str> {
        self.not_fsynced
    }
}

/// Why WAITAOF cannot be used; `None` where the error is about something else.
fn why(error: &RedisError) -> Option<&'static str> {
    let text = error.to_string().to_ascii_lowercase();
    if text.contains("unknown command") {
        Some(
            "Redis before 7.2 has no WAITAOF: it acknowledges records before they are on disk; what it loses in a crash is \
             lost (`appendonly yes` with `appendfsync always` closes the gap)",
        )
    } else if text.contains("appendonly") {
        Some("appendonly is off: Redis keeps records in memory only, and loses them in a crash; set `appendonly yes`")
    } else if error.code() == Some("NOPERM") {
        Some("the user may not use WAITAOF: records are acknowledged before they are on disk; allow it with `+waitaof`")
    } else {
        None
    }
}

/// A key's slot: CRC-16 (XMODEM) of what stands between the first braces, or of the whole key where nothing does.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|&byte| byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    let mut crc = 0_u16;
    for &byte in tag.unwrap_or(key) {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_redis_own() {
        // As CLUSTER KEYSLOT answers.
        assert_eq!(slot_of(b"123456789"), 12_739);
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"event:{foo}:ROOM_CREATED:AE_1"), 12_182);
        assert_eq!(slot_of(b"stat:{foo}:b:c"), slot_of(b"event:{foo}:x"));
        assert_ne!(slot_of(b"{}foo"), slot_of(b"{}bar"), "an empty tag is none");
    }

    #[test]
    fn a_redirection_keeps_how_to_connect() {
        let info = |url: &str| redis::IntoConnectionInfo::into_connection_info(url).expect("a url");
        let nodes = Nodes::new(info("rediss://user:secret@first:6379/0"), Duration::from_secs(1));
        assert!(
            matches!(nodes.address_of("other:6380"), Some(ConnectionAddr::TcpTls { host, port: 6380, .. }) if host == "other")
        );
        assert!(
            matches!(nodes.address_of(":6381"), Some(ConnectionAddr::TcpTls { host, port: 6381, .. }) if host == "first")
        );
        assert!(nodes.address_of(FIRST).is_none());
        assert!(!format!("{nodes:?}").contains("secret"));
    }
}
