//! The bundled records, again and again, each round as if it had just ended.

use std::collections::HashMap;

use livekit_protocol::{
    AnalyticsEvent, AnalyticsStat, ParticipantInfo, Room, RtpDrift, RtpStats, TimedVersion, TrackInfo, WebhookInfo,
};
use pbjson_types::Timestamp;
use prost::Message;
use rand::{Rng, distr::Alphanumeric};

use crate::record::{Stream, UnixMillis, now_millis, wire::delimited};

const EVENTS: &[u8] = include_bytes!("../../tests/data/livekit-1.11/events.pb");
const STATS: &[u8] = include_bytes!("../../tests/data/livekit-1.11/stats.pb");

/// Number of random characters at the end of LiveKit's ids.
const ID_RANDOM_CHARS: usize = 12;

/// A record and its stream.
pub type Tagged = (Stream, Vec<u8>);

/// Repeats the bundled records in the order of their times. Each round has new ids, also of rooms, participants and tracks.
/// Its times keep their distances and end when the round begins: what the records tell of a room stays true.
#[derive(Debug)]
pub struct Playback {
    records: Vec<Recorded>,
    next: usize,
    /// New ids of this round, by the recorded ones.
    ids: HashMap<String, String>,
    /// From recorded times to those of this round, seconds: whole ones, as LiveKit has some times in whole seconds only.
    shift: i64,
}

#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there are 1245 of them, once")]
enum Recorded {
    Event(AnalyticsEvent),
    Stat(AnalyticsStat),
}

impl Default for Playback {
    fn default() -> Self {
        Self::new()
    }
}

impl Playback {
    /// Starts at the first record.
    #[must_use]
    pub fn new() -> Self {
        let events = delimited(EVENTS).filter_map(|record| AnalyticsEvent::decode(record).ok()).map(Recorded::Event);
        let stats = delimited(STATS).filter_map(|record| AnalyticsStat::decode(record).ok()).map(Recorded::Stat);
        let mut records: Vec<_> = events.chain(stats).collect();
        records.sort_by_key(Recorded::time);
        Self { records, next: 0, ids: HashMap::new(), shift: 0 }
    }

    /// How many records a round has.
    #[must_use]
    pub const fn round(&self) -> usize {
        self.records.len()
    }

    fn stamp(&mut self, now: UnixMillis) -> Option<Tagged> {
        if self.next == 0 {
            self.ids.clear();
            let end = self.records.last().map_or(0, Recorded::time);
            self.shift = (now - end).div_euclid(1000);
        }
        let record = self.records.get(self.next)?.clone();
        self.next = (self.next + 1) % self.records.len();
        Some(match record {
            Recorded::Event(event) => (Stream::Events, self.event(event).encode_to_vec()),
            Recorded::Stat(stat) => (Stream::Stats, self.stat(stat).encode_to_vec()),
        })
    }

    fn event(&mut self, mut event: AnalyticsEvent) -> AnalyticsEvent {
        event.id = new_id("AE_");
        self.shift([&mut event.timestamp]);
        self.renew([&mut event.room_id, &mut event.participant_id, &mut event.track_id]);
        if let Some(room) = &mut event.room {
            self.room(room);
        }
        for participant in [&mut event.participant, &mut event.publisher].into_iter().flatten() {
            self.participant(participant);
        }
        if let Some(track) = &mut event.track {
            self.track(track);
        }
        if let Some(webhook) = &mut event.webhook {
            self.webhook(webhook);
        }
        if let Some(stats) = &mut event.rtp_stats {
            self.rtp_stats(stats);
        }
        event
    }

    fn stat(&mut self, mut stat: AnalyticsStat) -> AnalyticsStat {
        stat.id = new_id("AS_");
        self.shift([&mut stat.time_stamp]);
        self.renew([&mut stat.room_id, &mut stat.participant_id, &mut stat.track_id]);
        for stream in &mut stat.streams {
            self.shift([&mut stream.start_time, &mut stream.end_time]);
        }
        stat
    }

    fn room(&mut self, room: &mut Room) {
        self.renew([&mut room.sid]);
        self.shift_millis(&mut room.creation_time, &mut room.creation_time_ms);
        self.shift_version(&mut room.version);
    }

    fn participant(&mut self, participant: &mut ParticipantInfo) {
        self.renew([&mut participant.sid]);
        participant.tracks.iter_mut().for_each(|track| self.track(track));
        self.shift_millis(&mut participant.joined_at, &mut participant.joined_at_ms);
    }

    fn track(&mut self, track: &mut TrackInfo) {
        self.renew([&mut track.sid]);
        self.shift_version(&mut track.version);
    }

    fn webhook(&mut self, webhook: &mut WebhookInfo) {
        self.renew([
            &mut webhook.event_id,
            &mut webhook.room_id,
            &mut webhook.participant_id,
            &mut webhook.track_id,
            &mut webhook.egress_id,
            &mut webhook.ingress_id,
        ]);
        self.shift([&mut webhook.created_at, &mut webhook.queued_at, &mut webhook.sent_at]);
    }

    fn rtp_stats(&self, stats: &mut RtpStats) {
        self.shift([
            &mut stats.start_time,
            &mut stats.end_time,
            &mut stats.last_pli,
            &mut stats.last_fir,
            &mut stats.last_key_frame,
            &mut stats.last_layer_lock_pli,
        ]);
        let drifts = [
            &mut stats.packet_drift,
            &mut stats.ntp_report_drift,
            &mut stats.rebased_report_drift,
            &mut stats.received_report_drift,
        ];
        for RtpDrift { start_time, end_time, .. } in drifts.into_iter().flatten() {
            self.shift([start_time, end_time]);
        }
    }

    fn shift<const N: usize>(&self, times: [&mut Option<Timestamp>; N]) {
        for time in times.into_iter().flatten() {
            time.seconds += self.shift;
        }
    }

    /// A time in seconds, and the same in milliseconds; 0: not known.
    const fn shift_millis(&self, seconds: &mut i64, millis: &mut i64) {
        if *seconds != 0 {
            *seconds += self.shift;
            *millis += self.shift * 1000;
        }
    }

    /// LiveKit's versions are times.
    const fn shift_version(&self, version: &mut Option<TimedVersion>) {
        if let Some(version) = version {
            version.unix_micro += self.shift * 1_000_000;
        }
    }

    /// Replaces recorded ids (`RM_…`, `PA_…`, `TR_VC…`) by this round's.
    fn renew<const N: usize>(&mut self, ids: [&mut String; N]) {
        for id in ids {
            if let Some((kind, _)) =
                id.len().checked_sub(ID_RANDOM_CHARS).and_then(|random| id.split_at_checked(random))
            {
                let kind = kind.to_owned();
                id.clone_from(self.ids.entry(id.clone()).or_insert_with(|| new_id(&kind)));
            }
        }
    }
}

impl Iterator for Playback {
    type Item = Tagged;

    fn next(&mut self) -> Option<Tagged> {
        self.stamp(now_millis())
    }
}

impl Recorded {
    fn time(&self) -> UnixMillis {
        match self {
            Self::Event(event) => event.timestamp.as_ref().map_or(0, millis),
            Self::Stat(stat) => stat.time_stamp.as_ref().map_or(0, millis),
        }
    }
}

/// Gives a record a new id and the current time, whatever else it holds.
#[must_use]
pub fn restamp((stream, record): Tagged) -> Tagged {
    let now = Some(timestamp(now_millis()));
    let stamped = match stream {
        Stream::Events => AnalyticsEvent { id: new_id("AE_"), timestamp: now, ..Default::default() }.encode_to_vec(),
        Stream::Stats => AnalyticsStat { id: new_id("AS_"), time_stamp: now, ..Default::default() }.encode_to_vec(),
        // They are identified by node, number and time.
        Stream::NodeRooms => {
            livekit_protocol::AnalyticsNodeRooms { timestamp: now, ..Default::default() }.encode_to_vec()
        }
    };
    // Protobuf merges concatenated messages: the later value of a field wins.
    (stream, [record, stamped].concat())
}

fn new_id(prefix: &str) -> String {
    let random = rand::rng().sample_iter(Alphanumeric).take(ID_RANDOM_CHARS).map(char::from);
    prefix.chars().chain(random).collect()
}

fn timestamp(at: UnixMillis) -> Timestamp {
    let nanos = i32::try_from(at.rem_euclid(1000) * 1_000_000).unwrap_or(0);
    Timestamp { seconds: at.div_euclid(1000), nanos }
}

fn millis(at: &Timestamp) -> UnixMillis {
    at.seconds * 1000 + i64::from(at.nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::record::RecordId;

    fn events(records: &[Tagged]) -> Vec<AnalyticsEvent> {
        let events = records.iter().filter(|(stream, _)| *stream == Stream::Events);
        events.map(|(_, record)| AnalyticsEvent::decode(&record[..]).unwrap()).collect()
    }

    #[test]
    fn a_round_has_all_bundled_records_with_ids_that_are_never_reused() {
        let mut playback = Playback::new();
        assert_eq!(playback.round(), 763 + 482);
        let records: Vec<_> = playback.by_ref().take(2 * 1245).collect();
        let ids: HashSet<_> = records.iter().map(|(stream, record)| RecordId::of(*stream, record)).collect();
        assert_eq!(ids.len(), 2 * 1245);
    }

    #[test]
    fn rooms_are_new_each_round_and_the_same_within_one() {
        let rooms = |records: &[Tagged]| -> HashSet<String> {
            events(records).into_iter().map(|event| event.room_id).filter(|id| !id.is_empty()).collect()
        };
        let mut playback = Playback::new();
        let (first, second): (Vec<_>, Vec<_>) = (playback.by_ref().take(1245).collect(), playback.take(1245).collect());
        let (first, second) = (rooms(&first), rooms(&second));
        assert_eq!((first.len(), second.len()), (7, 7));
        assert!(first.is_disjoint(&second));
        assert!(first.iter().all(|id| id.starts_with("RM_") && id.len() == 15), "{first:?}");
    }

    #[test]
    fn a_round_ends_when_it_begins_and_its_times_keep_their_distances() {
        let now = 1_800_000_000_000;
        let mut playback = Playback::new();
        let recorded: Vec<_> = playback.records.iter().map(Recorded::time).collect();
        let shift = |playback: &mut Playback| -> i64 {
            let round: Vec<_> = (0..1245).map_while(|_| playback.stamp(now)).collect();
            let times: Vec<_> = round
                .iter()
                .map(|(stream, record)| match stream {
                    Stream::Events => millis(&AnalyticsEvent::decode(&record[..]).unwrap().timestamp.unwrap()),
                    _ => millis(&AnalyticsStat::decode(&record[..]).unwrap().time_stamp.unwrap()),
                })
                .collect();
            let shifts: HashSet<_> = times.iter().zip(&recorded).map(|(time, recorded)| time - recorded).collect();
            assert_eq!(shifts.len(), 1, "{shifts:?}");
            assert!((0..1000).contains(&(now - times[1244])), "the last one");
            shifts.into_iter().next().unwrap()
        };
        assert_eq!(shift(&mut playback) % 1000, 0);
        shift(&mut playback);
    }

    /// Every id and every time in a round, wherever a record has it: none is a recorded one, and the same one stays the same.
    #[test]
    fn no_recorded_id_or_time_is_left_anywhere() {
        let debug = |message: &dyn std::fmt::Debug| format!("{message:?}");
        let texts = |records: &[Tagged]| -> Vec<String> {
            let text = |(stream, record): &Tagged| match stream {
                Stream::Events => debug(&AnalyticsEvent::decode(&record[..]).unwrap()),
                _ => debug(&AnalyticsStat::decode(&record[..]).unwrap()),
            };
            records.iter().map(text).collect()
        };
        let mut playback = Playback::new();
        let recorded = playback.records.clone().into_iter().map(|record| match record {
            Recorded::Event(event) => (Stream::Events, event.encode_to_vec()),
            Recorded::Stat(stat) => (Stream::Stats, stat.encode_to_vec()),
        });
        let (before, after) =
            (texts(&recorded.collect::<Vec<_>>()), texts(&playback.by_ref().take(1245).collect::<Vec<_>>()));
        let is_id = |word: &&str| ["RM_", "PA_", "TR_", "EV_", "AE_", "AS_"].iter().any(|kind| word.starts_with(kind));
        // The seconds of a time: the recording is of November 2026.
        let is_time = |word: &&str| word.len() >= 10 && word.starts_with("17953");
        let words = |text: &str, wanted: &dyn Fn(&&str) -> bool| -> Vec<String> {
            text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(wanted).map(str::to_owned).collect()
        };
        let mut renewed = HashMap::new();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(words(after, &is_time), Vec::<String>::new(), "{after}");
            let (old, new) = (words(before, &is_id), words(after, &is_id));
            assert_eq!(old.len(), new.len(), "{before}\n{after}");
            for (old, new) in old.into_iter().zip(new) {
                assert_ne!(old, new);
                assert_eq!(*renewed.entry(old).or_insert_with(|| new.clone()), new);
            }
        }
        assert!(renewed.keys().any(|id| id.starts_with("EV_")), "webhooks have ids too");
    }

    #[test]
    fn a_restamped_record_keeps_all_but_its_id_and_time() {
        let event = AnalyticsEvent { id: "AE_old".into(), room_id: "RM_1".into(), r#type: 4, ..Default::default() };
        let (stream, record) = restamp((Stream::Events, event.encode_to_vec()));
        let stamped = AnalyticsEvent::decode(&record[..]).unwrap();
        assert_eq!((stream, stamped.room_id.as_str(), stamped.r#type), (Stream::Events, "RM_1", 4));
        assert!(stamped.id.starts_with("AE_") && stamped.id != "AE_old");
        assert!(millis(&stamped.timestamp.unwrap()) >= now_millis() - 60_000);
        assert_eq!(RecordId::of(stream, &record).as_str(), stamped.id);
    }
}
