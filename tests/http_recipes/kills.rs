//! kill -9 of livekit-spool and of its receiver, under load: each event that was answered OK arrives, and each document of
//! one id is the same.

use std::{collections::BTreeSet, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::support::{
    self,
    load::{Load, LoadOptions},
    process::{QUICK, Setup},
    receiver::Keeper,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_ok_arrives_though_sender_and_receiver_are_killed_at_random_moments() {
    let seed = support::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut keeper = Keeper::start().await;
    for format in ["ndjson", "record"] {
        let sink = format!("name: h, type: http, url: \"{}\", format: {format}, flush: {QUICK}", keeper.receiver.url());
        let mut spool = Setup::new().sink(&sink).start().await;
        let options = LoadOptions {
            prefix: format.to_owned(),
            senders: 4,
            events_per_call: 8,
            pause: Duration::from_millis(10),
            seed,
        };
        let load = Load::start(&spool.grpc(), &options);
        for _ in 0..8 {
            spool.wait_until_it_accepts_records().await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
            keeper.receiver.take_away().await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await;
            spool.kill();
            spool.launch();
            keeper.receiver.bring_back().await;
        }
        spool.wait_until_it_accepts_records().await;
        load.wait_for(load.acknowledged() + 20).await;
        let sent = load.stop().await;
        spool.wait_until_drained().await;
        let kept = keeper.kept("events");
        let kept: BTreeSet<String> = kept.iter().map(|event| event["_id"].as_str().expect("_id").to_owned()).collect();
        let missing: Vec<&String> = sent.acknowledged.difference(&kept).collect();
        assert!(missing.is_empty() && sent.acknowledged.len() > 100, "of {}: {missing:?}", sent.acknowledged.len());
        assert!(spool.dead_letters("h").is_empty());
        spool.terminate();
    }
}
