//! How much was written of late, from counters that only rise.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// What counts as late.
const WINDOW: Duration = Duration::from_secs(60);
/// Between two samples.
const STEP: Duration = Duration::from_secs(5);

/// Samples of a counter over the last minute, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<VecDeque<(Instant, u64)>>);

impl Pace {
    /// Notes what the counter says now.
    pub(super) fn note(&self, now: Instant, count: u64) {
        let mut samples = self.0.lock().expect("a panic ends the process");
        if samples.back().is_some_and(|(at, _)| now < *at + STEP) {
            return;
        }
        samples.push_back((now, count));
        // One that is older than the window is kept: the window begins within the step after it.
        while samples.get(1).is_some_and(|(at, _)| *at + WINDOW <= now) {
            samples.pop_front();
        }
    }

    /// How much the counter rose in the last minute, as far as it was noted.
    pub(super) fn recent(&self) -> u64 {
        let samples = self.0.lock().expect("a panic ends the process");
        match (samples.front(), samples.back()) {
            (Some((_, first)), Some((_, last))) => last - first,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_minute_counts() {
        let (pace, begin) = (Pace::default(), Instant::now());
        assert_eq!(pace.recent(), 0);
        for second in 0..200_u64 {
            pace.note(begin + Duration::from_secs(second), second * 10);
        }
        assert_eq!(pace.recent(), 600, "from the 135th second to the 195th");
        pace.note(begin + Duration::from_secs(1000), 2000);
        assert_eq!(pace.recent(), 50, "nothing was noted in between");
    }
}
