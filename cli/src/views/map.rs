//! Where the data of a volume is: runs of logical extents on neighbouring physical extents.

use std::collections::BTreeMap;

use lunar_proto::domain::{LayerEntry, Volume};
use lunar_types::{ExtentSize, LayerId, LogicalExtent, Slot, SlotPlace};
use serde::Serialize;

use super::{NONE, size};
use crate::output::{Report, table};

/// Logical extents that follow each other, on the same LUN and there following each other too.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct MapRun {
    logical_extent: u64,
    count: u64,
    /// `data` on a LUN, or `zero`: reads as zeros and takes no space.
    kind: &'static str,
    /// The layer whose writes made it: the volume's head, or one that was merged into it.
    birth_layer: u64,
    lun_index: Option<u16>,
    physical_extent: Option<u64>,
    /// Blocks of 4 KiB that are present here, of `blocks` in these extents.
    present_blocks: u64,
    blocks: u64,
}

impl MapRun {
    fn of(at: LogicalExtent, birth: LayerId, slot: &Slot, extent_size: ExtentSize) -> Self {
        let (kind, lun_index, physical_extent) = place_of(slot);
        Self {
            logical_extent: at.get(),
            count: 1,
            kind,
            birth_layer: birth.get(),
            lun_index,
            physical_extent,
            present_blocks: slot.presence.count().into(),
            blocks: extent_size.blocks().into(),
        }
    }

    /// Whether `next`, of the same birth, goes on where this run ends, in the volume and on the
    /// LUN.
    fn goes_on_with(&self, next: &Self) -> bool {
        self.kind == next.kind
            && self.lun_index == next.lun_index
            && self.logical_extent + self.count == next.logical_extent
            && self.physical_extent.map(|at| at + self.count) == next.physical_extent
    }

    fn row(&self, extent_bytes: u64) -> [String; 6] {
        let place = self.lun_index.zip(self.physical_extent);
        let place = place.map_or_else(|| NONE.to_owned(), |(lun, at)| format!("{lun}:{at}"));
        [
            self.logical_extent.to_string(),
            self.count.to_string(),
            if self.kind == KIND_ZERO { KIND_ZERO.to_owned() } else { place },
            self.birth_layer.to_string(),
            format!("{}/{}", self.present_blocks, self.blocks),
            size(self.count.saturating_mul(extent_bytes)),
        ]
    }
}

const KIND_DATA: &str = "data";
const KIND_ZERO: &str = "zero";

fn place_of(slot: &Slot) -> (&'static str, Option<u16>, Option<u64>) {
    match slot.place {
        SlotPlace::Extent(at) => (KIND_DATA, Some(at.lun.get()), Some(at.extent.get())),
        SlotPlace::Zero => (KIND_ZERO, None, None),
    }
}

/// `lunar volume map`.
#[derive(Serialize, Debug)]
pub struct MapView {
    volume_id: String,
    name: String,
    layer: u64,
    extent_size_bytes: u64,
    /// In the order of their first logical extents; where several layers have slots at one, the
    /// newest comes first.
    runs: Vec<MapRun>,
    /// Where the last run of each birth is.
    #[serde(skip)]
    last: BTreeMap<LayerId, usize>,
    #[serde(skip)]
    head: LayerId,
}

impl MapView {
    /// The empty map of a volume.
    #[must_use]
    pub fn new(volume: &Volume, extent_size: ExtentSize) -> Self {
        Self {
            volume_id: volume.id.to_string(),
            name: volume.name.to_string(),
            layer: volume.head.get(),
            extent_size_bytes: extent_size.bytes(),
            runs: Vec::new(),
            last: BTreeMap::new(),
            head: volume.head,
        }
    }

    /// Adds the next entries, in order of their logical extents.
    pub fn extend(&mut self, entries: &[LayerEntry], extent_size: ExtentSize) {
        for entry in entries {
            let own = entry.own.iter().map(|slot| (self.head, slot)).collect::<Vec<_>>();
            let parts = entry.parts.iter().rev().map(|part| (part.birth, &part.slot));
            for (birth, slot) in own.into_iter().chain(parts) {
                self.push(birth, MapRun::of(entry.at, birth, slot, extent_size));
            }
        }
    }

    fn push(&mut self, birth: LayerId, next: MapRun) {
        let last = self.last.get(&birth).map(|at| &mut self.runs[*at]);
        match last {
            Some(run) if run.goes_on_with(&next) => {
                run.count += 1;
                run.present_blocks += next.present_blocks;
                run.blocks += next.blocks;
            }
            _ => {
                self.last.insert(birth, self.runs.len());
                self.runs.push(next);
            }
        }
    }
}

impl Report for MapView {
    fn to_text(&self) -> String {
        let rows = self.runs.iter().map(|run| run.row(self.extent_size_bytes)).collect();
        let header = ["LOGICAL", "EXTENTS", "LUN:EXTENT", "LAYER", "BLOCKS", "LENGTH"];
        table(header, rows, "nothing is mapped in the head layer")
    }
}
