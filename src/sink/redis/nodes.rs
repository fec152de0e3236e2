//! Connections: a few per node, and the node of each of a cluster's slots.
//!
//! A redirection is an answer like any other: a malicious one could have user, password and records sent to a foreign host.
//! It is followed only if the server of the URL, when asked, says that it is part of a cluster that includes this host. Its
//! list is trusted: it already has user, password and records, and could pass them on itself. No other node is asked, and
//! the log names the nodes. Over TLS each of them has to show a certificate for its name.
//!
//! A batch has its own connection: WAITAOF refers to the writes of its connection, and delays what comes after it.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::Duration,
};

use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};

/// The node of the URL.
pub(super) const FIRST: &str = "";

/// A cluster's hash slots.
const SLOTS: u16 = 16_384;

/// The server's nodes: one, unless it is a cluster.
pub(super) struct Nodes {
    first: ConnectionInfo,
    timeout: Duration,
    idle: Mutex<HashMap<String, Vec<Connection>>>,
    /// Learned from redirections; for a slot that is not here, the first node is asked.
    slots: Mutex<HashMap<u16, String>>,
    /// The cluster's nodes, `host:port`, as the first node lists them; none if it is not a cluster.
    members: Mutex<HashSet<String>>,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("first", self.first.addr()).finish_non_exhaustive()
    }
}

impl Nodes {
    pub(super) fn new(first: ConnectionInfo, timeout: Duration) -> Self {
        Self { first, timeout, idle: Mutex::default(), slots: Mutex::default(), members: Mutex::default() }
    }

    /// The node of a slot's keys.
    pub(super) fn node_of(&self, slot: u16) -> String {
        self.slots.lock().get(&slot).cloned().unwrap_or_else(|| FIRST.to_owned())
    }

    pub(super) fn learn(&self, slot: u16, node: String) {
        self.slots.lock().insert(slot, node);
    }

    /// True if the first node has listed this one.
    pub(super) fn is_member(&self, node: &str) -> bool {
        self.members.lock().contains(node)
    }

    /// Asks the first node for the nodes of the cluster.
    pub(super) async fn ask_members(&self) -> RedisResult<()> {
        let mut connection = self.take(FIRST).await?;
        let listed = members(connection.redis()).await?;
        self.release(FIRST, connection);
        let mut members = self.members.lock();
        if *members != listed {
            let mut nodes: Vec<&str> = listed.iter().map(String::as_str).collect();
            nodes.sort_unstable();
            tracing::info!(server = %self.first.addr(), ?nodes, "the cluster lists these nodes: records may go to each");
        }
        *members = listed;
        Ok(())
    }

    /// A connection to a node: an idle one or a new one.
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

    pub(super) fn release(&self, node: &str, connection: Connection) {
        self.idle.lock().entry(node.to_owned()).or_default().push(connection);
    }

    /// After a failure: idle connections to the node are likely dead, and its slots may have moved.
    pub(super) fn forget(&self, node: &str) {
        self.idle.lock().remove(node);
        self.slots.lock().retain(|_, of| of != node);
    }

    pub(super) fn close(&self) {
        self.members.lock().clear();
        self.idle.lock().clear();
    }

    /// A redirection names host and port only; the other options (TLS, its certificates) come from the URL.
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

/// The nodes of a cluster; none if the server says that it is not a cluster, or does not know the commands.
async fn members(redis: &mut MultiplexedConnection) -> RedisResult<HashSet<String>> {
    for (command, listed) in [("SHARDS", of_shards as fn(&Value) -> HashSet<String>), ("SLOTS", of_slots)] {
        let answer: RedisResult<Value> = redis::cmd("CLUSTER").arg(command).query_async(redis).await;
        match answer {
            Ok(answer) => return Ok(listed(&answer)),
            Err(error) if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
                return Err(error);
            }
            // CLUSTER SHARDS needs Redis 7; without a cluster, both are an error.
            Err(_) => {}
        }
    }
    Ok(HashSet::new())
}

/// `[{slots, nodes: [{id, ip, endpoint, hostname, port, tls-port, …}, …]}, …]`
fn of_shards(answer: &Value) -> HashSet<String> {
    let field = |of: &Value, name: &str| fields(of).into_iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let nodes = items(answer).iter().filter_map(|shard| field(shard, "nodes"));
    let nodes: Vec<Value> = nodes.flat_map(|nodes| items(&nodes).to_vec()).collect();
    let addresses = |node: &Value| {
        let of = |names: &[&str]| names.iter().filter_map(|name| field(node, name)).collect::<Vec<_>>();
        let (hosts, ports) = (of(&["ip", "endpoint", "hostname"]), of(&["port", "tls-port"]));
        hosts.iter().flat_map(|host| ports.iter().filter_map(|port| address(host, port))).collect::<Vec<_>>()
    };
    nodes.iter().flat_map(addresses).collect()
}

/// `[[first, last, [host, port, id, [hostname, …]], …], …]`
fn of_slots(answer: &Value) -> HashSet<String> {
    let nodes = items(answer).iter().flat_map(|range| items(range).iter().skip(2));
    let addresses = nodes.filter_map(|node| match items(node) {
        [host, port, ..] => address(host, port),
        _ => None,
    });
    addresses.collect()
}

/// `host:port` in the form of a redirection, in which a host that the node does not know itself is empty.
fn address(host: &Value, port: &Value) -> Option<String> {
    let host = match text(host).as_deref() {
        None | Some("?") => String::new(),
        Some(host) => host.to_owned(),
    };
    let port: u16 = match port {
        Value::Int(port) => (*port).try_into().ok()?,
        port => text(port)?.parse().ok()?,
    };
    Some(format!("{host}:{port}"))
}

fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        _ => &[],
    }
}

/// Looks up a name in a map, or in a list of alternating names and values, as RESP2 writes a map.
fn fields(value: &Value) -> Vec<(String, Value)> {
    match value {
        Value::Map(fields) => fields.iter().filter_map(|(name, value)| Some((text(name)?, value.clone()))).collect(),
        Value::Array(items) => {
            items.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?, pair[1].clone()))).collect()
        }
        _ => Vec::new(),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

/// A connection, and whether it can wait until its writes are on disk.
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

    /// True if WAITAOF says when writes are on disk.
    pub(super) fn fsyncs(&self) -> bool {
        self.not_fsynced.is_none()
    }

    pub(super) fn why_not_fsynced(&self) -> Option<&'static str> {
        self.not_fsynced
    }
}

/// Why WAITAOF cannot be used; `None` if the error has another cause.
fn why(error: &RedisError) -> Option<&'static str> {
    let text = error.to_string().to_ascii_lowercase();
    if text.contains("unknown command") {
        Some(
            "Redis before 7.2 has no WAITAOF: it acknowledges records before they are on disk, and a crash can lose \
             them; upgrade, or set `appendonly yes` with `appendfsync always`",
        )
    } else if text.contains("appendonly") {
        Some("appendonly is off: Redis keeps records in memory only, and loses them in a crash; set `appendonly yes`")
    } else if error.code() == Some("NOPERM") {
        Some("the user may not use WAITAOF: records are acknowledged before they are on disk; allow it with `+waitaof`")
    } else {
        None
    }
}

/// The slot of a key: CRC-16 (XMODEM) of the text between the first braces, or of the whole key if there is none.
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
    fn a_clusters_nodes_are_read_in_all_forms_that_servers_list_them() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let list = |items: &[Value]| Value::Array(items.to_vec());
        let node = list(&[
            bulk("id"),
            bulk("abc"),
            bulk("port"),
            Value::Int(7001),
            bulk("ip"),
            bulk("10.0.0.1"),
            bulk("endpoint"),
            bulk("10.0.0.1"),
            bulk("hostname"),
            bulk("redis-1"),
            bulk("role"),
            bulk("master"),
        ]);
        let shards =
            list(&[list(&[bulk("slots"), list(&[Value::Int(0), Value::Int(5)]), bulk("nodes"), list(&[node])])]);
        let of = |nodes: &[&str]| nodes.iter().map(|node| (*node).to_owned()).collect::<HashSet<_>>();
        assert_eq!(of_shards(&shards), of(&["10.0.0.1:7001", "redis-1:7001"]));
        let node = Value::Map(vec![
            (bulk("tls-port"), Value::Int(7002)),
            (bulk("endpoint"), bulk("?")),
            (bulk("ip"), bulk("")),
        ]);
        let shards = list(&[Value::Map(vec![(bulk("nodes"), list(&[node]))])]);
        assert_eq!(of_shards(&shards), of(&[":7002"]));
        let slots = list(&[list(&[
            Value::Int(0),
            Value::Int(5),
            list(&[bulk("10.0.0.1"), Value::Int(7001), bulk("abc"), list(&[])]),
            list(&[Value::Nil, Value::Int(7002), bulk("def")]),
        ])]);
        assert_eq!(of_slots(&slots), of(&["10.0.0.1:7001", ":7002"]));
        for nonsense in
            [Value::Okay, Value::Int(1), bulk("10.0.0.1:7001"), list(&[Value::Okay]), list(&[list(&[Value::Nil])])]
        {
            assert_eq!((of_shards(&nonsense), of_slots(&nonsense)), (HashSet::new(), HashSet::new()));
        }
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
