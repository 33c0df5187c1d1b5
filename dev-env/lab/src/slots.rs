//! Bounds how many unnamed labs of one process are alive at once.
//!
//! Tests run in parallel threads; more machines than processors would only make all of them late.

use crate::error::{LabError, Result};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Overrides the number of labs at once: half the processors of the host, at least one.
pub const SLOTS_VARIABLE: &str = "LUNAR_LAB_SLOTS";

/// A test that holds two labs would wait for ever without this.
const LIMIT: Duration = Duration::from_secs(45 * 60);

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// A right to run a lab; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot(());

impl Slot {
    /// Waits for a free slot.
    pub(crate) fn take() -> Result<Self> {
        let slots = slots()?;
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = FREED.wait_timeout_while(taken, LIMIT, |taken| *taken >= slots);
        let (mut taken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(LabError::Settings(format!(
                "no slot for a lab within {LIMIT:?}: a test may hold one lab at a time"
            )));
        }
        *taken += 1;
        Ok(Self(()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREED.notify_one();
    }
}

fn slots() -> Result<usize> {
    match std::env::var(SLOTS_VARIABLE) {
        Ok(text) => match text.parse() {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(LabError::Settings(format!("{SLOTS_VARIABLE}={text} is not a number > 0"))),
        },
        Err(_) => Ok(thread::available_parallelism().map_or(1, |count| (count.get() / 2).max(1))),
    }
}
