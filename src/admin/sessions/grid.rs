//! A session's timelines as LiveKit Cloud's API has them: bitrate, frame rate and quality, all on one grid of times.
//!
//! LiveKit's stats are sums over some 30 seconds. An interval counts for each point of the grid that it overlaps, by how much
//! it does, so the points add up to the bytes that were sent.

use serde::Serialize;

use crate::session::{Interval, Quality, Session, Time};

/// The distance of points, nanoseconds, and the most of them: long sessions have longer steps.
const STEP: i64 = 30_000_000_000;
const POINTS: i64 = 1_000;
/// The lowest and the highest mean opinion score that LiveKit gives; the API's quality goes from 0 to 1.
const SCORES: [f64; 2] = [1.0, 4.5];
/// What the lowest score is shown as: 0 means that there is no value.
const LOWEST: f64 = 0.001;

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Point {
    pub(super) timestamp: Time,
    /// 0: not known.
    pub(super) value: f64,
}

/// The timelines of a session.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Timelines {
    /// The mean of all tracks, in both directions: 0 … 1.
    quality: Vec<Point>,
    /// Bits per second, of all tracks together.
    publish_bps: Vec<Point>,
    subscribe_bps: Vec<Point>,
    /// Frames per second, the mean of the video tracks.
    publish_fps: Vec<Point>,
    subscribe_fps: Vec<Point>,
}

impl Timelines {
    pub(super) fn of(session: &Session) -> Self {
        let connections = || session.participants.iter().flat_map(|participant| &participant.connections);
        let up = || connections().flat_map(|connection| &connection.published).map(|track| &track.upstream);
        let down = || connections().flat_map(|connection| &connection.subscribed).map(|track| &track.downstream);
        let grid = Grid::over(up().chain(down()));
        let bits = |interval: &Interval| Some(interval.bytes as f64 * 8.0);
        let fps = |interval: &Interval| interval.fps;
        let quality = |interval: &Interval| {
            let score = interval.score?.clamp(SCORES[0], SCORES[1]);
            Some(((score - SCORES[0]) / (SCORES[1] - SCORES[0])).max(LOWEST))
        };
        Self {
            quality: grid.means(up().chain(down()), quality),
            publish_bps: grid.rates(up(), bits),
            subscribe_bps: grid.rates(down(), bits),
            publish_fps: grid.means(up(), fps),
            subscribe_fps: grid.means(down(), fps),
        }
    }
}

struct Grid {
    from: i64,
    step: i64,
    points: usize,
}

impl Grid {
    fn over<'a>(tracks: impl Iterator<Item = &'a Quality> + Clone) -> Self {
        let intervals = tracks.flat_map(|track| &track.intervals).filter(|interval| interval.from < interval.to);
        let from = intervals.clone().map(|interval| interval.from.0).min().unwrap_or(0);
        let length = intervals.map(|interval| interval.to.0).max().unwrap_or(from).saturating_sub(from);
        let step = STEP.max(length / POINTS + 1);
        Self {
            from,
            step,
            points: usize::try_from(length.saturating_sub(1) / step + i64::from(length > 0)).unwrap_or(0),
        }
    }

    /// Sums per second.
    fn rates<'a>(
        &self,
        tracks: impl Iterator<Item = &'a Quality>,
        sum: impl Fn(&Interval) -> Option<f64>,
    ) -> Vec<Point> {
        let mut sums = vec![0.0; self.points];
        self.each(tracks, sum, |point, sum, share| sums[point] += sum * share.of_interval);
        self.points(sums.into_iter().map(|sum| sum / (self.step as f64 / 1e9)))
    }

    /// Means over time.
    fn means<'a>(
        &self,
        tracks: impl Iterator<Item = &'a Quality>,
        value: impl Fn(&Interval) -> Option<f64>,
    ) -> Vec<Point> {
        let mut sums = vec![(0.0, 0.0); self.points];
        self.each(tracks, value, |point, value, share| {
            sums[point].0 += value * share.of_step;
            sums[point].1 += share.of_step;
        });
        self.points(sums.into_iter().map(|(sum, weight)| if weight > 0.0 { sum / weight } else { 0.0 }))
    }

    fn each<'a>(
        &self,
        tracks: impl Iterator<Item = &'a Quality>,
        value: impl Fn(&Interval) -> Option<f64>,
        mut add: impl FnMut(usize, f64, Share),
    ) {
        for interval in tracks.flat_map(|track| &track.intervals) {
            let (from, to) = (interval.from.0 - self.from, interval.to.0 - self.from);
            let Some(value) = value(interval).filter(|_| from < to) else { continue };
            for point in from / self.step..=(to - 1) / self.step {
                let step = (point * self.step, (point + 1).saturating_mul(self.step));
                let overlap = (to.min(step.1) - from.max(step.0)) as f64;
                let share = Share { of_interval: overlap / (to - from) as f64, of_step: overlap / self.step as f64 };
                add(usize::try_from(point).unwrap_or(0), value, share);
            }
        }
    }

    fn points(&self, values: impl Iterator<Item = f64>) -> Vec<Point> {
        let at = |index: usize| Time(self.from + index as i64 * self.step);
        values.enumerate().map(|(index, value)| Point { timestamp: at(index), value }).collect()
    }
}

/// How much of an interval is in a step, and of the step in the interval.
struct Share {
    of_interval: f64,
    of_step: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(from: i64, to: i64, bytes: u64, fps: Option<f64>) -> Interval {
        let [from, to] = [from, to].map(|seconds| Time(seconds * 1_000_000_000));
        Interval {
            from,
            to,
            bytes,
            packets: 0,
            lost: 0,
            frames: 0,
            bitrate: None,
            fps,
            loss: None,
            rtt_ms: None,
            jitter_us: None,
            nacks: 0,
            plis: 0,
            firs: 0,
            score: None,
        }
    }

    #[test]
    fn the_points_add_up_to_what_was_sent_and_gaps_are_zero() {
        let track = Quality {
            intervals: vec![
                interval(10, 40, 3_000, Some(30.0)),
                interval(40, 55, 300, None),
                interval(130, 160, 90, Some(10.0)),
            ],
            ..Quality::default()
        };
        let tracks = [track.clone(), track];
        let grid = Grid::over(tracks.iter());
        assert_eq!((grid.from, grid.step, grid.points), (10_000_000_000, STEP, 5));
        let rates = grid.rates(tracks.iter(), |interval| Some(interval.bytes as f64));
        let values: Vec<_> = rates.iter().map(|point| point.value * 30.0).collect();
        assert_eq!(values, [6_000.0, 600.0, 0.0, 0.0, 180.0]);
        assert_eq!(rates[4].timestamp, Time(130_000_000_000));
        let fps: Vec<_> = grid.means(tracks.iter(), |interval| interval.fps).iter().map(|point| point.value).collect();
        assert_eq!(fps, [30.0, 0.0, 0.0, 0.0, 10.0]);
    }

    #[test]
    fn times_as_far_apart_as_can_be_make_a_grid() {
        let mut ever = interval(0, 1, 7, None);
        (ever.from, ever.to) = (Time(1), Time(i64::MAX));
        let track = Quality { intervals: vec![ever, interval(1, 31, 9, None)], ..Quality::default() };
        let grid = Grid::over([&track].into_iter());
        assert!(grid.points <= 1_001, "{}", grid.points);
        let rates = grid.rates([&track].into_iter(), |interval| Some(interval.bytes as f64));
        let sum: f64 = rates.iter().map(|point| point.value * (grid.step as f64 / 1e9)).sum();
        assert!((sum - 16.0).abs() < 1e-6, "{sum}");
        assert!(rates.iter().all(|point| point.timestamp >= Time(1)));
    }

    #[test]
    fn a_long_session_has_longer_steps_and_one_without_stats_no_points() {
        let track = Quality { intervals: vec![interval(0, 86_400 * 30, 1, None)], ..Quality::default() };
        let grid = Grid::over([&track].into_iter());
        assert!(grid.points <= 1_000 && grid.points > 900, "{}", grid.points);
        let sum: f64 = grid.rates([&track].into_iter(), |_| Some(1.0)).iter().map(|point| point.value).sum();
        assert!((sum * (grid.step as f64 / 1e9) - 1.0).abs() < 1e-9);
        let grid = Grid::over(std::iter::empty());
        assert_eq!(grid.points, 0);
    }
}
