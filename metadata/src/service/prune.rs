//! Pruning: the holder of a volume takes out of its head what its committed slots hide.
//!
//! Invariants:
//! - only the holder prunes, and only its head: everybody else's reads of it are over;
//! - what hides a part is committed: the own slot, and parts above it. What the engine has in its
//!   memory hides no less, because a head with something below never hides less than before;
//! - the extents go into the reservation of the caller, which reuses or releases them after what it
//!   may still read through an older map has ended.

use std::sync::Arc;

use lunar_proto::domain::{PRUNE_PARTS_MAX, PruneLayer, PrunedPart, PrunedParts};
use lunar_types::{LayerId, LogicalExtent, NodeIncarnation, PoolId};

use super::attachments::{oldest_stale, require_attachment};
use super::cover::Cover;
use super::horizon::Horizon;
use super::layers::remove_parts;
use super::space::BitmapEdits;
use super::{Service, foreign_outcome};
use crate::error::ServiceError;
use crate::keyspace::{KeyedTxn, LayerPartsKey, Outcome, PartKey, SlotKey, SlotValue, parts_of};
use crate::store::{MetaStore, Txn};

type Part = (PartKey, SlotValue);

/// Parts of whole logical extents, and where to go on.
async fn read_parts<T: Txn>(
    txn: &T,
    layer: LayerId,
    at: LogicalExtent,
) -> Result<(Vec<Part>, Option<LogicalExtent>), ServiceError> {
    let first = PartKey { layer, at, birth: LayerId::default() };
    let range = parts_of(layer).starting_at(&first);
    let mut parts = txn.scan(&range, PRUNE_PARTS_MAX + 1).await?;
    if parts.len() <= PRUNE_PARTS_MAX {
        return Ok((parts, None));
    }
    let cut = parts.last().map(|(key, _)| key.at);
    parts.retain(|(key, _)| Some(key.at) != cut);
    if parts.is_empty() {
        let problem = format!("it has more than {PRUNE_PARTS_MAX} parts at one logical extent");
        return Err(ServiceError::corrupt(format!("layer {layer}"), problem));
    }
    Ok((parts, cut))
}

/// The parts of one logical extent that are hidden, in ascending order of their births.
async fn hidden<T: Txn>(txn: &T, parts: &[Part]) -> Result<Vec<Part>, ServiceError> {
    let mut cover = Cover::default();
    if let Some((PartKey { layer, at, .. }, _)) = parts.first() {
        let own = txn.load(&SlotKey { layer: *layer, at: *at }).await?;
        own.iter().for_each(|SlotValue(slot)| cover.add(slot));
    }
    let mut hidden = Vec::new();
    for (key, value) in parts.iter().rev() {
        if cover.hides(&value.0) {
            hidden.push((key.clone(), value.clone()));
        }
        cover.add(&value.0);
    }
    hidden.reverse();
    Ok(hidden)
}

/// Puts the extents of parts that are gone into a reservation.
async fn reserve<T: Txn>(
    txn: &T,
    (pool, node): (PoolId, NodeIncarnation),
    parts: &[Part],
) -> Result<(), ServiceError> {
    let marks = Horizon::load(txn).await?.marks();
    let mut reserved = BitmapEdits::reserved(txn, node, pool);
    let mut unmapped = BitmapEdits::unmapped(txn, node, pool);
    for extent in parts.iter().filter_map(|(_, value)| value.0.extent()) {
        if !reserved.insert(extent).await? {
            let key = format!("extent {extent} of pool {pool}");
            let problem = format!("it is of a part and also reserved for {node}");
            return Err(ServiceError::corrupt(key, problem));
        }
        if marks {
            unmapped.insert(extent).await?;
        }
    }
    reserved.write();
    unmapped.write();
    Ok(())
}

async fn prune_layer<T: Txn>(txn: &T, request: &PruneLayer) -> Result<Outcome, ServiceError> {
    let PruneLayer { volume, layer, caller, .. } = *request;
    let (record, _) = require_attachment(txn, volume, request.epoch, caller).await?;
    if record.head != layer {
        return Err(ServiceError::LayerNotWritable { layer, volume, head: record.head });
    }
    if let Some((oldest, _)) = oldest_stale(txn, volume).await? {
        return Err(ServiceError::StaleJournals { volume, oldest, wanted: "prune its head" });
    }
    let (parts, next) = read_parts(txn, layer, request.from).await?;
    let mut gone = Vec::new();
    for of_extent in parts.chunk_by(|(one, _), (other, _)| one.at == other.at) {
        gone.extend(hidden(txn, of_extent).await?);
    }
    reserve(txn, (record.pool, caller.node), &gone).await?;
    remove_parts(txn, &LayerPartsKey { layer }, &gone).await?;
    let pruned = |(PartKey { at, birth, .. }, value): &Part| PrunedPart {
        at: *at,
        birth: *birth,
        extent: value.0.extent(),
    };
    let parts = gone.iter().map(pruned).collect();
    Ok(Outcome::Pruned(PrunedParts { parts, next, ..PrunedParts::default() }))
}

impl<S: MetaStore> Service<S> {
    /// Takes parts out of a window of the head of an attached volume that its committed slots
    /// hide. Their extents are the caller's to use when nothing reads them any more.
    ///
    /// # Errors
    /// The grant is over, a later process speaks for the node, the layer is not the head, or stale
    /// journals come first.
    pub async fn prune_layer(&self, request: &PruneLayer) -> Result<PrunedParts, ServiceError> {
        let what = ("prune layer", request);
        let prune = |txn: Arc<S::Txn>| async move { prune_layer(&*txn, request).await };
        match self.once(request.request, &what, prune).await? {
            Outcome::Pruned(pruned) => {
                let pruned = PrunedParts { freed: self.freed().await?, ..pruned };
                if !pruned.parts.is_empty() {
                    self.waits.emptied(request.layer, self.seams.clock.now());
                }
                Ok(pruned)
            }
            other => Err(foreign_outcome(request.request, &other)),
        }
    }
}
