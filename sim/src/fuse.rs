//! Where the next crash falls: a counter of steps that burns down.
//!
//! A step is an action of the engine that the driver runs, a command executed or delivered by a
//! disk, a call to the metadata service, or a blocking read, write or flush of a recovery. The
//! crash falls before the step that finds the fuse burnt down.

use std::cell::Cell;

/// Counts steps, and stops the run at one of them.
#[derive(Debug, Default)]
pub struct Fuse {
    steps: Cell<u64>,
    blows_at: Cell<Option<u64>>,
    is_blown: Cell<bool>,
}

impl Fuse {
    /// Sets the crash `steps` steps from now.
    pub fn light(&self, steps: u64) {
        self.blows_at.set(Some(self.steps.get() + steps));
    }

    /// Takes the crash away, after it has happened or because none is wanted.
    pub fn put_out(&self) {
        self.blows_at.set(None);
        self.is_blown.set(false);
    }

    /// Whether a crash is coming.
    #[must_use]
    pub fn is_lit(&self) -> bool {
        self.blows_at.get().is_some()
    }

    /// Takes a step; says whether the crash falls before it, or has fallen.
    pub fn step(&self) -> bool {
        if self.is_blown.get() {
            return true;
        }
        let blows = self.blows_at.get().is_some_and(|at| self.steps.get() >= at);
        if blows {
            self.is_blown.set(true);
        } else {
            self.steps.set(self.steps.get() + 1);
        }
        blows
    }

    /// Whether the crash has fallen.
    #[must_use]
    pub fn is_blown(&self) -> bool {
        self.is_blown.get()
    }

    /// Steps taken in the whole run.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }
}
