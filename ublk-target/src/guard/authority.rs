//! The node's right to do I/O: its lease, on the clock that goes on while the machine sleeps.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use super::{Look, LunGuard, UNPOISONED};

/// A moment of CLOCK_BOOTTIME on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(u64);

impl BootTime {
    /// Now.
    ///
    /// # Panics
    /// On a kernel without that clock, which is older than any with ublk.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has it since 2.6.39");
        Self(u64::try_from(Duration::from(time).as_nanos()).expect("centuries from now"))
    }

    /// The time from an earlier moment to this one; none if it is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment after so much time.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

/// The node's lease, and whether its incarnation is over.
#[derive(Debug, Default)]
pub struct Authority {
    /// Nanoseconds of boot time at which the lease runs out.
    valid_until: AtomicU64,
    /// When the last renewal that was acknowledged was sent.
    acknowledged: AtomicU64,
    is_over: AtomicBool,
    /// Somebody needs an answer of the service now.
    pub ask: Notify,
    guards: Mutex<Vec<Weak<LunGuard>>>,
}

impl Authority {
    /// Whether the lease holds at this moment.
    #[must_use]
    pub fn is_valid(&self, now: BootTime) -> bool {
        now.0 < self.valid_until.load(Ordering::SeqCst)
    }

    /// Whether the incarnation is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// When the last renewal was sent that the service has acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> BootTime {
        BootTime(self.acknowledged.load(Ordering::SeqCst))
    }

    /// Begins a renewal: take it before the request is sent.
    #[must_use]
    pub fn begin_renewal(&self) -> Renewal {
        let looks = self.guards().into_iter().map(|guard| (guard.begin_look(), guard)).collect();
        Renewal { sent: BootTime::now(), looks }
    }

    /// The service has acknowledged a renewal: the incarnation is what it was.
    pub fn renewed(&self, renewal: Renewal, hold: Duration) {
        self.acknowledged.fetch_max(renewal.sent.0, Ordering::SeqCst);
        self.valid_until.fetch_max(renewal.sent.after(hold).0, Ordering::SeqCst);
        for (look, guard) in renewal.looks {
            guard.vouch(look);
        }
    }

    /// The incarnation is over: no I/O begins on any LUN any more, and all that waits fails.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.valid_until.store(0, Ordering::SeqCst);
        for guard in self.guards() {
            guard.end();
        }
    }

    /// The gates of all LUNs that are open.
    #[must_use]
    pub fn guards(&self) -> Vec<Arc<LunGuard>> {
        let guards = self.guards.lock().expect(UNPOISONED);
        guards.iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn enlist(&self, guard: &Arc<LunGuard>) {
        let mut guards = self.guards.lock().expect(UNPOISONED);
        guards.retain(|one| one.strong_count() > 0);
        guards.push(Arc::downgrade(guard));
        drop(guards);
        // Whoever ended the incarnation before this line may have missed it.
        if self.is_over() {
            guard.end();
        }
    }
}

/// A renewal that was sent.
#[derive(Debug)]
pub struct Renewal {
    sent: BootTime,
    looks: Vec<(Look, Arc<LunGuard>)>,
}
