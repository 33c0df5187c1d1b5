//! The read on a queue's ring that its waker ends.
//!
//! Invariant: the read goes with its ring: it is disarmed before the ring's thread ends, or ends
//! with the process.
#![allow(unsafe_code, reason = "the entry carries the address of the wake word")]

use std::io;

use io_uring::{opcode, types};

use super::ring::{Completion, QueueRing};
use super::waker::QueueWaker;

/// Of the read's completion; no request has it.
pub const WAKE: u64 = 1 << 62;
const CANCEL: u64 = WAKE | 1;

/// The read, and the word that it fills.
#[derive(Debug, Default)]
pub struct WakeRead {
    word: Box<u64>,
    is_armed: bool,
}

impl WakeRead {
    /// Has the ring read from a waker. The ring goes before this does.
    pub fn arm(&mut self, ring: &mut QueueRing, waker: &QueueWaker) {
        let word: *mut u64 = &raw mut *self.word;
        let event = types::Fd(waker.descriptor());
        let entry = opcode::Read::new(event, word.cast(), size_of::<u64>() as u32).build();
        // SAFETY: the word is boxed, outlives the ring and is touched by nobody else.
        unsafe { ring.push(entry.user_data(WAKE)) };
        self.is_armed = true;
    }

    /// The read has ended: takes the wake, so that later ones are seen again, and reads on.
    pub fn take(&mut self, ring: &mut QueueRing, waker: &QueueWaker) {
        self.is_armed = false;
        waker.take();
        self.arm(ring, waker);
    }

    /// Ends the read. Whatever else ends meanwhile is not looked at.
    ///
    /// # Errors
    /// When the ring is broken.
    pub fn disarm(
        &mut self,
        ring: &mut QueueRing,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(WAKE).build().user_data(CANCEL);
        // SAFETY: a cancellation has no address.
        unsafe { ring.push(entry) };
        while self.is_armed {
            ring.wait(completions)?;
            let is_wake = |done: Completion| done.user_data == WAKE;
            self.is_armed = !completions.drain(..).any(is_wake);
        }
        Ok(())
    }
}
