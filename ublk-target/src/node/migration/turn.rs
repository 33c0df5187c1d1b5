//! How long an owner keeps a volume that another node wants.
//!
//! An owner that gave the volume away with the first wish would answer nothing between two moves,
//! each of which costs the load of a map. Probes of the other host, as udev's, would take a guest's
//! disk from it again and again.

use std::time::Duration;

use tokio::time::Instant;

/// The least.
const LEAST: Duration = Duration::from_millis(50);
/// How many requests it answers at least, if they come.
const REQUESTS: u64 = 64;
/// After so long they may be as few as they like.
const MOST: Duration = Duration::from_secs(1);
/// After a kill the driver issues again what was under way, in one go with the end of the takeover,
/// and says nothing of when it has. Those requests have to be answered in this epoch (M3): the
/// queues keep none of them back, and in this time each of them has come.
const AFTER_KILL: Duration = Duration::from_secs(2);

/// The time for which an owner has a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    since: Instant,
    least: Duration,
}

impl Turn {
    /// Begins now, after a load that took so long.
    #[must_use]
    pub fn begin(load: Duration) -> Self {
        Self { since: Instant::now(), least: load.max(LEAST) }
    }

    /// Begins now, on a device that a killed process has served.
    #[must_use]
    pub fn after_kill() -> Self {
        Self { since: Instant::now(), least: AFTER_KILL }
    }

    /// Whether it is over when so many requests have come; a person who moves the volume waits for
    /// nothing but what has to be.
    #[must_use]
    pub fn is_over(&self, now: Instant, requests: u64, is_urgent: bool) -> bool {
        let lasted = now.saturating_duration_since(self.since);
        if is_urgent {
            return self.least < AFTER_KILL || lasted >= AFTER_KILL;
        }
        lasted >= self.least && (requests >= REQUESTS || lasted >= MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_lasts_for_requests_for_its_load_and_for_no_longer_than_it_has_to() {
        let ms = Duration::from_millis;
        let (short, long) = (Turn::begin(ms(1)), Turn::begin(ms(700)));
        let killed = Turn::after_kill();
        for (turn, lasted, requests, is_over) in [
            (short, 49, 1000, false),
            (short, 50, 64, true),
            (short, 50, 63, false),
            (short, 1000, 0, true),
            (long, 600, 1000, false),
            (long, 700, 64, true),
            (killed, 1999, 1000, false),
            (killed, 2000, 0, true),
        ] {
            let now = turn.since + ms(lasted);
            assert_eq!(turn.is_over(now, requests, false), is_over, "{lasted} ms, {requests}");
        }
        assert!(short.is_over(short.since, 0, true), "a person waits for no turn");
        assert!(long.is_over(long.since, 0, true), "nor for what a load took");
        assert!(!killed.is_over(killed.since + ms(1999), 0, true), "but for what was begun");
        assert!(killed.is_over(killed.since + ms(2000), 0, true));
    }
}
