//! Whose space it is: what a volume or a snapshot owns, what only it needs, what it shares.
//!
//! Invariants:
//! - figures are of the committed map, at one state of all layers that count: the walk reads the
//!   records of those layers in each of its transactions, and their digests change with any slot;
//! - a walk that a merge or a commit has crossed begins again; after three times it goes on and
//!   the answer says that it is approximate, never silently; so it is while something below is
//!   being merged, which the deletion would end by freeing what is left of it;
//! - *unique* is what the deletion returns of the layer itself: of a head all that it has; of a
//!   snapshot's layer with one child what that hides, as a merge would; of one with more nothing;
//! - *reclaimable* is all that the deletion returns: when the layer goes, and stood on a fork
//!   without a name beside one other layer, the fork is merged into that one, which frees what it
//!   hides. That changes no other layer's children, so nothing more follows.

use lunar_proto::domain::{Selector, SnapshotState, Usage, UsageOf};
use lunar_types::{ExtentSize, LayerId, LogicalExtent, SnapshotId, VolumeId};

use super::Service;
use super::cover::Cover;
use super::layers::older_parent;
use super::read_layer::downwards;
use super::shown::Shown;
use super::snapshots::find_snapshot;
use super::touched::{Entries, read_touched};
use super::volumes::find_volume;
use crate::error::ServiceError;
use crate::keyspace::{
    ChildKey, KeyedTxn, LayerKey, LayerName, LayerPartsKey, LayerPartsRecord, LayerRecord, PoolKey,
    children_of,
};
use crate::store::{MetaStore, Txn};

/// How often a walk that was crossed begins again.
const CROSSED_MAX: u32 = 3;

/// What is looked at, found by its name once.
#[derive(Clone, Copy)]
enum Target {
    Volume(VolumeId),
    Snapshot(SnapshotId),
}

/// A layer as it was when a window was read.
#[derive(Clone, PartialEq, Eq)]
struct Seen {
    layer: LayerId,
    record: LayerRecord,
    parts: Option<LayerPartsRecord>,
}

/// The layers that count.
#[derive(Clone, PartialEq, Eq)]
struct Standing {
    /// The chain of the view, the uppermost first.
    chain: Vec<Seen>,
    /// Up to two of those that stand on it.
    children: Vec<Seen>,
    /// What its parent would be merged into, if it went.
    heir: Option<Seen>,
    /// A layer right below, which nothing names, is being merged upwards.
    is_merging: bool,
    extent_size: ExtentSize,
}

async fn seen<T: Txn>(txn: &T, layer: LayerId) -> Result<Seen, ServiceError> {
    let record = txn.load_known(&LayerKey { layer }).await?;
    let parts = txn.load(&LayerPartsKey { layer }).await?;
    Ok(Seen { layer, record, parts })
}

impl Standing {
    async fn load<T: Txn>(txn: &T, top: LayerId) -> Result<Self, ServiceError> {
        let (mut chain, mut next) = (Vec::new(), Some(top));
        while let Some(layer) = next {
            let below = seen(txn, layer).await?;
            next = older_parent(layer, &below.record)?;
            chain.push(below);
        }
        let mut children = Vec::new();
        for (ChildKey { child, .. }, _) in txn.scan(&children_of(top), 2).await? {
            children.push(seen(txn, child).await?);
        }
        let heir = match (children.as_slice(), chain.get(1)) {
            ([], Some(parent)) => heir_of(txn, parent, top).await?,
            _ => None,
        };
        let is_merging = is_merging_below(txn, &chain).await?;
        let pool = chain[0].record.pool;
        let extent_size = txn.load_known(&PoolKey { pool }).await?.extent_size;
        Ok(Self { chain, children, heir, is_merging, extent_size })
    }

    fn owned(&self) -> u64 {
        let top = &self.chain[0];
        top.record.extents + top.parts.as_ref().map_or(0, |parts| parts.extents)
    }

    /// The merge that the deletion leads to: of which layer, into which one.
    fn merge(&self) -> Option<Merge> {
        match (self.children.as_slice(), &self.heir) {
            ([only], _) => Some(Merge { below: self.chain[0].layer, into: only.layer }),
            (_, Some(heir)) => Some(Merge { below: self.chain[1].layer, into: heir.layer }),
            _ => None,
        }
    }
}

/// A merge.
#[derive(Clone, Copy)]
struct Merge {
    below: LayerId,
    into: LayerId,
}

const fn is_named(layer: &Seen) -> bool {
    matches!(layer.record.name, LayerName::Head(_) | LayerName::Snapshot(_))
}

/// Whether one of the layers below the first that nothing names has one layer on it alone.
async fn is_merging_below<T: Txn>(txn: &T, chain: &[Seen]) -> Result<bool, ServiceError> {
    for below in chain[1..].iter().take_while(|below| !is_named(below)) {
        if txn.scan(&children_of(below.layer), 2).await?.len() == 1 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The only other layer on a fork that nothing names.
async fn heir_of<T: Txn>(
    txn: &T,
    fork: &Seen,
    leaving: LayerId,
) -> Result<Option<Seen>, ServiceError> {
    if is_named(fork) {
        return Ok(None);
    }
    let found = txn.scan(&children_of(fork.layer), 3).await?;
    let children: Vec<LayerId> = found.into_iter().map(|(key, _)| key.child).collect();
    match children.as_slice() {
        [one, other] if *one == leaving => Ok(Some(seen(txn, *other).await?)),
        [other, one] if *one == leaving => Ok(Some(seen(txn, *other).await?)),
        _ => Ok(None),
    }
}

/// What a walk has counted.
#[derive(Default)]
struct Counted {
    referenced: u64,
    /// Slots that a merge finds hidden, by slots above them in their layer and in the other one.
    hidden: u64,
}

impl Counted {
    fn add(&mut self, standing: &Standing, [chain, into]: &[Entries; 2]) {
        let (top, size) = (standing.chain[0].layer, standing.extent_size);
        let mut shown = Shown::nothing(size);
        for (layer, entry) in chain.iter().rev() {
            for (_, slot) in downwards(*layer, entry) {
                let shows = shown.add(slot);
                let counts = slot.extent().is_some() && (shows || *layer == top);
                self.referenced += u64::from(counts);
            }
        }
        let Some(merge) = standing.merge() else { return };
        let Some(below) = chain.get(&merge.below) else { return };
        let mut cover = Cover::default();
        for (layer, entry) in into {
            downwards(*layer, entry).for_each(|(_, slot)| cover.add(slot));
        }
        for (_, slot) in downwards(merge.below, below) {
            self.hidden += u64::from(slot.extent().is_some() && cover.hides(slot));
            cover.add(slot);
        }
    }
}

async fn top_of<T: Txn>(txn: &T, target: Target) -> Result<LayerId, ServiceError> {
    match target {
        Target::Volume(id) => Ok(find_volume(txn, &Selector::Id(id)).await?.1.head),
        Target::Snapshot(id) => {
            let (snapshot, record) = find_snapshot(txn, &Selector::Id(id)).await?;
            let state = record.state;
            let layer = record.layer.filter(|_| state == SnapshotState::Ready);
            layer.ok_or(ServiceError::SnapshotNotReady { snapshot, state })
        }
    }
}

/// Counts a window; gives the layers as it has found them, and where to go on.
async fn window<T: Txn>(
    txn: &T,
    target: Target,
    start: LogicalExtent,
) -> Result<(Standing, Counted, Option<LogicalExtent>), ServiceError> {
    let top = top_of(txn, target).await?;
    let standing = Standing::load(txn, top).await?;
    let chain: Vec<LayerId> = standing.chain.iter().map(|seen| seen.layer).collect();
    let into: Vec<LayerId> = standing.merge().iter().map(|merge| merge.into).collect();
    let touched = read_touched(txn, [&chain, &into], start).await?;
    let mut counted = Counted::default();
    for sides in touched.extents.values() {
        counted.add(&standing, sides);
    }
    Ok((standing, counted, touched.next))
}

impl<S: MetaStore> Service<S> {
    /// What a volume or a snapshot owns, what only it needs, and what it shares, as of the last
    /// commit. It reads the whole chain, in as many transactions as that takes.
    ///
    /// # Errors
    /// There is no such volume or snapshot, or the snapshot is not Ready.
    pub async fn usage(&self, of: &UsageOf) -> Result<Usage, ServiceError> {
        let target = self.usage_target(of).await?;
        let mut crossed = 0;
        loop {
            let is_approximate = crossed == CROSSED_MAX;
            match self.walk(target, is_approximate).await? {
                Some(usage) => return Ok(usage),
                None => crossed += 1,
            }
        }
    }

    async fn usage_target(&self, of: &UsageOf) -> Result<Target, ServiceError> {
        self.read(|txn| async move {
            Ok(match of {
                UsageOf::Volume(volume) => Target::Volume(find_volume(&*txn, volume).await?.0),
                UsageOf::Snapshot(it) => Target::Snapshot(find_snapshot(&*txn, it).await?.0),
            })
        })
        .await
    }

    /// One walk; nothing if something has crossed it, unless the answer may be approximate.
    async fn walk(
        &self,
        target: Target,
        may_be_crossed: bool,
    ) -> Result<Option<Usage>, ServiceError> {
        let (mut sums, mut before) = (Counted::default(), None::<Standing>);
        let (mut next, mut is_crossed) = (LogicalExtent::new(0), false);
        loop {
            let read = self.read(|txn| async move { window(&*txn, target, next).await });
            let (standing, counted, following) = read.await?;
            is_crossed |= before.as_ref().is_some_and(|before| *before != standing);
            if is_crossed && !may_be_crossed {
                return Ok(None);
            }
            sums.referenced += counted.referenced;
            sums.hidden += counted.hidden;
            let Some(following) = following else {
                let is_approximate = is_crossed || standing.is_merging;
                return Ok(Some(usage_of(target, &standing, &sums, is_approximate)));
            };
            (next, before) = (following, Some(standing));
        }
    }
}

fn usage_of(target: Target, standing: &Standing, sums: &Counted, is_approximate: bool) -> Usage {
    let owned = standing.owned();
    let unique = match (target, standing.children.len()) {
        (Target::Volume(_), _) | (_, 0) => owned,
        (_, 1) => sums.hidden,
        _ => 0,
    };
    let fork = if standing.heir.is_some() { sums.hidden } else { 0 };
    Usage {
        extent_size: standing.extent_size,
        owned_extents: owned,
        unique_extents: unique,
        reclaimable_extents: unique + fork,
        // Windows of several states may contradict each other.
        referenced_extents: sums.referenced.max(unique),
        is_approximate,
    }
}
