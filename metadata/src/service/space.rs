//! The free-space bitmaps: taking extents, giving them back, moving them between owners.
//!
//! Invariants:
//! - a bit is looked at as a hint first, and again serializably before it is changed;
//! - taking a bit that is set, or giving back one that is clear, is damage and an error.

use std::collections::BTreeMap;

use lunar_types::{ExtentAddress, ExtentRun, LunIndex, NodeIncarnation, PoolId};

use super::geometry::{PoolGeometry, groups_of_lun, held_back_bits, usable_bits};
use crate::error::ServiceError;
use crate::keyspace::{
    Bitmap, GroupIndex, GroupKey, Key, KeyedTxn, QuarantineKey, QuarantineStamp, ReservationKey,
    UnmappedKey, groups_of, runs_of,
};
use crate::store::Txn;

/// Groups that one transaction changes at most.
const GROUPS_PER_TXN: usize = 256;
/// Groups that one scan looks at.
const SCAN_GROUPS: u64 = 256;

/// What extents are taken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// For a node to write into: the extents held back for journals are not touched.
    Reservation,
    /// For a journal: the extents held back come first.
    Journal,
}

/// Extents of one group that were taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) lun: LunIndex,
    pub(super) group: GroupIndex,
    pub(super) bits: Bitmap,
}

/// Takes free extents of a pool.
pub(super) struct Allocator<'a, T> {
    txn: &'a T,
    geometry: &'a PoolGeometry,
    wanted: usize,
    taken: Vec<Taken>,
}

impl<'a, T: Txn> Allocator<'a, T> {
    /// Takes up to `wanted` extents, from the group of number `start` on.
    pub(super) async fn take(
        txn: &'a T,
        geometry: &'a PoolGeometry,
        purpose: Purpose,
        start: u64,
        wanted: usize,
    ) -> Result<Vec<Taken>, ServiceError> {
        let mut allocator = Self { txn, geometry, wanted, taken: Vec::new() };
        if purpose == Purpose::Journal {
            allocator.take_held_back().await?;
        }
        for (position, from, to) in spans(geometry, start) {
            allocator.take_from_lun(purpose, position, from, to).await?;
        }
        Ok(allocator.taken)
    }

    fn is_done(&self) -> bool {
        self.wanted == 0 || self.taken.len() >= GROUPS_PER_TXN
    }

    async fn take_held_back(&mut self) -> Result<(), ServiceError> {
        let geometry = self.geometry;
        let group = GroupIndex::new(0);
        for (lun, record) in &geometry.luns {
            let bits = held_back_bits(record.data_extents, group);
            self.take_from_group(*lun, group, &bits).await?;
        }
        Ok(())
    }

    async fn take_from_lun(
        &mut self,
        purpose: Purpose,
        position: usize,
        from: u64,
        to: u64,
    ) -> Result<(), ServiceError> {
        let (lun, record) = &self.geometry.luns[position];
        let mut next = from;
        while next < to && !self.is_done() {
            let end = (next + SCAN_GROUPS).min(to);
            let hints = self.hints(*lun, next, end).await?;
            for raw in next..end {
                let group = group_index(raw);
                let mut bits = usable_bits(record.data_extents, group);
                if purpose == Purpose::Reservation {
                    bits = bits.without(&held_back_bits(record.data_extents, group));
                }
                let seen = hints.get(&group).unwrap_or(&Bitmap::EMPTY);
                if !bits.without(seen).is_empty() {
                    self.take_from_group(*lun, group, &bits).await?;
                }
            }
            next = end;
        }
        Ok(())
    }

    /// The bitmaps of some groups, as they were lately.
    async fn hints(
        &self,
        lun: LunIndex,
        from: u64,
        to: u64,
    ) -> Result<BTreeMap<GroupIndex, Bitmap>, ServiceError> {
        let pool = self.geometry.id;
        let first = GroupKey { pool, lun, group: group_index(from) };
        let limit = usize::try_from(to - from).expect("a scan looks at few groups");
        let read = groups_of(pool, lun).starting_at(&first).first(limit).as_snapshot();
        let found = self.txn.scan_read::<GroupKey>(read).await?;
        Ok(found.into_iter().map(|(key, bitmap)| (key.group, bitmap)).collect())
    }

    async fn take_from_group(
        &mut self,
        lun: LunIndex,
        group: GroupIndex,
        allowed: &Bitmap,
    ) -> Result<(), ServiceError> {
        if self.is_done() || allowed.is_empty() {
            return Ok(());
        }
        let key = GroupKey { pool: self.geometry.id, lun, group };
        let allocated = self.txn.load(&key).await?.unwrap_or(Bitmap::EMPTY);
        let bits = allowed.without(&allocated).lowest(self.wanted);
        if !bits.is_empty() {
            self.txn.put(&key, &allocated.or(&bits));
            self.wanted -= bits.count() as usize;
            self.taken.push(Taken { lun, group, bits });
        }
        Ok(())
    }
}

fn group_index(raw: u64) -> GroupIndex {
    GroupIndex::new(u32::try_from(raw).expect("a LUN has at most 2^26 groups"))
}

/// The LUNs and their groups in the order of looking: from `start` to the end, then around.
fn spans(geometry: &PoolGeometry, start: u64) -> Vec<(usize, u64, u64)> {
    let (first, within) = geometry.group_at(start).unwrap_or((0, 0));
    let groups = |position: usize| groups_of_lun(geometry.luns[position].1.data_extents);
    let count = geometry.luns.len();
    if count == 0 {
        return Vec::new();
    }
    let mut spans = vec![(first, within, groups(first))];
    let others = (1..count).map(|step| (first + step) % count);
    spans.extend(others.map(|position| (position, 0, groups(position))));
    spans.push((first, 0, within));
    spans
}

/// The runs of what was taken, in order and joined where they meet.
pub(super) fn runs_taken(taken: &[Taken]) -> Vec<ExtentRun> {
    let mut in_order = taken.to_vec();
    in_order.sort_by_key(|taken| (taken.lun, taken.group));
    let mut runs = Vec::new();
    for taken in &in_order {
        runs_of(taken.lun, taken.group, &taken.bits, &mut runs);
    }
    runs
}

/// Bitmaps of one table that are being changed: each is read once and written once.
pub(super) struct BitmapEdits<'a, T, K> {
    txn: &'a T,
    key_of: Box<dyn Fn(LunIndex, GroupIndex) -> K + Send + Sync + 'a>,
    loaded: BTreeMap<(LunIndex, GroupIndex), (Bitmap, bool)>,
}

impl<'a, T: Txn> BitmapEdits<'a, T, GroupKey> {
    /// The allocated extents of a pool.
    pub(super) fn allocated(txn: &'a T, pool: PoolId) -> Self {
        let key_of = move |lun, group| GroupKey { pool, lun, group };
        Self { txn, key_of: Box::new(key_of), loaded: BTreeMap::new() }
    }

    /// Gives extents back to the pool.
    pub(super) async fn free(&mut self, runs: &[ExtentRun]) -> Result<(), ServiceError> {
        for at in runs.iter().flat_map(|run| run.iter()) {
            if !self.remove(at).await? {
                let key = format!("extent {at}");
                let problem = "it was to be freed and is free already".to_owned();
                return Err(ServiceError::corrupt(key, problem));
            }
        }
        Ok(())
    }
}

impl<'a, T: Txn> BitmapEdits<'a, T, ReservationKey> {
    /// The extents of a pool that an incarnation has reserved.
    pub(super) fn reserved(txn: &'a T, node: NodeIncarnation, pool: PoolId) -> Self {
        let NodeIncarnation { node, incarnation } = node;
        let key_of = move |lun, group| ReservationKey { node, incarnation, pool, lun, group };
        Self { txn, key_of: Box::new(key_of), loaded: BTreeMap::new() }
    }
}

impl<'a, T: Txn> BitmapEdits<'a, T, UnmappedKey> {
    /// Those of them that the map has named since a backup was begun.
    pub(super) fn unmapped(txn: &'a T, node: NodeIncarnation, pool: PoolId) -> Self {
        let NodeIncarnation { node, incarnation } = node;
        let key_of = move |lun, group| UnmappedKey { node, incarnation, pool, lun, group };
        Self { txn, key_of: Box::new(key_of), loaded: BTreeMap::new() }
    }
}

impl<'a, T: Txn> BitmapEdits<'a, T, QuarantineKey> {
    /// The extents of a pool in quarantine under a stamp.
    pub(super) fn quarantined(txn: &'a T, pool: PoolId, stamp: QuarantineStamp) -> Self {
        let key_of = move |lun, group| QuarantineKey { pool, lun, group, stamp };
        Self { txn, key_of: Box::new(key_of), loaded: BTreeMap::new() }
    }
}

impl<T: Txn, K: Key<Value = Bitmap>> BitmapEdits<'_, T, K> {
    async fn entry(
        &mut self,
        at: ExtentAddress,
    ) -> Result<(&mut (Bitmap, bool), u32), ServiceError> {
        let (group, bit) = GroupIndex::of(at.extent);
        let place = (at.lun, group);
        if !self.loaded.contains_key(&place) {
            let key = (self.key_of)(at.lun, group);
            let bitmap = self.txn.load(&key).await?.unwrap_or(Bitmap::EMPTY);
            self.loaded.insert(place, (bitmap, false));
        }
        let entry = self.loaded.get_mut(&place).expect("it was loaded just now");
        Ok((entry, bit))
    }

    /// Sets the bit of an extent; says whether it was clear before.
    pub(super) async fn insert(&mut self, at: ExtentAddress) -> Result<bool, ServiceError> {
        let (entry, bit) = self.entry(at).await?;
        let changed = entry.0.insert(bit);
        entry.1 |= changed;
        Ok(changed)
    }

    /// Clears the bit of an extent; says whether it was set before.
    pub(super) async fn remove(&mut self, at: ExtentAddress) -> Result<bool, ServiceError> {
        let (entry, bit) = self.entry(at).await?;
        let changed = entry.0.remove(bit);
        entry.1 |= changed;
        Ok(changed)
    }

    /// Adds the bits of one group.
    pub(super) async fn insert_all(&mut self, taken: &Taken) -> Result<(), ServiceError> {
        let at = ExtentAddress { lun: taken.lun, extent: taken.group.extent(0) };
        let (entry, _) = self.entry(at).await?;
        *entry = (entry.0.or(&taken.bits), true);
        Ok(())
    }

    /// Writes what was changed; a bitmap without a bit has no key.
    pub(super) fn write(self) {
        for ((lun, group), (bitmap, changed)) in self.loaded {
            let key = (self.key_of)(lun, group);
            match (changed, bitmap.is_empty()) {
                (false, _) => {}
                (true, true) => self.txn.remove(&key),
                (true, false) => self.txn.put(&key, &bitmap),
            }
        }
    }
}

/// Gives extents back to the pool.
pub(super) async fn free_extents<T: Txn>(
    txn: &T,
    pool: PoolId,
    runs: &[ExtentRun],
) -> Result<(), ServiceError> {
    let mut allocated = BitmapEdits::allocated(txn, pool);
    allocated.free(runs).await?;
    allocated.write();
    Ok(())
}
