//! What LiveKit's stats tell of each track in each direction.
//!
//! A stat counts what happened in its own interval: the stats of a track add up to the `rtp_stats` of the event that closes it.
//! Where stats are missing, that event's totals are taken. An interval that overlaps one that was counted is left out.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    field::Fields,
    model::{Interval, Quality, Time},
    record::{Event, Records, Stat},
};

/// Shorter intervals make no rates: a closing one of 0.3 s would show a bitrate that nobody had.
const MIN_RATE_SECONDS: f64 = 5.0;
/// Consecutive intervals may overlap by this much: their ends are read from different clocks.
const MAX_OVERLAP_SECONDS: f64 = 1.0;

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

/// The quality of every flow that has stats.
pub(super) fn qualities<'a>(records: &Records<'a>) -> BTreeMap<Flow<'a>, Quality> {
    let mut measured: BTreeMap<Flow<'a>, BTreeMap<&'a str, Vec<Measure>>> = BTreeMap::new();
    for stat in &records.stats {
        let flow = Flow { connection: stat.connection, track: stat.track, is_downstream: stat.is_downstream };
        // Each codec of a track is measured by itself.
        measured.entry(flow).or_default().entry(stat.document.text("mime")).or_default().push(measure(stat));
    }
    let mut closings: BTreeMap<Flow<'a>, Quality> = BTreeMap::new();
    for (flow, closing) in records.events.iter().filter_map(closing) {
        let total = closings.entry(flow).or_default();
        add(total, &closing);
        total.max_rtt_ms = total.max_rtt_ms.max(closing.max_rtt_ms);
        total.max_jitter_us = total.max_jitter_us.max(closing.max_jitter_us);
    }
    let mut qualities: BTreeMap<Flow<'a>, Quality> = measured
        .into_iter()
        .map(|(flow, codecs)| (flow, total(flow, codecs.into_values().flat_map(without_overlaps).collect())))
        .collect();
    for (flow, closing) in closings {
        let quality = qualities.entry(flow).or_default();
        if closing.packets > quality.packets {
            let (intervals, bytes) = (std::mem::take(&mut quality.intervals), quality.bytes.max(closing.bytes));
            let measured = std::mem::replace(quality, Quality { intervals, bytes, ..closing.clone() });
            quality.min_score = measured.min_score;
            quality.mean_score = measured.mean_score;
            quality.max_rtt_ms = quality.max_rtt_ms.max(measured.max_rtt_ms);
            quality.max_jitter_us = quality.max_jitter_us.max(measured.max_jitter_us);
            quality.loss = loss(flow, quality.packets, quality.lost);
        } else {
            quality.max_rtt_ms = quality.max_rtt_ms.max(closing.max_rtt_ms);
            quality.max_jitter_us = quality.max_jitter_us.max(closing.max_jitter_us);
        }
    }
    qualities
}

/// An interval with what only totals need.
struct Measure {
    interval: Interval,
    min_score: Option<f64>,
}

fn measure(stat: &Stat<'_>) -> Measure {
    let streams = stat.document.list("streams");
    let sum = |key: &str| streams.iter().fold(0, |sum: u64, stream| sum.saturating_add(stream.count(key)));
    let most = |key: &str| streams.iter().map(|stream| stream.count(key)).max().filter(|&most| most > 0);
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    // Data has no interval: its stats are counted when they are sent.
    let to = streams.iter().filter_map(|stream| stream.time("end_time")).max().unwrap_or(stat.at);
    let from = streams.iter().filter_map(|stream| stream.time("start_time")).min().unwrap_or(to).min(to);
    let packets = sum("primary_packets");
    let lost = sum("packets_lost");
    let bytes = ["primary_bytes", "retransmit_bytes", "padding_bytes"]
        .into_iter()
        .fold(0, |total: u64, key| total.saturating_add(sum(key)));
    let frames = sum("frames");
    let seconds = to.since(from);
    let has_rate = seconds >= MIN_RATE_SECONDS;
    let is_video = stat.document.text("mime").to_ascii_lowercase().starts_with("video/");
    let flow = Flow { connection: stat.connection, track: stat.track, is_downstream: stat.is_downstream };
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
    Measure { interval, min_score: score("min_score").or_else(|| score("score")) }
}

/// What upstream lost did not arrive, and is not among the packets; downstream LiveKit sent it.
fn loss(flow: Flow<'_>, packets: u64, lost: u64) -> Option<f64> {
    let sent = if flow.is_downstream { packets.max(lost) } else { packets.saturating_add(lost) };
    (sent > 0 && !flow.is_data()).then(|| lost as f64 / sent as f64)
}

/// Of intervals that overlap, the one that begins first.
fn without_overlaps(mut measures: Vec<Measure>) -> Vec<Measure> {
    let key = |measure: &Measure| {
        let Interval { from, to, bytes, packets, lost, .. } = measure.interval;
        (from, std::cmp::Reverse((to, bytes, packets, lost)))
    };
    measures.sort_by_key(key);
    let mut kept: Vec<Measure> = Vec::with_capacity(measures.len());
    for measure in measures {
        let is_new = kept.last().is_none_or(|last| {
            let (last, next) = (&last.interval, &measure.interval);
            let is_same = last.from == next.from && last.to == next.to;
            !is_same && last.to.since(next.from) <= MAX_OVERLAP_SECONDS
        });
        if is_new {
            kept.push(measure);
        }
    }
    kept
}

fn total(flow: Flow<'_>, mut measures: Vec<Measure>) -> Quality {
    measures.sort_by_key(|measure| (measure.interval.from, measure.interval.to, measure.interval.bytes));
    let mut total = Quality::default();
    let (mut weighted, mut weights) = (0.0, 0.0);
    for Measure { interval, min_score } in measures {
        total.bytes = total.bytes.saturating_add(interval.bytes);
        total.packets = total.packets.saturating_add(interval.packets);
        total.lost = total.lost.saturating_add(interval.lost);
        total.nacks = total.nacks.saturating_add(interval.nacks);
        total.plis = total.plis.saturating_add(interval.plis);
        total.firs = total.firs.saturating_add(interval.firs);
        total.max_rtt_ms = total.max_rtt_ms.max(interval.rtt_ms);
        total.max_jitter_us = total.max_jitter_us.max(interval.jitter_us);
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

fn add(total: &mut Quality, closing: &Quality) {
    total.bytes = total.bytes.saturating_add(closing.bytes);
    total.packets = total.packets.saturating_add(closing.packets);
    total.lost = total.lost.saturating_add(closing.lost);
    total.nacks = total.nacks.saturating_add(closing.nacks);
    total.plis = total.plis.saturating_add(closing.plis);
    total.firs = total.firs.saturating_add(closing.firs);
}

/// The end of a flow's last interval.
pub(super) fn last_end(quality: &Quality) -> Option<Time> {
    quality.intervals.last().map(|interval| interval.to)
}
