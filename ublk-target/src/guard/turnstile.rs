//! One submitter's way through the gate of a LUN: what it has under way is counted here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lunar_engine::lun::{FileLun, LunDevice, LunError};
use lunar_proto::domain::PoolFencing;

use super::{BootTime, FROZEN, LunGuard, OPEN, OVER};

/// Whether an I/O may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is counted as under way.
    Begin,
    /// It waits: try again when woken.
    Wait,
    /// It fails.
    Never,
}

/// Whether what was read may be given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// At once.
    Now,
    /// When somebody has vouched for the node since: see [`Turnstile::is_deliverable`].
    Later(ReadStamp),
}

/// When something was read, in looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadStamp(u64);

/// One submitter's way through the gate.
pub struct Turnstile {
    guard: Arc<LunGuard>,
    under_way: AtomicU64,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Turnstile {
    pub(super) fn new(guard: Arc<LunGuard>, wake: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { guard, under_way: AtomicU64::new(0), wake }
    }

    pub(super) fn wake(&self) {
        (self.wake)();
    }

    pub(super) fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::SeqCst)
    }

    /// The gate.
    #[must_use]
    pub const fn guard(&self) -> &Arc<LunGuard> {
        &self.guard
    }

    /// Asks to begin an I/O.
    pub fn enter(&self, now: BootTime) -> Admission {
        // Counted first: whoever closes the gate after the look below sees it.
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let admission = match self.guard.gate.load(Ordering::SeqCst) {
            OPEN if self.may_begin(now) => return Admission::Begin,
            OPEN | FROZEN => Admission::Wait,
            _ => Admission::Never,
        };
        self.leave();
        admission
    }

    /// With reservations the array says no to whoever may not write: what is read waits for
    /// somebody to vouch, and nothing else does. Without an array only the lease says so.
    fn may_begin(&self, now: BootTime) -> bool {
        match self.guard.fencing {
            PoolFencing::Reservations | PoolFencing::None => true,
            PoolFencing::Lease => self.guard.authority.is_valid(now),
        }
    }

    /// An I/O that had begun has ended.
    ///
    /// # Panics
    /// When none was under way.
    pub fn leave(&self) {
        let before = self.under_way.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0, "what ends has begun");
    }

    /// Whether what was just read may be given out.
    #[must_use]
    pub fn delivery(&self, now: BootTime) -> Delivery {
        let is_free = self.guard.fencing == PoolFencing::None;
        let gate = self.guard.gate.load(Ordering::SeqCst);
        if gate == OPEN && (is_free || self.guard.authority.is_valid(now)) {
            return Delivery::Now;
        }
        Delivery::Later(ReadStamp(self.guard.looks.load(Ordering::SeqCst)))
    }

    /// Whether what was read then may be given out now: not yet, yes, or never.
    #[must_use]
    pub fn is_deliverable(&self, stamp: ReadStamp) -> Admission {
        match self.guard.gate.load(Ordering::SeqCst) {
            OVER => Admission::Never,
            _ if self.guard.is_vouched(stamp.0) => Admission::Begin,
            _ => Admission::Wait,
        }
    }

    /// Takes the error of an I/O that has ended: one that says that the node's key is gone closes
    /// the gate, and the I/O is to wait there.
    #[must_use]
    pub fn is_conflict(&self, error: LunError) -> bool {
        let is_conflict = self.guard.fencing == PoolFencing::Reservations
            && error == LunError::Device { errno: libc::EBADE };
        if is_conflict {
            self.guard.freeze("the array has rejected a write: the node's key is gone");
        }
        is_conflict
    }
}

/// The error of I/O that a gate has ended.
pub const ENDED: LunError = LunError::Device { errno: libc::ESHUTDOWN };

/// A LUN for blocking I/O, behind its gate.
pub struct GuardedLun {
    device: FileLun,
    turnstile: Arc<Turnstile>,
}

impl GuardedLun {
    /// A LUN behind its gate.
    #[must_use]
    pub fn new(device: FileLun, guard: &Arc<LunGuard>) -> Self {
        Self { device, turnstile: guard.enlist(Box::new(|| {})) }
    }

    /// The LUN itself.
    #[must_use]
    pub const fn device(&self) -> &FileLun {
        &self.device
    }

    /// The gate.
    #[must_use]
    pub fn guard(&self) -> &Arc<LunGuard> {
        self.turnstile.guard()
    }

    /// Runs an I/O that changes the LUN.
    fn change(&self, io: impl Fn() -> Result<(), LunError>) -> Result<(), LunError> {
        loop {
            self.begin()?;
            let result = io();
            self.turnstile.leave();
            match result {
                Err(error) if self.turnstile.is_conflict(error) => {}
                other => return other,
            }
        }
    }

    fn begin(&self) -> Result<(), LunError> {
        loop {
            match self.turnstile.enter(BootTime::now()) {
                Admission::Begin => return Ok(()),
                Admission::Wait => self.guard().nap(),
                Admission::Never => return Err(ENDED),
            }
        }
    }

    fn deliver(&self) -> Result<(), LunError> {
        let Delivery::Later(stamp) = self.turnstile.delivery(BootTime::now()) else {
            return Ok(());
        };
        loop {
            match self.turnstile.is_deliverable(stamp) {
                Admission::Begin => return Ok(()),
                Admission::Wait => self.guard().nap(),
                Admission::Never => return Err(ENDED),
            }
        }
    }
}

impl LunDevice for GuardedLun {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), LunError> {
        self.begin()?;
        let result = self.device.read_at(at, buffer);
        self.turnstile.leave();
        result?;
        self.deliver()
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), LunError> {
        self.change(|| self.device.write_at(at, bytes))
    }

    fn flush(&self) -> Result<(), LunError> {
        self.change(|| self.device.flush())
    }

    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn logical_block_bytes(&self) -> u32 {
        self.device.logical_block_bytes()
    }
}
