//! The world: disks, the metadata service, nodes with a daemon each, and the users of volumes.
//!
//! One step after the other, each drawn by the seed: a request comes in, a disk executes or
//! delivers, a queue wakes, the control task goes on, the network or an operator does something.
//! There are no threads and no clock; time is a number that steps add to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use lunar_engine::buffer::AlignedBuf;
use lunar_engine::dirty::DirtyIdentity;
use lunar_engine::io::{Action, OpId};
use lunar_engine::volume::{Claim, CommitBatch, QueueContext, Volume};
use lunar_metadata::domain::{Attachment, CommitMap, PruneLayer, ReserveExtents, SealLayer};
use lunar_types::{
    BootId, CommitNumber, Epoch, ExtentAddress, LayerId, NodeIncarnation, NodeSession, VolumeId,
};

use crate::backup::BackedUp;
use crate::calls::Call;
use crate::counters::Counters;
use crate::dice::Dice;
use crate::disk::{Disk, Luns};
use crate::fuse::Fuse;
use crate::guest::Guest;
use crate::journal_faults::{Injected, KnownRing};
use crate::oracle::Moment;
use crate::planted::Planted;
use crate::run::CrashKind;
use crate::scenario::Scenario;
use crate::service::{MetaLink, WorldClock, lun_bytes};
use crate::snapshots::{OpenSet, Snapshot};
use crate::trace::Trace;

/// Why a run does not go on where it was.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The crash that was set has fallen.
    Crash,
    /// Something is wrong, and what.
    Failed(String),
}

/// What a step gives.
pub(crate) type Flow<T = ()> = Result<T, Stop>;

/// A complaint as the end of a run.
pub(crate) fn failed<T>(what: impl Into<String>) -> Flow<T> {
    Err(Stop::Failed(what.into()))
}

/// Memory of a dirty table: a file on tmpfs.
pub(crate) type TableMemory = Arc<Box<[AtomicU64]>>;

/// What outlives a kill of the daemon, but not the loss of the node.
#[derive(Default)]
pub(crate) struct Tmpfs {
    /// Who the daemon was.
    pub(crate) incarnation: Option<NodeIncarnation>,
    /// The dirty tables of its attachments.
    pub(crate) tables: BTreeMap<(VolumeId, Epoch), TableMemory>,
    /// Volumes that were given back with their journals: what these name is not used again.
    pub(crate) kept_journals: BTreeSet<VolumeId>,
}

/// A node, and its daemon.
pub(crate) struct Host {
    /// What the metadata service knows it by.
    pub(crate) name: String,
    /// What a kill of the daemon leaves.
    pub(crate) tmpfs: Tmpfs,
    /// Since when it has power.
    pub(crate) boot: BootId,
    /// The daemon's identity while it runs.
    pub(crate) node: Option<NodeSession>,
    /// What was reserved before a kill, and may be named by a journal.
    pub(crate) quarantine: BTreeSet<ExtentAddress>,
}

impl Host {
    fn new(number: u16) -> Self {
        Self {
            name: format!("node-{number}"),
            tmpfs: Tmpfs::default(),
            boot: BootId::from_u128(u128::from(number) + 1),
            node: None,
            quarantine: BTreeSet::new(),
        }
    }
}

/// A volume that a daemon serves.
pub(crate) struct Served {
    /// On which host.
    pub(crate) host: usize,
    /// The engine.
    pub(crate) volume: Volume,
    /// The contexts of its queues; the last is the control queue's.
    pub(crate) queues: Vec<QueueContext>,
    /// Queues that were woken.
    pub(crate) woken: BTreeSet<usize>,
    /// Whether the control task was woken.
    pub(crate) is_control_woken: bool,
    /// Whose dirty table it has, of how many entries.
    pub(crate) table: (DirtyIdentity, usize),
    /// Under which epoch.
    pub(crate) epoch: Epoch,
    /// The head layer.
    pub(crate) layer: LayerId,
    /// The one after it.
    pub(crate) next_layer: LayerId,
    /// For a planted bug: what the head stood on when it was attached.
    pub(crate) below: Option<LayerId>,
    /// It is paused for a cut.
    pub(crate) is_paused: bool,
    /// It has settled for that, and its vote may be on its way.
    pub(crate) voting: bool,
    /// What the service has said of its chain, on its way: a head, and what lies below it.
    pub(crate) chain_news: Option<(LayerId, Option<LayerId>)>,
    /// A page of a prune whose answer is not known: asked again under its key.
    pub(crate) last_prune: Option<PruneLayer>,
    /// An extent whose copy has not begun.
    pub(crate) claim: Option<Claim>,
    /// The engine is in its next head, and the service has not said so yet.
    pub(crate) pending_seal: Option<SealLayer>,
    /// What was asked of the metadata service.
    pub(crate) call: Option<PendingCall>,
    /// The number of the last commit that was answered.
    pub(crate) commits: CommitNumber,
    /// The batch that is being sent, and the calls that are left of it.
    pub(crate) last_commit: Option<(CommitBatch, VecDeque<CommitMap>)>,
    /// A reservation of which no answer came: asked again under its key.
    pub(crate) last_reserve: Option<ReserveExtents>,
    /// Whether the metadata service has said that the pool is full.
    pub(crate) saw_full: bool,
    /// Whether its users have stopped sending requests.
    pub(crate) is_draining: bool,
    /// Whether it was resumed with uncommitted slots and has not completed a checkpoint since.
    pub(crate) holds_quarantine: bool,
    /// For a planted bug: extents that were put into the reserve before their time.
    pub(crate) reused_early: Vec<ExtentAddress>,
}

impl Served {
    /// Whether the control task has something to go on with.
    pub(crate) fn wants_control(&self) -> bool {
        self.call.is_some() || self.is_control_woken || self.claim.is_some()
    }
}

/// A call on its way.
pub(crate) struct PendingCall {
    /// What was asked.
    pub(crate) call: Call,
    /// The answer, if the service has given one.
    pub(crate) answer: Option<lunar_engine::volume::WorkDone>,
}

/// A command that the daemon waits for.
pub(crate) struct Flight {
    /// Whose.
    pub(crate) guest: usize,
    /// On which queue.
    pub(crate) queue: usize,
    /// The engine's name for it.
    pub(crate) op: OpId,
    /// Where what is read goes.
    pub(crate) target: Target,
}

/// Where what is read goes.
pub(crate) enum Target {
    /// Nothing is read.
    None,
    /// Into a request's buffer from this byte on.
    Request(u16, u32),
    /// Into a buffer of the engine.
    Owned(AlignedBuf),
}

/// Everything.
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) luns: Rc<Luns>,
    pub(crate) meta: MetaLink,
    pub(crate) clock: Arc<WorldClock>,
    pub(crate) scenario: Scenario,
    pub(crate) planted: Option<Planted>,
    pub(crate) moment: Moment,
    pub(crate) guests: Vec<Guest>,
    /// The backup that was begun last, while nobody has said that it is complete.
    pub(crate) open_backup: Option<BackedUp>,
    /// The newest complete one.
    pub(crate) newest_backup: Option<BackedUp>,
    /// Those that were not deleted.
    pub(crate) snapshots: Vec<Snapshot>,
    /// Those of which it is not known whether they came about.
    pub(crate) open_sets: Vec<OpenSet>,
    /// Volumes that were cut as one, by group: which, and when what they show was settled.
    pub(crate) groups: BTreeMap<u64, Vec<(usize, Moment)>>,
    /// By guest.
    pub(crate) served: Vec<Option<Served>>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) boots: u128,
    /// Hosts that are in the middle of something that a crash ends: they do not survive it.
    pub(crate) acting: Vec<usize>,
    /// The call that a procedure waits for.
    pub(crate) sending: Option<Call>,
    /// The crash is set from outside, and stays where it is.
    pub(crate) is_crash_fixed: bool,
    pub(crate) flights: BTreeMap<u64, Flight>,
    pub(crate) next_flight: u64,
    pub(crate) next_number: u32,
    /// A procedure of the operator is under way: no other begins.
    pub(crate) is_busy: bool,
    /// No faults and no outages any more: everything must come to its end.
    pub(crate) is_quiet: bool,
    /// Where each volume's journal was last, for faults of the medium.
    pub(crate) rings: BTreeMap<usize, KnownRing>,
    pub(crate) injected: Option<Injected>,
    pub(crate) trace: Trace,
    pub(crate) counters: Counters,
}

impl World {
    /// A world with an empty pool.
    pub(crate) fn new(seed: u64, planted: Option<Planted>, trace: Trace) -> Self {
        let mut dice = Dice::new(seed);
        let scenario = Scenario::draw(&mut dice);
        let clock = Arc::new(WorldClock::default());
        let disks = (0..scenario.luns).map(|index| new_disk(&scenario, index)).collect();
        let luns = Rc::new(Luns {
            disks: std::cell::RefCell::new(disks),
            dice: std::cell::RefCell::new(Dice::new(dice.any())),
            fuse: Fuse::default(),
            rates: std::cell::Cell::new(scenario.faults),
        });
        let hosts = (1..=scenario.hosts).map(Host::new).collect();
        let mut meta = MetaLink::new(&scenario, &clock);
        meta.late.is_order_unchecked = planted == Some(Planted::LateCommitAccepted);
        Self {
            dice,
            luns,
            meta,
            clock,
            scenario,
            planted,
            moment: 1,
            guests: Vec::new(),
            snapshots: Vec::new(),
            open_backup: None,
            newest_backup: None,
            open_sets: Vec::new(),
            groups: BTreeMap::new(),
            served: Vec::new(),
            hosts,
            boots: 100,
            acting: Vec::new(),
            sending: None,
            is_crash_fixed: false,
            flights: BTreeMap::new(),
            next_flight: 0,
            next_number: 0,
            is_busy: false,
            is_quiet: false,
            rings: BTreeMap::new(),
            injected: None,
            trace,
            counters: Counters::default(),
        }
    }

    /// What happened so far.
    pub(crate) const fn counters(&self) -> Counters {
        let late = &self.meta.late;
        Counters {
            late_calls: late.delivered,
            late_refused: late.refused,
            commits_out_of_order: late.out_of_order,
            ..self.counters
        }
    }

    /// The moment that it is.
    pub(crate) const fn moment(&self) -> Moment {
        self.moment
    }

    /// How many crashes the seed wants.
    pub(crate) const fn crashes(&self) -> u64 {
        self.scenario.crashes
    }

    /// Has only crashes of one kind happen.
    pub(crate) fn crash_only(&mut self, kind: Option<CrashKind>) {
        match kind {
            None => {}
            Some(CrashKind::Kill) => self.scenario.power_cuts = 0,
            Some(CrashKind::Cut) => self.scenario.power_cuts = 1000,
        }
    }

    /// Sets the next crash: at a step of the whole run, or where the seed says.
    pub(crate) fn light_fuse(&mut self, at: Option<u64>) {
        let soon = self.dice.chance(350);
        let within = if soon { 80 } else { self.scenario.crash_within };
        let steps = self.dice.below(within);
        self.is_crash_fixed = at.is_some();
        self.luns.fuse.light(at.unwrap_or(steps));
    }

    /// Makes the volumes of the scenario.
    pub(crate) fn make_volumes(&mut self) -> Result<(), String> {
        for _ in 0..self.scenario.volumes {
            self.create().map_err(|stop| format!("{stop:?}"))?;
        }
        Ok(())
    }

    /// Is it time to crash?
    pub(crate) fn tick(&mut self) -> Flow {
        self.moment += 1;
        if self.luns.fuse.step() { Err(Stop::Crash) } else { Ok(()) }
    }

    /// After something that takes steps of its own: did the crash fall in it?
    pub(crate) fn survived(&self) -> Flow {
        if self.luns.fuse.is_blown() { Err(Stop::Crash) } else { Ok(()) }
    }

    pub(crate) fn now(&self) -> Duration {
        self.meta.now()
    }

    /// Folds something that happened into the fingerprint.
    pub(crate) fn mark(&mut self, what: u64) {
        let print = self.counters.fingerprint ^ what;
        self.counters.fingerprint = print.wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
    }

    /// One step of the world.
    pub(crate) fn step(&mut self) -> Flow {
        self.clock.advance(Duration::from_micros(self.dice.below(4000)));
        let (submitted, executed) = self.commands();
        let woken = self.served().filter(|(_, served)| !served.woken.is_empty()).count() as u64;
        let control = self.served().filter(|(_, served)| served.wants_control()).count() as u64;
        let serves = u64::from(self.served().next().is_some());
        let weights = [
            serves * 30,
            submitted.min(4) * 20,
            executed.min(4) * 20,
            woken * 30,
            control * 20 + serves * 2,
            2,
            if self.is_busy || self.is_quiet || !self.all_are_up() { 0 } else { 4 },
        ];
        match self.dice.weighted(&weights).expect("some weight is never zero") {
            0 => self.submit_step(),
            1 => self.execute_step(),
            2 => self.deliver_step(),
            3 => self.wake_step(),
            4 => self.control_step(),
            5 => self.network_step(),
            _ => self.operator_step(),
        }
    }

    pub(crate) fn served(&self) -> impl Iterator<Item = (usize, &Served)> {
        self.served.iter().enumerate().filter_map(|(guest, s)| Some((guest, s.as_ref()?)))
    }

    /// One of the served volumes for which this holds.
    pub(crate) fn pick_served(&mut self, holds: impl Fn(&Served) -> bool) -> Option<usize> {
        let all: Vec<usize> =
            self.served().filter(|(_, served)| holds(served)).map(|(guest, _)| guest).collect();
        (!all.is_empty()).then(|| self.dice.one_of(&all))
    }

    pub(crate) fn serving(&mut self, guest: usize) -> &mut Served {
        self.served[guest].as_mut().expect("the volume is served")
    }

    fn commands(&self) -> (u64, u64) {
        let disks = self.luns.disks.borrow();
        let sum = |count: fn(&Disk) -> usize| disks.iter().map(count).sum::<usize>() as u64;
        (sum(Disk::submitted), sum(Disk::executed))
    }

    /// The network comes, goes and delivers late; the service goes on with its own work.
    pub(crate) fn network_step(&mut self) -> Flow {
        self.tick()?;
        if !self.meta.is_up {
            if self.is_quiet || self.dice.chance(60) {
                self.meta.is_up = true;
                if self.dice.chance(300) {
                    self.meta.restart().map_err(|e| Stop::Failed(format!("restart: {e}")))?;
                }
            }
            return Ok(());
        }
        if !self.is_quiet && self.dice.chance(self.scenario.outage * 30) {
            self.meta.is_up = false;
        }
        if self.dice.chance(300) {
            self.deliver_late()?;
        }
        if !self.is_quiet {
            self.meta.plan_store_faults(&mut self.dice);
        }
        self.step_operations()
    }

    pub(crate) fn step_operations(&mut self) -> Flow {
        use lunar_metadata::seams::block_on;
        match block_on(self.meta.service().step_operations()) {
            Ok(_) => Ok(()),
            Err(error) => failed(format!("an operation of the metadata service: {error}")),
        }
    }

    /// Runs steps until this holds.
    pub(crate) fn run_until(
        &mut self,
        what: &str,
        bound: u64,
        holds: impl Fn(&Self) -> bool,
    ) -> Flow {
        let mut left = bound;
        while !holds(self) {
            if left == 0 {
                return failed(format!("{what} did not come about within {bound} steps"));
            }
            // Nothing has to come about while the metadata service is away.
            left -= u64::from(self.meta.is_up);
            self.step()?;
        }
        Ok(())
    }

    /// Lets others go on for a while, in the middle of a procedure.
    pub(crate) fn meanwhile(&mut self) -> Flow {
        for _ in 0..self.dice.below(12) {
            self.step()?;
        }
        Ok(())
    }

    /// Runs actions of a volume's queue, with a place to crash before each.
    pub(crate) fn run_actions(&mut self, guest: usize, queue: usize, actions: Vec<Action>) -> Flow {
        self.acting.push(self.host_of(guest));
        for action in actions {
            self.tick()?;
            self.run_action(guest, queue, action)?;
        }
        self.acting.pop();
        Ok(())
    }

    /// Where a volume is served.
    pub(crate) fn host_of(&self, guest: usize) -> usize {
        self.served[guest].as_ref().expect("the volume is served").host
    }

    /// The daemon of a host as its calls name it.
    pub(crate) fn caller(&self, host: usize) -> NodeSession {
        self.hosts[host].node.expect("the daemon runs")
    }

    /// The daemon that serves a volume.
    pub(crate) fn holder(&self, guest: usize) -> NodeSession {
        self.caller(self.host_of(guest))
    }

    /// The host to which an attachment was granted.
    pub(crate) fn host_with(&self, attachment: &Attachment) -> usize {
        let is_it = |host: &Host| host.node.is_some_and(|node| node.node == attachment.node);
        self.hosts.iter().position(is_it).expect("an attachment in use is of a daemon that runs")
    }

    /// Whether every host's daemon runs.
    pub(crate) fn all_are_up(&self) -> bool {
        self.hosts.iter().all(|host| host.node.is_some())
    }
}

/// A LUN of this scenario.
pub(crate) fn new_disk(scenario: &Scenario, index: u16) -> Disk {
    Disk::new(index, lun_bytes(scenario), scenario.lun_block.bytes())
}
