//! How long frames took: counts, percentiles and the report of a scripted run.
//!
//! Decides nothing about painting. A frame's time runs from its beginning to the beginning of
//! the next, so that whatever holds a frame up is in it.

use std::time::Duration;

use serde::Serialize;

/// What a frame is due after, at 60 Hz.
pub const DUE: Duration = Duration::from_micros(16_667);

/// Times of frames.
#[derive(Clone, Debug, Default)]
pub struct Frames(Vec<f64>);

/// What a report says of frames; times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many.
    pub frames: usize,
    /// Half of them took at most so long.
    pub p50_ms: f64,
    /// All but one in a hundred.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// How much later than due the latest began.
    pub latest_ms: f64,
}

impl Frames {
    /// One more.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    /// Figures of all.
    pub fn summary(&self) -> Summary {
        let mut times = self.0.clone();
        times.sort_by(f64::total_cmp);
        let Some(&max_ms) = times.last() else {
            return Summary::default();
        };
        // The smallest time that the share of all frames does not exceed.
        let at = |share: f64| {
            let rank = (share * times.len() as f64).ceil() as usize;
            times[rank.clamp(1, times.len()) - 1]
        };
        Summary {
            frames: times.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms,
            latest_ms: (max_ms - DUE.as_secs_f64() * 1e3).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_occurred() {
        let mut frames = Frames::default();
        assert_eq!(frames.summary(), Summary::default());
        for ms in (1..=200).rev() {
            frames.push(Duration::from_millis(ms));
        }
        let summary = frames.summary();
        assert_eq!((summary.frames, summary.p50_ms), (200, 100.0));
        assert_eq!((summary.p99_ms, summary.max_ms), (198.0, 200.0));
        assert!((summary.latest_ms - 183.333).abs() < 1e-9);
    }
}
