//! A LUN at which this incarnation registers, and stays registered.
//!
//! Invariants:
//! - the LUN's gate opens only after the registration was seen on every path, with the reservation,
//!   and the service has confirmed it since (F1, F7);
//! - a key is registered only with the gate closed and nothing under way. Of a process before this
//!   one nothing is under way either: the LUN is claimed (O_EXCL), and the kernel gives the claim
//!   away when the last I/O of the file that had it has ended;
//! - keys of incarnations that are gone for good are taken away before the registration is
//!   confirmed;
//! - keys of other clusters are never touched.
//!
//! Crash order: intent stored → key registered → reservation → stale keys taken away → confirmed →
//! gate opened. A crash between leaves a key without I/O, which is taken away as a gone one's.

use std::sync::Arc;
use std::time::Duration;

use lunar_types::{ClusterId, LunId, NodeIncarnation, RegistrationKey};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::guard::{Authority, BootTime, Gate, LunGuard};
use crate::metadata::{Metadata, MetadataError};
use crate::reservation::{Array, ArrayError, Finding, Sight};

/// How often the LUN is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The same while somebody waits for it: the service does not answer, or the gate is closed.
const LOOK_SOON: Duration = Duration::from_millis(100);
/// How often it is asked whose the other keys are.
const JUDGE: Duration = Duration::from_secs(10);
/// How long a look may take before the node no longer relies on it.
const LOOK_LIMIT: Duration = Duration::from_secs(8);

/// The incarnation cannot use a LUN.
#[derive(Debug, thiserror::Error)]
pub enum StationError {
    /// The array does not do what it was asked.
    #[error(transparent)]
    Array(#[from] ArrayError),
    /// The service refuses, or is away.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// What the LUN shows forbids it.
    #[error("{}", describe(.0))]
    Finding(Finding),
    /// The victim's key is back, or somebody else's work is in the way.
    #[error("the key of {0} is still registered after it was taken away")]
    StillThere(NodeIncarnation),
}

fn describe(finding: &Finding) -> String {
    match finding {
        Finding::ForeignKeys(keys) => {
            let keys: Vec<_> = keys.iter().map(|key| format!("{key:#018x}")).collect();
            format!(
                "keys that are not of this cluster are registered there ({}): the LUN belongs to \
                 somebody else; if it does not, remove them with sg_persist or nvme resv-register",
                keys.join(", ")
            )
        }
        Finding::ForeignReservation(held) => format!(
            "it is reserved by somebody else ({}, key {:#018x}): release that reservation first",
            held.kind, held.key
        ),
        Finding::PathsUnregistered { registered, paths } => format!(
            "the key of this node is registered on {registered} of {paths} paths: bring the \
             others up, or remove them"
        ),
        Finding::Unprotected => "its reservation is gone: anybody could write".to_owned(),
        Finding::Ready => "nothing keeps it".to_owned(),
    }
}

/// What a station is made of.
pub struct StationParts {
    /// Which LUN.
    pub lun: LunId,
    /// Its gate.
    pub guard: Arc<LunGuard>,
    /// Its array.
    pub array: Arc<dyn Array>,
    /// The service.
    pub metadata: Arc<dyn Metadata>,
    /// The node's right to do I/O.
    pub authority: Arc<Authority>,
    /// Who registers.
    pub node: NodeIncarnation,
    /// Of which cluster.
    pub cluster: ClusterId,
}

/// A LUN at which this incarnation registers.
pub struct Station {
    pub(super) parts: StationParts,
    pub(super) own: RegistrationKey,
}

impl Station {
    /// A LUN at which nothing was done yet.
    #[must_use]
    pub fn new(parts: StationParts) -> Self {
        let own = RegistrationKey::of(parts.cluster, parts.node);
        Self { parts, own }
    }

    /// Asks the array; it may take as long as the LUN does not answer.
    pub(super) async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Array) -> Result<R, ArrayError> + Send + 'static,
    ) -> Result<R, ArrayError> {
        let array = Arc::clone(&self.parts.array);
        let asked = tokio::task::spawn_blocking(move || question(&*array));
        asked.await.expect("asking an array neither panics nor is cancelled")
    }

    pub(super) async fn look(&self) -> Result<Sight, ArrayError> {
        self.ask(|array| array.look()).await
    }

    /// Registers, and opens the gate. The gate is closed and nothing is under way. It registers
    /// also where the key is there already: that says that *a* port has it, not that this host's
    /// have.
    ///
    /// # Errors
    /// See [`StationError`]; the gate stays closed.
    ///
    /// # Panics
    /// When I/O is under way.
    pub async fn register(&self) -> Result<(), StationError> {
        let mut sight = self.look().await?;
        if let finding @ (Finding::ForeignKeys(_) | Finding::ForeignReservation(_)) =
            sight.finding(self.own)
        {
            return Err(StationError::Finding(finding));
        }
        assert_eq!(self.parts.guard.under_way(), 0, "F7: it registers drained");
        let own = self.own;
        self.ask(move |array| array.register(own)).await?;
        sight = self.look().await?;
        if sight.finding(self.own) == Finding::Unprotected {
            let own = self.own;
            match self.ask(move |array| array.reserve(own)).await {
                // Somebody was first, with the same or another one: it is looked at.
                Ok(()) | Err(ArrayError::Conflict { .. }) => {}
                Err(problem) => return Err(problem.into()),
            }
            sight = self.look().await?;
        }
        match sight.finding(self.own) {
            Finding::Ready => {}
            finding => return Err(StationError::Finding(finding)),
        }
        self.remove_gone(&sight).await?;
        let StationParts { lun, node, .. } = self.parts;
        self.parts.metadata.confirm_registration(node, lun, sight.paths).await?;
        self.parts.guard.thaw();
        info!(%lun, %node, key = %self.own, paths = sight.paths, "registered at the LUN");
        Ok(())
    }

    /// Takes the keys of incarnations away that are gone for good.
    async fn remove_gone(&self, sight: &Sight) -> Result<(), StationError> {
        let others = sight.others(self.own);
        if others.is_empty() {
            return Ok(());
        }
        for gone in self.parts.metadata.judge_keys(self.parts.node, others).await? {
            let (own, victim) = (self.own, RegistrationKey::of(self.parts.cluster, gone));
            match self.ask(move |array| array.preempt_and_abort(own, victim)).await {
                Ok(()) => info!(lun = %self.parts.lun, %gone, "its key was taken away"),
                // Another node was first, or it was replaced by its node's next one.
                Err(ArrayError::Conflict { .. }) => {}
                Err(problem) => return Err(problem.into()),
            }
        }
        Ok(())
    }

    /// Looks at the LUN for as long as the incarnation lasts: vouches for the node by its key while
    /// the service is away, closes the gate when key or reservation are gone, and registers again
    /// once the service has said since that the incarnation is what it was.
    pub async fn watch(&self) {
        let mut watch = Watch::default();
        while !self.parts.authority.is_over() {
            let is_closed = self.parts.guard.gate() != Gate::Open;
            let is_awaited = is_closed || self.parts.guard.needs_vouching(BootTime::now());
            let pause = if is_awaited { LOOK_SOON } else { LOOK };
            let _alarmed = tokio::time::timeout(pause, self.parts.guard.alarm.notified()).await;
            if is_awaited {
                self.parts.authority.ask.notify_one();
            }
            self.watch_once(&mut watch).await;
        }
    }

    async fn watch_once(&self, watch: &mut Watch) {
        let guard = &self.parts.guard;
        let (look, sight) = match watch.pending.take() {
            None => {
                let look = guard.begin_look();
                let array = Arc::clone(&self.parts.array);
                (Some(look), tokio::task::spawn_blocking(move || array.look()))
            }
            // One that was late: what was read since it began is not vouched for by it.
            Some(late) => (None, late),
        };
        let mut sight = sight;
        let Ok(answer) = tokio::time::timeout(LOOK_LIMIT, &mut sight).await else {
            watch.pending = Some(sight);
            if guard.needs_vouching(BootTime::now()) {
                guard.freeze("neither the service nor the array answers");
            }
            return;
        };
        let sight = match answer.expect("a look neither panics nor is cancelled") {
            Ok(sight) => sight,
            Err(problem) => {
                watch.tell(self.parts.lun, &problem.to_string());
                return;
            }
        };
        match sight.standing(self.own) {
            Finding::Ready => {
                watch.told = None;
                if let Some(look) = look {
                    guard.vouch(look);
                }
                self.reinstate(watch).await;
                self.judge_now_and_then(watch, &sight).await;
            }
            finding => {
                guard.freeze(&describe(&finding));
                self.reinstate(watch).await;
            }
        }
    }

    /// Registers again where the gate is closed, if the service has said since that it may, and
    /// nothing is under way. Also where the key is there: a conflict with it may come of a port
    /// that has logged in anew.
    async fn reinstate(&self, watch: &mut Watch) {
        let Gate::Frozen { since, .. } = self.parts.guard.gate() else { return };
        self.parts.guard.drained().await;
        if self.parts.authority.acknowledged() <= since {
            return;
        }
        if let Err(problem) = self.register().await {
            watch.tell(self.parts.lun, &problem.to_string());
        }
    }

    async fn judge_now_and_then(&self, watch: &mut Watch, sight: &Sight) {
        let now = BootTime::now();
        let is_due = watch.judged.is_none_or(|at| now.since(at) >= JUDGE);
        if !is_due {
            return;
        }
        watch.judged = Some(now);
        if let Err(problem) = self.remove_gone(sight).await {
            watch.tell(self.parts.lun, &problem.to_string());
        }
        if let Finding::ForeignKeys(_) = sight.finding(self.own) {
            watch.tell(self.parts.lun, &describe(&sight.finding(self.own)));
        }
    }
}

/// What a watch remembers from one look to the next.
#[derive(Default)]
struct Watch {
    pending: Option<JoinHandle<Result<Sight, ArrayError>>>,
    judged: Option<BootTime>,
    told: Option<String>,
}

impl Watch {
    /// Says what is wrong, once.
    fn tell(&mut self, lun: LunId, problem: &str) {
        if self.told.as_deref() != Some(problem) {
            warn!(%lun, problem, "a LUN with reservations needs attention");
            self.told = Some(problem.to_owned());
        }
    }
}
