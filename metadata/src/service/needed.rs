//! Whether anything needs a layer that is to be dropped.
//!
//! What becomes of a dropped layer is decided by the list of its children alone. Were an entry
//! missing there, what stands on the layer would lose its slots, and with them other volumes their
//! data. So before a process takes the first slot out of a layer it looks at everything that can
//! name one: layers that stand on it, heads, snapshots, next heads.
//!
//! Invariants:
//! - each part of the look is one transaction, and each record is held against what the same
//!   transaction sees: what changes meanwhile is no contradiction;
//! - nothing new comes to name a dropped layer, so one look a process is enough;
//! - what cannot be read is told and passed over: only a second damage would make it matter.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use lunar_proto::domain::{OperationId, SnapshotState};
use lunar_types::LayerId;

use super::Service;
use crate::error::ServiceError;
use crate::keyspace::{
    AttachmentKey, ChildKey, Entry, Key, KeyedTxn, LayerKey, SnapshotKey, StaleJournalKey,
    TypedRange, VolumeKey,
};
use crate::store::{MetaStore, Txn};

/// Records of one read.
const SCAN_KEYS: usize = 1000;
/// Operations that are remembered at most: a forgotten one is looked at again.
const REMEMBERED_MAX: usize = 10_000;

/// The operations whose layer this process has looked at.
#[derive(Default)]
pub(super) struct Checked {
    operations: Mutex<BTreeSet<OperationId>>,
}

impl Checked {
    fn contains(&self, operation: OperationId) -> bool {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).contains(&operation)
    }

    fn insert(&self, operation: OperationId) {
        let mut operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        if operations.len() >= REMEMBERED_MAX {
            operations.clear();
        }
        operations.insert(operation);
    }
}

/// What of a record needs a layer, in words.
trait MayNeed: Key + Sync {
    /// Who needs the layer, if this record says so.
    fn needs(&self, value: &Self::Value, layer: LayerId) -> Option<String>;
}

impl MayNeed for VolumeKey {
    fn needs(&self, value: &Self::Value, layer: LayerId) -> Option<String> {
        (value.head == layer).then(|| format!("it is the head of volume {}", self.volume))
    }
}

impl MayNeed for SnapshotKey {
    fn needs(&self, value: &Self::Value, layer: LayerId) -> Option<String> {
        let is_needed = value.layer == Some(layer) && value.state != SnapshotState::Deleting;
        is_needed.then(|| format!("snapshot {} shows it", self.snapshot))
    }
}

impl MayNeed for AttachmentKey {
    fn needs(&self, value: &Self::Value, layer: LayerId) -> Option<String> {
        let volume = self.volume;
        (value.next_head == layer).then(|| format!("it is the next head of volume {volume}"))
    }
}

impl MayNeed for StaleJournalKey {
    fn needs(&self, value: &Self::Value, layer: LayerId) -> Option<String> {
        let Self { volume, epoch } = self;
        (value.next_head == layer).then(|| {
            format!("it is the next head of the stale journal of volume {volume}, epoch {epoch}")
        })
    }
}

/// The layer cannot be dropped.
fn needed(layer: LayerId, who: &str) -> ServiceError {
    let problem = format!("it is to be dropped, and {who}: nothing of it is freed");
    ServiceError::corrupt(format!("layer {layer}"), problem)
}

/// A part of a table: what cannot be read, and where to go on.
type Part = (Vec<ServiceError>, Option<Vec<u8>>);

async fn look<T: Txn, K: MayNeed>(
    txn: &T,
    range: &TypedRange<K>,
    layer: LayerId,
) -> Result<Part, ServiceError> {
    let found = txn.scan_sound::<K>(range.first(SCAN_KEYS).as_snapshot()).await?;
    let needs = |(key, value): &Entry<K>| key.needs(value, layer);
    match found.entries.iter().find_map(needs) {
        Some(who) => Err(needed(layer, &who)),
        None => Ok((found.damaged, found.more_after)),
    }
}

/// Whether every layer of a part that stands on this one is in its list.
async fn look_above<T: Txn>(
    txn: &T,
    range: &TypedRange<LayerKey>,
    layer: LayerId,
) -> Result<Part, ServiceError> {
    let found = txn.scan_sound::<LayerKey>(range.first(SCAN_KEYS).as_snapshot()).await?;
    for (LayerKey { layer: child }, record) in &found.entries {
        let key = ChildKey { parent: layer, child: *child };
        if record.parent == Some(layer) && txn.load(&key).await?.is_none() {
            let who = format!("layer {child} stands on it, and is not in its list");
            return Err(needed(layer, &who));
        }
    }
    Ok((found.damaged, found.more_after))
}

impl<S: MetaStore> Service<S> {
    /// Refuses to drop a layer that anything needs beside the children in its list.
    pub(super) async fn require_unneeded(
        &self,
        operation: OperationId,
        layer: LayerId,
        met: &mut Vec<ServiceError>,
    ) -> Result<(), ServiceError> {
        if self.checked.contains(operation) {
            return Ok(());
        }
        let mut next = Some(TypedRange::<LayerKey>::table());
        while let Some(range) = next {
            let from = &range;
            let part = self.read(|txn| async move { look_above(&*txn, from, layer).await }).await?;
            met.extend(part.0);
            next = part.1.map(|last| range.after(&last));
        }
        self.look_through::<VolumeKey>(layer, met).await?;
        self.look_through::<SnapshotKey>(layer, met).await?;
        self.look_through::<AttachmentKey>(layer, met).await?;
        self.look_through::<StaleJournalKey>(layer, met).await?;
        self.checked.insert(operation);
        Ok(())
    }

    async fn look_through<K: MayNeed>(
        &self,
        layer: LayerId,
        met: &mut Vec<ServiceError>,
    ) -> Result<(), ServiceError> {
        let mut next = Some(TypedRange::<K>::table());
        while let Some(range) = next {
            let from = &range;
            let read = |txn: Arc<S::Txn>| async move { look(&*txn, from, layer).await };
            let (damaged, more_after) = self.read(read).await?;
            met.extend(damaged);
            next = more_after.map(|last| range.after(&last));
        }
        Ok(())
    }
}
