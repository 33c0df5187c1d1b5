//! Rows of every other call.

use lunar_proto::csi;
use tonic::Code;

use super::creations::{bad_capabilities, bad_names, bad_parameters};
use super::{Call, Known, NOBODY, Row, row};
use crate::calls::*;
use crate::world::*;

/// Texts that are no id of anything.
fn no_ids() -> Vec<String> {
    let mut ids: Vec<String> =
        ["no uuid", NOBODY, "there", "\0", "../../etc", " ", "{}", "ü"].map(str::to_owned).to_vec();
    ids.push("f".repeat(10_000));
    ids
}

pub(super) fn rows(known: &Known) -> Vec<Row> {
    let tables = [
        publish(known),
        by_volume(known),
        validate(known),
        lists(),
        capacity(),
        snapshots(known),
        changed_blocks(known),
    ];
    tables.into_iter().flatten().collect()
}

fn publish(known: &Known) -> Vec<Row> {
    let good = csi::ControllerPublishVolumeRequest {
        volume_id: known.volume.clone(),
        node_id: "a".to_owned(),
        volume_capability: Some(writer()),
        ..Default::default()
    };
    let with = |what: &str, code, change: &dyn Fn(&mut csi::ControllerPublishVolumeRequest)| {
        let mut request = good.clone();
        change(&mut request);
        row(format!("publish: {what}"), Call::Publish(request), code)
    };
    let (invalid, not_found) = (Code::InvalidArgument, Code::NotFound);
    let mut rows = vec![
        row("publish: an empty request", Call::Publish(Default::default()), invalid),
        with("no volume", invalid, &|it| it.volume_id.clear()),
        with("no node", invalid, &|it| it.node_id.clear()),
        with("no capability", invalid, &|it| it.volume_capability = None),
    ];
    for id in no_ids() {
        rows.push(with(&format!("volume {id:?}"), not_found, &|it| it.volume_id = id.clone()));
        rows.push(with(&format!("node {id:?}"), not_found, &|it| it.node_id = id.clone()));
    }
    for (what, bad) in bad_capabilities() {
        rows.push(with(&what, invalid, &|it| it.volume_capability = Some(bad.clone())));
    }
    rows
}

fn by_volume(known: &Known) -> Vec<Row> {
    let invalid = Code::InvalidArgument;
    let delete = |id: &str| {
        Call::Delete(csi::DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() })
    };
    let unpublish = |volume: &str, node: &str| {
        let (volume_id, node_id) = (volume.to_owned(), node.to_owned());
        let request =
            csi::ControllerUnpublishVolumeRequest { volume_id, node_id, ..Default::default() };
        Call::Unpublish(request)
    };
    let get = |id: &str| Call::Get(csi::ControllerGetVolumeRequest { volume_id: id.to_owned() });
    let modify = |id: &str, of: &[(&str, &str)]| {
        let (volume_id, mutable_parameters) = (id.to_owned(), map(of));
        let request = csi::ControllerModifyVolumeRequest {
            volume_id,
            mutable_parameters,
            ..Default::default()
        };
        Call::Modify(request)
    };
    let expand = |id: &str, capacity_range| {
        let volume_id = id.to_owned();
        let request =
            csi::ControllerExpandVolumeRequest { volume_id, capacity_range, ..Default::default() };
        Call::Expand(request)
    };
    let volume = known.volume.as_str();
    let mut rows = vec![
        row("delete: nothing", delete(""), invalid),
        row("unpublish: nothing", unpublish("", ""), invalid),
        row("unpublish: no volume", unpublish("", "a"), invalid),
        row("get: nothing", get(""), invalid),
        row("modify: nothing", modify("", &[]), invalid),
        row("modify: an unknown parameter", modify(volume, &[("iops", "1")]), invalid),
        row("modify: an empty parameter", modify(volume, &[("", "")]), invalid),
        row("expand: nothing", expand("", range(GIB, 0)), invalid),
        row("expand: no size", expand(volume, None), invalid),
        row("expand: zero", expand(volume, range(0, 0)), invalid),
        row("expand: negative", expand(volume, range(-1, 0)), invalid),
        row("expand: a negative limit", expand(volume, range(GIB, -1)), invalid),
    ];
    for (required, limit) in
        [(2 * GIB, GIB), (i64::MAX, 0), ((1 << 47) + 1, 0), (0, 15 * MIB), (MIB, 2 * MIB)]
    {
        let call = expand(volume, range(required, limit));
        rows.push(row(format!("expand: {required} to {limit}"), call, Code::OutOfRange));
    }
    for (what, bad) in bad_capabilities() {
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: volume.to_owned(),
            capacity_range: range(GIB, 0),
            volume_capability: Some(bad),
            ..Default::default()
        };
        rows.push(row(format!("expand: {what}"), Call::Expand(request), invalid));
    }
    for id in no_ids() {
        rows.push(row(format!("delete {id:?}"), delete(&id), Code::Ok));
        rows.push(row(format!("unpublish {id:?}"), unpublish(&id, "a"), Code::Ok));
        rows.push(row(format!("unpublish from {id:?}"), unpublish(volume, &id), Code::Ok));
        rows.push(row(format!("get {id:?}"), get(&id), Code::NotFound));
        rows.push(row(format!("modify {id:?}"), modify(&id, &[]), Code::NotFound));
        rows.push(row(format!("expand {id:?}"), expand(&id, range(GIB, 0)), Code::NotFound));
    }
    rows
}

fn validate(known: &Known) -> Vec<Row> {
    let of = |id: &str, volume_capabilities| {
        let volume_id = id.to_owned();
        let request = csi::ValidateVolumeCapabilitiesRequest {
            volume_id,
            volume_capabilities,
            ..Default::default()
        };
        Call::Validate(request)
    };
    let invalid = Code::InvalidArgument;
    let mut rows = vec![
        row("validate: nothing", of("", vec![writer()]), invalid),
        row("validate: no capabilities", of(&known.volume, vec![]), invalid),
    ];
    for id in no_ids() {
        rows.push(row(format!("validate {id:?}"), of(&id, vec![writer()]), Code::NotFound));
    }
    rows
}

fn lists() -> Vec<Row> {
    let volumes = |max_entries, token: &str| {
        let starting_token = token.to_owned();
        Call::List(csi::ListVolumesRequest { max_entries, starting_token })
    };
    let snapshots = |max_entries, token: &str| {
        let starting_token = token.to_owned();
        let request =
            csi::ListSnapshotsRequest { max_entries, starting_token, ..Default::default() };
        Call::ListSnapshots(request)
    };
    let mut rows = Vec::new();
    for max in [-1, i32::MIN] {
        rows.push(row(format!("list {max}"), volumes(max, ""), Code::InvalidArgument));
        rows.push(row(format!("list snapshots {max}"), snapshots(max, ""), Code::InvalidArgument));
    }
    let long = "ab".repeat(5000);
    for token in ["x", "abc", "zz", "00", "ff", "-1", "1", "\0", " ", NOBODY, long.as_str()] {
        rows.push(row(format!("list from {token:?}"), volumes(0, token), Code::Aborted));
        rows.push(row(format!("snapshots from {token:?}"), snapshots(1, token), Code::Aborted));
    }
    for id in no_ids() {
        let by_volume =
            csi::ListSnapshotsRequest { source_volume_id: id.clone(), ..Default::default() };
        let by_id = csi::ListSnapshotsRequest { snapshot_id: id.clone(), ..Default::default() };
        rows.push(row(format!("snapshots of {id:?}"), Call::ListSnapshots(by_volume), Code::Ok));
        rows.push(row(format!("snapshots by {id:?}"), Call::ListSnapshots(by_id), Code::Ok));
    }
    rows
}

fn capacity() -> Vec<Row> {
    let with =
        |parameters| Call::Capacity(csi::GetCapacityRequest { parameters, ..Default::default() });
    let bad = bad_parameters().into_iter().filter(|(_, parameters)| !parameters.is_empty());
    bad.map(|(what, of)| row(format!("capacity: {what}"), with(of), Code::InvalidArgument))
        .collect()
}

fn snapshots(known: &Known) -> Vec<Row> {
    let good = csi::CreateSnapshotRequest {
        source_volume_id: known.volume.clone(),
        name: "never".to_owned(),
        ..Default::default()
    };
    let with = |what: &str, code, change: &dyn Fn(&mut csi::CreateSnapshotRequest)| {
        let mut request = good.clone();
        change(&mut request);
        row(format!("cut: {what}"), Call::Cut(request), code)
    };
    let invalid = Code::InvalidArgument;
    let mut rows = vec![
        row("cut: an empty request", Call::Cut(Default::default()), invalid),
        with("no volume", invalid, &|it| it.source_volume_id.clear()),
        with("secrets", invalid, &|it| it.secrets = map(&[("key", "hush")])),
        with("a parameter", invalid, &|it| it.parameters = map(&[("fsfreeze", "never")])),
        with("an empty parameter", invalid, &|it| it.parameters = map(&[("", "")])),
        with("the pool", invalid, &|it| it.parameters = map(&[("pool", TANK)])),
        row("delete a snapshot: nothing", Call::DeleteSnapshot(Default::default()), invalid),
        row("get a snapshot: nothing", Call::GetSnapshot(Default::default()), invalid),
    ];
    for name in bad_names() {
        let what = format!("name of {} bytes {name:?}", name.len());
        rows.push(with(&what, invalid, &|it| it.name = name.clone()));
    }
    for id in no_ids() {
        let what = format!("volume {id:?}");
        rows.push(with(&what, Code::NotFound, &|it| it.source_volume_id = id.clone()));
        let delete = csi::DeleteSnapshotRequest { snapshot_id: id.clone(), ..Default::default() };
        rows.push(row(format!("delete snapshot {id:?}"), Call::DeleteSnapshot(delete), Code::Ok));
        let get = csi::GetSnapshotRequest { snapshot_id: id.clone(), ..Default::default() };
        rows.push(row(format!("get snapshot {id:?}"), Call::GetSnapshot(get), Code::NotFound));
    }
    let taken = with("a name of another volume's", Code::NotFound, &|it| {
        it.name = "snap".to_owned();
        it.source_volume_id = "no uuid".to_owned();
    });
    rows.push(taken);
    rows
}

fn changed_blocks(known: &Known) -> Vec<Row> {
    let allocated = |id: &str, starting_offset, max_results| {
        let snapshot_id = id.to_owned();
        let request = csi::GetMetadataAllocatedRequest {
            snapshot_id,
            starting_offset,
            max_results,
            ..Default::default()
        };
        Call::Allocated(request)
    };
    let delta = |base: &str, target: &str| {
        let (base_snapshot_id, target_snapshot_id) = (base.to_owned(), target.to_owned());
        let request = csi::GetMetadataDeltaRequest {
            base_snapshot_id,
            target_snapshot_id,
            ..Default::default()
        };
        Call::Delta(request)
    };
    let (snapshot, invalid) = (known.snapshot.as_str(), Code::InvalidArgument);
    let mut rows = vec![
        row("allocated: nothing", allocated("", 0, 0), invalid),
        row("delta: nothing", delta("", ""), invalid),
        row("delta: no base", delta("", snapshot), invalid),
        row("delta: no target", delta(snapshot, ""), invalid),
    ];
    for max in [-1, i32::MIN] {
        rows.push(row(format!("allocated: {max}"), allocated(snapshot, 0, max), invalid));
    }
    for offset in [-1, i64::MIN, 16 * MIB, i64::MAX] {
        let call = allocated(snapshot, offset, 0);
        rows.push(row(format!("allocated: from {offset}"), call, Code::OutOfRange));
    }
    for id in no_ids().into_iter().chain([known.volume.clone()]) {
        let not_found = Code::NotFound;
        rows.push(row(format!("allocated {id:?}"), allocated(&id, 0, 0), not_found));
        rows.push(row(format!("delta to {id:?}"), delta(snapshot, &id), not_found));
        rows.push(row(format!("delta from {id:?}"), delta(&id, snapshot), not_found));
    }
    rows
}
