//! A volume on this node: the change that is under way, and what others may see of it meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lunar_types::VolumeId;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::UNPOISONED;
use super::migration::{Turn, Waiting};
use crate::queue::waiting::WaitingShared;
use crate::state::record::Record;
use crate::volume::control::{CheckpointError, Control};
use crate::volume::device::QueueThreads;
use crate::volume::served::ServedVolume;

/// Where a volume is in its life on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewState {
    /// On its way to be served.
    Attaching,
    /// Served.
    Live,
    /// Served, but takes no more writes.
    Poisoned,
    /// On its way out, or stuck there.
    Detaching,
    /// Its device waits: another node owns the volume, or nobody does.
    Waiting,
    /// On its way from one node to the other.
    Moving,
}

/// What others may see of a volume at any time.
#[derive(Clone)]
pub struct View {
    /// Where it is in its life.
    pub state: ViewState,
    /// Why it is not further, if something is wrong.
    pub problem: Option<String>,
    /// What is kept of it.
    pub record: Record,
    /// The volume itself, while it is loaded.
    pub served: Option<Arc<ServedVolume>>,
    /// What its queues hold, while its device waits.
    pub waiting: Option<Arc<WaitingShared>>,
    /// For how long it stays here when another node wants it.
    pub turn: Option<Turn>,
}

/// The task that drives a volume's control side.
pub struct ControlTask {
    stop: watch::Sender<bool>,
    handle: JoinHandle<()>,
}

impl ControlTask {
    /// Starts it.
    #[must_use]
    pub fn start(control: &Arc<Control>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let control = Arc::clone(control);
        let handle = tokio::spawn(async move { control.run(stopped).await });
        Self { stop, handle }
    }

    /// Has it end, and waits for that. It is never cut off: what it has under way with a LUN or the
    /// service would go on without it. Who loses patience may wait again later.
    pub async fn stop(&mut self) {
        self.stop.send_replace(true);
        if !self.handle.is_finished() {
            (&mut self.handle).await.expect("it neither panics nor is cancelled");
        }
    }
}

/// A volume that is loaded.
pub struct Serving {
    /// What is kept of it.
    pub record: Record,
    /// The volume.
    pub served: Arc<ServedVolume>,
    /// Its control side.
    pub control: Arc<Control>,
    /// The task that drives it.
    pub task: ControlTask,
    /// The threads of its device; none once it has been stopped and they have ended.
    pub queues: Option<QueueThreads>,
}

/// What a slot holds.
pub enum Stage {
    /// Nothing: it came to nothing, or is gone.
    Vacant,
    /// A volume that is served.
    Serving(Serving),
    /// A volume whose device is stopped: what is dirty may still have to be committed.
    Stopped(Serving),
    /// A volume of a predecessor that could not be taken over yet.
    Lost(Record),
    /// A device whose volume another node owns.
    Waiting(Waiting),
}

/// A volume on this node.
pub struct Slot {
    /// Which one.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// Held while a change is under way.
    pub gate: Arc<tokio::sync::Mutex<Stage>>,
    /// A person wants the volume here.
    pub moved_here: Notify,
    /// The service speaks to this node as to the volume's owner.
    pub is_said_to_own: Notify,
    /// The queues that served its device last were this process's own, and have ended: no request
    /// of it was begun and not answered.
    owes_nothing: AtomicBool,
    /// A commit before a move that took too long: there is one at a time.
    pub(super) settling: Mutex<Option<JoinHandle<Result<(), CheckpointError>>>>,
    /// How often in a row the volume was given to this node and could not be served.
    failures: AtomicU32,
    view: Mutex<View>,
}

impl Slot {
    /// A slot that holds nothing yet.
    #[must_use]
    pub fn new(record: &Record, stage: Stage) -> Arc<Self> {
        let view = View {
            state: ViewState::Attaching,
            problem: None,
            record: record.clone(),
            served: None,
            waiting: None,
            turn: None,
        };
        Arc::new(Self {
            volume: record.volume,
            name: record.name.clone(),
            gate: Arc::new(tokio::sync::Mutex::new(stage)),
            moved_here: Notify::new(),
            is_said_to_own: Notify::new(),
            owes_nothing: AtomicBool::new(false),
            settling: Mutex::default(),
            failures: AtomicU32::new(0),
            view: Mutex::new(view),
        })
    }

    /// The queues of its device have ended in this process, with nothing begun and not answered.
    pub fn note_ended_here(&self) {
        self.owes_nothing.store(true, Ordering::Relaxed);
    }

    /// Whether a process that was killed may have left requests that its engine has begun.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.owes_nothing.load(Ordering::Relaxed)
    }

    /// Takes down whether the volume could be served when it was given to this node.
    pub fn note_taken(&self, is_served: bool) {
        match is_served {
            true => self.failures.store(0, Ordering::Relaxed),
            false => {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How long to leave the volume to the other node before it is asked for again.
    #[must_use]
    pub fn backoff(&self) -> Duration {
        match self.failures.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            failures => Duration::from_secs(1 << (failures - 1).min(16)),
        }
    }

    /// What can be seen of it now.
    #[must_use]
    pub fn view(&self) -> View {
        let mut view = self.view.lock().expect(UNPOISONED).clone();
        let poison = view.served.as_ref().and_then(|served| served.shared.volume.poison());
        if let Some(why) = poison
            && view.state == ViewState::Live
        {
            view.state = ViewState::Poisoned;
            view.problem = Some(why);
        }
        view
    }

    /// Changes what can be seen of it.
    pub fn show(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.lock().expect(UNPOISONED));
    }
}
