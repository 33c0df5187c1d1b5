//! The service itself: every request as a transaction on the store, in domain types.
//!
//! Invariants:
//! - every allocated extent has exactly one owner: a slot or part of a layer, a reservation of an
//!   incarnation, the journal of an attachment, current, stale or to come, or the quarantine;
//! - an epoch and an incarnation only rise; a request under an old one changes nothing;
//! - a request that changes something is remembered in its own transaction, so that sending it
//!   again, or running its transaction again, does it once;
//! - a transaction stays below the stores' limits whatever the size of the objects: long work is
//!   an operation that goes on in steps and can stop at any of them.
//!
//! Deliberately absent: gRPC, threads, timers, waits ([`Service::set_changes`] wakes who waits).
//! Somebody calls [`Service::step_operations`] now and then; a simulator does it by its seed.

mod attachments;
mod audit;
mod backups;
mod clones;
mod commit;
mod contents;
mod cover;
mod damage;
mod diff;
mod drop_layer;
mod fence_commands;
mod fencers;
mod fences;
mod geometry;
mod groups;
mod grow;
mod horizon;
mod idempotency;
mod incarnations;
mod layers;
mod leases;
mod members;
mod merge;
mod needed;
mod nodes;
mod operations;
mod paging;
mod peer_rows;
mod peers;
mod pools;
mod prune;
mod publications;
mod quarantine;
mod read_layer;
mod registrations;
mod reservations;
mod restored;
mod revoked;
mod seal;
mod set_deadlines;
mod sets;
mod shown;
mod snapshots;
mod space;
mod standing;
mod status;
mod touched;
mod usage;
mod volumes;
mod waits;
mod watermarks;
mod wishes;

use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lunar_proto::domain::{Cluster, LeaseTimers};
use lunar_types::{ClusterId, RequestId};
use tokio::sync::watch;

use crate::error::ServiceError;
use crate::keyspace::{
    ClusterKey, ClusterRecord, Counter, CounterKey, CounterRecord, KEYSPACE_VERSION, KeyedTxn,
    KeyspaceKey, KeyspaceRecord, Outcome, RestoreKey, RestoreRecord,
};
use crate::seams::{Clock, RandomIds};
use crate::store::{KeyRange, MetaStore, RangeRead, StoreError, Txn};

pub use audit::Actor;
pub(crate) use geometry::{groups_of_lun, usable_bits};
pub(crate) use incarnations::Life;
pub use layers::CHAIN_LAYERS_MAX;
pub use operations::Step;
pub(crate) use operations::begin_operation;
pub use watermarks::Crossing;

/// What the service takes from outside.
#[derive(Clone)]
pub struct Seams {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Arc<dyn RandomIds>,
}

/// What an operator may choose.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A request is remembered for at least this long, and at most twice as long plus a step.
    pub request_retention: Duration,
    /// The timers of leases.
    pub timers: LeaseTimers,
}

impl Default for Settings {
    /// Ten minutes, and the timers of the design.
    fn default() -> Self {
        Self { request_retention: Duration::from_secs(600), timers: LeaseTimers::DEFAULT }
    }
}

/// Why the service cannot start on a store.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A later version of the program wrote it.
    #[error(
        "the store has keyspace version {found}, this program knows up to {KEYSPACE_VERSION}: \
         start the newer metadata-service that wrote it"
    )]
    NewerKeyspace {
        /// The version of the store.
        found: u32,
    },
    /// An earlier version of the program wrote it, from before the first release.
    #[error(
        "the store has keyspace version {found}, this program reads {KEYSPACE_VERSION} alone: \
         versions from before the first release are not converted, give the path of a new store"
    )]
    OlderKeyspace {
        /// The version of the store.
        found: u32,
    },
    /// A restore was cut off.
    #[error(
        "the restore of backup {backup} into this store was not finished: begin again with an \
         empty store (remove this one)"
    )]
    RestoreNotFinished {
        /// The number of the backup.
        backup: u64,
    },
    /// There are keys, but not ours.
    #[error("the store holds data that is not the metadata service's: give the path of another")]
    ForeignData,
    /// The store or its content.
    #[error("the store cannot be used")]
    Service(#[from] ServiceError),
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Service(error.into())
    }
}

impl crate::store::TransactError for StartError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Service(error) => error.store_error(),
            _ => None,
        }
    }
}

/// Reads the version of the layout and refuses what this program does not know.
///
/// # Errors
/// A newer keyspace, a restore that was not finished, foreign data, or a failing store. An empty
/// store gives `None`.
pub async fn check_keyspace<T: Txn>(txn: &T) -> Result<Option<ClusterId>, StartError> {
    let Some(keyspace) = txn.load(&KeyspaceKey {}).await? else {
        require_restored(txn).await?;
        let everything = KeyRange::new(Vec::new(), vec![0xFF]);
        let found = txn.get_range(&RangeRead::first(everything, 1)).await?;
        return if found.is_empty() { Ok(None) } else { Err(StartError::ForeignData) };
    };
    if keyspace.version > KEYSPACE_VERSION {
        return Err(StartError::NewerKeyspace { found: keyspace.version });
    }
    if keyspace.version < KEYSPACE_VERSION {
        return Err(StartError::OlderKeyspace { found: keyspace.version });
    }
    require_restored(txn).await?;
    Ok(Some(txn.load_known(&ClusterKey {}).await?.id))
}

/// Refuses a store that a restore has begun to write and not finished.
async fn require_restored<T: Txn>(txn: &T) -> Result<(), StartError> {
    match txn.load(&RestoreKey {}).await? {
        Some(RestoreRecord { finished: false, backup, .. }) => {
            Err(StartError::RestoreNotFinished { backup })
        }
        _ => Ok(()),
    }
}

/// The metadata service on a store.
pub struct Service<S> {
    store: S,
    seams: Seams,
    settings: Settings,
    cluster: ClusterId,
    leases: leases::Leases,
    fencers: fencers::Fencers,
    /// Rises when a LUN has joined a pool.
    luns_joined: AtomicU64,
    cursors: reservations::Cursors,
    progress: operations::Progress,
    waits: waits::Waits,
    damage: damage::Damage,
    checked: needed::Checked,
    fills: watermarks::Fills,
    wishes: wishes::Wishes,
    sets: set_deadlines::SetWatch,
    revoked: revoked::Revoked,
    /// Counts what may have changed a set, for whoever waits for that.
    changes: watch::Sender<u64>,
}

impl<S: MetaStore> Service<S> {
    /// Starts on a store; an empty one becomes a new cluster.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is changed then.
    pub async fn open(store: S, seams: Seams, settings: Settings) -> Result<Self, StartError> {
        let fresh = ClusterId::from_u128(seams.ids.next());
        let cluster = store
            .transact(|txn| async move {
                if let Some(cluster) = check_keyspace(&*txn).await? {
                    return Ok::<_, StartError>(cluster);
                }
                txn.put(&KeyspaceKey {}, &KeyspaceRecord { version: KEYSPACE_VERSION });
                txn.put(&ClusterKey {}, &ClusterRecord { id: fresh });
                let generation = CounterKey { counter: Counter::Generation };
                txn.put(&generation, &CounterRecord { last: 1 });
                Ok(fresh)
            })
            .await?;
        let revoked = revoked::Revoked::load(&*Arc::new(store.begin().await?)).await?;
        let started = seams.clock.now();
        let service = Self {
            store,
            seams,
            settings,
            cluster,
            leases: leases::Leases::new(started),
            fencers: fencers::Fencers::default(),
            luns_joined: AtomicU64::new(0),
            cursors: reservations::Cursors::default(),
            progress: operations::Progress::new(started),
            waits: waits::Waits::default(),
            damage: damage::Damage::default(),
            checked: needed::Checked::default(),
            fills: watermarks::Fills::default(),
            wishes: wishes::Wishes::default(),
            sets: set_deadlines::SetWatch::default(),
            revoked,
            changes: watch::Sender::new(0),
        };
        service.tell_uncertified().await?;
        Ok(service)
    }

    /// The store.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// Changes whenever this process may have changed a set of snapshots. Other processes on the
    /// same store are not heard here.
    pub fn set_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn luns_have_joined(&self) {
        self.luns_joined.fetch_add(1, Ordering::Relaxed);
    }

    fn sets_changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Who the service is.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        Cluster {
            id: self.cluster,
            keyspace_version: KEYSPACE_VERSION,
            service_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Reads in one transaction.
    async fn read<R, F, Fut>(&self, body: F) -> Result<R, ServiceError>
    where
        F: Fn(Arc<S::Txn>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<R, ServiceError>> + Send,
        R: Send,
    {
        self.store.transact(body).await
    }

    /// Carries a request out once: a request that is remembered gives its outcome again.
    async fn once<F, Fut>(
        &self,
        request: RequestId,
        what: &(impl Hash + Sync),
        body: F,
    ) -> Result<Outcome, ServiceError>
    where
        F: Fn(Arc<S::Txn>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Outcome, ServiceError>> + Send,
    {
        let fingerprint = idempotency::fingerprint(what);
        let body = &body;
        self.store
            .transact(|txn| async move {
                let memory = idempotency::recall(&*txn, request, fingerprint).await?;
                let generation = match memory {
                    idempotency::Memory::Done(outcome) => return Ok(outcome),
                    idempotency::Memory::New(generation) => generation,
                };
                let outcome = body(Arc::clone(&txn)).await?;
                idempotency::remember(&*txn, generation, request, fingerprint, &outcome);
                Ok(outcome)
            })
            .await
    }

    /// Carries a request out once of which there is nothing to say but that it is done.
    async fn once_done<F, Fut>(
        &self,
        request: RequestId,
        what: &(impl Hash + Sync),
        body: F,
    ) -> Result<(), ServiceError>
    where
        F: Fn(Arc<S::Txn>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<(), ServiceError>> + Send,
    {
        let body = &body;
        let done = |txn| async move { body(txn).await.map(|()| Outcome::Done) };
        self.once(request, what, done).await.map(|_| ())
    }
}

/// The next number of a counter.
async fn next_number<T: Txn>(txn: &T, counter: Counter) -> Result<u64, ServiceError> {
    let key = CounterKey { counter };
    let last = txn.load(&key).await?.map_or(0, |record| record.last);
    let next = last.checked_add(1).ok_or_else(|| {
        ServiceError::corrupt(format!("{key:?}"), "the counter is used up".to_owned())
    })?;
    txn.put(&key, &CounterRecord { last: next });
    Ok(next)
}

/// A remembered outcome that cannot belong to this kind of request.
fn foreign_outcome(request: RequestId, outcome: &Outcome) -> ServiceError {
    ServiceError::corrupt(format!("request {request}"), format!("its outcome is {outcome:?}"))
}
