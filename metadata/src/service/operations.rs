//! Long work in steps, each one bounded transaction.
//!
//! Invariants:
//! - an operation is in the store before anything of it is done, and until everything is;
//! - a step leaves the store consistent and says nothing that the next step needs: whoever comes
//!   next, after a restart or in another process, goes on from what the store holds;
//! - two processes may step the same operation: their transactions conflict, one of them runs
//!   again and finds the work done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lunar_proto::domain::{Operation, OperationId, OperationWork, Page, PageRequest};
use lunar_types::{ExtentRun, NodeIncarnation, VolumeId};
use tracing::info;

use super::attachments::drop_stale_journal;
use super::layers::{count_slot, forget_layer, remove_parts};
use super::paging::page;
use super::space::{BitmapEdits, free_extents};
use super::{Service, next_number};
use crate::error::ServiceError;
use crate::keyspace::{
    Counter, CounterKey, CounterRecord, GroupKey, IdempotencyKey, KeyedTxn, LayerKey,
    LayerPartsKey, OperationKey, OperationRecord, PoolVolumeKey, TypedRange, VolumeKey,
    VolumeRecord, parts_of, reservations_of, runs_of, slots_of, stale_journals_of,
};
use crate::store::{MetaStore, Txn};

/// Slots that one step frees.
const SLOTS_PER_STEP: usize = 500;
/// Journals that one step frees.
const JOURNALS_PER_STEP: usize = 16;
/// Reserved groups that one step takes back.
const GROUPS_PER_STEP: usize = 128;
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

#[derive(Clone, Copy)]
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
pub(super) async fn begin_operation<T: Txn>(
    txn: &T,
    work: OperationWork,
) -> Result<(), ServiceError> {
    let operation = OperationId::new(next_number(txn, Counter::Operation).await?);
    txn.put(&OperationKey { operation }, &OperationRecord { work });
    Ok(())
}

/// Frees slots, then journals, then forgets the volume.
async fn step_delete<T: Txn>(
    txn: &T,
    operation: OperationId,
    volume: VolumeId,
) -> Result<(), ServiceError> {
    let record = txn.load_known(&VolumeKey { volume }).await?;
    if free_slots(txn, &record).await? == Step::Worked
        || free_parts(txn, &record).await? == Step::Worked
        || free_journals(txn, volume, &record).await? == Step::Worked
    {
        return Ok(());
    }
    forget_layer(txn, &LayerKey { layer: record.head }).await?;
    txn.remove(&PoolVolumeKey { pool: record.pool, volume });
    txn.remove(&VolumeKey { volume });
    txn.remove(&OperationKey { operation });
    Ok(())
}

async fn free_slots<T: Txn>(txn: &T, volume: &VolumeRecord) -> Result<Step, ServiceError> {
    let slots = txn.scan(&slots_of(volume.head), SLOTS_PER_STEP).await?;
    if slots.is_empty() {
        return Ok(Step::Idle);
    }
    let extents = slots.iter().filter_map(|(_, slot)| slot.0.extent());
    let runs: Vec<ExtentRun> = extents.map(|at| ExtentRun::new(at, 1)).collect();
    free_extents(txn, volume.pool, &runs).await?;
    let layer_key = LayerKey { layer: volume.head };
    let mut layer = txn.load_known(&layer_key).await?;
    for (key, slot) in &slots {
        count_slot(&mut layer, key, Some(slot), None)?;
        txn.remove(key);
    }
    txn.put(&layer_key, &layer);
    Ok(Step::Worked)
}

async fn free_parts<T: Txn>(txn: &T, volume: &VolumeRecord) -> Result<Step, ServiceError> {
    let parts = txn.scan(&parts_of(volume.head), SLOTS_PER_STEP).await?;
    if parts.is_empty() {
        return Ok(Step::Idle);
    }
    let extents = parts.iter().filter_map(|(_, slot)| slot.0.extent());
    let runs: Vec<ExtentRun> = extents.map(|at| ExtentRun::new(at, 1)).collect();
    free_extents(txn, volume.pool, &runs).await?;
    remove_parts(txn, &LayerPartsKey { layer: volume.head }, &parts).await?;
    Ok(Step::Worked)
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
    let range = reservations_of(gone.node, gone.incarnation);
    let groups = txn.scan(&range, GROUPS_PER_STEP).await?;
    if groups.is_empty() {
        txn.remove(&OperationKey { operation });
    }
    let mut pool = None;
    let mut allocated: Option<BitmapEdits<'_, T, GroupKey>> = None;
    for (key, bits) in groups {
        if pool != Some(key.pool) {
            pool = Some(key.pool);
            if let Some(finished) = allocated.replace(BitmapEdits::allocated(txn, key.pool)) {
                finished.write();
            }
        }
        let mut runs = Vec::new();
        runs_of(key.lun, key.group, &bits, &mut runs);
        allocated.as_mut().expect("it was set for this pool").free(&runs).await?;
        txn.remove(&key);
    }
    if let Some(finished) = allocated {
        finished.write();
    }
    Ok(())
}

async fn step<T: Txn>(txn: &T, operation: OperationId) -> Result<(), ServiceError> {
    match txn.load(&OperationKey { operation }).await?.map(|record| record.work) {
        None => Ok(()),
        Some(OperationWork::DeleteVolume(volume)) => step_delete(txn, operation, volume).await,
        Some(OperationWork::ReclaimReservations(gone)) => step_reclaim(txn, operation, gone).await,
    }
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
async fn forget_requests<T: Txn>(txn: &T) -> Result<Step, ServiceError> {
    let current = txn.load_known(&CounterKey { counter: Counter::Generation }).await?.last;
    let read = TypedRange::<IdempotencyKey>::table().first(REQUESTS_PER_STEP).as_snapshot();
    let oldest = txn.scan_read::<IdempotencyKey>(read).await?;
    let mut worked = Step::Idle;
    for (key, _) in oldest.iter().filter(|(key, _)| key.generation.get() + 1 < current) {
        txn.remove(key);
        worked = Step::Worked;
    }
    Ok(worked)
}

impl<S: MetaStore> Service<S> {
    /// Does one bounded piece of the work that waits: of the next operation in turn, or of
    /// forgetting old requests.
    ///
    /// # Errors
    /// The store failed, or an operation met damage; the next call goes on with the next one.
    pub async fn step_operations(&self) -> Result<Step, ServiceError> {
        if self.age_requests().await? == Step::Worked {
            return Ok(Step::Worked);
        }
        let Some((operation, work)) = self.next_operation().await? else { return Ok(Step::Idle) };
        self.progress.lock().last = operation;
        self.store.transact(|txn| async move { step(&*txn, operation).await }).await?;
        info!(%operation, %work, "operation stepped");
        Ok(Step::Worked)
    }

    async fn age_requests(&self) -> Result<Step, ServiceError> {
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
        self.store.transact(|txn| async move { forget_requests(&*txn).await }).await
    }

    /// The operation after the last one that was stepped, or the first.
    async fn next_operation(&self) -> Result<Option<(OperationId, OperationWork)>, ServiceError> {
        let last = OperationKey { operation: self.progress.lock().last };
        let last = &crate::keyspace::Key::pack(&last);
        self.read(|txn| async move {
            let table = TypedRange::<OperationKey>::table();
            let mut found = txn.scan(&table.clone().after(last), 1).await?;
            if found.is_empty() {
                found = txn.scan(&table, 1).await?;
            }
            Ok(found.into_iter().next().map(|(key, record)| (key.operation, record.work)))
        })
        .await
    }

    /// The operations that are not finished.
    ///
    /// # Errors
    /// The page token is not of this list.
    pub async fn operations(&self, request: &PageRequest) -> Result<Page<Operation>, ServiceError> {
        self.read(|txn| async move {
            let (entries, next) = page(&*txn, TypedRange::<OperationKey>::table(), request).await?;
            let operation = |(key, record): (OperationKey, OperationRecord)| Operation {
                id: key.operation,
                work: record.work,
            };
            Ok(Page { items: entries.into_iter().map(operation).collect(), next })
        })
        .await
    }
}
