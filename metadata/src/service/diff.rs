//! What differs between two snapshots, window by window.
//!
//! Invariants:
//! - each logical extent is judged in one transaction, by all slots above the youngest common
//!   layer of both chains, and by that layer and what is below it where those leave it open;
//! - a block is named when a slot above the common layer says something of it on either side: as
//!   data if the second snapshot has it, as zeros if only the first one has it. So what the map
//!   cannot tell apart is named, and nothing that differs is left out;
//! - merges change nothing of that, within a transaction or between two. Both snapshots are Ready,
//!   so the common layer is one of them, or a fork with a child towards each: it is neither merged
//!   nor freed while both are there, and no slot comes from below it to above it or the other way
//!   round. Above it slots move from layer to layer and keep their births; one that goes is hidden
//!   by others above the common layer, which say more than it did.
//!
//! Deliberately absent: heads. What an attached volume has changed since its last commit only its
//! holder knows; cut a snapshot of it.

use lunar_proto::domain::{DiffKind, DiffPage, DiffRun, DiffSnapshots, LayerEntry};
use lunar_types::{BLOCK_BYTES, ExtentSize, LayerId, LogicalExtent, SnapshotId};

use super::Service;
use super::layers::parent_of;
use super::read_layer::{downwards, read_own, read_parts};
use super::shown::Shown;
use super::snapshots::ready_snapshot;
use super::touched::{Entries, TouchedWindow, read_touched};
use crate::error::ServiceError;
use crate::keyspace::{KeyedTxn, PoolKey};
use crate::store::{MetaStore, Txn};

/// Looks at a layer below the common one, at one logical extent each.
const LOOKS_PER_WINDOW: usize = 4000;
/// Runs of a window, and those of one logical extent more.
const RUNS_PER_WINDOW: usize = 65_536;

/// The layers that only one of two chains has, and the first one that both have.
struct Chains {
    /// Above the common layer, the uppermost first.
    to: Vec<LayerId>,
    from: Vec<LayerId>,
    common: Option<LayerId>,
}

/// One end of a comparison.
#[derive(Clone, Copy)]
struct End {
    snapshot: SnapshotId,
    layer: LayerId,
}

/// Walks both chains down. A layer's id is greater than those of all below it, so the greater of
/// two is not in the other chain.
async fn chains_of<T: Txn>(txn: &T, from: Option<End>, to: End) -> Result<Chains, ServiceError> {
    let mut chains = Chains { to: Vec::new(), from: Vec::new(), common: None };
    let mut at = Some(to.layer);
    let Some(from) = from else {
        while let Some(layer) = at {
            chains.to.push(layer);
            at = parent_of(txn, layer).await?;
        }
        return Ok(chains);
    };
    let mut other = Some(from.layer);
    while let (Some(layer), Some(other_layer)) = (at, other) {
        if layer == other_layer {
            return Ok(Chains { common: Some(layer), ..chains });
        }
        if layer > other_layer {
            chains.to.push(layer);
            at = parent_of(txn, layer).await?;
        } else {
            chains.from.push(other_layer);
            other = parent_of(txn, other_layer).await?;
        }
    }
    Err(ServiceError::SnapshotsUnrelated { from: from.snapshot, to: to.snapshot })
}

fn shown(entries: &Entries, size: ExtentSize) -> Shown {
    let mut shown = Shown::nothing(size);
    for (layer, entry) in entries.iter().rev() {
        downwards(*layer, entry).for_each(|(_, slot)| {
            shown.add(slot);
        });
    }
    shown
}

/// The chain from the common layer down, which is walked when it is needed.
struct Below<'a, T> {
    txn: &'a T,
    layers: Vec<LayerId>,
    /// The next layer to be walked to.
    rest: Option<LayerId>,
    looks: usize,
}

impl<T: Txn> Below<'_, T> {
    async fn layer(&mut self, depth: usize) -> Result<Option<LayerId>, ServiceError> {
        if depth == self.layers.len() {
            let Some(layer) = self.rest else { return Ok(None) };
            self.layers.push(layer);
            self.rest = parent_of(self.txn, layer).await?;
        }
        Ok(Some(self.layers[depth]))
    }

    /// What it shows at one logical extent.
    async fn shown(&mut self, at: LogicalExtent, size: ExtentSize) -> Result<Shown, ServiceError> {
        let (mut shown, mut depth) = (Shown::nothing(size), 0);
        while !shown.is_complete(size)
            && let Some(layer) = self.layer(depth).await?
        {
            let own = read_own(self.txn, layer, at).await?;
            let entry = LayerEntry { at, own, parts: read_parts(self.txn, layer, at).await? };
            downwards(layer, &entry).for_each(|(_, slot)| {
                shown.add(slot);
            });
            depth += 1;
            self.looks += 1;
        }
        Ok(shown)
    }
}

/// The runs of a window, as they are found.
struct Runs {
    runs: Vec<DiffRun>,
    start: u64,
    end: u64,
}

impl Runs {
    fn push(&mut self, offset: u64, kind: DiffKind) {
        let (begin, end) = (offset.max(self.start), (offset + BLOCK_BYTES).min(self.end));
        if begin >= end {
            return;
        }
        let run = DiffRun { offset: begin, length: end - begin, kind };
        if !self.runs.last_mut().is_some_and(|last| last.join(run)) {
            self.runs.push(run);
        }
    }

    /// Compares both sides block by block; `below` is what both have under the common layer.
    fn compare(&mut self, at: u64, size: ExtentSize, to: &Shown, from: &Shown, below: &Shown) {
        let has = |side: &Shown, block| side.has(block) || !side.says(block) && below.has(block);
        for block in 0..size.blocks() {
            if !to.says(block) && !from.says(block) {
                continue;
            }
            let kind = match (has(to, block), has(from, block)) {
                (true, _) => DiffKind::Data,
                (false, true) => DiffKind::Zero,
                (false, false) => continue,
            };
            self.push(at + u64::from(block) * BLOCK_BYTES, kind);
        }
    }
}

/// Compares the logical extents of a window; gives where to go on.
async fn compare<T: Txn>(
    below: &mut Below<'_, T>,
    window: TouchedWindow,
    size: ExtentSize,
    runs: &mut Runs,
) -> Result<Option<LogicalExtent>, ServiceError> {
    for (index, (at, touched)) in window.extents.iter().enumerate() {
        let is_full = below.looks >= LOOKS_PER_WINDOW || runs.runs.len() >= RUNS_PER_WINDOW;
        if index > 0 && is_full {
            return Ok(Some(*at));
        }
        let [to, from] = touched.each_ref().map(|side| shown(side, size));
        let under = match to.leaves_open(&from) || from.leaves_open(&to) {
            true => below.shown(*at, size).await?,
            false => Shown::nothing(size),
        };
        let offset = at.get().saturating_mul(size.bytes());
        runs.compare(offset, size, &to, &from, &under);
    }
    Ok(window.next)
}

async fn diff_snapshots<T: Txn>(
    txn: &T,
    request: &DiffSnapshots,
) -> Result<DiffPage, ServiceError> {
    let (snapshot, to, layer) = ready_snapshot(txn, &request.to).await?;
    let to_end = End { snapshot, layer };
    let mut end = to.size.bytes();
    let mut from_end = None;
    if let Some(from) = &request.from {
        let (snapshot, from, layer) = ready_snapshot(txn, from).await?;
        end = end.max(from.size.bytes());
        from_end = Some(End { snapshot, layer });
    }
    let chains = chains_of(txn, from_end, to_end).await?;
    let mut runs = Runs { runs: Vec::new(), start: request.start, end };
    if request.start >= end {
        return Ok(DiffPage { runs: runs.runs, next: None });
    }
    let size = txn.load_known(&PoolKey { pool: to.pool }).await?.extent_size;
    let (start, _) = size.split(request.start);
    let window = read_touched(txn, [&chains.to, &chains.from], start).await?;
    let mut below = Below { txn, layers: Vec::new(), rest: chains.common, looks: 0 };
    let next = compare(&mut below, window, size, &mut runs).await?;
    let next = next.map(|next| next.get().saturating_mul(size.bytes())).filter(|next| *next < end);
    assert!(next.is_none_or(|next| next > request.start), "a window has one logical extent");
    Ok(DiffPage { runs: runs.runs, next })
}

impl<S: MetaStore> Service<S> {
    /// A window of what differs between two snapshots, from an offset on: what has to be written
    /// over the first one to make it the second. It may be empty and not the last.
    ///
    /// # Errors
    /// One of them is not there or not Ready, or they stand on no common layer.
    pub async fn diff_snapshots(&self, request: &DiffSnapshots) -> Result<DiffPage, ServiceError> {
        self.read(|txn| async move { diff_snapshots(&*txn, request).await }).await
    }
}
