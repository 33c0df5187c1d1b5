//! What the store holds: every entry looked at once, and the objects kept in memory.

use std::collections::BTreeMap;

use lunar_types::{
    Epoch, LayerId, LunIndex, NodeId, NodeIncarnation, PoolId, SnapshotId, VolumeId,
};

use super::report::{FindingKind, Report};
use crate::error::ServiceError;
use crate::keyspace::{
    AttachmentKey, AttachmentRecord, BackupsKey, BackupsRecord, FenceKey, FenceRecord, Key,
    LayerKey, LayerRecord, LunKey, LunRecord, MigrationKey, MigrationRecord, NodeKey, NodeRecord,
    PoolKey, PoolRecord, Record as _, SnapshotKey, SnapshotRecord, StaleJournalKey,
    StaleJournalRecord, TypedRange, VolumeKey, VolumeRecord, check_entry,
};
use crate::service::Life;
use crate::store::{KeyRange, KeyValue, RangeRead, Txn};

/// Keys of one read.
const SCAN_KEYS: usize = 1000;

/// Every entry of a range of keys, in parts.
async fn walk_raw<T: Txn>(
    txn: &T,
    range: KeyRange,
    mut visit: impl FnMut(KeyValue) + Send,
) -> Result<(), ServiceError> {
    let mut range = range;
    loop {
        let found =
            txn.get_range(&RangeRead::first(range.clone(), SCAN_KEYS).as_snapshot()).await?;
        let full = found.len() >= SCAN_KEYS;
        if let Some((last, _)) = found.last() {
            range.begin = KeyRange::point(last).end;
        }
        found.into_iter().for_each(&mut visit);
        if !full {
            return Ok(());
        }
    }
}

/// Every entry of a range that can be read.
pub(super) async fn walk<T: Txn, K: Key>(
    txn: &T,
    range: TypedRange<K>,
    mut visit: impl FnMut(K, K::Value) + Send,
) -> Result<(), ServiceError> {
    walk_raw(txn, range.keys().clone(), |(key, value)| {
        if let (Some(key), Ok(value)) = (K::unpack(&key), K::Value::decode(&value)) {
            visit(key, value);
        }
    })
    .await
}

/// Every entry of a table that can be read.
pub(super) async fn walk_table<T: Txn, K: Key>(
    txn: &T,
    visit: impl FnMut(K, K::Value) + Send,
) -> Result<(), ServiceError> {
    walk(txn, TypedRange::<K>::table(), visit).await
}

/// Reports every key and value that cannot be read.
pub(super) async fn check_every_entry<T: Txn>(
    txn: &T,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let everything = KeyRange::new(Vec::new(), vec![0xFF; 2]);
    walk_raw(txn, everything, |(key, value)| {
        if let Err(problem) = check_entry(&key, &value) {
            let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            let message = format!("key {text}: {problem}");
            report.find(FindingKind::EntryUnreadable, message, &[("key", &text)]);
        }
    })
    .await
}

/// The objects of the store.
#[derive(Default)]
pub(super) struct Inventory {
    pub(super) pools: BTreeMap<PoolId, PoolRecord>,
    pub(super) luns: BTreeMap<(PoolId, LunIndex), LunRecord>,
    pub(super) volumes: BTreeMap<VolumeId, VolumeRecord>,
    pub(super) layers: BTreeMap<LayerId, LayerRecord>,
    pub(super) snapshots: BTreeMap<SnapshotId, SnapshotRecord>,
    pub(super) nodes: BTreeMap<NodeId, NodeRecord>,
    pub(super) attachments: BTreeMap<VolumeId, AttachmentRecord>,
    pub(super) stale_journals: BTreeMap<(VolumeId, Epoch), StaleJournalRecord>,
    pub(super) migrations: BTreeMap<VolumeId, MigrationRecord>,
    pub(super) fences: BTreeMap<NodeIncarnation, FenceRecord>,
    pub(super) backups: BackupsRecord,
}

impl Inventory {
    pub(super) async fn load<T: Txn>(txn: &T) -> Result<Self, ServiceError> {
        let mut all = Self::default();
        walk_table(txn, |key: PoolKey, record| {
            all.pools.insert(key.pool, record);
        })
        .await?;
        walk_table(txn, |key: LunKey, record| {
            all.luns.insert((key.pool, key.index), record);
        })
        .await?;
        walk_table(txn, |key: VolumeKey, record| {
            all.volumes.insert(key.volume, record);
        })
        .await?;
        walk_table(txn, |key: LayerKey, record| {
            all.layers.insert(key.layer, record);
        })
        .await?;
        walk_table(txn, |key: SnapshotKey, record| {
            all.snapshots.insert(key.snapshot, record);
        })
        .await?;
        walk_table(txn, |key: NodeKey, record| {
            all.nodes.insert(key.node, record);
        })
        .await?;
        walk_table(txn, |key: AttachmentKey, record| {
            all.attachments.insert(key.volume, record);
        })
        .await?;
        walk_table(txn, |key: StaleJournalKey, record| {
            all.stale_journals.insert((key.volume, key.epoch), record);
        })
        .await?;
        walk_table(txn, |key: MigrationKey, record| {
            all.migrations.insert(key.volume, record);
        })
        .await?;
        walk_table(txn, |key: FenceKey, record| {
            let FenceKey { node, incarnation } = key;
            all.fences.insert(NodeIncarnation { node, incarnation }, record);
        })
        .await?;
        let backups = txn.get(&BackupsKey {}.pack()).await?;
        let backups = backups.and_then(|value| BackupsRecord::decode(&value).ok());
        all.backups = backups.unwrap_or_default();
        Ok(all)
    }

    /// Whether the incarnation was ever given.
    pub(super) fn knows(&self, node: NodeIncarnation) -> bool {
        node.incarnation.get() > 0
            && self
                .nodes
                .get(&node.node)
                .is_some_and(|record| node.incarnation <= record.incarnation)
    }

    /// Whether the incarnation may still write.
    pub(super) fn is_live(&self, node: NodeIncarnation) -> bool {
        matches!(self.life(node), Some(Life::Live | Life::Fencing { .. }))
    }

    /// Whether the incarnation is its node's newest, and nobody cuts it off.
    pub(super) fn is_unfenced(&self, node: NodeIncarnation) -> bool {
        self.life(node) == Some(Life::Live)
    }

    /// Whether what the incarnation held in a pool may be given away.
    pub(super) fn is_free(&self, pool: PoolId, node: NodeIncarnation) -> bool {
        let fencing = self.pools.get(&pool).map(|pool| pool.fencing);
        fencing.is_some_and(|fencing| self.life(node).is_some_and(|life| life.frees(fencing)))
    }

    fn life(&self, node: NodeIncarnation) -> Option<Life> {
        let record = self.nodes.get(&node.node)?;
        Some(Life::of(node.incarnation, record, self.fences.get(&node)))
    }

    /// Whether an attachment or stale journal of the incarnation is left.
    pub(super) fn has_journal(&self, node: NodeIncarnation) -> bool {
        self.attachments.values().any(|record| record.node == node)
            || self.stale_journals.values().any(|record| record.node == node)
    }
}
