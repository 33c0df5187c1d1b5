//! How fast a node consolidates: a token bucket that all of its volumes share.
//!
//! A copy is allowed while anything is in the bucket, and what it has written is taken out
//! afterwards: the balance may be negative, so that the average holds however large an extent is.

use std::time::Duration;

/// Bytes a second, measured by the caller's clock.
#[derive(Debug)]
pub struct CopyRate {
    bytes_per_second: u64,
    balance: i64,
    counted_at: Option<Duration>,
}

impl CopyRate {
    /// A rate of so many bytes a second; 0 allows nothing.
    #[must_use]
    pub const fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, balance: 0, counted_at: None }
    }

    /// Whether a copy may begin; `now` is monotonic.
    pub fn allows(&mut self, now: Duration) -> bool {
        // A quarter of a second of rest is not made up for by a burst that others would feel.
        let most = i64::try_from(self.bytes_per_second / 4).unwrap_or(i64::MAX);
        let Some(before) = self.counted_at.replace(now) else {
            self.balance = most;
            return self.balance > 0;
        };
        let elapsed = now.saturating_sub(before).as_nanos();
        let gained = u128::from(self.bytes_per_second) * elapsed / 1_000_000_000;
        let gained = i64::try_from(gained).unwrap_or(i64::MAX);
        self.balance = self.balance.saturating_add(gained).min(most);
        self.balance > 0
    }

    /// A copy has written so many bytes.
    pub fn spend(&mut self, bytes: u64) {
        self.balance = self.balance.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Bytes that are copied in so many seconds, asked for every 10 ms, an extent at a time.
    fn copied(rate: &mut CopyRate, seconds: u64, extent: u64) -> u64 {
        let mut bytes = 0;
        for tick in 0..seconds * 100 {
            while rate.allows(Duration::from_millis(tick * 10)) {
                rate.spend(extent);
                bytes += extent;
            }
        }
        bytes
    }

    #[test]
    fn the_average_holds_for_small_and_large_extents() {
        for extent in [64 << 10, MIB, 16 * MIB] {
            let bytes = copied(&mut CopyRate::new(32 * MIB), 10, extent);
            let (least, most) = (310 * MIB, 330 * MIB + extent);
            assert!((least..=most).contains(&bytes), "{bytes} of extents of {extent}");
        }
    }

    #[test]
    fn rest_is_not_saved_up() {
        let mut rate = CopyRate::new(32 * MIB);
        assert!(rate.allows(Duration::from_secs(1)));
        let mut bytes = 0;
        while rate.allows(Duration::from_secs(3600)) {
            rate.spend(MIB);
            bytes += MIB;
        }
        assert_eq!(bytes, 8 * MIB);
    }

    #[test]
    fn a_rate_of_nothing_allows_nothing() {
        let mut rate = CopyRate::new(0);
        assert!((0..100).all(|second| !rate.allows(Duration::from_secs(second))));
    }
}
