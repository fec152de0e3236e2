//! Senders that keep a livekit-spool busy and remember which of their calls were answered OK.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use livekit_protocol::AnalyticsEvents;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{process, records};

/// What was sent.
#[derive(Debug, Default, Clone)]
pub struct Sent {
    /// Ids of events in calls that were answered OK.
    pub acknowledged: BTreeSet<String>,
    /// Ids of all events, those of failed calls included.
    pub all: BTreeSet<String>,
    /// When each call was answered OK, and its ids.
    pub answers: Vec<(SystemTime, Vec<String>)>,
}

/// Senders at work.
pub struct Load {
    sent: Arc<Mutex<Sent>>,
    stop: CancellationToken,
    senders: JoinSet<()>,
}

/// How the senders behave.
#[derive(Clone)]
pub struct LoadOptions {
    /// What is part of all ids.
    pub prefix: String,
    /// How many send at once, each a call after the other.
    pub senders: usize,
    /// Events in a call, up to this many.
    pub events_per_call: usize,
    /// A sender's pause after a call.
    pub pause: Duration,
    /// Randomness.
    pub seed: u64,
}

impl Load {
    /// Starts senders of events towards a gRPC address. They outlast its failures: half of the failed calls are sent
    /// again with the same ids, as LiveKit's client does, the others are given up.
    pub fn start(address: &str, options: &LoadOptions) -> Self {
        let sent = Arc::new(Mutex::new(Sent::default()));
        let stop = CancellationToken::new();
        let mut senders = JoinSet::new();
        for sender in 0..options.senders {
            let (sent, stop, options) = (sent.clone(), stop.clone(), options.clone());
            senders.spawn(send(address.to_owned(), sender, sent, stop, options));
        }
        Self { sent, stop, senders }
    }

    /// How many events were answered OK so far.
    pub fn acknowledged(&self) -> usize {
        self.sent.lock().expect("no panic under this lock").acknowledged.len()
    }

    /// Waits until at least this many events were answered OK.
    pub async fn wait_for(&self, acknowledged: usize) {
        super::eventually("the senders' calls are answered", || async { self.acknowledged() >= acknowledged }).await;
    }

    /// Lets each sender finish its call and returns what was sent.
    pub async fn stop(mut self) -> Sent {
        self.stop.cancel();
        while let Some(sender) = self.senders.join_next().await {
            sender.expect("a sender does not panic");
        }
        std::mem::take(&mut self.sent.lock().expect("no panic under this lock"))
    }
}

async fn send(address: String, sender: usize, sent: Arc<Mutex<Sent>>, stop: CancellationToken, options: LoadOptions) {
    let mut random = StdRng::seed_from_u64(options.seed.wrapping_add(sender as u64));
    let mut events = records::numbered_events(&format!("{}_{sender}", options.prefix));
    let mut client = process::recorder(&address);
    while !stop.is_cancelled() {
        let count = random.random_range(1..=options.events_per_call);
        let call: Vec<_> = events.by_ref().take(count).collect();
        let ids: Vec<String> = call.iter().map(|event| event.id.clone()).collect();
        sent.lock().expect("no panic under this lock").all.extend(ids.iter().cloned());
        // Half of the calls bring one event a message, the others all in one.
        let messages: Vec<AnalyticsEvents> = if random.random() {
            call.into_iter().map(|event| AnalyticsEvents { events: vec![event] }).collect()
        } else {
            vec![AnalyticsEvents { events: call }]
        };
        let tenacious: bool = random.random();
        loop {
            if client.ingest_events(tokio_stream::iter(messages.clone())).await.is_ok() {
                let mut sent = sent.lock().expect("no panic under this lock");
                sent.acknowledged.extend(ids.iter().cloned());
                sent.answers.push((SystemTime::now(), ids));
                break;
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(5..50))).await;
            if stop.is_cancelled() || !tenacious {
                break;
            }
        }
        tokio::time::sleep(options.pause).await;
    }
}
