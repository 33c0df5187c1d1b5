//! The node of a sweep: the metadata service, the LUNs, and the daemon that serves one volume.
//!
//! One step after the other, in a fixed order: commands of one answer of the engine are all sent,
//! then end in the order in which they were sent.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;

use lunar_engine::io::{Action, IoError, IoOp, IoRequest, LunDone, LunIo, OpId, Part, QueueId};
use lunar_engine::volume::{QueueContext, Volume};
use lunar_metadata::domain::SealLayer;
use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_metadata::service::{Seams, Service, Settings, Step};
use lunar_types::{BootId, CommitNumber, Epoch, LayerId, NodeIncarnation, NodeSession, RequestId};

use super::medium::{Image, Medium};
use super::model::{Expected, WriteNumber};
use super::ops::Made;
use super::record::{Pending, Recorder};
use super::shape;
use super::store::{MemoryStore, StoreImage};
use crate::journal_faults::is_journal;
use crate::planted::Planted;
use crate::service::{SeedIds, WorldClock};
use crate::stamp::{SECTOR_BYTES, Stamp};

/// What is wrong, in words.
pub(super) type Outcome<T = ()> = Result<T, String>;

/// The volume as the daemon serves it.
pub(super) struct Serving {
    pub(super) engine: Volume,
    pub(super) queues: Vec<QueueContext>,
    pub(super) epoch: Epoch,
    pub(super) layer: LayerId,
    pub(super) next_layer: LayerId,
    pub(super) commits: CommitNumber,
    /// The engine is in its next head, and the service has not said so yet.
    pub(super) pending_seal: Option<SealLayer>,
    pub(super) is_control_woken: bool,
    woken: BTreeSet<usize>,
    flights: VecDeque<Flight>,
    /// The one request: its buffer, and how it ended.
    buffer: Vec<u8>,
    ended: Option<Result<(), IoError>>,
}

/// A command on its way.
struct Flight {
    queue: usize,
    op: OpId,
    command: Command,
}

enum Command {
    /// Into the buffer of the request.
    Read {
        lun: u16,
        at: u64,
        offset: usize,
        length: usize,
    },
    /// Into a buffer of the engine.
    ReadOwned {
        lun: u16,
        at: u64,
        buffer: lunar_engine::buffer::AlignedBuf,
    },
    Write {
        id: u64,
    },
    Flush {
        covered: Vec<u64>,
    },
}

/// Everything of a run.
pub(super) struct Node {
    pub(super) service: Service<MemoryStore>,
    store: MemoryStore,
    pub(super) medium: Rc<RefCell<Medium>>,
    pub(super) recorder: Rc<RefCell<Recorder>>,
    pub(super) planted: Option<Planted>,
    pub(super) session: Option<NodeSession>,
    pub(super) boot: BootId,
    /// The service's.
    pub(super) clock: Arc<WorldClock>,
    pub(super) serving: Option<Serving>,
    last_request: u128,
    pub(super) last_write: WriteNumber,
    /// What can be deleted, the newest last.
    pub(super) made: Vec<Made>,
    pub(super) last_made: u32,
}

/// As an error of a sweep.
pub(super) fn told<T, E: Display>(what: &str, result: Result<T, E>) -> Outcome<T> {
    result.map_err(|error| format!("{what}: {error}"))
}

impl Serving {
    /// An engine that was just started.
    pub(super) fn new(engine: Volume, epoch: Epoch, layers: (LayerId, LayerId)) -> Self {
        let queues = (0..=shape::QUEUES).map(|queue| engine.queue(QueueId::new(queue))).collect();
        Self {
            engine,
            queues,
            epoch,
            layer: layers.0,
            next_layer: layers.1,
            commits: CommitNumber::default(),
            pending_seal: None,
            is_control_woken: true,
            woken: BTreeSet::new(),
            flights: VecDeque::new(),
            buffer: Vec::new(),
            ended: None,
        }
    }
}

impl Node {
    /// A node and its service on this store and these LUNs. Requests are numbered from
    /// `requests` on, so that nothing is taken for a repetition of an earlier run's.
    pub(super) fn new(
        (image, store, requests): (Image, StoreImage, u128),
        planted: Option<Planted>,
        is_recording: bool,
    ) -> Outcome<Self> {
        let recorder = Rc::new(RefCell::new(Recorder::new(Expected::new(shape::SECTORS))));
        let told_to = is_recording.then(|| Rc::clone(&recorder));
        let medium = Medium::new(image, shape::lun_sizes(), told_to);
        let store = MemoryStore::of(store);
        let clock = Arc::new(WorldClock::default());
        let ids = Arc::new(SeedIds::from(requests as u64));
        let seams = Seams { clock: Arc::<WorldClock>::clone(&clock), ids };
        let service = block_on(Service::open(store.clone(), seams, Settings::default()));
        Ok(Self {
            service: told("the service does not start", service)?,
            store,
            medium: Rc::new(RefCell::new(medium)),
            recorder,
            planted,
            session: None,
            boot: BootId::from_u128(requests + 1),
            clock,
            serving: None,
            last_request: requests,
            last_write: 0,
            made: Vec::new(),
            last_made: 0,
        })
    }

    /// An idempotency key that was not used before.
    pub(super) fn fresh_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId::from_u128(self.last_request)
    }

    /// The daemon as its calls name it.
    pub(super) fn caller(&self) -> NodeSession {
        self.session.expect("the daemon has joined")
    }

    /// As whom it runs.
    pub(super) fn incarnation(&self) -> NodeIncarnation {
        self.caller().node
    }

    pub(super) fn serving(&mut self) -> &mut Serving {
        self.serving.as_mut().expect("the volume is served")
    }

    /// Whether a planted bug is this one.
    pub(super) fn has(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    /// A moment at which a crash may fall.
    pub(super) fn mark(&self) {
        self.medium.borrow().mark();
    }

    /// Makes a call; each of its transactions is a moment.
    pub(super) fn call<T>(
        &mut self,
        what: &str,
        call: impl FnOnce(&Service<MemoryStore>) -> Result<T, ServiceError>,
    ) -> Outcome<T> {
        let answer = call(&self.service);
        for image in self.store.take_commits() {
            self.recorder.borrow_mut().store = image;
            self.mark();
        }
        told(what, answer)
    }

    /// Makes a call that changes what there has to be. A crash in it leaves it as before or after.
    pub(super) fn changing_call<T>(
        &mut self,
        what: &str,
        after: Expected,
        call: impl FnOnce(&Service<MemoryStore>) -> Result<T, ServiceError>,
    ) -> Outcome<T> {
        self.recorder.borrow_mut().expected.push(Rc::new(after));
        let answer = self.call(what, call)?;
        let mut recorder = self.recorder.borrow_mut();
        let after = recorder.sure();
        recorder.expect(after);
        drop(recorder);
        self.mark();
        Ok(answer)
    }

    /// The service does all that it can do by itself; gives whether there was anything.
    pub(super) fn run_operations(&mut self) -> Outcome<bool> {
        for step in 0..1000 {
            let done = self.call("an operation", |service| block_on(service.step_operations()))?;
            if done == Step::Idle {
                return Ok(step > 0);
            }
        }
        Err("the operations of the service do not end".to_owned())
    }

    /// Gives a request to the engine and waits for its end; gives its buffer.
    pub(super) fn request(&mut self, pending: Pending) -> Outcome<Vec<u8>> {
        let Pending { queue, op, write } = pending;
        let buffer = buffer_of(op, write);
        let serving = self.serving();
        serving.buffer = buffer;
        serving.ended = None;
        let id = lunar_engine::io::RequestId { queue: QueueId::new(queue), tag: 0 };
        let mut out = Vec::new();
        let context = &mut serving.queues[usize::from(queue)];
        serving.engine.submit(context, IoRequest { id, op }, &mut out);
        self.run(usize::from(queue), out)?;
        if self.serving().ended.is_none() {
            // It waits for an extent.
            self.run_control()?;
        }
        match self.serving().ended.take() {
            Some(Ok(())) => Ok(std::mem::take(&mut self.serving().buffer)),
            Some(Err(error)) => Err(format!("{op:?} failed: {error}")),
            None => Err(format!("{op:?} does not end")),
        }
    }

    /// Runs actions of the engine until nothing is under way.
    pub(super) fn run(&mut self, queue: usize, actions: Vec<Action>) -> Outcome {
        self.take(queue, actions);
        loop {
            if let Some(flight) = self.serving().flights.pop_front() {
                self.end(flight);
                continue;
            }
            let serving = self.serving();
            let Some(queue) = serving.woken.pop_first() else { return Ok(()) };
            let mut out = Vec::new();
            serving.engine.resume(&mut serving.queues[queue], &mut out);
            self.take(queue, out);
        }
    }

    fn take(&mut self, queue: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Lun { op, io } => {
                    let command = self.send(queue, io);
                    self.serving().flights.push_back(Flight { queue, op, command });
                }
                Action::ZeroFill { offset, length, .. } => {
                    let range = offset as usize..(offset + length) as usize;
                    self.serving().buffer[range].fill(0);
                }
                Action::Complete { result, .. } => self.serving().ended = Some(result),
                Action::WakeQueue(woken) => {
                    self.serving().woken.insert(usize::from(woken.get()));
                }
                Action::WakeControl => self.serving().is_control_woken = true,
            }
        }
    }

    /// Sends a command of the engine to its LUN.
    fn send(&mut self, queue: usize, io: LunIo) -> Command {
        let lun = io.lun().get();
        let is_durable = |durable: bool| durable && !self.has(Planted::FuaNotDurable);
        let from = queue as u16;
        match io {
            LunIo::Read { at, offset, length, .. } => {
                let (offset, length) = (offset as usize, length as usize);
                Command::Read { lun, at, offset, length }
            }
            LunIo::ReadOwned { at, buffer, .. } => Command::ReadOwned { lun, at, buffer },
            LunIo::Write { at, offset, length, durable, .. } => {
                let how = (from, false, is_durable(durable));
                let parts = [Part::Request { offset, length }];
                let bytes = self.gather(&parts);
                Command::Write { id: self.medium.borrow_mut().submit(how, lun, at, bytes) }
            }
            LunIo::WriteParts { at, parts, durable, .. } => {
                let how = (from, false, is_durable(durable));
                let bytes = self.gather(&parts);
                Command::Write { id: self.medium.borrow_mut().submit(how, lun, at, bytes) }
            }
            LunIo::WriteOwned { at, buffer, durable, .. } => {
                let is_lied = self.has(Planted::CopyNotDurable) && !is_journal(buffer.as_bytes());
                let how = (from, true, durable && !is_lied);
                let bytes = buffer.as_bytes().into();
                Command::Write { id: self.medium.borrow_mut().submit(how, lun, at, bytes) }
            }
            LunIo::Flush { .. } => Command::Flush { covered: self.covered(queue, lun) },
        }
    }

    /// What a flush covers; planted bugs have it cover less.
    fn covered(&self, queue: usize, lun: u16) -> Vec<u64> {
        let is_control = queue == usize::from(shape::QUEUES);
        let only = self.has(Planted::FlushMissesOtherQueue).then_some(queue as u16);
        if is_control && self.has(Planted::CommitBeforeDataFlush) {
            return Vec::new();
        }
        self.medium.borrow().covered(lun, only)
    }

    fn gather(&mut self, parts: &[Part]) -> Rc<[u8]> {
        let mut bytes = Vec::new();
        for part in parts {
            match part {
                Part::Request { offset, length } => {
                    let range = *offset as usize..(offset + length) as usize;
                    bytes.extend_from_slice(&self.serving().buffer[range]);
                }
                Part::Zeros { length } => bytes.resize(bytes.len() + *length as usize, 0),
                Part::Owned { buffer, offset, length } => {
                    let range = *offset as usize..(offset + length) as usize;
                    bytes.extend_from_slice(&buffer.as_bytes()[range]);
                }
            }
        }
        bytes.into()
    }

    /// A command ends.
    fn end(&mut self, flight: Flight) {
        let Flight { queue, op, command } = flight;
        let mut buffer = None;
        match command {
            Command::Read { lun, at, offset, length } => {
                let medium = Rc::clone(&self.medium);
                let into = &mut self.serving().buffer[offset..offset + length];
                medium.borrow().read(lun, at, into);
            }
            Command::ReadOwned { lun, at, buffer: mut into } => {
                self.medium.borrow().read(lun, at, into.as_mut_bytes());
                buffer = Some(into);
            }
            Command::Write { id } => self.medium.borrow_mut().complete(id),
            Command::Flush { covered } => self.medium.borrow_mut().flushed(&covered),
        }
        let mut out = Vec::new();
        let serving = self.serving();
        let done = LunDone { op, result: Ok(()), buffer };
        serving.engine.complete(&mut serving.queues[queue], done, &mut out);
        self.take(queue, out);
    }
}

/// The buffer of a request: stamps of what it writes.
fn buffer_of(op: IoOp, write: WriteNumber) -> Vec<u8> {
    match op {
        IoOp::Read { length, .. } => vec![0xee; length as usize],
        IoOp::Write { offset, length, .. } => {
            let mut buffer = vec![0; length as usize];
            let first = offset / SECTOR_BYTES as u64;
            for (n, bytes) in buffer.chunks_exact_mut(SECTOR_BYTES).enumerate() {
                Stamp::Written { volume: 0, sector: first + n as u64, write }.fill(bytes);
            }
            buffer
        }
        IoOp::Flush | IoOp::Discard { .. } | IoOp::WriteZeroes { .. } => Vec::new(),
    }
}
