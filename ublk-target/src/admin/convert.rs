//! From what the node knows to what the admin socket answers.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use lunar_proto::error::ERROR_DOMAIN;
use lunar_proto::v1;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::lun::inspect::{Damage, Inspected, LunState};
use crate::lun::inventory::LocalLun;
use crate::lun::signature::Signature;
use crate::node::{NodeError, View, ViewState};
use crate::state::record::Sharing;
use crate::volume::served::ServedVolume;

/// An error as a gRPC status with `ErrorInfo`; a refusal of the metadata service keeps its reason
/// and facts, and gets the message with what was being done.
#[must_use]
pub fn status(error: &NodeError) -> Status {
    let message = error.message();
    if let Some(report) = error.refusal() {
        return lunar_proto::error::ErrorReport { message, ..report.clone() }.to_status();
    }
    let reason = error.reason();
    let facts: HashMap<String, String> = error.facts().into_iter().collect();
    let details = ErrorDetails::with_error_info(reason.text, ERROR_DOMAIN, facts);
    Status::with_error_details(reason.code, message, details)
}

fn counters(served: &ServedVolume) -> v1::VolumeCounters {
    let stats = served.stats();
    let mut counters = v1::VolumeCounters {
        dirty_slots: stats.dirty_extents,
        parked_requests: stats.parked_requests,
        reserved_extents: stats.reserve_extents,
        checkpoints: stats.checkpoints,
        split_reads: stats.split_reads,
        split_read_ios: stats.split_read_ios,
        consolidated_extents: stats.consolidated_extents,
        consolidated_bytes: stats.consolidated_bytes,
        failed_copies: stats.failed_copies,
        ..Default::default()
    };
    for queue in &served.shared.counters {
        counters.read_requests += queue.reads.load(Ordering::Relaxed);
        counters.read_bytes += queue.read_bytes.load(Ordering::Relaxed);
        counters.write_requests += queue.writes.load(Ordering::Relaxed);
        counters.write_bytes += queue.write_bytes.load(Ordering::Relaxed);
        counters.flush_requests += queue.flushes.load(Ordering::Relaxed);
        counters.discard_requests += queue.discards.load(Ordering::Relaxed);
        counters.failed_requests += queue.failures.load(Ordering::Relaxed);
        counters.lun_read_bytes += queue.lun_read_bytes.load(Ordering::Relaxed);
        counters.lun_write_bytes += queue.lun_written_bytes.load(Ordering::Relaxed);
    }
    counters
}

/// A volume on this node.
#[must_use]
pub fn attachment(view: &View) -> v1::LocalAttachment {
    let state = match view.state {
        ViewState::Attaching => v1::AttachmentState::Attaching,
        ViewState::Live => v1::AttachmentState::Live,
        ViewState::Poisoned => v1::AttachmentState::Poisoned,
        ViewState::Detaching => v1::AttachmentState::Detaching,
        ViewState::Waiting => v1::AttachmentState::Waiting,
        ViewState::Moving => v1::AttachmentState::Moving,
    };
    let record = &view.record;
    let facts = view.served.as_ref().map(|served| &served.facts);
    let device = view.served.as_ref().map(|served| served.device_size.get()).unwrap_or_default();
    let number = record.device.number().unwrap_or_default();
    v1::LocalAttachment {
        volume_id: record.volume.to_string(),
        volume_name: record.name.clone(),
        pool_id: facts.map(|facts| facts.pool.to_string()).unwrap_or_default(),
        epoch: record.epoch.get(),
        device_path: record.device.block_path(),
        size_bytes: device.bytes,
        logical_block_size: facts.map_or(0, |facts| facts.logical_block.bytes()),
        state: state.into(),
        problem: view.problem.clone().unwrap_or_default(),
        counters: view.served.as_deref().map(counters),
        grows_at_next_attachment: device.waits_for_attachment,
        migratable: record.sharing == Sharing::Migratable,
        waiting_requests: view.waiting.as_ref().map_or(0, |waiting| waiting.held()),
        publication_id: record.publication.map_or_else(String::new, |id| id.to_string()),
        device_major: number.0,
        device_minor: number.1,
    }
}

const fn lun_state(state: &LunState) -> v1::LunState {
    match state {
        LunState::Unlabelled => v1::LunState::Unlabelled,
        LunState::Ours(_) => v1::LunState::Ours,
        LunState::Labelled(_) => v1::LunState::Unspecified,
        LunState::ForeignCluster(_) => v1::LunState::ForeignCluster,
        LunState::ForeignSignature(_) => v1::LunState::ForeignSignature,
        LunState::Damaged(Damage::OneCopy) => v1::LunState::LabelCopyDamaged,
        LunState::Damaged(Damage::BothCopies) => v1::LunState::LabelDamaged,
        LunState::Damaged(Damage::Shrank) => v1::LunState::Shrank,
        LunState::Damaged(Damage::TooSmall) => v1::LunState::TooSmall,
        LunState::Damaged(Damage::Newer) => v1::LunState::NewerLabel,
        LunState::Unreadable => v1::LunState::Unreadable,
    }
}

fn foreign(signature: &Signature) -> v1::ForeignSignature {
    v1::ForeignSignature {
        kind: signature.kind.clone(),
        uuid: signature.uuid.clone().unwrap_or_default(),
        usage: signature.usage.clone(),
        label: signature.label.clone().unwrap_or_default(),
    }
}

fn signatures(state: &LunState) -> Vec<v1::ForeignSignature> {
    match state {
        LunState::ForeignSignature(signatures) => signatures.iter().map(foreign).collect(),
        LunState::ForeignCluster(label) => vec![v1::ForeignSignature {
            kind: "lunar".to_owned(),
            uuid: label.lun.to_string(),
            usage: "LUN of another cluster".to_owned(),
            label: label.cluster.to_string(),
        }],
        _ => Vec::new(),
    }
}

/// What was found on one device.
#[must_use]
pub fn inspected(found: &Inspected) -> v1::LocalLun {
    v1::LocalLun {
        path: found.path.display().to_string(),
        size_bytes: found.size_bytes,
        logical_block_size: found.logical_block_bytes,
        state: lun_state(&found.state).into(),
        label: found.label().map(|label| v1::LunLabel {
            cluster_id: label.cluster.to_string(),
            lun_id: label.lun.to_string(),
            size_bytes: label.size_bytes,
            logical_block_size: label.logical_block_bytes,
        }),
        signatures: signatures(&found.state),
        problem: found.problem.clone().unwrap_or_default(),
        ..Default::default()
    }
}

/// A LUN with its paths and its unit.
#[must_use]
pub fn local_lun(lun: &LocalLun) -> v1::LocalLun {
    v1::LocalLun {
        other_paths: lun.other_paths.iter().map(|path| path.display().to_string()).collect(),
        model: lun.unit.model.clone().unwrap_or_default(),
        wwid: lun.unit.wwid.clone().unwrap_or_default(),
        ..inspected(&lun.inspected)
    }
}

#[cfg(test)]
mod tests {
    use lunar_proto::error::{ErrorReason, ErrorReport, Facts};
    use tonic::Code;

    use super::*;
    use crate::metadata::MetadataError;
    use crate::testing::unavailable;

    #[test]
    fn a_refusal_of_the_service_keeps_its_reason_and_says_what_was_being_done() {
        let report = ErrorReport {
            reason: ErrorReason::VolumeAttached,
            message: "volume 'a' is attached to node 'b'".to_owned(),
            facts: Facts::from([("node_name".to_owned(), "b".to_owned())]),
        };
        let source = MetadataError::Refused(report.clone());
        let what = "attach volume 'a'".to_owned();
        let status = status(&NodeError::Metadata { what, source });
        let back = ErrorReport::from_status(&status).expect("it is a report");
        assert_eq!((back.reason, &back.facts), (report.reason, &report.facts));
        assert_eq!(back.message, "cannot attach volume 'a': volume 'a' is attached to node 'b'");
    }

    #[test]
    fn an_error_of_our_own_has_reason_code_and_facts() {
        let error = NodeError::InUse {
            volume: "a".to_owned(),
            device: "/dev/ublkb0".to_owned(),
            holders: "mounted on /mnt (seen by process 7)".to_owned(),
        };
        let status = status(&error);
        let info = status.get_details_error_info().expect("details");
        assert_eq!(
            (status.code(), info.reason.as_str()),
            (Code::FailedPrecondition, "VOLUME_IN_USE")
        );
        assert_eq!((info.domain.as_str(), info.metadata["volume"].as_str()), (ERROR_DOMAIN, "a"));
        assert!(status.message().contains("mounted on /mnt"), "{}", status.message());
        let what = "attach volume 'a'".to_owned();
        let away = super::status(&NodeError::Metadata { what, source: unavailable() });
        assert_eq!(away.code(), Code::Unavailable);
    }
}
