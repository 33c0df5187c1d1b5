//! Volumes and snapshots as CSI tells them.

use lunar_proto::csi;
use lunar_proto::csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
use lunar_proto::domain::{Origin, Snapshot, SnapshotGroup, Volume};
use prost_types::Timestamp;

use crate::sizes::bytes_of;

fn content_source(origin: Origin) -> csi::VolumeContentSource {
    let r#type = match origin {
        Origin::Snapshot(id) => Type::Snapshot(SnapshotSource { snapshot_id: id.to_string() }),
        Origin::Volume(id) => Type::Volume(VolumeSource { volume_id: id.to_string() }),
    };
    csi::VolumeContentSource { r#type: Some(r#type) }
}

/// The volume.
pub(super) fn volume(volume: &Volume) -> csi::Volume {
    csi::Volume {
        capacity_bytes: bytes_of(volume.size),
        volume_id: volume.id.to_string(),
        content_source: volume.origin.map(content_source),
        ..csi::Volume::default()
    }
}

/// A moment of the caller's clock.
pub(super) fn moment(unix_seconds: u64) -> Timestamp {
    Timestamp { seconds: i64::try_from(unix_seconds).unwrap_or(i64::MAX), nanos: 0 }
}

/// A snapshot that is cut.
pub(super) fn snapshot(snapshot: &Snapshot) -> csi::Snapshot {
    csi::Snapshot {
        size_bytes: bytes_of(snapshot.size),
        snapshot_id: snapshot.id.to_string(),
        source_volume_id: snapshot.volume.to_string(),
        creation_time: Some(moment(snapshot.created_unix_seconds)),
        ready_to_use: true,
        group_snapshot_id: snapshot.group.map(|group| group.to_string()).unwrap_or_default(),
    }
}

/// A group of which every snapshot is cut.
pub(super) fn group(group: &SnapshotGroup) -> csi::VolumeGroupSnapshot {
    csi::VolumeGroupSnapshot {
        group_snapshot_id: group.id.to_string(),
        snapshots: group.snapshots.iter().map(snapshot).collect(),
        creation_time: Some(moment(group.created_unix_seconds)),
        ready_to_use: true,
    }
}

/// The nodes that have, or had until they let go, the leave to attach it.
pub(super) fn published_nodes(volume: &Volume) -> Vec<String> {
    volume.publications.iter().map(|it| it.node_name.to_string()).collect()
}

/// Whether anything is the matter with a volume, as far as the service knows.
pub(super) fn condition(volume: &Volume) -> csi::VolumeCondition {
    let recalled = volume.publications.iter().find(|it| it.recalled);
    let lost = volume.holder.as_ref().filter(|holder| !holder.live);
    let problem = if volume.restored {
        let name = &volume.name;
        Some(format!(
            "it came back with a backup and may be a mixture: see it, then 'lunar volume accept \
             {name}'"
        ))
    } else if let Some(recalled) = recalled {
        let node = &recalled.node_name;
        Some(format!("it is being taken from node '{node}', which still holds it"))
    } else {
        lost.filter(|_| !volume.publications.is_empty()).map(|holder| {
            let node = &holder.node_name;
            format!("node '{node}', which held it, is gone: nobody serves it now")
        })
    };
    csi::VolumeCondition {
        abnormal: problem.is_some(),
        message: problem.unwrap_or_else(|| "nothing is the matter with it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use lunar_proto::domain::{ContentState, Holder, Publication, PublicationMode, VolumeState};
    use lunar_types::{
        Epoch, Incarnation, LayerId, LogicalBlockSize, Name, NodeId, NodeIncarnation, PoolId,
        PublicationId, VolumeId, VolumeSize,
    };

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn at_peace() -> Volume {
        Volume {
            id: VolumeId::from_u128(1),
            name: name("v"),
            pool: PoolId::from_u128(2),
            size: VolumeSize::from_bytes(1 << 30).expect("a size"),
            logical_block_size: LogicalBlockSize::B4096,
            head: LayerId::new(1),
            epoch: Epoch::default(),
            state: VolumeState::Ready,
            restored: false,
            holder: None,
            mapped_extents: 0,
            peers: vec![],
            moves: 0,
            publications: vec![],
            content: ContentState::Blank,
            origin: None,
        }
    }

    fn publication(recalled: bool) -> Publication {
        Publication {
            id: PublicationId::from_u128(3),
            node: NodeId::new(1),
            node_name: name("a"),
            mode: PublicationMode::Single,
            reads_only: false,
            recalled,
            since: 0,
        }
    }

    fn holder(live: bool) -> Holder {
        Holder {
            node: NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(1) },
            node_name: name("a"),
            epoch: Epoch::default(),
            live,
            granted_at: 0,
        }
    }

    #[test]
    fn what_is_the_matter_with_a_volume_is_told() {
        let of = |volume: &Volume| condition(volume).abnormal;
        let (peace, published) = (at_peace(), vec![publication(false)]);
        assert!(!of(&peace));
        let served =
            Volume { holder: Some(holder(true)), publications: published.clone(), ..peace.clone() };
        assert!(!of(&served));
        let lost = Volume { holder: Some(holder(false)), ..served.clone() };
        let told = condition(&lost);
        assert!(told.abnormal && told.message.contains("'a'"), "{told:?}");
        let by_hand = Volume { holder: Some(holder(false)), ..peace.clone() };
        assert!(!of(&by_hand), "nobody in Kubernetes waits for it");
        assert!(of(&Volume { publications: vec![publication(true)], ..served }));
        let restored = Volume { restored: true, ..peace };
        assert!(condition(&restored).message.contains("lunar volume accept"));
    }
}
