//! A real cluster of two nodes, the URL naming one: redirections are followed, a slot on the move is waited for.

use std::collections::BTreeSet;

use livekit_protocol::AnalyticsEvent;
use redis::{FromRedisValue, Value};

use crate::{
    pipeline::{Pipeline, options, redis_sink},
    resp::slot_of,
    support::{
        eventually, free_port,
        records::{event_ids, numbered_events},
        redis::Redis,
    },
};

/// Slots below it are the first node's.
const HALF: u16 = 8192;

async fn node(epoch: u16) -> Redis {
    let bus = free_port().to_string();
    let redis = Redis::start_with(false, &["--cluster-enabled", "yes", "--cluster-port", &bus]).await;
    let (first, last) = if epoch == 1 { (0, HALF - 1) } else { (HALF, 16_383) };
    ask::<Value>(&redis, &format!("CLUSTER ADDSLOTSRANGE {first} {last}")).await;
    ask::<Value>(&redis, &format!("CLUSTER SET-CONFIG-EPOCH {epoch}")).await;
    redis
}

async fn ask<T: FromRedisValue>(redis: &Redis, command: &str) -> T {
    let mut words = command.split(' ');
    let mut asked = redis::cmd(words.next().expect("a command"));
    words.for_each(|word| {
        asked.arg(word);
    });
    asked.query_async(&mut redis.connect().await).await.unwrap_or_else(|error| panic!("{command}: {error}"))
}

async fn cluster() -> (Redis, Redis) {
    let (first, second) = (node(1).await, node(2).await);
    let (host, port) = second.address().split_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).expect("an address");
    let bus: Vec<String> = ask(&second, "CONFIG GET cluster-port").await;
    ask::<Value>(&first, &format!("CLUSTER MEET {host} {port} {}", bus[1])).await;
    for node in [&first, &second] {
        eventually("the cluster is up", || async {
            ask::<String>(node, "CLUSTER INFO").await.contains("cluster_state:ok")
        })
        .await;
    }
    (first, second)
}

async fn ids(redis: &Redis) -> BTreeSet<String> {
    let keys: Vec<String> = ask(redis, "KEYS event:*").await;
    keys.iter().map(|key| key.rsplit(':').next().expect("an id").to_owned()).collect()
}

fn in_room(mut event: AnalyticsEvent, room: &str) -> AnalyticsEvent {
    event.room_id = room.to_owned();
    event.room.get_or_insert_default().sid = room.to_owned();
    event
}

#[tokio::test]
async fn records_find_their_nodes_and_wait_for_a_slot_on_the_move() {
    let (first, second) = cluster().await;
    let pipeline = Pipeline::start(redis_sink(&first.url()), options());
    let mut events: Vec<AnalyticsEvent> = numbered_events("spread").take(400).collect();
    for (i, event) in events.iter_mut().enumerate() {
        *event = in_room(event.clone(), &format!("RM_{}", i % 40));
    }
    pipeline.send_events(&events).await;
    pipeline.drained().await;
    let (on_first, on_second) = (ids(&first).await, ids(&second).await);
    assert!(!on_first.is_empty() && !on_second.is_empty() && on_first.is_disjoint(&on_second));
    assert_eq!(on_first.union(&on_second).cloned().collect::<BTreeSet<_>>(), event_ids(&events));

    // A room's slot moves from the first node to the second: the first one answers ASK.
    let room = (0..).map(|n| format!("RM_moving_{n}")).find(|room| slot_of(room) < HALF).expect("a room");
    let slot = slot_of(&room);
    let (source, target) = (ask::<String>(&first, "CLUSTER MYID").await, ask::<String>(&second, "CLUSTER MYID").await);
    ask::<Value>(&second, &format!("CLUSTER SETSLOT {slot} IMPORTING {source}")).await;
    ask::<Value>(&first, &format!("CLUSTER SETSLOT {slot} MIGRATING {target}")).await;
    let moving: Vec<_> = numbered_events("moving").take(50).map(|event| in_room(event, &room)).collect();
    pipeline.send_events(&moving).await;
    eventually("it waits", || async { pipeline.status().last_error.is_some_and(|error| error.contains("ASK")) }).await;
    assert_eq!(pipeline.backlog(), 50);
    for node in [&second, &first] {
        ask::<Value>(node, &format!("CLUSTER SETSLOT {slot} NODE {target}")).await;
    }
    pipeline.drained().await;
    assert!(ids(&second).await.is_superset(&event_ids(&moving)));
    assert!(pipeline.dead_letters().is_empty());
}
