//! Reads everything that is there: the volume through its engine, snapshots and clones through
//! engines of their own that stand on their layers, without attaching them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lunar_engine::dirty::{DirtyIdentity, DirtyTable, table_words};
use lunar_engine::io::IoOp;
use lunar_engine::journal::{JournalIdentity, JournalRing, RingPlace};
use lunar_engine::lun::LunTable;
use lunar_engine::volume::{Chain, LayerSlots, LoadedMap, Volume, VolumeParts, VolumeSpec};
use lunar_metadata::domain::{
    FsckEvent, LayerEntry, PageRequest, Pool, ReadLayer, Selector, SnapshotState, VolumeState,
};
use lunar_metadata::fsck::Flow;
use lunar_metadata::keyspace::{KeyedTxn as _, LayerKey};
use lunar_metadata::seams::block_on;
use lunar_metadata::store::MetaStore as _;
use lunar_types::{
    Epoch, ExtentAddress, ExtentRun, LayerId, LogicalExtent, PoolId, VolumeId, VolumeSize,
};

use super::attach::lun_table;
use super::model::{Observed, WriteNumber, write_shown};
use super::node::{Node, Outcome, Serving, told};
use super::ops::volume_name;
use super::record::Pending;
use super::shape;
use crate::stamp::SECTOR_BYTES;

/// Entries of the table of an engine that only reads.
const READER_CAPACITY: usize = 1;

impl Node {
    /// The volume of the sweep.
    pub(super) fn volume_id(&self) -> Outcome<VolumeId> {
        let name = Selector::Name(volume_name());
        Ok(told("the volume", block_on(self.service.volume(&name)))?.id)
    }

    /// Its pool.
    pub(super) fn pool(&self) -> Outcome<PoolId> {
        Ok(self.whole_pool()?.id)
    }

    fn whole_pool(&self) -> Outcome<Pool> {
        let name = Selector::Name(super::ops::pool_name());
        told("the pool", block_on(self.service.pool(&name)))
    }

    /// The service's own check.
    pub(super) fn fsck(&self) -> Outcome {
        let mut findings = Vec::new();
        let mut sink = |event| {
            if let FsckEvent::Finding(finding) = event {
                findings.push(format!("{}: {}", finding.kind, finding.message));
            }
            Flow::Continue
        };
        told("fsck failed", block_on(self.service.fsck(&mut sink)))?;
        if findings.is_empty() { Ok(()) } else { Err(format!("fsck: {}", findings.join("; "))) }
    }

    /// Everything that a layer has.
    fn layer_entries(&self, layer: LayerId) -> Outcome<Vec<LayerEntry>> {
        let read = ReadLayer { layer, from: LogicalExtent::new(0), limit: 1000 };
        let page = told("a layer", block_on(self.service.read_layer(read)))?;
        if page.next.is_some() { Err(format!("{layer} is too large")) } else { Ok(page.entries) }
    }

    /// The map of the first of these layers.
    pub(super) fn read_chain(
        &self,
        size: VolumeSize,
        luns: LunTable,
        layers: &[LayerId],
    ) -> Outcome<LoadedMap> {
        let mut chain = told("a chain", Chain::new(size, shape::extent_size(), luns))?;
        let mut own = LayerSlots::new();
        let head = layers[0];
        for layer in layers.iter().rev().copied() {
            told("a chain", chain.begin(layer))?;
            for entry in self.layer_entries(layer)? {
                for part in entry.parts {
                    told("a chain", chain.put(entry.at, part.birth, part.slot))?;
                }
                match entry.own {
                    Some(slot) if layer == head => own.push((entry.at, slot)),
                    Some(slot) => told("a chain", chain.put(entry.at, layer, slot))?,
                    None => {}
                }
            }
        }
        Ok(LoadedMap::new(chain, own))
    }

    /// A layer and what it stands on.
    fn layers_below(&self, layer: LayerId) -> Outcome<Vec<LayerId>> {
        let read = async {
            let txn = self.service.store().begin().await.map_err(|error| error.to_string())?;
            let (mut layers, mut next) = (Vec::new(), Some(layer));
            while let Some(layer) = next {
                layers.push(layer);
                let record = txn.load_known(&LayerKey { layer }).await;
                next = record.map_err(|error| error.to_string())?.parent;
            }
            Ok(layers)
        };
        block_on(read)
    }

    /// Reads the volume and everything else, each as large as it says it is.
    pub(super) fn look(&mut self) -> Outcome<Observed> {
        let volume = self.read_volume()?;
        let main = self.volume_id()?;
        let all = PageRequest::first();
        let snapshots = told("snapshots", block_on(self.service.snapshots(None, &all)))?.items;
        let clones = told("volumes", block_on(self.service.volumes(&all)))?.items;
        let snapshots = snapshots.into_iter().filter(|it| it.state == SnapshotState::Ready);
        let clones =
            clones.into_iter().filter(|it| it.state == VolumeState::Ready && it.id != main);
        let mut heads: Vec<(String, LayerId, VolumeSize)> = Vec::new();
        for snapshot in snapshots {
            let layer = snapshot.layer.ok_or("a snapshot that is ready has no layer")?;
            heads.push((snapshot.name.to_string(), layer, snapshot.size));
        }
        heads.extend(clones.map(|clone| (clone.name.to_string(), clone.head, clone.size)));
        let mut others = BTreeMap::new();
        for (name, layer, size) in heads {
            let content = self.read_layers(layer, size);
            let content = content.map_err(|error| format!("{name}: {error}"))?;
            others.insert(name, content);
        }
        Ok(Observed { volume, others })
    }

    pub(super) fn read_volume(&mut self) -> Outcome<Vec<WriteNumber>> {
        let length = self.serving().engine.size().bytes() as u32;
        let op = IoOp::Read { offset: 0, length };
        let bytes = self.request(Pending { queue: 0, op, write: 0 })?;
        let sectors = bytes.chunks_exact(SECTOR_BYTES).enumerate();
        sectors.map(|(sector, bytes)| write_shown(sector as u64, bytes)).collect()
    }

    /// Reads what stands on a layer, by an engine that nobody writes through.
    fn read_layers(&mut self, top: LayerId, size: VolumeSize) -> Outcome<Vec<WriteNumber>> {
        let layers = self.layers_below(top)?;
        let pool = self.whole_pool()?;
        let (chain, own) = self.read_chain(size, lun_table(&pool), &layers)?.into_parts();
        let (volume, epoch, holder) = (VolumeId::from_u128(1), Epoch::new(1), self.incarnation());
        let extent_size = shape::extent_size();
        let identity = DirtyIdentity { volume, layer: top, epoch, holder, extent_size };
        let words = table_words(extent_size, READER_CAPACITY);
        let memory: crate::world::TableMemory =
            Arc::new((0..words).map(|_| AtomicU64::new(0)).collect());
        let table = told("a table", DirtyTable::create(memory, identity, READER_CAPACITY))?;
        let journal = ExtentRun::new(ExtentAddress::new(0, 0), shape::RING_EXTENTS);
        let identity = JournalIdentity { volume, layer: top, epoch, writer: holder };
        let ring = JournalRing::fresh(identity, RingPlace::new(vec![journal], extent_size));
        let spec = VolumeSpec {
            volume,
            holder,
            size,
            extent_size,
            logical_block: shape::logical_block(),
            queue_count: shape::QUEUES,
            luns: lun_table(&pool),
            tuning: shape::tuning(),
        };
        let parts = VolumeParts { spec, chain, own, ring, table, predecessor: None };
        let engine = told("a reader does not start", Volume::start(parts))?;
        let reader = Serving::new(engine, epoch, (top, top));
        let serving = self.serving.replace(reader);
        let content = self.read_volume();
        self.serving = serving;
        content
    }
}
