//! The thread of a queue whose volume is owned by another node: it fetches every request and
//! answers none.
//!
//! Invariants:
//! - no LUN is registered in its ring: it can reach none;
//! - what it has fetched is left to the driver when it ends, which issues it again to whoever
//!   serves the device next. Only when the device is to be removed it is answered, with EIO.
//!
//! A thread that cannot go on ends the process, as a queue that serves does.
#![allow(unsafe_code, reason = "entries carry addresses of the request buffers")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use libublk::sys;
use tokio::sync::Notify;
use tracing::{debug, error};

use super::buffers::RequestBuffers;
use super::commands;
use super::ring::{Completion, QueueRing};
use super::wake_read::{WAKE, WakeRead};
use super::waker::QueueWaker;

const REQUEST: u64 = 1 << 63;

/// What the threads of a device that waits share.
pub struct WaitingShared {
    /// One waker a queue.
    pub wakers: Vec<QueueWaker>,
    held: AtomicU32,
    is_failing: AtomicBool,
    asked: Notify,
}

impl WaitingShared {
    /// Of a device with this many queues.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(queues: u16) -> io::Result<Self> {
        Ok(Self {
            wakers: (0..queues).map(|_| QueueWaker::new()).collect::<Result<_, _>>()?,
            held: AtomicU32::new(0),
            is_failing: AtomicBool::new(false),
            asked: Notify::new(),
        })
    }

    /// Requests that wait.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.held.load(Ordering::Acquire)
    }

    /// Waits until a request waits. One waits at a time.
    pub async fn is_asked(&self) {
        while self.held() == 0 {
            self.asked.notified().await;
        }
    }

    /// Has every request fail from now on: the device is about to be removed, which waits for them.
    pub fn fail(&self) {
        self.is_failing.store(true, Ordering::Release);
        for waker in &self.wakers {
            waker.wake();
        }
    }

    fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Acquire)
    }

    fn hold(&self) {
        self.held.fetch_add(1, Ordering::AcqRel);
        self.asked.notify_one();
    }
}

/// A queue that waits.
pub struct WaitingQueue {
    shared: Arc<WaitingShared>,
    queue: u16,
    max_io_bytes: u32,
    held: Vec<u16>,
    // The ring goes before what it points to.
    ring: QueueRing,
    buffers: RequestBuffers,
    wake: WakeRead,
}

impl WaitingQueue {
    /// Makes the queue; call it on the thread that will run it.
    ///
    /// # Errors
    /// When the kernel gives no ring or no memory.
    pub fn new(
        shared: Arc<WaitingShared>,
        (queue, depth): (u16, u16),
        max_io_bytes: u32,
        char_device: &File,
    ) -> io::Result<Self> {
        let ring = QueueRing::new((u32::from(depth) * 2).next_power_of_two().min(4096), 1)?;
        ring.register(commands::CHAR_DEVICE.0, char_device.as_raw_fd())?;
        let mut waiting = Self {
            shared,
            queue,
            max_io_bytes,
            held: Vec::with_capacity(usize::from(depth)),
            buffers: RequestBuffers::new(depth, max_io_bytes)?,
            wake: WakeRead::default(),
            ring,
        };
        for tag in 0..depth {
            let entry = commands::fetch(queue, tag, waiting.buffer(tag));
            // SAFETY: the buffer outlives the ring, and nothing else uses it.
            unsafe { waiting.ring.push(entry.user_data(REQUEST | u64::from(tag))) };
        }
        let waker = &waiting.shared.wakers[usize::from(queue)];
        waiting.wake.arm(&mut waiting.ring, waker);
        Ok(waiting)
    }

    fn buffer(&mut self, tag: u16) -> *mut u8 {
        self.buffers.address(tag, 0, self.max_io_bytes)
    }

    /// Holds requests until told to stop.
    ///
    /// # Errors
    /// When the ring breaks or the driver refuses an answer. The process has to end then.
    pub fn run(&mut self) -> io::Result<()> {
        let mut completions = Vec::new();
        while !self.shared.wakers[usize::from(self.queue)].is_stopping() {
            self.ring.wait(&mut completions)?;
            for completion in completions.drain(..) {
                self.take(completion)?;
            }
            if self.shared.is_failing() {
                self.fail_held();
            }
        }
        debug!(queue = self.queue, held = self.held.len(), "waiting queue ended");
        self.wake.disarm(&mut self.ring, &mut completions)
    }

    fn take(&mut self, Completion { user_data, result }: Completion) -> io::Result<()> {
        if user_data == WAKE {
            self.wake.take(&mut self.ring, &self.shared.wakers[usize::from(self.queue)]);
            return Ok(());
        }
        let tag = u16::try_from(user_data & !REQUEST).expect("tags have 16 bits");
        match result {
            sys::UBLK_IO_RES_ABORT => {}
            0 => {
                self.held.push(tag);
                self.shared.hold();
            }
            errno => {
                error!(queue = self.queue, tag, errno, "the driver refused an answer");
                return Err(io::Error::from_raw_os_error(-errno));
            }
        }
        Ok(())
    }

    fn fail_held(&mut self) {
        for tag in std::mem::take(&mut self.held) {
            let entry = commands::commit(self.queue, tag, self.buffer(tag), -libc::EIO);
            // SAFETY: the buffer outlives the ring, and nothing else uses it.
            unsafe { self.ring.push(entry.user_data(REQUEST | u64::from(tag))) };
        }
    }
}
