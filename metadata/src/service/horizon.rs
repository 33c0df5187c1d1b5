//! The backup horizon: what a backup of the metadata names is not given away while somebody may
//! restore it.
//!
//! A backup knows nothing of what happens after it was begun. If an extent that its map names were
//! freed and written by another volume, a restore would show those blocks to the first one.
//!
//! Invariants:
//! - once a backup was begun, an extent that the map has named goes from there into the quarantine,
//!   stamped with the last backup that was begun by then; on the way it may be in a reservation,
//!   marked as unmapped, and nothing maps it again;
//! - what the map has not named since it was taken from the pool goes back there at once: no backup
//!   names it;
//! - a stamp below a backup was set before it was begun, so that backup does not name the extent:
//!   when it is complete, and so the one to be restored, the extent is free.
//!
//! Deliberately absent: trust in the holder of a reservation. What it has to give back is told to
//! it; what it gives back, or leaves when it dies, is judged by the marks.

use lunar_types::{ExtentRun, Freed, NodeIncarnation, PoolId};

use super::Service;
use super::space::{BitmapEdits, free_extents};
use crate::error::ServiceError;
use crate::keyspace::{BackupsKey, BackupsRecord, KeyedTxn, QuarantineStamp};
use crate::store::{MetaStore, Txn};

/// What the transaction has to do for backups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Horizon {
    begun: u64,
    is_off: bool,
}

impl Horizon {
    /// As it is: a backup that begins meanwhile makes the transaction run again.
    pub(super) async fn load<T: Txn>(txn: &T) -> Result<Self, ServiceError> {
        let BackupsRecord { begun, is_horizon_off: is_off, .. } =
            txn.load(&BackupsKey {}).await?.unwrap_or_default();
        Ok(Self { begun, is_off })
    }

    /// Whether extents in a reservation are marked when the map does not name them any more. There
    /// is no way back, also while the horizon is off: it may be turned on again.
    pub(super) const fn marks(self) -> bool {
        self.begun > 0
    }

    /// What extents are stamped with that the map has named; they are free at once without.
    pub(super) const fn stamp(self) -> Option<QuarantineStamp> {
        match self {
            Self { begun: 0, .. } | Self { is_off: true, .. } => None,
            Self { begun, .. } => Some(QuarantineStamp::new(begun)),
        }
    }
}

/// Puts extents without an owner where they wait for backups.
pub(super) async fn quarantine<T: Txn>(
    txn: &T,
    (pool, stamp): (PoolId, QuarantineStamp),
    runs: &[ExtentRun],
) -> Result<(), ServiceError> {
    let mut held = BitmapEdits::quarantined(txn, pool, stamp);
    for at in runs.iter().flat_map(|run| run.iter()) {
        if !held.insert(at).await? {
            let problem = "it was to go into the quarantine and is there already".to_owned();
            return Err(ServiceError::corrupt(format!("extent {at} of pool {pool}"), problem));
        }
    }
    held.write();
    Ok(())
}

/// Frees extents that the map has named until now, when no backup names them.
pub(super) async fn free_mapped<T: Txn>(
    txn: &T,
    pool: PoolId,
    runs: &[ExtentRun],
) -> Result<(), ServiceError> {
    if runs.is_empty() {
        return Ok(());
    }
    match Horizon::load(txn).await?.stamp() {
        Some(stamp) => quarantine(txn, (pool, stamp), runs).await,
        None => free_extents(txn, pool, runs).await,
    }
}

/// Frees extents of a reservation, of which some may have come from the map.
pub(super) async fn free_reserved<T: Txn>(
    txn: &T,
    (pool, node): (PoolId, NodeIncarnation),
    runs: &[ExtentRun],
) -> Result<(), ServiceError> {
    let horizon = Horizon::load(txn).await?;
    if !horizon.marks() {
        return free_extents(txn, pool, runs).await;
    }
    let mut unmapped = BitmapEdits::unmapped(txn, node, pool);
    let (mut free, mut held) = (Vec::new(), Vec::new());
    for at in runs.iter().flat_map(|run| run.iter()) {
        let was_mapped = unmapped.remove(at).await?;
        let is_held = was_mapped && horizon.stamp().is_some();
        if is_held { &mut held } else { &mut free }.push(ExtentRun::new(at, 1));
    }
    unmapped.write();
    free_extents(txn, pool, &free).await?;
    match horizon.stamp() {
        Some(stamp) => quarantine(txn, (pool, stamp), &held).await,
        None => Ok(()),
    }
}

impl<S: MetaStore> Service<S> {
    /// What becomes of extents that the map has come to name no more, asked after that happened.
    ///
    /// # Errors
    /// The store failed.
    pub async fn freed(&self) -> Result<Freed, ServiceError> {
        let marks = self.read(|txn| async move { Ok(Horizon::load(&*txn).await?.marks()) });
        Ok(if marks.await? { Freed::GiveBack } else { Freed::UseAgain })
    }
}
