//! The seam to the store: ordered keys and serializable transactions.
//!
//! Invariants:
//! - a transaction reads one snapshot plus its own writes; it commits only if nothing that it read
//!   (unless it asked for [`Isolation::Snapshot`]) was changed meanwhile;
//! - the closure given to [`MetaStore::transact`] runs again after a conflict, and also when a
//!   commit may have happened and nobody can tell: **every closure is safe to run after its own
//!   commit**, by an idempotency record or because it states a result instead of a step;
//! - sizes stay within FoundationDB's limits on every store; breaking them is a bug and asserts.
//!
//! Deliberately absent: what the keys mean (`keys`), time, threads. A store may block the calling
//! thread; whoever drives it from an async runtime moves it off the runtime's threads.

mod commit_log;
mod faulty;
mod overlay;
mod range;
mod redb_store;

use std::error::Error;
use std::future::Future;
use std::sync::Arc;

use tracing::debug;

pub use faulty::{Fault, FaultPlan, FaultyStore};
pub use range::{Direction, Isolation, KeyRange, RangeRead};
pub use redb_store::{OpenError, RedbStore};

/// Most bytes of a key.
pub const KEY_BYTES_MAX: usize = 10_000;
/// Most bytes of a value.
pub const VALUE_BYTES_MAX: usize = 100_000;
/// Most bytes of the keys and values that one transaction writes.
pub const TXN_BYTES_MAX: usize = 1_000_000;
/// How often a transaction is tried before it gives up.
const ATTEMPTS_MAX: u32 = 100;

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// Why a transaction did not go through.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something that it read has changed.
    #[error("the transaction conflicts with another one")]
    Conflict,
    /// The store cannot say whether the commit happened.
    #[error("the commit may or may not have happened")]
    MaybeCommitted,
    /// It was tried too often.
    #[error("the transaction was tried {attempts} times and met a conflict each time")]
    Contended {
        /// How often.
        attempts: u32,
    },
    /// The store itself failed.
    #[error("the store failed to {step}")]
    Failed {
        /// What it was doing.
        step: &'static str,
        /// What it met.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl StoreError {
    /// The store failed in this step.
    pub(crate) fn failed(
        step: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { step, source: Arc::from(source.into()) }
    }

    /// Whether running the transaction again may help.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Conflict | Self::MaybeCommitted)
    }
}

/// An error of a transaction's closure: it carries the store's errors, so that a conflict met by
/// a read is seen and retried.
pub trait TransactError: From<StoreError> + Send {
    /// The store's error inside, if it is one.
    fn store_error(&self) -> Option<&StoreError>;
}

impl TransactError for StoreError {
    fn store_error(&self) -> Option<&StoreError> {
        Some(self)
    }
}

/// One attempt of a transaction.
pub trait Txn: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send;

    /// The values of many keys, in their order.
    fn get_many(
        &self,
        keys: &[Vec<u8>],
    ) -> impl Future<Output = Result<Vec<Option<Vec<u8>>>, StoreError>> + Send {
        async move {
            let mut values = Vec::with_capacity(keys.len());
            for key in keys {
                values.push(self.get(key).await?);
            }
            Ok(values)
        }
    }

    /// The keys of a range with their values.
    fn get_range(
        &self,
        read: &RangeRead,
    ) -> impl Future<Output = Result<Vec<KeyValue>, StoreError>> + Send;

    /// Gives a key a value.
    fn set(&self, key: &[u8], value: &[u8]);

    /// Takes a key away.
    fn clear(&self, key: &[u8]);

    /// Takes every key of a range away.
    fn clear_range(&self, range: &KeyRange);

    /// Makes the writes durable, or none of them.
    fn commit(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A store of ordered keys.
pub trait MetaStore: Send + Sync + 'static {
    /// Its transactions.
    type Txn: Txn;

    /// Begins one attempt on the newest snapshot.
    fn begin(&self) -> impl Future<Output = Result<Self::Txn, StoreError>> + Send;

    /// Runs the closure until its writes are committed. It may run many times, also after a
    /// commit of its own that could not be confirmed. An error of the closure itself ends it
    /// without a write.
    fn transact<R, E, F, Fut>(&self, body: F) -> impl Future<Output = Result<R, E>> + Send
    where
        F: Fn(Arc<Self::Txn>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<R, E>> + Send,
        R: Send,
        E: TransactError,
    {
        async move {
            for attempt in 1..=ATTEMPTS_MAX {
                match run_once(self, &body).await {
                    Err(error) if error.store_error().is_some_and(StoreError::is_retryable) => {
                        let maybe_committed =
                            matches!(error.store_error(), Some(StoreError::MaybeCommitted));
                        debug!(attempt, maybe_committed, "transaction runs again");
                    }
                    outcome => return outcome,
                }
            }
            Err(StoreError::Contended { attempts: ATTEMPTS_MAX }.into())
        }
    }
}

async fn run_once<S, R, E, F, Fut>(store: &S, body: &F) -> Result<R, E>
where
    S: MetaStore + ?Sized,
    F: Fn(Arc<S::Txn>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<R, E>> + Send,
    R: Send,
    E: TransactError,
{
    let txn = Arc::new(store.begin().await?);
    let result = body(Arc::clone(&txn)).await?;
    txn.commit().await?;
    Ok(result)
}

/// Asserts FoundationDB's limits of one write.
pub(crate) fn assert_write_fits(key: &[u8], value: &[u8]) {
    assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes is too long", key.len());
    assert!(value.len() <= VALUE_BYTES_MAX, "a value of {} bytes is too long", value.len());
}
