//! MongoDB on several servers: a replica set with a read preference, several routers. Each request reads from one server, of
//! those that the URI asks for, and nothing is ever written.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use bson::{Bson, doc};
use livekit_spool::archive::Room;

use crate::{
    support::wire::{Reply, WireServer},
    truth::{LIMITS, ever, open, sink},
};

/// What a command says of where it may go.
struct Asked {
    server: usize,
    command: String,
    mode: Option<String>,
}

/// Servers that note what they are asked. The list of creations comes in two batches, the second one only from the server of the
/// first.
struct Servers {
    servers: Vec<WireServer>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Servers {
    async fn start(count: usize) -> Self {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let mut servers = Vec::new();
        for server in 0..count {
            let asked = asked.clone();
            let started = WireServer::scripted(move |command| {
                let mode = command.body.get_document("$readPreference").and_then(|mode| mode.get_str("mode"));
                let mode = mode.ok().map(str::to_owned);
                asked.lock().unwrap().push(Asked { server, command: command.name.clone(), mode });
                let cursor = server as i64 + 1;
                let batch = |key: &str, id: i64, n: i64| {
                    let created = doc! {
                        "type": "ROOM_CREATED", "timestamp": { "seconds": 1_700_000_000 - n },
                        "room": { "sid": format!("RM_{n}"), "name": "room" },
                    };
                    Reply::Answer(doc! { "ok": 1.0, "cursor": { "id": id, "ns": "openvidu.events", key: [created] } })
                };
                let asked_type = command.body.get_document("filter").and_then(|filter| filter.get_str("type"));
                match command.name.as_str() {
                    "find" if asked_type.ok() == Some("ROOM_CREATED") => batch("firstBatch", cursor, 1),
                    "getMore" if command.body.get_i64("getMore").ok() == Some(cursor) => batch("nextBatch", 0, 2),
                    "getMore" => {
                        Reply::Answer(doc! { "ok": 0.0, "code": 43, "codeName": "CursorNotFound", "errmsg": "no" })
                    }
                    _ => Reply::Healthy,
                }
            });
            servers.push(started.await);
        }
        Self { servers, asked }
    }

    /// A replica set, the first of them its primary; each is tagged with its place.
    async fn replica_set() -> Self {
        let set = Self::start(3).await;
        let hosts: Vec<String> = set.servers.iter().map(WireServer::address).collect();
        for (place, server) in set.servers.iter().enumerate() {
            server.set_hello(doc! {
                "isWritablePrimary": place == 0, "ismaster": place == 0, "secondary": place != 0, "hosts": &hosts,
                "me": server.address(), "primary": &hosts[0], "tags": { "place": place.to_string() },
            });
        }
        set
    }

    async fn routers() -> Self {
        let routers = Self::start(2).await;
        for server in &routers.servers {
            server.set_hello(doc! { "msg": "isdbgrid", "setName": Bson::Null, "hosts": Bson::Null, "me": Bson::Null });
        }
        routers
    }

    fn uri(&self, options: &str) -> String {
        let hosts: Vec<String> = self.servers.iter().map(WireServer::address).collect();
        format!("mongodb://{}/?{options}", hosts.join(","))
    }

    /// Lists and reads, and returns what the servers were asked, request by request.
    async fn read(&self, options: &str) -> [Vec<Asked>; 3] {
        let archive = open(&sink(&format!("type: mongodb, uri: \"{}\"", self.uri(options))));
        let asked = || std::mem::take(&mut *self.asked.lock().unwrap());
        let listing = archive.list(&ever(), &LIMITS).await.unwrap_or_else(|error| panic!("{options}: {error}"));
        let rooms: Vec<&str> = listing.rooms.iter().map(|room: &Room| room.sid.as_str()).collect();
        assert_eq!(rooms, ["RM_1", "RM_2"], "{options}");
        let list = asked();
        archive.records(&listing.rooms, &LIMITS).await.unwrap_or_else(|error| panic!("{options}: {error}"));
        let records = asked();
        archive.room("RM_1", &LIMITS).await.unwrap_or_else(|error| panic!("{options}: {error}"));
        [list, records, asked()]
    }
}

/// The servers that a request went to.
fn servers(request: &[Asked]) -> BTreeSet<usize> {
    request.iter().map(|asked| asked.server).collect()
}

fn only_reads(request: &[Asked]) {
    assert!(!request.is_empty());
    for asked in request {
        assert!(["find", "getMore", "killCursors"].contains(&asked.command.as_str()), "{}", asked.command);
    }
}

#[tokio::test]
async fn each_request_reads_from_one_member_that_the_read_preference_allows() {
    for (options, allowed) in [
        ("w=1", &[0][..]),
        ("readPreference=primary", &[0]),
        ("readPreference=primaryPreferred", &[0]),
        ("readPreference=secondary", &[1, 2]),
        ("readPreference=secondaryPreferred", &[1, 2]),
        ("readPreference=nearest", &[0, 1, 2]),
        ("readPreference=secondary&readPreferenceTags=place:2", &[2]),
        ("readPreference=nearest&readPreferenceTags=place:1", &[1]),
        ("readPreference=secondaryPreferred&readPreferenceTags=place:7", &[0]),
    ] {
        let set = Servers::replica_set().await;
        for request in set.read(&format!("replicaSet=wire&{options}")).await {
            only_reads(&request);
            let went_to = servers(&request);
            assert_eq!(went_to.len(), 1, "{options}: a cursor is on one server: {went_to:?}");
            assert!(went_to.iter().all(|server| allowed.contains(server)), "{options}: {went_to:?}");
            for asked in request.iter().filter(|asked| asked.server != 0) {
                let mode = asked.mode.as_deref();
                assert!(mode.is_some_and(|mode| mode != "primary"), "{options}: a secondary refuses this: {mode:?}");
            }
        }
    }
}

#[tokio::test]
async fn each_request_reads_through_one_router_with_the_read_preference() {
    for (options, mode) in [("w=1", None), ("readPreference=secondaryPreferred", Some("secondaryPreferred"))] {
        let routers = Servers::routers().await;
        for request in routers.read(options).await {
            only_reads(&request);
            assert_eq!(servers(&request).len(), 1, "{options}");
            for asked in request.iter().filter(|asked| asked.command == "find") {
                assert_eq!(asked.mode.as_deref().filter(|mode| *mode != "primary"), mode, "{options}");
            }
        }
    }
}
