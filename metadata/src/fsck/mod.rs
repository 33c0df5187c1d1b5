//! The check of a store: what must hold between its records, and where it does not.
//!
//! The check reads one snapshot and changes nothing. Every key is decoded once; then names and
//! indices are held against what they point to, epochs and incarnations against each other, and
//! every allocated extent against its owners: exactly one slot or part, reservation, journal or
//! place in the quarantine.
//!
//! Records that cannot be read are reported and left out of the rest, so that one damaged value
//! does not hide the others. What they own then shows as leaked.
//!
//! [`repair()`] is the only part that writes. It does what a check has announced, named by the
//! digest of its findings, and no more.

mod fencing;
mod groups;
mod holders;
mod inventory;
mod layers;
mod merging;
mod objects;
mod peers;
mod publications;
mod repair;
mod report;
mod sets;
mod slots;
mod space;

use lunar_proto::domain::{FindingsDigest, FsckEvent, FsckRepaired, FsckSummary};

use crate::error::ServiceError;
use crate::service::Service;
use crate::store::{MetaStore, Txn};

use report::{Checked, Report};
pub use report::{FindingKind, Flow};

/// Checks what a transaction sees and tells it to `sink`: findings, then a summary. The sink may
/// stop the check.
///
/// # Errors
/// When the store cannot be read; damage in it is a finding, no error.
pub async fn check<T: Txn>(
    txn: &T,
    sink: &mut (dyn FnMut(FsckEvent) -> Flow + Send),
) -> Result<FsckSummary, ServiceError> {
    Ok(examine(txn, sink).await?.summary)
}

/// Checks, and gives the repairs that are safe with the summary.
async fn examine<T: Txn>(
    txn: &T,
    sink: &mut (dyn FnMut(FsckEvent) -> Flow + Send),
) -> Result<Checked, ServiceError> {
    let mut report = Report::new(sink);
    inventory::check_every_entry(txn, &mut report).await?;
    let inventory = inventory::Inventory::load(txn).await?;
    // In this order: whether a repair is safe depends on what was found before. Entries decide on
    // everything; what takes a layer away needs maps and space to be sound.
    slots::check(txn, &inventory, &mut report).await?;
    merging::check(txn, &inventory, &mut report).await?;
    space::check(txn, &inventory, &mut report).await?;
    objects::check(txn, &inventory, &mut report).await?;
    sets::check(txn, &inventory, &mut report).await?;
    groups::check(txn, &inventory, &mut report).await?;
    fencing::check(txn, &inventory, &mut report).await?;
    peers::check(txn, &inventory, &mut report).await?;
    publications::check(txn, &inventory, &mut report).await?;
    layers::check(txn, &inventory, &mut report).await?;
    report.summary.pools = inventory.pools.len() as u64;
    report.summary.luns = inventory.luns.len() as u64;
    report.summary.volumes = inventory.volumes.len() as u64;
    report.summary.layers = inventory.layers.len() as u64;
    report.summary.nodes = inventory.nodes.len() as u64;
    report.summary.attachments = inventory.attachments.len() as u64;
    Ok(report.finish())
}

/// What else can hide the owner of an extent, or show it in another place.
const OWNERS_IN_DOUBT: &[FindingKind] = &[
    FindingKind::EntryUnreadable,
    FindingKind::LunMismatch,
    FindingKind::VolumePoolUnknown,
    FindingKind::AttachmentOrphan,
    FindingKind::AttachmentIndexMismatch,
    FindingKind::IncarnationUnknown,
    FindingKind::ReservationUnknown,
    FindingKind::PresenceOnZero,
    FindingKind::PresenceSize,
];

/// Whether extents may have owners that are not seen while there is a finding of this kind.
pub(crate) fn leaves_owners_in_doubt(kind: &str) -> bool {
    let mut kinds = OWNERS_IN_DOUBT.iter().chain(layers::MAPS_IN_DOUBT);
    kinds.any(|doubtful| doubtful.as_str() == kind)
}

/// Repairs what can be repaired safely of the findings of this digest: each repair is a
/// transaction that looks at the records again and changes nothing when they need it no more.
/// Then checks once more: what is told of the findings is what is left.
///
/// # Errors
/// [`ServiceError::FindingsChanged`] when a check finds something else by now, nothing is changed
/// then; or the store fails, some repairs may be done then.
pub async fn repair<S: MetaStore>(
    store: &S,
    findings: FindingsDigest,
    sink: &mut (dyn FnMut(FsckEvent) -> Flow + Send),
) -> Result<FsckSummary, ServiceError> {
    let checked = examine(&store.begin().await?, &mut |_| Flow::Continue).await?;
    let found = checked.summary.digest;
    if found != findings {
        let count = checked.summary.findings;
        return Err(ServiceError::FindingsChanged { given: findings, found, count });
    }
    let mut repairs = checked.repairs;
    repairs.sort_by_key(repair::Repair::turn);
    for repair in &repairs {
        let changed = store.transact(|txn| async move { repair.apply(&*txn).await }).await?;
        let repaired = FsckRepaired { repair: repair.to_string(), changed };
        if sink(FsckEvent::Repaired(repaired)) == Flow::Stop {
            break;
        }
    }
    check(&store.begin().await?, sink).await
}

impl<S: MetaStore> Service<S> {
    /// Repairs the store while it serves; see [`repair()`].
    ///
    /// # Errors
    /// See [`repair()`].
    pub async fn repair(
        &self,
        findings: FindingsDigest,
        sink: &mut (dyn FnMut(FsckEvent) -> Flow + Send),
    ) -> Result<FsckSummary, ServiceError> {
        repair(self.store(), findings, sink).await
    }

    /// Checks the store while it serves, on one snapshot.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn fsck(
        &self,
        sink: &mut (dyn FnMut(FsckEvent) -> Flow + Send),
    ) -> Result<FsckSummary, ServiceError> {
        let txn = self.store().begin().await?;
        check(&txn, sink).await
    }
}
