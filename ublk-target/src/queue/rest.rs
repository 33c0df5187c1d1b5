//! A device that rests: its queues take nothing from the driver into the engine any more, and what
//! they had there is answered.
//!
//! Invariants:
//! - a queue says that it is at rest when the engine has nothing of it and the driver has every
//!   answer; what the driver gives it from then on is set aside unread;
//! - a rest can be called off: what was set aside goes into the engine then, in its order.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Whether the queues of a device are to rest, and which of them do.
#[derive(Debug)]
pub struct Rest {
    is_wanted: AtomicBool,
    queues: Vec<AtomicBool>,
    changed: Notify,
}

impl Rest {
    /// Of a device with this many queues, none of which is to rest.
    #[must_use]
    pub fn new(queues: u16) -> Self {
        Self {
            is_wanted: AtomicBool::new(false),
            queues: (0..queues).map(|_| AtomicBool::new(false)).collect(),
            changed: Notify::new(),
        }
    }

    /// The queues are to rest, or to go on. The caller wakes them.
    pub fn want(&self, is_wanted: bool) {
        self.is_wanted.store(is_wanted, Ordering::Release);
    }

    /// Whether the queues are to rest.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Acquire)
    }

    /// A queue says whether it is at rest.
    pub fn note(&self, queue: u16, is_at_rest: bool) {
        if self.queues[usize::from(queue)].swap(is_at_rest, Ordering::AcqRel) != is_at_rest {
            self.changed.notify_one();
        }
    }

    /// Waits until all queues are at rest. One waits at a time.
    pub async fn is_there(&self) {
        while !self.queues.iter().all(|queue| queue.load(Ordering::Acquire)) {
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_device_rests_when_all_of_its_queues_do() {
        let rest = Rest::new(2);
        let soon = Duration::from_millis(10);
        rest.note(0, true);
        tokio::time::timeout(soon, rest.is_there()).await.expect_err("one queue is busy");
        rest.note(1, true);
        rest.note(0, false);
        tokio::time::timeout(soon, rest.is_there()).await.expect_err("the other one is again");
        rest.note(0, true);
        rest.is_there().await;
    }
}
