//! The check of a store: what must hold between its records, and where it does not.
//!
//! It reads one snapshot and changes nothing. Every key is decoded once; then names and indices
//! are held against what they point to, epochs and incarnations against each other, and every
//! allocated extent against its owners: exactly one slot, reservation or journal.
//!
//! Records that cannot be read are reported and left out of the rest, so that one damaged value
//! does not hide the others. What they own then shows as leaked.

mod inventory;
mod layers;
mod objects;
mod report;
mod sets;
mod slots;
mod space;

use lunar_proto::domain::{FsckEvent, FsckSummary};

use crate::error::ServiceError;
use crate::service::Service;
use crate::store::{MetaStore, Txn};

use report::Report;
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
    let mut report = Report::new(sink);
    inventory::check_every_entry(txn, &mut report).await?;
    let inventory = inventory::Inventory::load(txn).await?;
    objects::check(txn, &inventory, &mut report).await?;
    layers::check(txn, &inventory, &mut report).await?;
    sets::check(txn, &inventory, &mut report).await?;
    slots::check(txn, &inventory, &mut report).await?;
    space::check(txn, &inventory, &mut report).await?;
    report.summary.pools = inventory.pools.len() as u64;
    report.summary.luns = inventory.luns.len() as u64;
    report.summary.volumes = inventory.volumes.len() as u64;
    report.summary.layers = inventory.layers.len() as u64;
    report.summary.nodes = inventory.nodes.len() as u64;
    report.summary.attachments = inventory.attachments.len() as u64;
    Ok(report.finish())
}

impl<S: MetaStore> Service<S> {
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
