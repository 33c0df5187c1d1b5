//! The thread of a queue: requests from the driver to the engine, LUN I/O to the ring, answers
//! back.
//!
//! Invariants:
//! - a request is answered when the engine says so, which is never while its LUN I/O is under way;
//! - all LUN I/O of the queue's requests goes through the ring that knows the character device;
//! - the thread ends only when it was told to and nothing is under way;
//! - while the device is to rest, no request goes into the engine, but for those that the engine of
//!   a process that was killed may have begun: they are run in this epoch (docs/migration.md, M3);
//! - an I/O that the engine completes at once allocates nothing here.
//!
//! A thread that cannot go on ends the process: the driver then keeps every request for the
//! successor, which no other way out guarantees.
#![allow(unsafe_code, reason = "entries carry addresses of the request buffers and the wake word")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libublk::sys;
use lunar_engine::io::{Action, IoError, IoOp, IoRequest, QueueId, RequestId};
use lunar_engine::volume::{QueueContext, Volume};
use lunar_types::LunIndex;
use tokio::sync::Notify;
use tracing::{debug, error};

use super::buffers::RequestBuffers;
use super::commands::{self, Descriptions};
use super::lun_io::{LunOps, file_of_lun};
use super::request;
use super::rest::Rest;
use super::ring::{Completion, QueueRing};
use super::wake_read::{WAKE, WakeRead};
use super::waker::QueueWaker;
use crate::lun::set::PoolLuns;

const REQUEST: u64 = 1 << 63;
/// Files that a ring has room for: the character device and every LUN that a pool can have.
const FILES: u32 = LunIndex::LIMIT as u32 + 1;

/// What a queue counts; written by its thread, read by anyone.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// Requests to read.
    pub reads: AtomicU64,
    /// Bytes they asked for.
    pub read_bytes: AtomicU64,
    /// Requests to write.
    pub writes: AtomicU64,
    /// Bytes they brought.
    pub write_bytes: AtomicU64,
    /// Requests to flush.
    pub flushes: AtomicU64,
    /// Requests to discard or to write zeros.
    pub discards: AtomicU64,
    /// Requests that were answered with an error.
    pub failures: AtomicU64,
    /// Bytes read from LUNs.
    pub lun_read_bytes: AtomicU64,
    /// Bytes written to LUNs.
    pub lun_written_bytes: AtomicU64,
}

/// What the threads of one device share.
pub struct DeviceShared {
    /// The engine's side of the volume.
    pub volume: Arc<Volume>,
    /// One waker a queue.
    pub wakers: Vec<QueueWaker>,
    /// One set of counters a queue.
    pub counters: Vec<QueueCounters>,
    /// Wakes the control task.
    pub control: Notify,
    /// Whether the queues are to rest.
    pub rest: Rest,
}

impl DeviceShared {
    /// Has the queues rest, or go on.
    pub fn want_rest(&self, is_wanted: bool) {
        self.rest.want(is_wanted);
        for waker in &self.wakers {
            waker.wake();
        }
    }

    /// Requests so far, on all queues.
    #[must_use]
    pub fn requests(&self) -> u64 {
        let of_queue = |queue: &QueueCounters| {
            [&queue.reads, &queue.writes, &queue.flushes, &queue.discards]
                .map(|count| count.load(Ordering::Relaxed))
                .iter()
                .sum::<u64>()
        };
        self.counters.iter().map(of_queue).sum()
    }

    /// Requests to write so far, on all queues.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.counters.iter().map(|queue| queue.writes.load(Ordering::Relaxed)).sum()
    }
}

/// What one queue is made from.
pub struct QueueParts {
    /// What it shares with the others.
    pub shared: Arc<DeviceShared>,
    /// Which one it is.
    pub queue: u16,
    /// Requests at once.
    pub depth: u16,
    /// Bytes of the largest request.
    pub max_io_bytes: u32,
    /// The device's character device.
    pub char_device: Arc<File>,
    /// The pool's LUNs, open while the thread runs; more may come.
    pub luns: PoolLuns,
    /// Whether a process that was killed has left requests that its engine may have begun.
    pub owes: bool,
}

/// A queue that is ready to serve.
pub struct QueueServer {
    parts: QueueParts,
    context: QueueContext,
    descriptions: Descriptions,
    actions: Vec<Action>,
    /// Bytes of the request that each tag has, while it has one.
    lengths: Vec<u32>,
    requests: usize,
    is_woken: bool,
    /// Tags whose next request may be one that was begun before.
    owed: Vec<bool>,
    /// Tags whose requests wait for the rest to be called off.
    set_aside: Vec<u16>,
    is_resting: bool,
    /// Which LUNs the ring knows.
    registered: Vec<bool>,
    // The ring goes before what it points to.
    ring: QueueRing,
    ops: LunOps,
    buffers: RequestBuffers,
    wake: WakeRead,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl QueueServer {
    /// Makes the queue; call it on the thread that will run it.
    ///
    /// # Errors
    /// When the kernel gives no ring, no memory or no mapping.
    pub fn new(parts: QueueParts) -> io::Result<Self> {
        let entries = (u32::from(parts.depth) * 2).next_power_of_two().min(4096);
        let context = parts.shared.volume.queue(QueueId::new(parts.queue));
        let depth = usize::from(parts.depth);
        let ring = QueueRing::new(entries, FILES)?;
        ring.register(commands::CHAR_DEVICE.0, parts.char_device.as_raw_fd())?;
        let mut server = Self {
            context,
            descriptions: Descriptions::map(&parts.char_device, parts.queue, parts.depth)?,
            ops: LunOps::new(depth * 2),
            actions: Vec::with_capacity(16),
            lengths: vec![0; depth],
            requests: 0,
            is_woken: false,
            owed: vec![parts.owes; depth],
            set_aside: Vec::with_capacity(depth),
            is_resting: false,
            registered: vec![false; usize::from(LunIndex::LIMIT)],
            buffers: RequestBuffers::new(parts.depth, parts.max_io_bytes)?,
            wake: WakeRead::default(),
            ring,
            parts,
        };
        for lun in server.parts.luns.clone().table().indices() {
            server.register(lun)?;
        }
        for tag in 0..server.parts.depth {
            server.fetch(tag);
        }
        let waker = &server.parts.shared.wakers[usize::from(server.parts.queue)];
        server.wake.arm(&mut server.ring, waker);
        Ok(server)
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// When the ring breaks or the driver refuses an answer. The process has to end then, with
    /// this queue still there: I/O under way may point into it.
    pub fn run(&mut self) -> io::Result<()> {
        let mut completions = Vec::with_capacity(usize::from(self.parts.depth) * 2);
        while !self.is_done() {
            self.ring.wait(&mut completions)?;
            self.ops.tick();
            for completion in completions.drain(..) {
                self.take(completion)?;
                self.run_actions()?;
            }
            self.look_at_rest()?;
            self.publish_bytes();
        }
        debug!(queue = self.parts.queue, "queue ended");
        self.wake.disarm(&mut self.ring, &mut completions)
    }

    /// Makes a LUN known to the ring. The kernel lets only the ring's own thread do it, so one that
    /// was added to the pool meanwhile is made known when the first I/O goes to it.
    fn register(&mut self, lun: LunIndex) -> io::Result<()> {
        let descriptor = self.parts.luns.descriptor(lun);
        let descriptor = descriptor.expect("the engine uses LUNs that the pool has");
        let gate = self.parts.luns.guard(lun).expect("an open LUN has its gate");
        let (shared, queue) = (Arc::downgrade(&self.parts.shared), usize::from(self.parts.queue));
        let wake = move || {
            if let Some(shared) = shared.upgrade() {
                shared.wakers[queue].wake();
            }
        };
        self.ops.guard(lun, gate.enlist(Box::new(wake)));
        self.ring.register(file_of_lun(lun), descriptor)?;
        self.registered[usize::from(lun.get())] = true;
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.waker().is_stopping() && self.requests == 0 && self.ops.is_idle()
    }

    fn waker(&self) -> &QueueWaker {
        &self.parts.shared.wakers[usize::from(self.parts.queue)]
    }

    fn counters(&self) -> &QueueCounters {
        &self.parts.shared.counters[usize::from(self.parts.queue)]
    }

    fn take(&mut self, completion: Completion) -> io::Result<()> {
        let Completion { user_data, result } = completion;
        if user_data & REQUEST != 0 {
            let tag = u16::try_from(user_data & !REQUEST).expect("tags have 16 bits");
            return self.take_request(tag, result);
        }
        if user_data & WAKE != 0 {
            self.wake
                .take(&mut self.ring, &self.parts.shared.wakers[usize::from(self.parts.queue)]);
            self.is_woken = true;
            self.ops.retry(&mut self.buffers, &mut self.ring);
            return Ok(());
        }
        let done = self.ops.complete(completion, &mut self.buffers, &mut self.ring);
        if let Some(done) = done {
            self.parts.shared.volume.complete(&mut self.context, done, &mut self.actions);
        }
        Ok(())
    }

    fn take_request(&mut self, tag: u16, result: i32) -> io::Result<()> {
        match result {
            sys::UBLK_IO_RES_ABORT => return Ok(()),
            0 => {}
            errno => {
                error!(queue = self.parts.queue, tag, errno, "the driver refused an answer");
                return Err(io::Error::from_raw_os_error(-errno));
            }
        }
        let is_owed = std::mem::take(&mut self.owed[usize::from(tag)]);
        if self.parts.shared.rest.is_wanted() && !is_owed {
            self.set_aside.push(tag);
            return Ok(());
        }
        self.begin(tag);
        Ok(())
    }

    /// Gives the request of a tag to the engine.
    fn begin(&mut self, tag: u16) {
        self.requests += 1;
        match request::operation(&self.descriptions.get(tag)) {
            Ok(op) if request::buffer_bytes(op) <= self.parts.max_io_bytes => {
                self.lengths[usize::from(tag)] = request::buffer_bytes(op);
                self.count(op);
                let id = RequestId { queue: self.context.id(), tag };
                let request = IoRequest { id, op };
                self.parts.shared.volume.submit(&mut self.context, request, &mut self.actions);
            }
            Ok(_) => self.commit(tag, -libc::EINVAL),
            Err(errno) => self.commit(tag, -errno),
        }
    }

    /// Says whether the queue is at rest, if it is to rest; otherwise takes up what was set aside.
    fn look_at_rest(&mut self) -> io::Result<()> {
        let is_wanted = self.parts.shared.rest.is_wanted();
        if !is_wanted && !self.is_resting && self.set_aside.is_empty() {
            return Ok(());
        }
        self.is_resting = is_wanted;
        if !is_wanted {
            self.parts.shared.rest.note(self.parts.queue, false);
            for tag in std::mem::take(&mut self.set_aside) {
                self.begin(tag);
                self.run_actions()?;
            }
            return Ok(());
        }
        let mut is_at_rest = self.requests == 0 && self.ops.is_idle();
        if is_at_rest {
            // Every answer goes to the driver first.
            self.ring.submit()?;
            is_at_rest = !self.ring.has_unsubmitted();
        }
        self.parts.shared.rest.note(self.parts.queue, is_at_rest);
        Ok(())
    }

    fn count(&self, op: IoOp) {
        let counters = self.counters();
        match op {
            IoOp::Read { length, .. } => {
                add(&counters.reads, 1);
                add(&counters.read_bytes, length.into());
            }
            IoOp::Write { length, .. } => {
                add(&counters.writes, 1);
                add(&counters.write_bytes, length.into());
            }
            IoOp::Flush => add(&counters.flushes, 1),
            IoOp::Discard { .. } | IoOp::WriteZeroes { .. } => add(&counters.discards, 1),
        }
    }

    fn run_actions(&mut self) -> io::Result<()> {
        loop {
            let mut actions = std::mem::take(&mut self.actions);
            for action in actions.drain(..) {
                self.run_action(action)?;
            }
            self.actions = actions;
            while let Some(done) = self.ops.take_ended() {
                self.parts.shared.volume.complete(&mut self.context, done, &mut self.actions);
            }
            if std::mem::take(&mut self.is_woken) {
                self.parts.shared.volume.resume(&mut self.context, &mut self.actions);
            } else if self.actions.is_empty() {
                return Ok(());
            }
        }
    }

    fn run_action(&mut self, action: Action) -> io::Result<()> {
        match action {
            Action::Lun { op, io } => {
                if !self.registered[usize::from(io.lun().get())] {
                    self.register(io.lun())?;
                }
                self.ops.start(op, io, &mut self.buffers, &mut self.ring);
            }
            Action::ZeroFill { tag, offset, length } => {
                self.buffers.fill_zeros(tag, offset, length);
            }
            Action::Complete { tag, result } => self.answer(tag, result),
            Action::WakeQueue(queue) if queue == self.context.id() => self.is_woken = true,
            wake => wake_up(&self.parts.shared, &wake),
        }
        Ok(())
    }

    fn answer(&mut self, tag: u16, result: Result<(), IoError>) {
        if let Err(error) = result {
            add(&self.counters().failures, 1);
            let volume = self.parts.shared.volume.spec().volume;
            debug!(%volume, queue = self.parts.queue, tag, %error, "request failed");
        }
        self.commit(tag, request::answer(self.lengths[usize::from(tag)], result));
    }

    fn commit(&mut self, tag: u16, result: i32) {
        self.requests -= 1;
        let buffer = self.buffers.address(tag, 0, self.parts.max_io_bytes);
        let entry = commands::commit(self.parts.queue, tag, buffer, result);
        // SAFETY: the buffer outlives the ring, and the engine has ended all I/O on it.
        unsafe { self.ring.push(entry.user_data(REQUEST | u64::from(tag))) };
    }

    fn fetch(&mut self, tag: u16) {
        let buffer = self.buffers.address(tag, 0, self.parts.max_io_bytes);
        let entry = commands::fetch(self.parts.queue, tag, buffer);
        // SAFETY: the buffer outlives the ring, and nothing else uses it yet.
        unsafe { self.ring.push(entry.user_data(REQUEST | u64::from(tag))) };
    }

    fn publish_bytes(&self) {
        let bytes = self.ops.bytes();
        self.counters().lun_read_bytes.store(bytes.read, Ordering::Relaxed);
        self.counters().lun_written_bytes.store(bytes.written, Ordering::Relaxed);
    }
}

/// Runs an action that only wakes somebody.
///
/// # Panics
/// For any other action: those belong to the ring of the queue that was called for.
pub fn wake_up(shared: &DeviceShared, action: &Action) {
    match action {
        Action::WakeQueue(queue) => {
            // The control queue has no thread: whoever runs it sees to its wake-ups itself.
            if let Some(waker) = shared.wakers.get(usize::from(queue.get())) {
                waker.wake();
            }
        }
        Action::WakeControl => shared.control.notify_one(),
        Action::Lun { .. } | Action::ZeroFill { .. } | Action::Complete { .. } => {
            unreachable!("I/O and answers belong to the ring of a queue")
        }
    }
}
