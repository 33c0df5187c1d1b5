//! Sets of snapshots against their members, volumes, snapshots and holders.

use std::collections::{BTreeMap, BTreeSet};

use lunar_proto::domain::{CutAs, MemberState, SetState, SnapshotState};
use lunar_types::{NodeIncarnation, SnapshotId, SnapshotSetId, VolumeId};

use super::inventory::{Inventory, walk_table};
use super::report::{FindingKind, Report};
use crate::error::ServiceError;
use crate::keyspace::{
    Counter, CounterKey, NodeSetKey, SetEntry, SetMemberKey, SetMemberRecord, SnapshotSetKey,
    SnapshotSetRecord,
};
use crate::store::Txn;

/// What the store says of sets.
#[derive(Default)]
struct Sets {
    sets: BTreeMap<SnapshotSetId, SnapshotSetRecord>,
    members: BTreeMap<(SnapshotSetId, VolumeId), SetMemberRecord>,
    orders: BTreeSet<(SnapshotSetId, VolumeId, NodeIncarnation)>,
    generation: u64,
}

impl Sets {
    async fn load<T: Txn>(txn: &T) -> Result<Self, ServiceError> {
        let mut it = Self::default();
        walk_table(txn, |key: SnapshotSetKey, record| {
            it.sets.insert(key.set, record);
        })
        .await?;
        walk_table(txn, |key: SetMemberKey, record| {
            it.members.insert((key.set, key.volume), record);
        })
        .await?;
        walk_table(txn, |key: NodeSetKey, _| {
            let node = NodeIncarnation { node: key.node, incarnation: key.incarnation };
            it.orders.insert((key.set, key.volume, node));
        })
        .await?;
        walk_table(txn, |key: CounterKey, record| {
            if key.counter == Counter::Generation {
                it.generation = record.last;
            }
        })
        .await?;
        Ok(it)
    }

    /// What an open set has for this volume.
    fn open_entry(&self, set: SnapshotSetId, volume: VolumeId) -> Option<&SetEntry> {
        let record = self.sets.get(&set).filter(|record| record.state.is_open())?;
        record.members.iter().find(|entry| entry.volume == volume)
    }
}

fn find(report: &mut Report<'_>, set: SnapshotSetId, message: String) {
    report.find(FindingKind::SetMismatch, message, &[("set", &set)]);
}

pub(super) async fn check<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let sets = Sets::load(txn).await?;
    for (set, record) in &sets.sets {
        check_set(&sets, *set, record, report);
        if record.state.is_open() {
            for entry in &record.members {
                check_entry(all, &sets, *set, entry, report);
            }
        }
    }
    check_members(&sets, report);
    check_volumes(all, &sets, report);
    check_snapshots(all, &sets, report);
    Ok(())
}

/// Whether the members of an open set are as far as its state says.
fn fits_state(sets: &Sets, set: SnapshotSetId, record: &SnapshotSetRecord) -> bool {
    let states = record.members.iter();
    let states = states.filter_map(|entry| sets.members.get(&(set, entry.volume)));
    let states: BTreeSet<_> = states.map(|member| member.state).collect();
    match record.state {
        SetState::Gathering => states.contains(&MemberState::Asked),
        SetState::Pausing => {
            states.contains(&MemberState::Ready) && !states.contains(&MemberState::Asked)
        }
        SetState::Sealed | SetState::Aborted => true,
    }
}

fn check_set(sets: &Sets, set: SnapshotSetId, record: &SnapshotSetRecord, report: &mut Report<'_>) {
    let state = record.state;
    if record.abort.is_some() != (state == SetState::Aborted) {
        let message = format!("set {set} is {state}, and its reason does not fit that");
        find(report, set, message);
    }
    if record.generation.get() > sets.generation {
        let generation = record.generation.get();
        let message =
            format!("set {set} is of generation {generation}, the last one is {}", sets.generation);
        find(report, set, message);
    }
    if !fits_state(sets, set, record) {
        find(report, set, format!("set {set} is {state}, and its members are not so far"));
    }
}

/// A member of an open set has its record, its volume names the set, its snapshot waits for it.
fn check_entry(
    all: &Inventory,
    sets: &Sets,
    set: SnapshotSetId,
    entry: &SetEntry,
    report: &mut Report<'_>,
) {
    let volume = entry.volume;
    if !sets.members.contains_key(&(set, volume)) {
        find(report, set, format!("open set {set} has no record of its member {volume}"));
    }
    if all.volumes.get(&volume).and_then(|record| record.set) != Some(set) {
        find(report, set, format!("volume {volume} does not name the open set {set} it is in"));
    }
    let CutAs::Snapshot(snapshot) = entry.cut else { return };
    let waits = all.snapshots.get(&snapshot).is_some_and(|record| {
        (record.state, record.set, record.volume) == (SnapshotState::Creating, set, volume)
    });
    if !waits {
        let message = format!("snapshot {snapshot} of open set {set} does not wait to be cut");
        find(report, set, message);
    }
}

/// A member is of an open set, and in the list of its holder; a list has nothing else.
fn check_members(sets: &Sets, report: &mut Report<'_>) {
    for ((set, volume), member) in &sets.members {
        if sets.open_entry(*set, *volume).is_none() {
            find(report, *set, format!("volume {volume} is no member of an open set {set}"));
        }
        if (member.state != MemberState::Paused) && member.holder.is_none() {
            find(report, *set, format!("nobody holds volume {volume}, and set {set} waits for it"));
        }
    }
    let orders = sets
        .members
        .iter()
        .filter_map(|((set, volume), member)| member.holder.map(|holder| (*set, *volume, holder)));
    let orders: BTreeSet<_> = orders.collect();
    for (set, volume, node) in orders.symmetric_difference(&sets.orders) {
        let message = format!(
            "the list of {node} and set {set} disagree on whether it holds the member {volume}"
        );
        find(report, *set, message);
    }
}

fn check_volumes(all: &Inventory, sets: &Sets, report: &mut Report<'_>) {
    for (volume, record) in &all.volumes {
        let Some(set) = record.set else { continue };
        if sets.open_entry(set, *volume).is_none() {
            find(report, set, format!("volume {volume} is in set {set}, which is not open for it"));
        }
    }
}

fn check_snapshots(all: &Inventory, sets: &Sets, report: &mut Report<'_>) {
    let creating = all.snapshots.iter().filter(|(_, it)| it.state == SnapshotState::Creating);
    for (snapshot, record) in creating {
        let entry = sets.open_entry(record.set, record.volume);
        let is_its = |id: &SnapshotId| entry.is_some_and(|it| it.cut == CutAs::Snapshot(*id));
        if !is_its(snapshot) {
            let set = record.set;
            let message = format!("snapshot {snapshot} waits for set {set}, which is not its own");
            find(report, set, message);
        }
    }
}
