//! The node's own wall: whether I/O on a LUN may begin, and whether what was read may be given out.
//!
//! - [`Authority`]: the node's lease, and whether its incarnation is over;
//! - [`LunGuard`]: the gate of one LUN;
//! - [`Turnstile`]: one submitter's way through it.
//!
//! Invariants ([F1, F7](../../../docs/fencing.md)):
//! - no I/O begins on a LUN of a pool with reservations before its registration is confirmed;
//! - who sees a closed gate has nothing under way: an I/O is counted before the gate is looked at,
//!   and whoever closes the gate looks at the counts afterwards;
//! - what was read while the lease had run out is given out only when somebody has vouched for the
//!   node since: the metadata service by an answer, or the array by showing the node's key;
//! - a gate that is closed for good never opens.
//!
//! The gate keeps reads from being stale for long and registrations from being blind. It does not
//! carry the promise about writes: a process may be stopped between its look and its write.

mod authority;
mod turnstile;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use lunar_proto::domain::PoolFencing;
use lunar_types::LunId;
use tokio::sync::Notify;
use tracing::{info, warn};

pub use authority::{Authority, BootTime};
pub use turnstile::{Admission, Delivery, ENDED, GuardedLun, ReadStamp, Turnstile};

const UNPOISONED: &str = "a panic ends the process";
/// How long who blocks sleeps before it looks at the lease again.
const NAP: Duration = Duration::from_millis(50);
/// How often a drain looks at what is under way.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

const OPEN: u8 = 0;
const FROZEN: u8 = 1;
const OVER: u8 = 2;

/// Where a gate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// I/O may begin.
    Open,
    /// It waits.
    Frozen {
        /// Why, for people.
        why: String,
        /// Since when.
        since: BootTime,
    },
    /// It fails, for good.
    Over,
}

/// The gate of one LUN.
pub struct LunGuard {
    lun: LunId,
    fencing: PoolFencing,
    authority: Arc<Authority>,
    gate: AtomicU8,
    was_open: AtomicBool,
    frozen: Mutex<Option<(String, BootTime)>>,
    /// Looks that were begun.
    looks: AtomicU64,
    /// The greatest look that was answered well.
    vouched: AtomicU64,
    turnstiles: Mutex<Vec<Weak<Turnstile>>>,
    changed: Condvar,
    /// Whoever watches over the LUN is to look at it now.
    pub alarm: Notify,
}

impl fmt::Debug for LunGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LunGuard").field("lun", &self.lun).field("gate", &self.gate()).finish()
    }
}

/// A look that was begun: what had been read before it can be given out when it is answered well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look(u64);

impl LunGuard {
    /// The gate of a LUN that was just opened. With reservations it stays closed until the node is
    /// registered.
    #[must_use]
    pub fn new(lun: LunId, fencing: PoolFencing, authority: &Arc<Authority>) -> Arc<Self> {
        let (gate, frozen) = match fencing {
            _ if authority.is_over() => (OVER, None),
            PoolFencing::Reservations => {
                let why = "the node is not registered at the LUN yet".to_owned();
                (FROZEN, Some((why, BootTime::now())))
            }
            PoolFencing::Lease | PoolFencing::None => (OPEN, None),
        };
        let guard = Arc::new(Self {
            lun,
            fencing,
            authority: Arc::clone(authority),
            gate: AtomicU8::new(gate),
            was_open: AtomicBool::new(gate == OPEN),
            frozen: Mutex::new(frozen),
            looks: AtomicU64::new(0),
            vouched: AtomicU64::new(0),
            turnstiles: Mutex::default(),
            changed: Condvar::new(),
            alarm: Notify::new(),
        });
        authority.enlist(&guard);
        guard
    }

    /// Which LUN.
    #[must_use]
    pub const fn lun(&self) -> LunId {
        self.lun
    }

    /// What fences its pool.
    #[must_use]
    pub const fn fencing(&self) -> PoolFencing {
        self.fencing
    }

    /// Where the gate is.
    #[must_use]
    pub fn gate(&self) -> Gate {
        let frozen = self.frozen.lock().expect(UNPOISONED);
        match (self.gate.load(Ordering::SeqCst), &*frozen) {
            (OPEN, _) => Gate::Open,
            (FROZEN, Some((why, since))) => Gate::Frozen { why: why.clone(), since: *since },
            _ => Gate::Over,
        }
    }

    /// Whether the gate was ever open: with reservations, whether this process has registered.
    #[must_use]
    pub fn was_open(&self) -> bool {
        self.was_open.load(Ordering::SeqCst)
    }

    /// A way through the gate for one submitter; `wake` is called, on any thread, when it is worth
    /// trying again.
    #[must_use]
    pub fn enlist(self: &Arc<Self>, wake: Box<dyn Fn() + Send + Sync>) -> Arc<Turnstile> {
        let turnstile = Arc::new(Turnstile::new(Arc::clone(self), wake));
        let mut all = self.turnstiles.lock().expect(UNPOISONED);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(&turnstile));
        turnstile
    }

    /// Closes the gate. What is under way ends; what comes waits.
    pub fn freeze(&self, why: &str) {
        let mut frozen = self.frozen.lock().expect(UNPOISONED);
        let closed =
            self.gate.compare_exchange(OPEN, FROZEN, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if closed {
            warn!(lun = %self.lun, why, "no I/O begins on this LUN until the node may again");
            *frozen = Some((why.to_owned(), BootTime::now()));
            // Once: whoever watches looks often while the gate is closed.
            self.alarm.notify_one();
        }
    }

    /// Opens the gate: the service has confirmed the node since it was closed, and the node is
    /// registered. One that is closed for good stays so.
    pub fn thaw(&self) {
        let mut frozen = self.frozen.lock().expect(UNPOISONED);
        let opened =
            self.gate.compare_exchange(FROZEN, OPEN, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        self.was_open.fetch_or(opened, Ordering::SeqCst);
        if opened && let Some((why, since)) = frozen.take() {
            let frozen_ms = BootTime::now().since(since).as_millis();
            info!(lun = %self.lun, was = why, frozen_ms, "I/O on this LUN goes on");
        }
        drop(frozen);
        self.wake_all();
    }

    /// Closes the gate for good: everything that waits fails.
    fn end(&self) {
        let mut frozen = self.frozen.lock().expect(UNPOISONED);
        self.gate.store(OVER, Ordering::SeqCst);
        *frozen = None;
        drop(frozen);
        self.wake_all();
        self.alarm.notify_one();
    }

    /// Begins to ask whether the node may still be what it was.
    #[must_use]
    pub fn begin_look(&self) -> Look {
        Look(self.looks.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// The answer to a look was good: what had been read before it was current.
    pub fn vouch(&self, look: Look) {
        self.vouched.fetch_max(look.0, Ordering::SeqCst);
        self.wake_all();
    }

    fn is_vouched(&self, stamp: u64) -> bool {
        self.vouched.load(Ordering::SeqCst) > stamp
    }

    /// Ends when nothing is under way; the gate has to be closed.
    pub async fn drained(&self) {
        while self.under_way() > 0 {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    /// I/O that was begun and has not ended.
    #[must_use]
    pub fn under_way(&self) -> u64 {
        let all = self.turnstiles.lock().expect(UNPOISONED);
        all.iter().filter_map(Weak::upgrade).map(|one| one.under_way()).sum()
    }

    /// Whether I/O waits for the lease alone, or for somebody to vouch.
    #[must_use]
    pub fn needs_vouching(&self, now: BootTime) -> bool {
        self.fencing != PoolFencing::None && !self.authority.is_valid(now)
    }

    fn wake_all(&self) {
        let all: Vec<_> = {
            let all = self.turnstiles.lock().expect(UNPOISONED);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        for turnstile in all {
            turnstile.wake();
        }
        // Under the lock: who is about to wait has looked at the gate before it is taken.
        drop(self.frozen.lock().expect(UNPOISONED));
        self.changed.notify_all();
    }

    /// Sleeps until something may have changed. It blocks.
    fn nap(&self) {
        let frozen = self.frozen.lock().expect(UNPOISONED);
        let _woken = self.changed.wait_timeout(frozen, NAP).expect(UNPOISONED);
    }
}

#[cfg(test)]
mod tests;
