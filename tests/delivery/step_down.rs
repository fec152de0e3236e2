//! A replica set of two scripted servers whose primary steps down in the middle of a write.
//!
//! The driver heeds a "not primary" that fails a whole command, but sees nothing of a write-concern error in the answer
//! to a raw one. So who is primary shows at the next insert, which the old one refuses, or else at the next heartbeat.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use bson::{Document, doc, oid::ObjectId};

use crate::{
    pipeline::{Pipeline, mongo_sink, options},
    support::{
        records::{event_ids, numbered_events},
        wire::{Reply, WireServer, error},
    },
};

const EVENTS: &str = "openvidu.events";

/// The servers and their addresses.
type Members = ([Arc<WireServer>; 2], [String; 2]);

/// What a member says of itself and the set; each election has a later id.
fn hello(members: &[String; 2], me: usize, primary: usize) -> Document {
    let is_primary = me == primary;
    let mut hello = doc! {
        "hosts": members.to_vec(), "me": &members[me], "primary": &members[primary], "isWritablePrimary": is_primary,
        "ismaster": is_primary, "secondary": !is_primary, "setVersion": 1,
    };
    if is_primary {
        let mut election = [0; 12];
        election[11] = primary as u8 + 1;
        hello.insert("electionId", ObjectId::from_bytes(election));
    }
    hello
}

#[tokio::test]
async fn a_primary_that_steps_down_within_a_write_concern_error_is_left_for_the_new_one() {
    // Afterwards a real server refuses to write; one that went on answering so would be found out by the heartbeat.
    for refuses in [true, false] {
        let set: Arc<OnceLock<Members>> = Arc::default();
        let (known, late) = (Arc::clone(&set), Arc::new(AtomicU32::new(0)));
        let counted = Arc::clone(&late);
        let stepped_down =
            doc! { "code": 189, "codeName": "PrimarySteppedDown", "errmsg": "stepped down while waiting" };
        let old = WireServer::scripted(move |command| match (command.name.as_str(), command.number) {
            ("insert", 0) => Reply::Healthy,
            ("insert", _) => {
                let ([old, new], members) = known.get().expect("the set is complete");
                new.set_hello(hello(members, 1, 1));
                match counted.fetch_add(1, Ordering::SeqCst) {
                    1.. if refuses => {
                        old.set_hello(hello(members, 0, 1));
                        Reply::Answer(error(10107, "NotWritablePrimary", "not primary"))
                    }
                    _ => Reply::WriteConcernError(stepped_down.clone()),
                }
            }
            _ => Reply::Healthy,
        })
        .await;
        let old = Arc::new(old);
        let new = Arc::new(WireServer::scripted(|_| Reply::Healthy).await);
        let members = [old.address(), new.address()];
        old.set_hello(hello(&members, 0, 0));
        new.set_hello(hello(&members, 1, 0));
        set.set(([Arc::clone(&old), Arc::clone(&new)], members.clone())).unwrap_or_else(|_| panic!("set once"));

        let uri = format!("mongodb://{},{}/?replicaSet=wire&heartbeatFrequencyMS=500", members[0], members[1]);
        let pipeline = Pipeline::start(mongo_sink(&uri, "openvidu"), options());
        let events: Vec<_> = numbered_events("t").take(600).collect();
        // The first insert has all of these.
        pipeline.send_events(&events[..10]).await;
        pipeline.drained().await;
        pipeline.send_events(&events[10..]).await;
        pipeline.drained().await;

        let ids = |server: &WireServer| server.kept(EVENTS).into_keys().collect::<BTreeSet<_>>();
        assert_eq!(ids(&new), event_ids(&events[10..]), "what the old one took last may be rolled back");
        assert!(pipeline.dead_letters().is_empty());
        let late = late.load(Ordering::SeqCst);
        assert!(!refuses || late <= 8, "{late} inserts went to the old primary");
    }
}
