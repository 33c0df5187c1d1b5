//! The io_uring of a queue, driven by one thread.
//!
//! Invariants:
//! - nothing that was pushed is lost: what the submission queue cannot take waits in a backlog,
//!   in order;
//! - file 0 of the ring is the queue's ublk character device, so that the kernel keeps a
//!   successor out until everything under way on this ring has ended.
#![allow(unsafe_code, reason = "entries carry addresses that the kernel reads and writes")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use io_uring::{IoUring, squeue};

/// Something on the ring has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// As it was pushed.
    pub user_data: u64,
    /// Not negative, or a negative errno.
    pub result: i32,
}

/// A ring and what waits to go onto it.
pub struct QueueRing {
    ring: IoUring,
    backlog: VecDeque<squeue::Entry>,
}

impl QueueRing {
    /// A ring for the thread that calls, with room for `entries` submissions at once and for
    /// `files` registered files.
    ///
    /// # Errors
    /// When the kernel refuses; EMFILE when the process may open fewer files than that.
    pub fn new(entries: u32, files: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(entries * 4)
            .build(entries)?;
        ring.submitter().register_files_sparse(files)?;
        Ok(Self { ring, backlog: VecDeque::new() })
    }

    /// Registers a file under a number below the ring's limit.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn register(&self, number: u32, file: RawFd) -> io::Result<()> {
        let updated = self.ring.submitter().register_files_update(number, &[file])?;
        assert_eq!(updated, 1, "one file was given to the ring");
        Ok(())
    }

    /// Queues an entry; [`QueueRing::wait`] submits it.
    ///
    /// # Safety
    /// Every address in the entry stays valid, and is not used otherwise, until its completion
    /// has come out of [`QueueRing::wait`] or the ring is gone.
    pub unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the caller keeps what the entry points to.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    /// Whether something was pushed that the kernel has not seen yet.
    #[must_use]
    pub fn has_unsubmitted(&mut self) -> bool {
        !self.backlog.is_empty() || !self.ring.submission().is_empty()
    }

    /// Submits what was pushed without waiting for anything.
    ///
    /// # Errors
    /// When the ring is broken; what the kernel cannot take now goes with the next wait.
    pub fn submit(&mut self) -> io::Result<()> {
        match self.ring.submit() {
            Err(error) if !is_transient(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Submits what was pushed, waits for at least one completion and collects all that are there.
    ///
    /// # Errors
    /// When the ring is broken; interruptions are none.
    pub fn wait(&mut self, completions: &mut Vec<Completion>) -> io::Result<()> {
        loop {
            let wanted = usize::from(self.backlog.is_empty());
            match self.ring.submit_and_wait(wanted) {
                Ok(_) => {}
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
            let before = completions.len();
            completions.extend(
                self.ring.completion().map(|entry| Completion {
                    user_data: entry.user_data(),
                    result: entry.result(),
                }),
            );
            self.refill();
            if completions.len() > before {
                return Ok(());
            }
        }
    }

    fn refill(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: it was pushed under the promise of `push`, which holds until it completes.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }
}

/// The kernel was interrupted, or is short of memory or room for completions, which reaping makes.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::{opcode, types};
    use std::os::fd::AsRawFd;

    #[test]
    fn entries_beyond_the_size_of_the_ring_all_complete() {
        let mut ring = QueueRing::new(4, 1).expect("a ring");
        for number in 0..100 {
            let entry = opcode::Nop::new().build().user_data(number);
            // SAFETY: a nop has no address.
            unsafe { ring.push(entry) };
        }
        assert!(ring.has_unsubmitted());
        let mut completions = Vec::new();
        while completions.len() < 100 {
            ring.wait(&mut completions).expect("the ring works");
        }
        let mut seen: Vec<_> = completions.iter().map(|done| done.user_data).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        assert!(!ring.has_unsubmitted());
    }

    #[test]
    fn a_file_that_is_registered_while_the_ring_works_can_be_used() {
        let file = tempfile::tempfile().expect("a temporary file");
        let mut ring = QueueRing::new(4, 8).expect("a ring");
        let sync = |ring: &mut QueueRing| {
            let entry = opcode::Fsync::new(types::Fixed(5)).build();
            // SAFETY: a sync has no address.
            unsafe { ring.push(entry) };
            let mut completions = Vec::new();
            ring.wait(&mut completions).expect("the ring works");
            completions.remove(0).result
        };
        assert_eq!(sync(&mut ring), -libc::EBADF);
        ring.register(5, file.as_raw_fd()).expect("registered");
        assert_eq!(sync(&mut ring), 0);
        assert!(ring.register(8, file.as_raw_fd()).is_err());
    }
}
