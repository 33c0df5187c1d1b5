//! The numbers of a restored cluster: above all that were given before, by the clock.
//!
//! A constant raise would give the same numbers to two restores of one backup, and what was issued
//! in the first restored life would look current in the second. So they come from the time of the
//! restore: two restores are at least a minute apart.

/// 2026-01-01 00:00:00 UTC, in seconds since 1970-01-01 UTC.
const ORIGIN: u64 = 1_767_225_600;
/// Numbers of 64 bits that are left for each second.
const PER_SECOND: u64 = 1 << 24;
/// Incarnations, of 32 bits, that are left for each minute.
const PER_MINUTE: u64 = 1 << 6;
/// Generations of requests are forgotten when two have come after them.
const GENERATIONS: u64 = 2;

/// The clock of this host cannot be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClockWrong {
    /// It is behind the one that the backup was made by.
    #[error(
        "the clock of this host says {now} (seconds since 1970-01-01 UTC), and the backup was \
         begun at {begun}: set the clock right and begin again"
    )]
    BeforeBackup {
        /// What it says.
        now: u64,
        /// When the backup was begun.
        begun: u64,
    },
    /// No restore was made then.
    #[error(
        "the clock of this host says {now} (seconds since 1970-01-01 UTC): that is out of the \
         years in which a backup can be restored; set the clock right and begin again"
    )]
    OutOfRange {
        /// What it says.
        now: u64,
    },
    /// A number of the backup is from later.
    #[error(
        "the clock of this host says {now} (seconds since 1970-01-01 UTC), by which {what} would \
         be raised to {raised}, and the backup has {held} already: the clock is behind, or the \
         last restore was less than a minute ago; set it right, or wait a minute"
    )]
    Behind {
        /// What it says.
        now: u64,
        /// Which number.
        what: &'static str,
        /// What it would become.
        raised: u64,
        /// What it is.
        held: u64,
    },
}

/// What the numbers of a restored cluster begin at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Raised {
    now: u64,
    number: u64,
    incarnation: u32,
}

impl Raised {
    /// By the time of the restore and that of the backup, in seconds since 1970-01-01 UTC.
    ///
    /// # Errors
    /// See [`ClockWrong`].
    pub fn at(now: u64, begun: u64) -> Result<Self, ClockWrong> {
        let out_of_range = ClockWrong::OutOfRange { now };
        if now < begun {
            return Err(ClockWrong::BeforeBackup { now, begun });
        }
        let seconds = now.checked_sub(ORIGIN).ok_or(out_of_range)?;
        let number = seconds.checked_mul(PER_SECOND).ok_or(out_of_range)?;
        let incarnation = (seconds / 60).checked_mul(PER_MINUTE).ok_or(out_of_range)?;
        let incarnation = u32::try_from(incarnation).map_err(|_| out_of_range)?;
        Ok(Self { now, number, incarnation })
    }

    /// When it is, in seconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Epochs, sessions, structures, and the last layer, operation and backup that were given.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Incarnations.
    #[must_use]
    pub const fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// The generation of requests after the one of the backup.
    #[must_use]
    pub const fn generation(held: u64) -> u64 {
        held.saturating_add(GENERATIONS)
    }

    /// Refuses a number of the backup that would not rise.
    ///
    /// # Errors
    /// See [`ClockWrong::Behind`].
    pub fn require_number(&self, what: &'static str, held: u64) -> Result<(), ClockWrong> {
        self.require(what, held, self.number)
    }

    /// Refuses an incarnation of the backup that would not rise.
    ///
    /// # Errors
    /// See [`ClockWrong::Behind`].
    pub fn require_incarnation(&self, held: u32) -> Result<(), ClockWrong> {
        self.require("an incarnation", u64::from(held), u64::from(self.incarnation))
    }

    const fn require(&self, what: &'static str, held: u64, raised: u64) -> Result<(), ClockWrong> {
        if held < raised {
            return Ok(());
        }
        Err(ClockWrong::Behind { now: self.now, what, raised, held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_from_the_clock_of_the_restore() {
        let first = Raised::at(ORIGIN + 3600, ORIGIN).expect("a time");
        assert_eq!((first.number(), first.incarnation()), (3600 << 24, 60 << 6));
        let second = Raised::at(ORIGIN + 3660, ORIGIN).expect("a time");
        assert!(second.number() > first.number() && second.incarnation() > first.incarnation());
        first.require_number("an epoch", (3600 << 24) - 1).expect("it rises");
        let behind = first.require_number("an epoch", 3600 << 24).expect_err("it does not rise");
        assert!(behind.to_string().contains("clock"), "{behind}");
        first.require_incarnation((60 << 6) - 1).expect("it rises");
        first.require_incarnation(60 << 6).expect_err("it does not rise");
    }

    #[test]
    fn a_clock_that_cannot_be_right_is_named() {
        let before = Raised::at(ORIGIN + 5, ORIGIN + 6).expect_err("refused");
        assert_eq!(before, ClockWrong::BeforeBackup { now: ORIGIN + 5, begun: ORIGIN + 6 });
        for now in [0, ORIGIN - 1, ORIGIN + (1 << 40), u64::MAX] {
            assert_eq!(Raised::at(now, 0), Err(ClockWrong::OutOfRange { now }));
        }
    }
}
