//! The service's own facts and its check on the wire.

use lunar_types::LayerId;

use super::volumes::layer_id;
use super::{Checked, list, nested, parsed, required, to_list};
use crate::domain::{
    Backup, BackupNumber, Backups, Cluster, FindingsDigest, FsckEvent, FsckFinding, FsckRemedy,
    FsckRepaired, FsckSummary, Operation, OperationId, OperationWork, RoomWanted,
};
use crate::error::FieldError;
use crate::v1;

impl TryFrom<v1::Cluster> for Cluster {
    type Error = FieldError;

    fn try_from(wire: v1::Cluster) -> Checked<Self> {
        Ok(Self {
            id: parsed("cluster_id", &wire.cluster_id)?,
            keyspace_version: wire.keyspace_version,
            service_version: wire.service_version,
        })
    }
}

impl From<Cluster> for v1::Cluster {
    fn from(cluster: Cluster) -> Self {
        Self {
            cluster_id: cluster.id.to_string(),
            keyspace_version: cluster.keyspace_version,
            service_version: cluster.service_version,
        }
    }
}

impl TryFrom<v1::Operation> for Operation {
    type Error = FieldError;

    fn try_from(wire: v1::Operation) -> Checked<Self> {
        use v1::operation::Work;
        let work = match required("work", wire.work)? {
            Work::DeleteVolume(volume) => {
                OperationWork::DeleteVolume(parsed("delete_volume", &volume)?)
            }
            Work::ReclaimReservations(node) => {
                OperationWork::ReclaimReservations(nested("reclaim_reservations", Some(node))?)
            }
            Work::DropLayer(layer) => OperationWork::DropLayer(layer_id("drop_layer", layer)?),
            Work::FreeQuarantine(backup) => {
                OperationWork::FreeQuarantine(backup_number("free_quarantine", backup)?)
            }
        };
        let waits_for = (wire.waits_for_layer > 0).then(|| RoomWanted {
            layer: LayerId::new(wire.waits_for_layer),
            extents: wire.waiting_extents,
        });
        Ok(Self { id: OperationId::new(wire.operation_id), work, waits_for })
    }
}

impl From<Operation> for v1::Operation {
    fn from(operation: Operation) -> Self {
        use v1::operation::Work;
        let work = match operation.work {
            OperationWork::DeleteVolume(volume) => Work::DeleteVolume(volume.to_string()),
            OperationWork::ReclaimReservations(node) => Work::ReclaimReservations(node.into()),
            OperationWork::DropLayer(layer) => Work::DropLayer(layer.get()),
            OperationWork::FreeQuarantine(backup) => Work::FreeQuarantine(backup.get()),
        };
        Self {
            operation_id: operation.id.get(),
            work: Some(work),
            waits_for_layer: operation.waits_for.map_or(0, |wanted| wanted.layer.get()),
            waiting_extents: operation.waits_for.map_or(0, |wanted| wanted.extents),
        }
    }
}

/// The number of a backup on the wire.
///
/// # Errors
/// It is 0.
pub fn backup_number(field: &str, raw: u64) -> Checked<BackupNumber> {
    match raw {
        0 => Err(FieldError::new(field, "backups are numbered from 1")),
        raw => Ok(BackupNumber::new(raw)),
    }
}

impl TryFrom<v1::Backup> for Backup {
    type Error = FieldError;

    fn try_from(wire: v1::Backup) -> Checked<Self> {
        let number = backup_number("number", wire.number)?;
        Ok(Self { number, begun_at: wire.begun_at, complete_at: wire.complete_at })
    }
}

impl From<Backup> for v1::Backup {
    fn from(backup: Backup) -> Self {
        let Backup { number, begun_at, complete_at } = backup;
        Self { number: number.get(), begun_at, complete_at }
    }
}

impl TryFrom<v1::Backups> for Backups {
    type Error = FieldError;

    fn try_from(wire: v1::Backups) -> Checked<Self> {
        Ok(Self {
            newest_complete: (wire.newest_complete > 0)
                .then(|| BackupNumber::new(wire.newest_complete)),
            is_horizon_off: wire.is_horizon_off,
            backups: list("backups", wire.backups)?,
        })
    }
}

impl From<Backups> for v1::Backups {
    fn from(all: Backups) -> Self {
        Self {
            newest_complete: all.newest_complete.map_or(0, BackupNumber::get),
            is_horizon_off: all.is_horizon_off,
            backups: to_list(all.backups),
        }
    }
}

impl TryFrom<v1::FsckEvent> for FsckEvent {
    type Error = FieldError;

    fn try_from(wire: v1::FsckEvent) -> Checked<Self> {
        use v1::fsck_event::Event;
        Ok(match required("event", wire.event)? {
            Event::Finding(finding) => Self::Finding(FsckFinding {
                kind: finding.kind,
                message: finding.message,
                facts: finding.facts.into_iter().collect(),
                remedy: match finding.repairable {
                    true => FsckRemedy::Repair(finding.remedy),
                    false => FsckRemedy::Refused(finding.remedy),
                },
            }),
            Event::Summary(summary) => Self::Summary(FsckSummary {
                findings: summary.findings,
                pools: summary.pools,
                luns: summary.luns,
                volumes: summary.volumes,
                layers: summary.layers,
                slots: summary.slots,
                nodes: summary.nodes,
                attachments: summary.attachments,
                allocated_extents: summary.allocated_extents,
                repairable: summary.repairable,
                digest: FindingsDigest::new(summary.findings_digest),
            }),
            Event::Repaired(v1::FsckRepaired { repair, changed }) => {
                Self::Repaired(FsckRepaired { repair, changed })
            }
        })
    }
}

impl From<FsckEvent> for v1::FsckEvent {
    fn from(event: FsckEvent) -> Self {
        use v1::fsck_event::Event;
        let event = match event {
            FsckEvent::Finding(finding) => {
                let (repairable, remedy) = match finding.remedy {
                    FsckRemedy::Repair(remedy) => (true, remedy),
                    FsckRemedy::Refused(remedy) => (false, remedy),
                };
                Event::Finding(v1::FsckFinding {
                    kind: finding.kind,
                    message: finding.message,
                    facts: finding.facts.into_iter().collect(),
                    repairable,
                    remedy,
                })
            }
            FsckEvent::Summary(summary) => Event::Summary(v1::FsckSummary {
                findings: summary.findings,
                pools: summary.pools,
                luns: summary.luns,
                volumes: summary.volumes,
                layers: summary.layers,
                slots: summary.slots,
                nodes: summary.nodes,
                attachments: summary.attachments,
                allocated_extents: summary.allocated_extents,
                repairable: summary.repairable,
                findings_digest: summary.digest.get(),
            }),
            FsckEvent::Repaired(FsckRepaired { repair, changed }) => {
                Event::Repaired(v1::FsckRepaired { repair, changed })
            }
        };
        Self { event: Some(event) }
    }
}
