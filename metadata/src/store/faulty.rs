//! A store that fails on purpose, for tests and the simulator.
//!
//! Faults are what a real store may do at a commit: refuse it as a conflict, do it and not be
//! able to say so, or lose the connection before doing it and not be able to say so either.
//! The plan is a list, so that a failing run repeats.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::{KeyRange, KeyValue, MetaStore, RangeRead, StoreError, Txn};

/// What happens at one commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing: the commit goes through.
    None,
    /// It is refused as a conflict.
    Conflict,
    /// It happens, and the answer is lost.
    CommittedUnknown,
    /// It does not happen, and the answer is lost.
    LostUnknown,
}

/// The faults of the commits to come; after the last one nothing fails any more.
#[derive(Clone, Default)]
pub struct FaultPlan {
    coming: Arc<Mutex<VecDeque<Fault>>>,
}

impl FaultPlan {
    /// Adds a fault for a later commit.
    pub fn push(&self, fault: Fault) {
        self.lock().push_back(fault);
    }

    /// Faults that have not happened yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.lock().len()
    }

    fn next(&self) -> Fault {
        self.lock().pop_front().unwrap_or(Fault::None)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Fault>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store whose commits follow a plan of faults.
#[derive(Clone)]
pub struct FaultyStore<S> {
    inner: S,
    plan: FaultPlan,
}

impl<S> FaultyStore<S> {
    /// Commits of `inner` follow `plan`.
    #[must_use]
    pub fn new(inner: S, plan: FaultPlan) -> Self {
        Self { inner, plan }
    }
}

/// One attempt on a faulty store.
pub struct FaultyTxn<T> {
    inner: T,
    plan: FaultPlan,
    wrote: std::sync::atomic::AtomicBool,
}

impl<S: MetaStore> MetaStore for FaultyStore<S> {
    type Txn = FaultyTxn<S::Txn>;

    async fn begin(&self) -> Result<Self::Txn, StoreError> {
        let inner = self.inner.begin().await?;
        Ok(FaultyTxn { inner, plan: self.plan.clone(), wrote: false.into() })
    }
}

impl<T> FaultyTxn<T> {
    fn note_write(&self) {
        self.wrote.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

impl<T: Txn> Txn for FaultyTxn<T> {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(key).await
    }

    async fn get_range(&self, read: &RangeRead) -> Result<Vec<KeyValue>, StoreError> {
        self.inner.get_range(read).await
    }

    fn set(&self, key: &[u8], value: &[u8]) {
        self.note_write();
        self.inner.set(key, value);
    }

    fn clear(&self, key: &[u8]) {
        self.note_write();
        self.inner.clear(key);
    }

    fn clear_range(&self, range: &KeyRange) {
        self.note_write();
        self.inner.clear_range(range);
    }

    async fn commit(&self) -> Result<(), StoreError> {
        if !self.wrote.load(std::sync::atomic::Ordering::Relaxed) {
            return self.inner.commit().await;
        }
        match self.plan.next() {
            Fault::None => self.inner.commit().await,
            Fault::Conflict => Err(StoreError::Conflict),
            Fault::CommittedUnknown => {
                self.inner.commit().await?;
                Err(StoreError::MaybeCommitted)
            }
            Fault::LostUnknown => Err(StoreError::MaybeCommitted),
        }
    }
}
