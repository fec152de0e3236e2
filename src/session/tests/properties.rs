//! Whatever the order of the documents, however often each is there, whichever are missing: no panic, the same session for the
//! same documents, and nothing above the truth.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::Index};
use serde_json::Value;

use super::{LATE, forks, json, real, sessions};
use crate::{
    session::{Documents, Session, fold},
    testing::cases,
};

/// The documents of a room, in both forms.
struct Room {
    sid: String,
    truth: Session,
    documents: [Documents; 2],
}

fn rooms() -> Vec<Room> {
    let whole = [real(), forks()];
    let of_room = |documents: &Documents, room: &str| {
        let keep = |stream: &[Value]| {
            let mentions = |document: &&Value| document.to_string().contains(room);
            stream.iter().filter(mentions).cloned().collect::<Vec<_>>()
        };
        Documents { events: keep(&documents.events), stats: keep(&documents.stats) }
    };
    let truths: BTreeMap<String, Session> = sessions(&whole[0]);
    let room = |(sid, truth): (String, Session)| {
        let documents = whole.each_ref().map(|documents| of_room(documents, &sid));
        Room { sid, truth, documents }
    };
    truths.into_iter().map(room).collect()
}

/// What happens to a document: how often it is there, in which form, and where.
type Change = (u8, bool, u32);

fn apply(forms: [&[Value]; 2], changes: &[Change]) -> Vec<Value> {
    let mut placed: Vec<(u32, &Value)> = Vec::new();
    for (n, (times, is_forks, place)) in changes.iter().take(forms[0].len()).enumerate() {
        let document = &forms[usize::from(*is_forks)][n];
        for time in 0..*times {
            placed.push((place.wrapping_mul(2_654_435_761_u32.wrapping_add(u32::from(time))), document));
        }
    }
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, document)| document.clone()).collect()
}

fn shuffled(documents: &[Value], seed: u32) -> Vec<Value> {
    let place = |n: usize| (n as u32).wrapping_add(seed).wrapping_mul(2_654_435_761).rotate_left(seed % 32);
    let mut placed: Vec<(u32, &Value)> =
        documents.iter().enumerate().map(|(n, document)| (place(n), document)).collect();
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, document)| document.clone()).collect()
}

pub(super) fn assert_is_at_most(session: &Session, truth: &Session) {
    let (totals, most) = (&session.totals, &truth.totals);
    assert!(totals.participants <= most.participants);
    assert!(totals.peak_participants <= most.peak_participants);
    assert!(totals.connection_seconds <= most.connection_seconds + 1e-6, "{totals:?}, at most {most:?}");
    assert!(totals.bytes_in <= most.bytes_in && totals.bytes_out <= most.bytes_out);
    let connections = |session: &Session| {
        let connections = session.participants.iter().flat_map(|who| who.connections.clone());
        connections.map(|connection| (connection.sid.clone(), connection)).collect::<BTreeMap<_, _>>()
    };
    let whole = connections(truth);
    let published = whole.values().flat_map(|connection| &connection.published);
    let gaps: BTreeMap<&String, u64> =
        published.map(|track| (&track.sid, track.upstream.lost + track.upstream.retransmitted)).collect();
    for (sid, connection) in connections(session) {
        let truth = &whole[&sid];
        assert!(
            connection.seconds <= truth.seconds + 1e-6,
            "{sid}: {} s, truly {} s",
            connection.seconds,
            truth.seconds
        );
        assert!(connection.data_bytes <= truth.data_bytes);
        for track in &connection.published {
            let truth = truth.published.iter().find(|of| of.sid == track.sid).unwrap();
            assert!(track.upstream.packets <= truth.upstream.packets && track.upstream.bytes <= truth.upstream.bytes);
            assert!(track.subscribers.iter().all(|sid| truth.subscribers.contains(sid)));
        }
        for received in &connection.subscribed {
            let truth = truth.subscribed.iter().find(|of| of.track_sid == received.track_sid).unwrap();
            // The gaps of the publisher are taken off by the event that closes the subscription.
            let gaps = gaps.get(&received.track_sid).copied().unwrap_or(0);
            assert!(received.downstream.packets <= truth.downstream.packets + gaps);
            assert!(received.downstream.bytes <= truth.downstream.bytes);
        }
    }
    assert!(session.webhooks.len() <= truth.webhooks.len());
    assert!(session.moments.len() <= truth.moments.len());
}

#[test]
fn no_order_repetition_or_gap_makes_totals_above_the_truth_or_another_session() {
    let rooms = rooms();
    let most =
        rooms.iter().map(|room| room.documents[0].events.len().max(room.documents[0].stats.len())).max().unwrap();
    // How often each document is there, on average: from hardly ever to more than once.
    let changes = (0..=100_u8).prop_flat_map(move |missing| {
        let times = (0..100_u8, 1..3_u8).prop_map(move |(chance, times)| if chance < missing { 0 } else { times });
        prop::collection::vec((times, any::<bool>(), any::<u32>()), most)
    });
    proptest!(cases(200), |(room in any::<Index>(), events in changes.clone(), stats in changes, seed in any::<u32>())| {
        let Room { sid, truth, documents: [ours, forks] } = room.get(&rooms);
        let documents = Documents {
            events: apply([&ours.events, &forks.events], &events),
            stats: apply([&ours.stats, &forks.stats], &stats),
        };
        let session = fold(sid, &documents, LATE);
        prop_assert_eq!(session.is_none(), documents.events.is_empty() && documents.stats.is_empty());
        if let Some(session) = &session {
            assert_is_at_most(session, truth);
            json(session);
        }
        let again = Documents { events: shuffled(&documents.events, seed), stats: shuffled(&documents.stats, seed) };
        prop_assert_eq!(session, fold(sid, &again, LATE));
    });
}

#[test]
fn each_single_document_may_be_missing() {
    for Room { sid, truth, documents: [ours, _] } in rooms().iter().take(1) {
        for n in 0..ours.events.len() {
            let mut documents = ours.clone();
            documents.events.remove(n);
            assert_is_at_most(&fold(sid, &documents, LATE).unwrap(), truth);
        }
        for n in 0..ours.stats.len() {
            let mut documents = ours.clone();
            documents.stats.remove(n);
            assert_is_at_most(&fold(sid, &documents, LATE).unwrap(), truth);
        }
    }
}
