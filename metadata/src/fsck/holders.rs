//! Holders of volumes against their registrations.
//!
//! Invariant: who holds a volume of a pool with reservations is confirmed at every LUN where it may
//! write, so that a fence of it visits that LUN (F1, F2 of docs/fencing.md). That is where its
//! journal, its reservations and what the head of the volume maps are.
//!
//! A LUN that has joined the pool since the grant, or that the node does not see, has nothing of
//! the kind: the holder gets no extent there before it is confirmed, and no finding is made of it.
//! But the pool had LUNs at the grant, so a holder that is confirmed at none is one in any case.

use std::collections::{BTreeMap, BTreeSet};

use lunar_proto::domain::PoolFencing;
use lunar_types::{LunId, LunIndex, NodeId, NodeIncarnation, PoolId, VolumeId};

use super::inventory::{Inventory, walk};
use super::report::{FindingKind, Report};
use crate::error::ServiceError;
use crate::keyspace::{AttachmentRecord, RegistrationRecord, parts_of, reservations_of, slots_of};
use crate::store::Txn;

/// The registrations, by LUN and node.
pub(super) type Registrations = BTreeMap<(LunId, NodeId), RegistrationRecord>;

pub(super) async fn check<T: Txn>(
    txn: &T,
    all: &Inventory,
    at_luns: &Registrations,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    for (volume, held) in &all.attachments {
        let Some(pool) = all.volumes.get(volume).map(|volume| volume.pool) else { continue };
        let fencing = all.pools.get(&pool).map(|pool| pool.fencing);
        if fencing != Some(PoolFencing::Reservations) || !all.is_unfenced(held.node) {
            continue;
        }
        let is_confirmed = |lun: &LunId| {
            let found = at_luns.get(&(*lun, held.node.node));
            found.is_some_and(|it| it.incarnation == held.node.incarnation && it.paths > 0)
        };
        let luns: BTreeMap<LunIndex, LunId> = luns_of(all, pool).collect();
        let missing: Vec<_> = luns.iter().filter(|(_, lun)| !is_confirmed(lun)).collect();
        if missing.is_empty() {
            continue;
        }
        let uses = if missing.len() == luns.len() {
            luns.keys().map(|lun| (*lun, "nor at any other of its pool")).collect()
        } else {
            uses_of(txn, all, (*volume, pool), held).await?
        };
        for (index, lun) in missing {
            if let Some(why) = uses.get(index) {
                find(held.node, *volume, (*lun, why), report);
            }
        }
    }
    Ok(())
}

fn luns_of(all: &Inventory, pool: PoolId) -> impl Iterator<Item = (LunIndex, LunId)> {
    let of_pool = all.luns.iter().filter(move |((of, _), _)| *of == pool);
    of_pool.map(|((_, index), lun)| (*index, lun.id))
}

/// The LUNs where a holder may write, and what it may write there.
async fn uses_of<T: Txn>(
    txn: &T,
    all: &Inventory,
    (volume, pool): (VolumeId, PoolId),
    held: &AttachmentRecord,
) -> Result<BTreeMap<LunIndex, &'static str>, ServiceError> {
    let mut mapped = BTreeSet::new();
    let head = all.volumes.get(&volume).map(|volume| volume.head);
    if let Some(layer) = head {
        walk(txn, slots_of(layer), |_, slot| mapped.extend(slot.0.extent().map(|at| at.lun)))
            .await?;
        walk(txn, parts_of(layer), |_, slot| mapped.extend(slot.0.extent().map(|at| at.lun)))
            .await?;
    }
    let mut reserved = BTreeSet::new();
    let NodeIncarnation { node, incarnation } = held.node;
    walk(txn, reservations_of(node, incarnation), |key, _| {
        reserved.extend((key.pool == pool).then_some(key.lun));
    })
    .await?;
    let journal = held.journal.iter().map(|run| (run.first().lun, "where its journal is"));
    let reserved = reserved.into_iter().map(|lun| (lun, "where it has reserved extents"));
    let mapped = mapped.into_iter().map(|lun| (lun, "where blocks of the volume are"));
    Ok(mapped.chain(reserved).chain(journal).collect())
}

fn find(
    holder: NodeIncarnation,
    volume: VolumeId,
    (lun, why): (LunId, &str),
    report: &mut Report<'_>,
) {
    let message = format!(
        "{holder} holds volume {volume} and is not confirmed at LUN {lun}, {why}: a fence of it \
         would not visit that LUN; detach the volume there, or certify that the machine is off"
    );
    let facts: &[(&str, &dyn ToString)] = &[("lun", &lun), ("node", &holder), ("volume", &volume)];
    report.find(FindingKind::RegistrationMismatch, message, facts);
}
