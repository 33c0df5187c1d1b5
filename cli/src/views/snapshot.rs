//! Snapshots, what became of one that is deleted, and volumes that went back to one.

use std::collections::BTreeMap;

use lunar_proto::domain::{Pool, Snapshot, SnapshotState, Volume};
use lunar_types::{PoolId, SnapshotSetId, VolumeId};
use serde::Serialize;

use super::time::utc;
use super::volume::{AttachmentView, VolumeView};
use super::{NONE, size, with_restored};
use crate::output::{Report, facts, table};

/// What snapshots point at, to name it.
#[derive(Debug, Default)]
pub struct Origins {
    volumes: BTreeMap<VolumeId, String>,
    pools: BTreeMap<PoolId, Pool>,
}

impl Origins {
    /// These volumes and pools.
    #[must_use]
    pub fn new(volumes: &[Volume], pools: Vec<Pool>) -> Self {
        let volumes = volumes.iter().map(|volume| (volume.id, volume.name.to_string()));
        let pools = pools.into_iter().map(|pool| (pool.id, pool));
        Self { volumes: volumes.collect(), pools: pools.collect() }
    }
}

/// A snapshot.
#[derive(Serialize, Debug)]
pub struct SnapshotView {
    snapshot_id: String,
    name: String,
    volume_id: String,
    /// Empty where the volume is gone.
    volume_name: String,
    pool_id: String,
    pool_name: String,
    size_bytes: u64,
    /// What its layer owns: written between the snapshot before it and this one.
    owned_bytes: u64,
    logical_block_size_bytes: u32,
    state: &'static str,
    /// It came back with a backup, or was cut of a volume that did.
    restored: bool,
    /// Absent while it is being cut.
    layer: Option<u64>,
    set_id: String,
    /// The group that it is in.
    group_id: Option<String>,
    created_unix_seconds: u64,
}

impl SnapshotView {
    /// A snapshot; nothing where its pool is not among the origins.
    #[must_use]
    pub fn new(snapshot: &Snapshot, origins: &Origins) -> Option<Self> {
        let pool = origins.pools.get(&snapshot.pool)?;
        Some(Self {
            snapshot_id: snapshot.id.to_string(),
            name: snapshot.name.to_string(),
            volume_id: snapshot.volume.to_string(),
            volume_name: origins.volumes.get(&snapshot.volume).cloned().unwrap_or_default(),
            pool_id: pool.id.to_string(),
            pool_name: pool.name.to_string(),
            size_bytes: snapshot.size.bytes(),
            owned_bytes: snapshot.owned_extents.saturating_mul(pool.extent_size.bytes()),
            logical_block_size_bytes: snapshot.logical_block_size.bytes(),
            state: state_word(snapshot.state),
            restored: snapshot.restored,
            layer: snapshot.layer.map(lunar_types::LayerId::get),
            set_id: snapshot.set.to_string(),
            group_id: snapshot.group.map(|group| group.to_string()),
            created_unix_seconds: snapshot.created_unix_seconds,
        })
    }

    fn volume_text(&self) -> String {
        match self.volume_name.as_str() {
            "" => "(gone)".to_owned(),
            name => name.to_owned(),
        }
    }

    fn row(&self) -> [String; 7] {
        [
            self.name.clone(),
            self.volume_text(),
            size(self.size_bytes),
            size(self.owned_bytes),
            with_restored(self.state, self.restored),
            utc(self.created_unix_seconds),
            self.snapshot_id.clone(),
        ]
    }
}

const fn state_word(state: SnapshotState) -> &'static str {
    match state {
        SnapshotState::Creating => "creating",
        SnapshotState::Ready => "ready",
        SnapshotState::Deleting => "deleting",
    }
}

impl Report for SnapshotView {
    fn to_text(&self) -> String {
        facts(&[
            ("name", self.name.clone()),
            ("id", self.snapshot_id.clone()),
            ("volume", format!("{} ({})", self.volume_text(), self.volume_id)),
            ("pool", format!("{} ({})", self.pool_name, self.pool_id)),
            ("size", size(self.size_bytes)),
            ("owned", size(self.owned_bytes)),
            ("logical blocks", size(self.logical_block_size_bytes.into())),
            ("state", with_restored(self.state, self.restored)),
            ("layer", self.layer.map_or_else(|| NONE.to_owned(), |layer| layer.to_string())),
            ("set", self.set_id.clone()),
            ("created", utc(self.created_unix_seconds)),
        ])
    }
}

fn rows(snapshots: &[SnapshotView]) -> String {
    let rows = snapshots.iter().map(SnapshotView::row).collect();
    let header = ["NAME", "VOLUME", "SIZE", "OWNED", "STATE", "CREATED", "ID"];
    table(header, rows, "no snapshots")
}

/// `lunar snapshot list`.
#[derive(Serialize, Debug)]
pub struct SnapshotList {
    snapshots: Vec<SnapshotView>,
}

impl SnapshotList {
    /// These snapshots, those of one volume together, the oldest first.
    #[must_use]
    pub fn new(mut snapshots: Vec<SnapshotView>) -> Self {
        let order = |view: &SnapshotView| {
            let volume = (view.volume_name.clone(), view.volume_id.clone());
            (volume, view.created_unix_seconds, view.name.clone())
        };
        snapshots.sort_by_cached_key(order);
        Self { snapshots }
    }
}

impl Report for SnapshotList {
    fn to_text(&self) -> String {
        rows(&self.snapshots)
    }
}

/// `lunar snapshot create`: a set that was cut.
#[derive(Serialize, Debug)]
pub struct SealedSetView {
    set_id: String,
    snapshots: Vec<SnapshotView>,
}

impl SealedSetView {
    /// The snapshots of a set, in the order in which they were asked for.
    #[must_use]
    pub fn new(set: SnapshotSetId, snapshots: Vec<SnapshotView>) -> Self {
        Self { set_id: set.to_string(), snapshots }
    }
}

impl Report for SealedSetView {
    fn to_text(&self) -> String {
        rows(&self.snapshots)
    }
}

/// What became of the space of a snapshot that is deleted.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum SnapshotDeletion {
    /// It is free.
    Freed,
    /// The snapshot is gone. Volumes or snapshots that were made of it still need what it has.
    Shared,
    /// Its name is free. Its layer stays until what stands on it is merged or deleted.
    Waiting {
        /// The layer that stands on it.
        waits_for_layer: u64,
        /// What that layer is, such as "volume 'db'".
        waits_for: String,
    },
    /// Nobody has waited.
    Started,
}

/// `lunar snapshot delete`.
#[derive(Serialize, Debug)]
pub struct SnapshotDeleteView {
    snapshot_id: String,
    name: String,
    #[serde(flatten)]
    deletion: SnapshotDeletion,
}

impl SnapshotDeleteView {
    /// The deletion of this snapshot.
    #[must_use]
    pub fn new(snapshot: &Snapshot, deletion: SnapshotDeletion) -> Self {
        let (snapshot_id, name) = (snapshot.id.to_string(), snapshot.name.to_string());
        Self { snapshot_id, name, deletion }
    }
}

impl Report for SnapshotDeleteView {
    fn to_text(&self) -> String {
        let Self { snapshot_id: id, name, deletion } = self;
        match deletion {
            SnapshotDeletion::Freed => format!("snapshot '{name}' is deleted, its space is free\n"),
            SnapshotDeletion::Shared => format!(
                "snapshot '{name}' is deleted; what was made of it still needs what it has: the \
                 space comes back when that is deleted\n"
            ),
            SnapshotDeletion::Waiting { waits_for, .. } => format!(
                "snapshot '{name}' ({id}) is deleted, its name is free; its space comes back when \
                 what stands on it, {waits_for}, is merged or deleted\n"
            ),
            SnapshotDeletion::Started => {
                format!("snapshot '{name}' ({id}) is being deleted in the background\n")
            }
        }
    }
}

/// `lunar volume rollback`.
#[derive(Serialize, Debug)]
pub struct RollbackView {
    #[serde(flatten)]
    volume: VolumeView,
    snapshot_id: String,
    snapshot_name: String,
    /// The device, where the volume was attached again.
    attachment: Option<AttachmentView>,
}

impl RollbackView {
    /// A volume that has the content of this snapshot again.
    #[must_use]
    pub fn new(
        volume: VolumeView,
        snapshot: &Snapshot,
        attachment: Option<AttachmentView>,
    ) -> Self {
        let (snapshot_id, snapshot_name) = (snapshot.id.to_string(), snapshot.name.to_string());
        Self { volume, snapshot_id, snapshot_name, attachment }
    }
}

impl Report for RollbackView {
    fn to_text(&self) -> String {
        let (volume, snapshot) = (self.volume.name(), &self.snapshot_name);
        let text = format!("volume '{volume}' has the content of snapshot '{snapshot}'\n");
        text + &self.attachment.as_ref().map(Report::to_text).unwrap_or_default()
    }
}
