//! Long work in steps, each one bounded transaction.
//!
//! Invariants:
//! - an operation is in the store before anything of it is done, and until everything is;
//! - a step leaves the store consistent and says nothing that the next step needs: whoever comes
//!   next, after a restart or in another process, goes on from what the store holds;
//! - an operation that waits for room is passed over: it makes no step and keeps nobody busy. It is
//!   tried again when it has waited for a while on this process's clock, and when this process
//!   hears of room: see `waits`;
//! - damage that one operation, set or record meets stops nothing else: see `damage`;
//! - two processes may step the same operation: their transactions conflict, one of them runs
//!   again and finds the work done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lunar_proto::domain::{Operation, OperationId, OperationWork, Page, PageRequest, RoomWanted};
use lunar_types::{NodeIncarnation, VolumeId};
use tracing::{info, warn};

use super::attachments::drop_stale_journal;
use super::backups::step_free_quarantine;
use super::damage::is_damage;
use super::drop_layer::{step_drop, waits_for};
use super::horizon::free_reserved;
use super::layers::seal_head;
use super::nodes::next_reclaimable;
use super::paging::page;
use super::waits::Moved;
use super::{Service, next_number};
use crate::error::ServiceError;
use crate::keyspace::{
    AttachmentKey, Counter, CounterKey, CounterRecord, Generation, IdempotencyKey, Key as _,
    KeyedTxn, LayerName, MergePass, OperationKey, OperationRecord, PoolVolumeKey, Scanned,
    TypedRange, VolumeKey, VolumeRecord, requests_before, runs_of, stale_journals_of,
};
use crate::store::{MetaStore, Txn};

/// Journals that one step frees.
const JOURNALS_PER_STEP: usize = 16;
/// Reserved groups that one step takes back.
const GROUPS_PER_STEP: usize = 128;
/// Operations that one transaction looks at for one that need not wait.
const OPERATIONS_PER_LOOK: usize = 100;
/// Requests that one step forgets.
const REQUESTS_PER_STEP: usize = 500;

/// What a step has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// There is nothing to do now.
    Idle,
    /// Something was done; there may be more.
    Worked,
}

/// Where this process is in its round of operations and in the life of a generation.
pub(super) struct Progress {
    state: Mutex<Round>,
}

struct Round {
    /// The operation that was stepped last.
    last: OperationId,
    /// The generation of requests that was seen last, and since when.
    generation: u64,
    since: Duration,
}

impl Progress {
    pub(super) fn new(started: Duration) -> Self {
        let round = Round { last: OperationId::new(0), generation: 0, since: started };
        Self { state: Mutex::new(round) }
    }

    fn lock(&self) -> MutexGuard<'_, Round> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees a generation; says for how long it has been the same.
    fn see_generation(&self, generation: u64, now: Duration) -> Duration {
        let mut round = self.lock();
        if round.generation != generation {
            (round.generation, round.since) = (generation, now);
        }
        now.saturating_sub(round.since)
    }
}

/// Puts an operation into the store.
pub(crate) async fn begin_operation<T: Txn>(
    txn: &T,
    work: OperationWork,
) -> Result<(), ServiceError> {
    let operation = OperationId::new(next_number(txn, Counter::Operation).await?);
    let record = OperationRecord { work, pass: MergePass::begin(None) };
    txn.put(&OperationKey { operation }, &record);
    Ok(())
}

/// Frees journals, then drops the head and forgets the volume.
async fn step_delete<T: Txn>(
    txn: &T,
    operation: OperationId,
    volume: VolumeId,
) -> Result<(), ServiceError> {
    let record = txn.load_known(&VolumeKey { volume }).await?;
    if let Some(held) = txn.load(&AttachmentKey { volume }).await? {
        let (node, epoch) = (held.node, held.epoch);
        let problem = format!("it is being deleted, and {node} holds it under epoch {epoch}");
        return Err(ServiceError::corrupt(format!("volume {volume}"), problem));
    }
    if free_journals(txn, volume, &record).await? == Step::Worked {
        return Ok(());
    }
    seal_head(txn, &record, LayerName::Nameless).await?;
    begin_operation(txn, OperationWork::DropLayer(record.head)).await?;
    txn.remove(&PoolVolumeKey { pool: record.pool, volume });
    txn.remove(&VolumeKey { volume });
    txn.remove(&OperationKey { operation });
    Ok(())
}

async fn free_journals<T: Txn>(
    txn: &T,
    volume: VolumeId,
    record: &VolumeRecord,
) -> Result<Step, ServiceError> {
    let stale = txn.scan(&stale_journals_of(volume), JOURNALS_PER_STEP).await?;
    for (key, journal) in &stale {
        drop_stale_journal(txn, volume, record, key.epoch, journal).await?;
    }
    Ok(if stale.is_empty() { Step::Idle } else { Step::Worked })
}

/// Takes back what an incarnation that is gone had reserved.
async fn step_reclaim<T: Txn>(
    txn: &T,
    operation: OperationId,
    gone: NodeIncarnation,
) -> Result<(), ServiceError> {
    let groups = next_reclaimable(txn, gone, GROUPS_PER_STEP).await?;
    if groups.is_empty() {
        txn.remove(&OperationKey { operation });
    }
    for of_pool in groups.chunk_by(|(one, _), (other, _)| one.pool == other.pool) {
        let mut runs = Vec::new();
        for (key, bits) in of_pool {
            runs_of(key.lun, key.group, bits, &mut runs);
            txn.remove(key);
        }
        let (key, _) = of_pool.first().expect("a chunk is not empty");
        free_reserved(txn, (key.pool, gone), &runs).await?;
    }
    Ok(())
}

async fn step<T: Txn>(txn: &T, operation: OperationId) -> Result<Option<Moved>, ServiceError> {
    let Some(record) = txn.load(&OperationKey { operation }).await? else { return Ok(None) };
    match record.work {
        OperationWork::DeleteVolume(volume) => step_delete(txn, operation, volume).await?,
        OperationWork::ReclaimReservations(gone) => step_reclaim(txn, operation, gone).await?,
        OperationWork::DropLayer(layer) => {
            return step_drop(txn, (operation, record), layer).await;
        }
        OperationWork::FreeQuarantine(before) => {
            step_free_quarantine(txn, &OperationKey { operation }, before).await?;
        }
    }
    Ok(None)
}

/// What an operation waits for.
async fn waiting<T: Txn>(
    txn: &T,
    record: &OperationRecord,
) -> Result<Option<RoomWanted>, ServiceError> {
    match record.work {
        OperationWork::DropLayer(layer) => waits_for(txn, layer, record.pass).await,
        OperationWork::DeleteVolume(_)
        | OperationWork::ReclaimReservations(_)
        | OperationWork::FreeQuarantine(_) => Ok(None),
    }
}

/// What an operation that is looked at has to do now.
enum Turn {
    /// It need not wait.
    Ready,
    /// It waits for room, or has met damage.
    Rests,
}

/// The first operation of a range that need not wait, or where to look on; and what was met that
/// cannot be read.
async fn first_ready<T: Txn>(
    txn: &T,
    range: &TypedRange<OperationKey>,
    turn_of: &(impl Fn(OperationId, OperationWork, Option<RoomWanted>) -> Turn + Sync),
) -> Result<(Look, Vec<ServiceError>), ServiceError> {
    let read = range.first(OPERATIONS_PER_LOOK).as_snapshot();
    let Scanned { entries, mut damaged, more_after } = txn.scan_sound::<OperationKey>(read).await?;
    for (key, record) in &entries {
        let turn = match waiting(txn, record).await {
            Ok(wanted) => turn_of(key.operation, record.work, wanted),
            Err(error) if is_damage(&error) => {
                damaged.push(error);
                Turn::Rests
            }
            Err(error) => return Err(error),
        };
        if matches!(turn, Turn::Ready) {
            return Ok((Look::Found(key.operation, record.clone()), damaged));
        }
    }
    Ok((more_after.map_or(Look::Nothing, Look::After), damaged))
}

/// What a look at some operations has found.
enum Look {
    Found(OperationId, OperationRecord),
    /// All of them wait; there may be more after this key.
    After(Vec<u8>),
    Nothing,
}

/// Raises the generation of requests, unless somebody else has.
async fn next_generation<T: Txn>(txn: &T, from: u64) -> Result<(), ServiceError> {
    let key = CounterKey { counter: Counter::Generation };
    if txn.load_known(&key).await?.last == from {
        txn.put(&key, &CounterRecord { last: from + 1 });
    }
    Ok(())
}

/// Forgets requests of generations that are neither the current one nor the one before.
async fn forget_requests<T: Txn>(txn: &T) -> Result<(Step, Vec<ServiceError>), ServiceError> {
    let current = txn.load_known(&CounterKey { counter: Counter::Generation }).await?.last;
    let range = requests_before(Generation::new(current.saturating_sub(1)));
    let read = range.first(REQUESTS_PER_STEP).as_snapshot();
    let forgotten = txn.scan_sound::<IdempotencyKey>(read).await?;
    for (key, _) in &forgotten.entries {
        txn.remove(key);
    }
    let step = if forgotten.entries.is_empty() { Step::Idle } else { Step::Worked };
    Ok((step, forgotten.damaged))
}

/// What a part of the work has done; a problem that ended it is met, and the other parts go on.
fn part_done(part: Result<Step, ServiceError>, met: &mut Vec<ServiceError>) -> Step {
    part.unwrap_or_else(|error| {
        met.push(error);
        Step::Idle
    })
}

impl<S: MetaStore> Service<S> {
    /// Does one bounded piece of the work that waits: of fencing who is silent, of aborting sets
    /// that take too long, of forgetting old sets and requests, or of the next operation in turn.
    ///
    /// # Errors
    /// The store failed, or damage was met that was not told in the last ten minutes. Only what is
    /// damaged was left out: the next call goes on with everything else.
    pub async fn step_operations(&self) -> Result<Step, ServiceError> {
        let mut met = Vec::new();
        let fences = self.step_fences(&mut met).await;
        let fenced = part_done(fences, &mut met);
        let sets = self.step_sets(&mut met).await;
        let mut step = part_done(sets, &mut met);
        if fenced == Step::Worked {
            step = Step::Worked;
        }
        if step == Step::Idle {
            let requests = self.age_requests(&mut met).await;
            step = part_done(requests, &mut met);
        }
        if step == Step::Idle {
            let operation = self.step_next(&mut met).await;
            step = part_done(operation, &mut met);
        }
        self.damage.news(met, self.seams.clock.now()).map_or(Ok(step), Err)
    }

    /// Steps the next operation in turn. One that meets damage rests.
    async fn step_next(&self, met: &mut Vec<ServiceError>) -> Result<Step, ServiceError> {
        let Some((operation, OperationRecord { work, pass })) = self.next_operation(met).await?
        else {
            return Ok(Step::Idle);
        };
        self.progress.lock().last = operation;
        if let OperationWork::DropLayer(layer) = work
            && (pass.waits || pass.from.get() == 0)
        {
            self.waits.pass_begins(operation, (layer, pass.into));
        }
        let unneeded = match work {
            OperationWork::DropLayer(layer) => self.require_unneeded(operation, layer, met).await,
            OperationWork::DeleteVolume(_)
            | OperationWork::ReclaimReservations(_)
            | OperationWork::FreeQuarantine(_) => Ok(()),
        };
        let stepped = match unneeded {
            Ok(()) => self.store.transact(|txn| async move { step(&*txn, operation).await }).await,
            Err(error) => Err(error),
        };
        let now = self.seams.clock.now();
        match stepped {
            Ok(moved) => moved.into_iter().for_each(|moved| self.waits.moved(moved, now)),
            Err(error) => {
                if is_damage(&error) {
                    self.damage.rest(operation, now);
                    warn!(%operation, %work, "the operation has met damage and rests");
                }
                return Err(error);
            }
        }
        info!(%operation, %work, "operation stepped");
        Ok(Step::Worked)
    }

    async fn age_requests(&self, met: &mut Vec<ServiceError>) -> Result<Step, ServiceError> {
        let key = CounterKey { counter: Counter::Generation };
        let key = &key;
        let read = |txn: Arc<S::Txn>| async move { Ok(txn.load_known(key).await?.last) };
        let generation = self.read(read).await?;
        let age = self.progress.see_generation(generation, self.seams.clock.now());
        if age >= self.settings.request_retention {
            let raise = |txn: Arc<S::Txn>| async move { next_generation(&*txn, generation).await };
            self.store.transact(raise).await?;
            return Ok(Step::Worked);
        }
        let forget = |txn: Arc<S::Txn>| async move { forget_requests(&*txn).await };
        let (step, damaged) = self.store.transact(forget).await?;
        met.extend(damaged);
        Ok(step)
    }

    /// The operation after the last one that was stepped, or the first, of those that need not
    /// wait.
    async fn next_operation(
        &self,
        met: &mut Vec<ServiceError>,
    ) -> Result<Option<(OperationId, OperationRecord)>, ServiceError> {
        let last = OperationKey { operation: self.progress.lock().last };
        let table = TypedRange::<OperationKey>::table();
        let now = self.seams.clock.now();
        let turn_of = |id, work, wanted: Option<RoomWanted>| {
            let is_due = match (work, wanted) {
                (OperationWork::DropLayer(layer), Some(wanted)) => {
                    self.waits.is_due(id, (layer, wanted.layer), now)
                }
                _ => true,
            };
            if is_due && !self.damage.rests(id, now) { Turn::Ready } else { Turn::Rests }
        };
        for mut range in [table.clone().after(&last.pack()), table] {
            loop {
                let (look, turn_of) = (&range, &turn_of);
                let read =
                    |txn: Arc<S::Txn>| async move { first_ready(&*txn, look, turn_of).await };
                let (found, damaged) = self.read(read).await?;
                met.extend(damaged);
                match found {
                    Look::Found(operation, record) => return Ok(Some((operation, record))),
                    Look::After(key) => range = range.after(&key),
                    Look::Nothing => break,
                }
            }
        }
        Ok(None)
    }

    /// The operations that are not finished.
    ///
    /// # Errors
    /// The page token is not of this list.
    pub async fn operations(&self, request: &PageRequest) -> Result<Page<Operation>, ServiceError> {
        self.read(|txn| async move {
            let (entries, next) = page(&*txn, TypedRange::<OperationKey>::table(), request).await?;
            let mut items = Vec::with_capacity(entries.len());
            for (OperationKey { operation: id }, record) in entries {
                let waits_for = waiting(&*txn, &record).await?;
                items.push(Operation { id, work: record.work, waits_for });
            }
            Ok(Page { items, next })
        })
        .await
    }
}
