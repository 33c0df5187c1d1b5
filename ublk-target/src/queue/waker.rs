//! Wakes the thread of a queue from another thread, through an eventfd that its ring reads.
//!
//! Invariant: a wake that comes while an earlier one has not been taken yet is merged with it;
//! one that comes after is seen again. The thread takes the wake before it acts on it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes one queue.
#[derive(Debug)]
pub struct QueueWaker {
    event: EventFd,
    is_pending: AtomicBool,
    is_stopping: AtomicBool,
}

impl QueueWaker {
    /// A waker that has not been used yet.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        // Blocking on purpose: the ring waits in its read, which a non-blocking one would fail.
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { event, is_pending: AtomicBool::new(false), is_stopping: AtomicBool::new(false) })
    }

    /// Has the thread look at the engine again.
    pub fn wake(&self) {
        if !self.is_pending.swap(true, Ordering::AcqRel) {
            self.event.write(1).expect("an eventfd holds more wakes than can be pending");
        }
    }

    /// Has the thread end as soon as nothing is under way.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.wake();
    }

    /// Takes the wake: later ones are seen again.
    pub fn take(&self) {
        self.is_pending.store(false, Ordering::Release);
    }

    /// Whether the thread is to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// What the ring reads from.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_merge_until_they_are_taken() {
        let waker = QueueWaker::new().expect("an eventfd");
        waker.wake();
        waker.wake();
        assert_eq!(waker.event.read(), Ok(1));
        waker.take();
        waker.stop();
        assert_eq!(waker.event.read(), Ok(1));
        assert!(waker.is_stopping());
    }
}
