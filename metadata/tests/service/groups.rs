//! Groups of snapshots: made with their set, listed, taken apart, deleted.

use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use super::sets::Two;
use super::world::*;

fn member(volume: VolumeId, snapshot: &str) -> NewMember {
    NewMember { volume: Selector::Id(volume), cut: NewCut::Snapshot(name(snapshot)) }
}

fn cut_group(
    world: &World,
    group: &str,
    members: Vec<NewMember>,
) -> Result<SnapshotSet, ServiceError> {
    block_on(world.service.create_snapshots(&CreateSnapshots {
        request: world.request(),
        members,
        created_unix_seconds: 77,
        fsfreeze: Fsfreeze::Never,
        over_watermark: true,
        group: Some(name(group)),
    }))
}

fn find(world: &World, group: &str) -> Result<SnapshotGroup, ServiceError> {
    block_on(world.service.group(&Selector::Name(name(group))))
}

fn delete(world: &World, group: &Selector<SnapshotGroupId>) -> Result<(), ServiceError> {
    let (request, group) = (world.request(), group.clone());
    block_on(world.service.delete_group(&DeleteGroup { request, group }))
}

/// Two volumes that nobody holds, in a group that is cut.
fn at_rest() -> (World, [VolumeId; 2], SnapshotGroup) {
    let world = World::new();
    world.pool(100);
    let volumes = ["v", "w"].map(|text| world.volume(text).id);
    let members = vec![member(volumes[0], "sv"), member(volumes[1], "sw")];
    let set = cut_group(&world, "g", members).expect("cut");
    assert_eq!(set.state, SetState::Sealed);
    let group = find(&world, "g").expect("it is there");
    assert_eq!(group.set, set.id);
    (world, volumes, group)
}

#[test]
fn a_group_lists_the_snapshots_of_its_set_and_they_name_it() {
    let (world, volumes, group) = at_rest();
    assert_eq!(group.created_unix_seconds, 77);
    let of: Vec<_> = group.snapshots.iter().map(|snapshot| snapshot.volume).collect();
    assert_eq!(of, volumes);
    assert!(group.snapshots.iter().all(|snapshot| snapshot.group == Some(group.id)));
    assert!(group.snapshots.iter().all(|snapshot| snapshot.state == SnapshotState::Ready));
    let by_id = block_on(world.service.group(&Selector::Id(group.id))).expect("found");
    assert_eq!(by_id, group);
    world.assert_clean();
}

#[test]
fn a_name_is_one_groups_and_a_refused_set_leaves_nothing() {
    let (world, volumes, group) = at_rest();
    let again = cut_group(&world, "g", vec![member(volumes[0], "other")]);
    assert!(again.as_ref().is_err_and(|error| error.to_string().contains(&group.id.to_string())));
    assert_eq!(kind(again), ErrorReason::GroupExists);
    let found = block_on(world.service.snapshot(&Selector::Name(name("other"))));
    assert_eq!(kind(found), ErrorReason::SnapshotNotFound);
    world.assert_clean();
}

#[test]
fn a_clone_is_in_no_group() {
    let (world, volumes, _) = at_rest();
    let clone = NewMember { volume: Selector::Id(volumes[0]), cut: NewCut::Clone(name("c")) };
    let refused = cut_group(&world, "h", vec![member(volumes[1], "s"), clone]);
    let problem = refused.as_ref().expect_err("refused").to_string();
    assert!(problem.contains("members[1]"), "{problem}");
    assert_eq!(kind(refused), ErrorReason::InvalidField);
    assert_eq!(kind(find(&world, "h")), ErrorReason::GroupNotFound);
}

#[test]
fn an_aborted_set_takes_its_group_with_it() {
    let case = Two::new();
    let members = vec![member(case.a.volume.id, "sa"), member(case.idle.id, "si")];
    let set = cut_group(&case.world, "g", members).expect("stored");
    assert_eq!(set.state, SetState::Gathering);
    let open = find(&case.world, "g").expect("it is there while it is open");
    assert!(open.snapshots.iter().all(|one| one.state == SnapshotState::Creating));
    assert_eq!(kind(delete(&case.world, &Selector::Id(open.id))), ErrorReason::SnapshotNotReady);
    case.world.assert_clean();
    block_on(case.world.service.abort_snapshots(set.id)).expect("aborted");
    assert_eq!(kind(find(&case.world, "g")), ErrorReason::GroupNotFound);
    case.world.assert_clean();
    let members = vec![member(case.idle.id, "si")];
    cut_group(&case.world, "g", members).expect("its names are free");
}

#[test]
fn a_snapshot_that_is_deleted_leaves_its_group() {
    let (world, _, group) = at_rest();
    let [first, second] = [0, 1].map(|index| group.snapshots[index].id);
    let deleted = world.delete_snapshot(first).expect("it begins");
    assert_eq!(deleted.group, None);
    let left = find(&world, "g").expect("it is there").snapshots;
    assert_eq!(left.iter().map(|one| one.id).collect::<Vec<_>>(), [second]);
    world.assert_clean();
    world.delete_snapshot(second).expect("it begins");
    assert!(find(&world, "g").expect("an empty one is still there").snapshots.is_empty());
    delete(&world, &Selector::Name(name("g"))).expect("deleted");
    assert_eq!(kind(find(&world, "g")), ErrorReason::GroupNotFound);
    world.assert_clean();
}

#[test]
fn a_group_is_deleted_with_its_snapshots_and_once() {
    let (world, volumes, group) = at_rest();
    let (request, selector) = (world.request(), Selector::Id(group.id));
    let asked = DeleteGroup { request, group: selector.clone() };
    block_on(world.service.delete_group(&asked)).expect("deleted");
    block_on(world.service.delete_group(&asked)).expect("the same request is answered again");
    assert_eq!(kind(delete(&world, &selector)), ErrorReason::GroupNotFound);
    world.assert_clean();
    world.settle();
    for snapshot in &group.snapshots {
        let found = block_on(world.service.snapshot(&Selector::Id(snapshot.id)));
        assert_eq!(kind(found), ErrorReason::SnapshotNotFound);
    }
    cut_group(&world, "g", vec![member(volumes[0], "sv")]).expect("all names are free");
    world.assert_clean();
}

#[test]
fn groups_are_listed_in_pages() {
    let (world, volumes, first) = at_rest();
    let second = cut_group(&world, "h", vec![member(volumes[0], "again")]).expect("cut");
    let page = |token| {
        let request = PageRequest { limit: 1, token };
        block_on(world.service.groups(&request)).expect("listed")
    };
    let one = page(None);
    assert_eq!(one.items.iter().map(|group| group.id).collect::<Vec<_>>(), [first.id]);
    let two = page(one.next);
    assert_eq!(two.items.iter().map(|group| group.set).collect::<Vec<_>>(), [second.id]);
    assert_eq!(two.next, None);
}
