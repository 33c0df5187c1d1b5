//! Every allocated extent against its owners.
//!
//! The owners' extents are marked in bitmaps of the touched groups; an extent marked twice is
//! looked up again to name all of its owners; then the marks are held against what is allocated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lunar_proto::domain::OperationWork;
use lunar_types::{
    Epoch, ExtentAddress, ExtentRun, LayerId, LogicalExtent, LunIndex, NodeIncarnation, PoolId,
    VolumeId,
};

use super::inventory::{Inventory, walk_table};
use super::repair::Repair;
use super::report::{FindingKind, Remedy, Report};
use crate::error::ServiceError;
use crate::keyspace::{
    Bitmap, GroupIndex, GroupKey, OperationKey, PartKey, QuarantineKey, QuarantineStamp,
    ReservationKey, SlotKey, SlotValue, UnmappedKey, runs_of,
};
use crate::store::Txn;

/// Extents with several owners that are looked up by name.
const NAMED_DUPLICATES: usize = 1000;

/// Who owns an extent.
#[derive(Clone, Copy)]
enum Owner {
    Slot(LayerId, LogicalExtent),
    Part(LayerId, LogicalExtent, LayerId),
    Reservation(NodeIncarnation),
    Journal(VolumeId, Epoch),
    SpareJournal(VolumeId),
    Quarantine,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(layer, at) => write!(f, "slot {at} of layer {layer}"),
            Self::Part(layer, at, birth) => {
                write!(f, "part {at} of layer {layer} from layer {birth}")
            }
            Self::Reservation(node) => write!(f, "reservation of {node}"),
            Self::Journal(volume, epoch) => write!(f, "journal of {volume} epoch {epoch}"),
            Self::SpareJournal(volume) => write!(f, "next journal of {volume}"),
            Self::Quarantine => f.write_str("the quarantine"),
        }
    }
}

/// An extent of the cluster.
type Place = (PoolId, ExtentAddress);
/// A group of the cluster.
type GroupPlace = (PoolId, LunIndex, GroupIndex);

pub(super) async fn check<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    check_reservations(txn, all, report).await?;
    check_horizon(txn, all, report).await?;
    let mut marks = Marks::default();
    each_owned(txn, all, |owner, place| marks.mark(all, owner, place, report)).await?;
    if !marks.twice.is_empty() {
        report_owners(txn, all, &marks.twice, report).await?;
    }
    compare_with_allocated(txn, all, marks.owned, report).await
}

/// Every extent that something owns.
async fn each_owned<T: Txn>(
    txn: &T,
    all: &Inventory,
    mut visit: impl FnMut(Owner, Place) + Send,
) -> Result<(), ServiceError> {
    walk_table(txn, |key: SlotKey, SlotValue(slot)| {
        if let (Some(layer), Some(at)) = (all.layers.get(&key.layer), slot.extent()) {
            visit(Owner::Slot(key.layer, key.at), (layer.pool, at));
        }
    })
    .await?;
    walk_table(txn, |key: PartKey, SlotValue(slot)| {
        if let (Some(layer), Some(at)) = (all.layers.get(&key.layer), slot.extent()) {
            visit(Owner::Part(key.layer, key.at, key.birth), (layer.pool, at));
        }
    })
    .await?;
    walk_table(txn, |key: ReservationKey, bits| {
        let node = NodeIncarnation { node: key.node, incarnation: key.incarnation };
        for bit in bits.iter() {
            let at = ExtentAddress { lun: key.lun, extent: key.group.extent(bit) };
            visit(Owner::Reservation(node), (key.pool, at));
        }
    })
    .await?;
    walk_table(txn, |key: QuarantineKey, bits| {
        for bit in bits.iter() {
            let at = ExtentAddress { lun: key.lun, extent: key.group.extent(bit) };
            visit(Owner::Quarantine, (key.pool, at));
        }
    })
    .await?;
    let current = all.attachments.iter().map(|(volume, it)| (*volume, it.epoch, &it.journal));
    let stale =
        all.stale_journals.iter().map(|((volume, epoch), it)| (*volume, *epoch, &it.journal));
    for (volume, epoch, runs) in current.chain(stale) {
        let Some(record) = all.volumes.get(&volume) else { continue };
        for at in runs.iter().flat_map(|run| run.iter()) {
            visit(Owner::Journal(volume, epoch), (record.pool, at));
        }
    }
    for (volume, migration) in &all.migrations {
        let Some(record) = all.volumes.get(volume) else { continue };
        for at in migration.spare_journal.iter().flat_map(|run| run.iter()) {
            visit(Owner::SpareJournal(*volume), (record.pool, at));
        }
    }
    Ok(())
}

#[derive(Default)]
struct Marks {
    owned: BTreeMap<GroupPlace, Bitmap>,
    twice: BTreeSet<Place>,
}

impl Marks {
    fn mark(&mut self, all: &Inventory, owner: Owner, place: Place, report: &mut Report<'_>) {
        let (pool, at) = place;
        let lun = all.luns.get(&(pool, at.lun));
        if lun.is_none_or(|lun| at.extent.get() >= lun.data_extents) {
            let message = format!("{owner} has extent {at} of pool {pool}, which does not exist");
            let facts: &[(&str, &dyn ToString)] =
                &[("pool", &pool), ("extent", &at), ("owner", &owner)];
            report.find(FindingKind::ExtentOutOfRange, message, facts);
            return;
        }
        let (group, bit) = GroupIndex::of(at.extent);
        let marks = self.owned.entry((pool, at.lun, group)).or_insert(Bitmap::EMPTY);
        if !marks.insert(bit) {
            self.twice.insert(place);
        }
    }
}

/// Names every owner of the extents that have several.
async fn report_owners<T: Txn>(
    txn: &T,
    all: &Inventory,
    twice: &BTreeSet<Place>,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut owners: BTreeMap<Place, Vec<String>> =
        twice.iter().take(NAMED_DUPLICATES).map(|place| (*place, Vec::new())).collect();
    each_owned(txn, all, |owner, place| {
        if let Some(owners) = owners.get_mut(&place) {
            owners.push(owner.to_string());
        }
    })
    .await?;
    for (pool, at) in twice {
        let owners = owners.get(&(*pool, *at)).map_or_else(String::new, |it| it.join("; "));
        let message = format!("extent {at} of pool {pool} has several owners: {owners}");
        let facts: &[(&str, &dyn ToString)] =
            &[("pool", pool), ("extent", at), ("owners", &owners)];
        report.find(FindingKind::ExtentDoublyOwned, message, facts);
    }
    Ok(())
}

/// Reports the bits of a group as runs, each with what can be done about it.
fn report_bits(
    (kind, why): (FindingKind, &str),
    (pool, lun, group): GroupPlace,
    bits: &Bitmap,
    report: &mut Report<'_>,
    remedy: impl Fn(PoolId, ExtentRun) -> Remedy,
) {
    let mut runs: Vec<ExtentRun> = Vec::new();
    runs_of(lun, group, bits, &mut runs);
    for run in runs {
        let message = format!("extents {run} of pool {pool} {why}");
        let facts: &[(&str, &dyn ToString)] = &[("pool", &pool), ("extents", &run)];
        report.find_with(kind, message, facts, remedy(pool, run));
    }
}

/// Why extents without an owner cannot be told from those whose owner was not looked at.
fn leak_doubt(all: &Inventory, report: &Report<'_>) -> Option<&'static str> {
    let has_unknown = all.attachments.keys().any(|volume| !all.volumes.contains_key(volume));
    if has_unknown || report.has_found(&[FindingKind::SlotOrphan]) {
        return Some(
            "the owner may be what belongs to a missing layer or volume: see to that first",
        );
    }
    (!all.stale_journals.is_empty()).then_some(
        "a stale journal is left: attach its volume, so that it is replayed, and check again",
    )
}

async fn compare_with_allocated<T: Txn>(
    txn: &T,
    all: &Inventory,
    mut owned: BTreeMap<GroupPlace, Bitmap>,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let unallocated = |place, bits: &Bitmap, report: &mut Report<'_>| {
        let why = "have an owner and are marked free: they could be given away again";
        let what = (FindingKind::ExtentUnallocated, why);
        report_bits(what, place, bits, report, |pool, run| Ok(Repair::Allocate { pool, run }));
    };
    let doubt = leak_doubt(all, report);
    walk_table(txn, |key: GroupKey, allocated| {
        let place = (key.pool, key.lun, key.group);
        let extents = all.luns.get(&(key.pool, key.lun)).map_or(0, |lun| lun.data_extents);
        let usable = crate::service::usable_bits(extents, key.group);
        let owned = owned.remove(&place).unwrap_or(Bitmap::EMPTY);
        report.summary.allocated_extents += u64::from(allocated.count());
        let beyond = allocated.without(&usable);
        let why = "are marked allocated and do not exist";
        let what = (FindingKind::ExtentOutOfRange, why);
        report_bits(what, place, &beyond, report, |_, _| Err(what.0.why_not().to_owned()));
        let leaked = allocated.without(&owned).and(&usable);
        let why = "are allocated and nothing owns them";
        let what = (FindingKind::ExtentLeaked, why);
        report_bits(what, place, &leaked, report, |pool, run| match doubt {
            None => Ok(Repair::Quarantine { pool, run }),
            Some(doubt) => Err(doubt.to_owned()),
        });
        unallocated(place, &owned.without(&allocated), report);
    })
    .await?;
    for (place, bits) in &owned {
        unallocated(*place, bits, report);
    }
    Ok(())
}

async fn check_reservations<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut reclaimed = BTreeSet::new();
    walk_table(txn, |_: OperationKey, record| {
        if let OperationWork::ReclaimReservations(node) = record.work {
            reclaimed.insert(node);
        }
    })
    .await?;
    let mut seen = BTreeSet::new();
    walk_table(txn, |key: ReservationKey, _| {
        let node = NodeIncarnation { node: key.node, incarnation: key.incarnation };
        if !all.luns.contains_key(&(key.pool, key.lun)) {
            let message = format!("{node} has reserved on LUN {} of pool {}", key.lun, key.pool);
            let facts: &[(&str, &dyn ToString)] = &[("node", &node), ("pool", &key.pool)];
            report.find(FindingKind::ReservationUnknown, message, facts);
        }
        if !seen.insert((node, key.pool)) {
            return;
        }
        if !all.knows(node) {
            let message = format!("{node} has a reservation: that incarnation never was");
            report.find(FindingKind::IncarnationUnknown, message, &[("node", &node)]);
        } else if all.is_free(key.pool, node)
            && !all.has_journal(node)
            && !reclaimed.contains(&node)
        {
            let message = format!("{node} is gone, and nothing takes its reservation back");
            report.find(FindingKind::ReservationStuck, message, &[("node", &node)]);
        }
    })
    .await
}

/// What is kept for backups: marks within reservations, and stamps of backups that were begun.
async fn check_horizon<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut unmapped: BTreeMap<_, Bitmap> = BTreeMap::new();
    walk_table(txn, |key: UnmappedKey, bits| {
        let UnmappedKey { node, incarnation, pool, lun, group } = key;
        unmapped.insert((NodeIncarnation { node, incarnation }, (pool, lun, group)), bits);
    })
    .await?;
    walk_table(txn, |key: ReservationKey, bits| {
        let ReservationKey { node, incarnation, pool, lun, group } = key;
        let place = (NodeIncarnation { node, incarnation }, (pool, lun, group));
        if let Some(marked) = unmapped.get_mut(&place) {
            *marked = marked.without(&bits);
        }
    })
    .await?;
    for ((node, (pool, lun, group)), bits) in &unmapped {
        let mut runs = Vec::new();
        runs_of(*lun, *group, bits, &mut runs);
        for run in runs {
            let message = format!(
                "extents {run} of pool {pool} are marked as unmapped by {node}, which has not \
                 reserved them"
            );
            let facts: &[(&str, &dyn ToString)] =
                &[("pool", pool), ("extents", &run), ("node", node)];
            report.find(FindingKind::UnmappedNotReserved, message, facts);
        }
    }
    walk_table(txn, |QuarantineKey { pool, stamp, .. }, _| {
        if stamp != QuarantineStamp::BY_HAND && stamp.get() > all.backups.begun {
            let message = format!(
                "extents of pool {pool} wait for a backup after backup {}, which was never begun",
                stamp.get()
            );
            let facts: &[(&str, &dyn ToString)] = &[("pool", &pool), ("backup", &stamp.get())];
            report.find(FindingKind::QuarantineStamp, message, facts);
        }
    })
    .await
}
