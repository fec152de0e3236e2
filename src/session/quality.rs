//! What LiveKit's stats say about each track in each direction.
//!
//! A stat counts what happened in its own interval: the bytes of a track's stats add up to the `rtp_stats` of the event that closes
//! it, and so do the packets where none is lost. With loss, a stat's packets are those that were expected: upstream without
//! the lost ones they are what arrived; downstream the gaps that the publisher left are among them, and the event knows better.
//! Lost packets downstream are the subscriber's own in stats; in the event, the publisher's too.

use std::{cmp::Reverse, collections::BTreeMap};

use serde_json::Value;

use super::{
    field::Fields,
    model::{Interval, Quality},
    record::{Event, Records, Stat},
};

/// Shorter intervals make no rates: a closing one of 0.3 s would show a bitrate that nobody had.
const MIN_RATE_SECONDS: f64 = 5.0;

/// LiveKit scores a track every 5 s, and once more when it ends.
const MIN_LAST_SCORE_SECONDS: f64 = 10.0;

/// One track of one connection, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow<'a> {
    pub(super) connection: &'a str,
    pub(super) track: &'a str,
    pub(super) is_downstream: bool,
}

impl Flow<'_> {
    /// Signalling and data channels have tracks of their own, `TR_SG…` and `TR_DT…`; they have bytes only.
    pub(super) fn is_data(&self) -> bool {
        self.track.starts_with("TR_SG") || self.track.starts_with("TR_DT")
    }
}

/// The quality of every flow that has stats, or an event with its totals.
pub(super) fn qualities<'a>(records: &Records<'a>) -> BTreeMap<Flow<'a>, Quality> {
    let mut measures: BTreeMap<Flow<'a>, Vec<Measure>> = BTreeMap::new();
    for stat in &records.stats {
        let flow = Flow { connection: stat.connection, track: stat.track, is_downstream: stat.is_downstream };
        measures.entry(flow).or_default().push(measure(flow, stat));
    }
    let total = |(flow, measures)| (flow, total(flow, without_repeats(measures)));
    let mut qualities: BTreeMap<Flow<'a>, Quality> = measures.into_iter().map(total).collect();
    // One for each codec, and each time that a track was subscribed to.
    let mut closings: BTreeMap<Flow<'a>, Quality> = BTreeMap::new();
    for (flow, closing) in records.events.iter().filter_map(closing) {
        count(closings.entry(flow).or_default(), &closing);
    }
    for (flow, closing) in closings {
        let quality = qualities.entry(flow).or_default();
        quality.max_rtt_ms = quality.max_rtt_ms.max(closing.max_rtt_ms);
        quality.max_jitter_us = quality.max_jitter_us.max(closing.max_jitter_us);
        // If one of several is missing, the stats know more.
        if closing.bytes >= quality.bytes {
            quality.bytes = closing.bytes;
            quality.packets = closing.packets;
            quality.retransmitted = quality.retransmitted.max(closing.retransmitted);
            quality.lost = if flow.is_downstream { quality.lost.min(closing.lost) } else { closing.lost };
            quality.nacks = quality.nacks.max(closing.nacks);
            quality.plis = quality.plis.max(closing.plis);
            quality.firs = quality.firs.max(closing.firs);
            quality.loss = loss(flow, quality.packets, quality.lost);
        }
    }
    qualities
}

/// An interval with what only totals need.
struct Measure {
    interval: Interval,
    retransmitted: u64,
    min_score: Option<f64>,
    median_score: Option<f64>,
}

fn measure(flow: Flow<'_>, stat: &Stat<'_>) -> Measure {
    let streams = stat.document.list("streams");
    let sum = |key: &str| streams.iter().fold(0, |sum: u64, stream| sum.saturating_add(stream.count(key)));
    let most = |key: &str| streams.iter().map(|stream| stream.count(key)).max().filter(|&most| most > 0);
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    // Data has no interval: its stats are counted when they are sent.
    let to = streams.iter().filter_map(|stream| stream.time("end_time")).max().unwrap_or(stat.at);
    let from = streams.iter().filter_map(|stream| stream.time("start_time")).min().unwrap_or(to).min(to);
    let lost = sum("packets_lost");
    let expected = sum("primary_packets");
    let packets = if flow.is_downstream { expected } else { expected.saturating_sub(lost) };
    let bytes = ["primary_bytes", "retransmit_bytes", "padding_bytes"]
        .into_iter()
        .fold(0, |total: u64, key| total.saturating_add(sum(key)));
    let frames = sum("frames");
    let seconds = to.since(from);
    let has_rate = seconds >= MIN_RATE_SECONDS;
    let is_video = stat.document.text("mime").to_ascii_lowercase().starts_with("video/");
    let score = |key: &str| stat.document.real(key).filter(|&score| score > 0.0);
    let interval = Interval {
        from,
        to,
        bytes,
        packets,
        lost,
        frames,
        bitrate: has_rate.then(|| bytes as f64 * 8.0 / seconds),
        fps: (has_rate && is_video).then(|| frames as f64 / seconds),
        loss: loss(flow, packets, lost),
        rtt_ms: most("rtt").map(small),
        jitter_us: most("jitter").map(small),
        nacks: sum("nacks"),
        plis: sum("plis"),
        firs: sum("firs"),
        score: score("score"),
    };
    Measure {
        interval,
        retransmitted: if flow.is_downstream { sum("retransmit_packets") } else { sum("packets_out_of_order") },
        min_score: score("min_score").or_else(|| score("score")),
        median_score: score("median_score"),
    }
}

/// What upstream lost did not arrive, and is not among the packets; downstream LiveKit sent it.
fn loss(flow: Flow<'_>, packets: u64, lost: u64) -> Option<f64> {
    let sent = if flow.is_downstream { packets.max(lost) } else { packets.saturating_add(lost) };
    (sent > 0 && !flow.is_data()).then(|| lost as f64 / sent as f64)
}

/// Leaves out intervals within another one. LiveKit measures some time after the other: each interval ends later than the one
/// before; it may begin before that one's end, where a track has several codecs.
fn without_repeats(mut measures: Vec<Measure>) -> Vec<Measure> {
    measures.sort_by_key(|Measure { interval, .. }| {
        (interval.from, Reverse((interval.to, interval.bytes, interval.packets, interval.lost)))
    });
    let mut last_end = None;
    measures.retain(|Measure { interval, .. }| {
        let is_new = last_end.is_none_or(|end| interval.to > end);
        last_end = last_end.max(Some(interval.to));
        is_new
    });
    measures
}

/// A publisher's track that ends sends nothing in its last moment, and gets a score as if its packets were lost. The median of
/// three scores or more is without it.
fn correct_last_score(measures: &mut [Measure]) {
    if let Some(Measure { interval, min_score, median_score, .. }) = measures.last_mut() {
        let has_median = interval.to.since(interval.from) >= MIN_LAST_SCORE_SECONDS;
        interval.score = median_score.filter(|_| has_median);
        *min_score = interval.score;
    }
}

fn total(flow: Flow<'_>, mut measures: Vec<Measure>) -> Quality {
    if !flow.is_downstream {
        correct_last_score(&mut measures);
    }
    let mut total = Quality::default();
    let (mut weighted, mut weights) = (0.0, 0.0);
    for Measure { interval, retransmitted, min_score, .. } in measures {
        let of_interval = Quality {
            bytes: interval.bytes,
            packets: interval.packets,
            retransmitted,
            lost: interval.lost,
            nacks: interval.nacks,
            plis: interval.plis,
            firs: interval.firs,
            max_rtt_ms: interval.rtt_ms,
            max_jitter_us: interval.jitter_us,
            ..Quality::default()
        };
        count(&mut total, &of_interval);
        total.min_score = [total.min_score, min_score].into_iter().flatten().reduce(f64::min);
        if let Some(score) = interval.score {
            let seconds = interval.to.since(interval.from);
            weighted += score * seconds;
            weights += seconds;
        }
        if !flow.is_data() {
            total.intervals.push(interval);
        }
    }
    total.mean_score = (weights > 0.0).then(|| weighted / weights);
    total.loss = loss(flow, total.packets, total.lost);
    total
}

/// The totals of a track that was closed.
fn closing<'a>(event: &Event<'a>) -> Option<(Flow<'a>, Quality)> {
    let is_downstream = match event.kind.as_str() {
        "TRACK_PUBLISH_STATS" => false,
        "TRACK_SUBSCRIBE_STATS" => true,
        _ => return None,
    };
    let stats: &Value = event.document.field("rtp_stats");
    let most = |number: u64| Some(u32::try_from(number).unwrap_or(u32::MAX)).filter(|&most| most > 0);
    let bytes = ["bytes", "bytes_duplicate", "bytes_padding"]
        .into_iter()
        .fold(0, |total: u64, key| total.saturating_add(stats.count(key)));
    let quality = Quality {
        bytes,
        packets: stats.count("packets"),
        retransmitted: stats.count(if is_downstream { "packets_duplicate" } else { "packets_out_of_order" }),
        lost: stats.count("packets_lost"),
        nacks: stats.count("nacks"),
        plis: stats.count("plis"),
        firs: stats.count("firs"),
        max_rtt_ms: most(stats.count("rtt_max")),
        max_jitter_us: most(stats.count("jitter_max")),
        ..Quality::default()
    };
    Some((Flow { connection: event.connection, track: event.track, is_downstream }, quality))
}

fn count(total: &mut Quality, part: &Quality) {
    for (total, part) in [
        (&mut total.bytes, part.bytes),
        (&mut total.packets, part.packets),
        (&mut total.retransmitted, part.retransmitted),
        (&mut total.lost, part.lost),
        (&mut total.nacks, part.nacks),
        (&mut total.plis, part.plis),
        (&mut total.firs, part.firs),
    ] {
        *total = total.saturating_add(part);
    }
    total.max_rtt_ms = total.max_rtt_ms.max(part.max_rtt_ms);
    total.max_jitter_us = total.max_jitter_us.max(part.max_jitter_us);
}
