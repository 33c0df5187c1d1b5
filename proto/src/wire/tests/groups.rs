//! Groups of snapshots.

use lunar_types::{SnapshotGroupId, SnapshotSetId};

use super::{REQUEST, bad_field, snapshot, survives};
use crate::domain::{DeleteGroup, Selector, SnapshotGroup, SnapshotState};
use crate::v1;

pub(super) const GROUP: SnapshotGroupId = SnapshotGroupId::from_u128(22);

fn group() -> SnapshotGroup {
    SnapshotGroup {
        id: GROUP,
        name: "weekly".parse().expect("a name"),
        created_unix_seconds: 1_700_000_000,
        snapshots: vec![snapshot(SnapshotState::Ready)],
        set: SnapshotSetId::from_u128(15),
    }
}

#[test]
fn groups_survive_the_wire() {
    survives::<_, v1::SnapshotGroup>(group());
    for group in [Selector::Id(GROUP), Selector::Name("weekly".parse().expect("a name"))] {
        survives::<_, v1::DeleteGroupRequest>(DeleteGroup { request: REQUEST, group });
    }
}

#[test]
fn a_bad_field_of_a_group_is_named() {
    let wire = v1::SnapshotGroup::from(group());
    let bad = |break_it: fn(&mut v1::SnapshotGroup)| bad_field::<_, SnapshotGroup>(&wire, break_it);
    assert_eq!(bad(|w| w.group_id.clear()), "group_id");
    assert_eq!(bad(|w| w.name = "-".to_owned()), "name");
    assert_eq!(bad(|w| w.snapshots[0].state = 0), "snapshots[0].state");
    assert_eq!(bad(|w| w.set_id = "x".to_owned()), "set_id");
}
