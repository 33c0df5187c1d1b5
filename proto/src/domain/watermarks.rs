//! Watermarks of a pool, and how far it has come.
//!
//! Invariant: a higher level has no lower mark, and every mark is from 1 to 100 percent.

use std::fmt;

use lunar_types::{PoolId, RequestId};

use super::Selector;

/// How full a pool is, by its watermarks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum WatermarkLevel {
    /// Below all of them.
    #[default]
    Normal,
    /// Somebody should look at it.
    Warning,
    /// Space has to be made, or a LUN added.
    High,
    /// Nothing new begins in it.
    Critical,
}

impl WatermarkLevel {
    /// Its name, in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Warning => "warning",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for WatermarkLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Marks that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "warning {warning} %, high {high} % and critical {critical} % cannot be: each is from 1 to \
     100, and none is below the one before it"
)]
pub struct WatermarksError {
    warning: u8,
    high: u8,
    critical: u8,
}

/// At which percentages of a pool its levels begin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Watermarks {
    warning: u8,
    high: u8,
    critical: u8,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Watermarks {
    /// What a pool begins with.
    pub const DEFAULT: Self = Self { warning: 80, high: 90, critical: 95 };

    /// Marks in percent.
    ///
    /// # Errors
    /// One is not from 1 to 100, or below the one before it.
    pub const fn new(warning: u8, high: u8, critical: u8) -> Result<Self, WatermarksError> {
        if warning == 0 || warning > high || high > critical || critical > 100 {
            return Err(WatermarksError { warning, high, critical });
        }
        Ok(Self { warning, high, critical })
    }

    /// In percent.
    #[must_use]
    pub const fn warning(&self) -> u8 {
        self.warning
    }

    /// In percent.
    #[must_use]
    pub const fn high(&self) -> u8 {
        self.high
    }

    /// In percent.
    #[must_use]
    pub const fn critical(&self) -> u8 {
        self.critical
    }

    /// Where a level begins, in percent.
    #[must_use]
    pub const fn mark_of(&self, level: WatermarkLevel) -> u8 {
        match level {
            WatermarkLevel::Normal => 0,
            WatermarkLevel::Warning => self.warning,
            WatermarkLevel::High => self.high,
            WatermarkLevel::Critical => self.critical,
        }
    }

    /// The level of a pool that is so full.
    #[must_use]
    pub fn level(&self, fill: PoolFill) -> WatermarkLevel {
        use WatermarkLevel::{Critical, High, Normal, Warning};
        let reached = [Critical, High, Warning].into_iter();
        let mut reached = reached.filter(|level| fill.reaches(self.mark_of(*level)));
        reached.next().unwrap_or(Normal)
    }
}

/// How full a pool is for whoever writes to it: what is held back for journals does not count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PoolFill {
    /// Extents that are mapped, reserved, in quarantine, or journals.
    pub used_extents: u64,
    /// Extents that can be any of these.
    pub usable_extents: u64,
}

impl PoolFill {
    /// Whether so many percent are used, exactly.
    #[must_use]
    pub const fn reaches(&self, percent: u8) -> bool {
        self.used_extents as u128 * 100 >= self.usable_extents as u128 * percent as u128
    }

    /// What is used in percent, rounded down.
    #[must_use]
    pub fn percent(&self) -> u8 {
        let usable = u128::from(self.usable_extents.max(1));
        let percent = u128::from(self.used_extents) * 100 / usable;
        u8::try_from(percent.min(100)).expect("it is at most 100")
    }
}

/// Sets watermarks of a pool; what is not named stays.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SetWatermarks {
    /// Idempotency key.
    pub request: RequestId,
    /// The pool.
    pub pool: Selector<PoolId>,
    /// In percent.
    pub warning: Option<u8>,
    /// In percent.
    pub high: Option<u8>,
    /// In percent.
    pub critical: Option<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(used_extents: u64, usable_extents: u64) -> PoolFill {
        PoolFill { used_extents, usable_extents }
    }

    #[test]
    fn a_level_begins_exactly_at_its_mark() {
        let marks = Watermarks::DEFAULT;
        for (used, level) in [
            (0, WatermarkLevel::Normal),
            (799, WatermarkLevel::Normal),
            (800, WatermarkLevel::Warning),
            (899, WatermarkLevel::Warning),
            (900, WatermarkLevel::High),
            (949, WatermarkLevel::High),
            (950, WatermarkLevel::Critical),
            (1000, WatermarkLevel::Critical),
        ] {
            assert_eq!(marks.level(fill(used, 1000)), level, "{used}");
        }
        assert_eq!(fill(u64::MAX, u64::MAX).percent(), 100);
        assert_eq!((fill(949, 1000).percent(), fill(0, 0).percent()), (94, 0));
    }

    #[test]
    fn marks_out_of_order_or_range_are_refused() {
        for (warning, high, critical) in [(0, 90, 95), (91, 90, 95), (80, 96, 95), (80, 90, 101)] {
            assert!(Watermarks::new(warning, high, critical).is_err(), "{warning} {high}");
        }
        assert!(Watermarks::new(1, 1, 1).is_ok() && Watermarks::new(100, 100, 100).is_ok());
    }
}
