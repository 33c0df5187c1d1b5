//! Sets that take too long are aborted, decided ones forgotten.
//!
//! Invariants:
//! - a set is aborted when this process has seen it in one state for the time of that state, on
//!   its own clock, by compare and set: a decided set never changes. A fresh process counts from
//!   its start, so it acts later, never earlier;
//! - members of several nodes are sealed only while all of them are paused for certain: by a vote
//!   that comes within [`ALL_PAUSED`] of the moment before the set became Pausing, as this process
//!   saw it. Nobody freezes before that moment, and a holder that has heard it stays paused for
//!   longer, also without an answer. Another process does not know the moment and aborts;
//! - a decided set is forgotten with the requests of the generation that it was decided in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lunar_proto::domain::SetState;
use lunar_types::SnapshotSetId;
use tracing::warn;

use super::Service;
use super::damage::is_damage;
use super::operations::Step;
use super::sets::{abort_for, abort_set};
use crate::error::ServiceError;
use crate::keyspace::{Counter, CounterKey, KeyedTxn, SetMemberKey, SnapshotSetKey, TypedRange};
use crate::store::{MetaStore, Txn};

/// How long a set may be Gathering.
const GATHERING_MAX: Duration = Duration::from_secs(30);
/// How long a set may be Pausing.
const PAUSING_MAX: Duration = Duration::from_secs(15);
/// For how long after the last member was ready everybody who has voted is paused for certain: a
/// holder stays so for 4.8 s of its own clock.
const ALL_PAUSED: Duration = Duration::from_millis(4500);
/// Members of one read.
const MEMBERS_PER_READ: usize = 1000;
/// Sets that one step looks at to forget them.
const SETS_PER_STEP: usize = 500;

/// Sets that have members, by their state.
type OpenSets = BTreeMap<SnapshotSetId, SetState>;

/// What this process knows of sets.
#[derive(Default)]
pub(super) struct SetWatch {
    state: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Open sets: their state, and since when it was seen.
    open: BTreeMap<SnapshotSetId, (SetState, Duration)>,
    /// Sets that became Pausing by this process, and a moment before they did.
    pausing: BTreeMap<SnapshotSetId, Duration>,
    /// The generation in which everything that can be forgotten then was.
    swept: Option<u64>,
    /// The packed key after which a sweep goes on.
    cursor: Option<Vec<u8>>,
}

impl SetWatch {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A set has become Pausing; nobody paused for it before this moment.
    pub(super) fn pauses(&self, set: SnapshotSetId, since: Duration) {
        let mut seen = self.lock();
        seen.pausing.retain(|_, earlier| since.saturating_sub(*earlier) < PAUSING_MAX);
        seen.pausing.insert(set, since);
    }

    /// Whether every holder that has voted is still paused.
    pub(super) fn are_all_paused(&self, set: SnapshotSetId, now: Duration) -> bool {
        let seen = self.lock();
        seen.pausing.get(&set).is_some_and(|since| now.saturating_sub(*since) < ALL_PAUSED)
    }

    /// Sees the open sets; gives those that have been in their state for too long.
    fn see(
        &self,
        open: BTreeMap<SnapshotSetId, SetState>,
        now: Duration,
    ) -> Vec<(SnapshotSetId, SetState)> {
        let mut seen = self.lock();
        let since = |set: &SnapshotSetId, state| match seen.open.get(set) {
            Some((same, since)) if *same == state => *since,
            _ => now,
        };
        let open = open.into_iter().map(|(set, state)| (set, (state, since(&set, state))));
        let mut open: BTreeMap<_, _> = open.collect();
        let is_late = |state, since| match state {
            SetState::Gathering => now.saturating_sub(since) >= GATHERING_MAX,
            SetState::Pausing => now.saturating_sub(since) >= PAUSING_MAX,
            SetState::Sealed | SetState::Aborted => false,
        };
        let mut late = Vec::new();
        for (set, (state, since)) in &mut open {
            if is_late(*state, *since) {
                // One that cannot be aborted is tried again after as long: it holds up nothing.
                *since = now;
                late.push((*set, *state));
            }
        }
        seen.open = open;
        late
    }
}

/// The sets that are open, and what was met that cannot be read.
async fn open_sets<T: Txn>(txn: &T) -> Result<(OpenSets, Vec<ServiceError>), ServiceError> {
    let (mut open, mut met) = (OpenSets::new(), Vec::new());
    let mut range = TypedRange::<SetMemberKey>::table();
    loop {
        let read = range.first(MEMBERS_PER_READ).as_snapshot();
        let found = txn.scan_sound::<SetMemberKey>(read).await?;
        met.extend(found.damaged);
        for (SetMemberKey { set, .. }, _) in &found.entries {
            if !open.contains_key(set) {
                // A member without its set is damage, which the check finds: not met here.
                let state = match txn.load(&SnapshotSetKey { set: *set }).await {
                    Ok(record) => record.map_or(SetState::Aborted, |record| record.state),
                    Err(error) if is_damage(&error) => {
                        met.push(error);
                        SetState::Aborted
                    }
                    Err(error) => return Err(error),
                };
                open.insert(*set, state);
            }
        }
        match found.more_after {
            Some(last) => range = range.after(&last),
            None => return Ok((open, met)),
        }
    }
}

/// Aborts a set if it is still in the state that it was seen in.
async fn abort_if<T: Txn>(txn: &T, set: SnapshotSetId, seen: SetState) -> Result<(), ServiceError> {
    let Some(record) = txn.load(&SnapshotSetKey { set }).await? else { return Ok(()) };
    let reason = match seen {
        SetState::Gathering => "gathering-timeout",
        SetState::Pausing => "pausing-timeout",
        SetState::Sealed | SetState::Aborted => return Ok(()),
    };
    if record.state != seen {
        return Ok(());
    }
    abort_set(txn, set, record, abort_for(reason, None)).await
}

/// What a look at some sets has found.
struct Sweep {
    /// The packed key to go on after.
    cursor: Option<Vec<u8>>,
    /// Whether a set was forgotten.
    step: Step,
    /// What cannot be read.
    met: Vec<ServiceError>,
}

async fn forget_decided<T: Txn>(
    txn: &T,
    range: &TypedRange<SnapshotSetKey>,
    generation: u64,
) -> Result<Sweep, ServiceError> {
    let read = range.first(SETS_PER_STEP).as_snapshot();
    let found = txn.scan_sound::<SnapshotSetKey>(read).await?;
    let mut step = Step::Idle;
    for (key, record) in &found.entries {
        if !record.state.is_open() && record.generation.get() + 1 < generation {
            txn.remove(key);
            step = Step::Worked;
        }
    }
    Ok(Sweep { cursor: found.more_after, step, met: found.damaged })
}

impl<S: MetaStore> Service<S> {
    /// Aborts the sets whose time is over, and forgets some of those that were decided long ago.
    pub(super) async fn step_sets(
        &self,
        met: &mut Vec<ServiceError>,
    ) -> Result<Step, ServiceError> {
        let (open, damaged) = self.read(|txn| async move { open_sets(&*txn).await }).await?;
        met.extend(damaged);
        let late = self.sets.see(open, self.seams.clock.now());
        if late.is_empty() {
            return self.forget_sets(met).await;
        }
        for (set, state) in late {
            warn!(%set, %state, "a snapshot set takes too long and is aborted");
            let abort = |txn: Arc<S::Txn>| async move { abort_if(&*txn, set, state).await };
            // Whoever waits for the others is not to wait for this one.
            match self.store.transact(abort).await {
                Ok(()) => self.sets_changed(),
                Err(error) => met.push(error),
            }
        }
        Ok(Step::Worked)
    }

    /// One part of a sweep; there is one sweep a generation.
    async fn forget_sets(&self, met: &mut Vec<ServiceError>) -> Result<Step, ServiceError> {
        let key = CounterKey { counter: Counter::Generation };
        let key = &key;
        let read = |txn: Arc<S::Txn>| async move { Ok(txn.load_known(key).await?.last) };
        let generation = self.read(read).await?;
        let range = {
            let seen = self.sets.lock();
            if seen.swept == Some(generation) {
                return Ok(Step::Idle);
            }
            let table = TypedRange::<SnapshotSetKey>::table();
            seen.cursor.as_ref().map_or(table.clone(), |last| table.after(last))
        };
        let range = &range;
        let forget =
            |txn: Arc<S::Txn>| async move { forget_decided(&*txn, range, generation).await };
        let Sweep { cursor, step, met: damaged } = self.store.transact(forget).await?;
        met.extend(damaged);
        let mut seen = self.sets.lock();
        if cursor.is_none() {
            seen.swept = Some(generation);
        }
        let step = if cursor.is_some() { Step::Worked } else { step };
        seen.cursor = cursor;
        Ok(step)
    }
}
