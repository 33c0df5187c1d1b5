//! Reading many layers side by side, in windows of logical extents that are complete in all.
//!
//! Invariant: a window has all slots of all layers at each of its logical extents, and at least
//! one logical extent unless there is none left.

use std::collections::BTreeMap;

use lunar_proto::domain::{LayerEntry, READ_LAYER_MAX, ReadLayer};
use lunar_types::{LayerId, LogicalExtent};

use super::read_layer::read_window;
use crate::error::ServiceError;
use crate::store::Txn;

/// Slots that one transaction reads, and one page of a layer more.
const SLOTS_PER_WINDOW: usize = 4000;

/// What layers have at one logical extent. A layer that comes later is above those before it.
pub(super) type Entries = BTreeMap<LayerId, LayerEntry>;

/// What two lists of layers have at each logical extent, from one on.
#[derive(Default)]
pub(super) struct TouchedWindow {
    pub(super) extents: BTreeMap<LogicalExtent, [Entries; 2]>,
    /// Where to go on; nothing at the end.
    pub(super) next: Option<LogicalExtent>,
}

/// How far a layer was read.
struct Cursor {
    layer: LayerId,
    side: usize,
    next: Option<LogicalExtent>,
    /// Slots of the next page; it doubles, so that the layer that has most is read in few.
    limit: usize,
}

/// Reads two lists of layers, the uppermost first, from a logical extent on: always the layer that
/// was read least far, the lowest of several.
pub(super) async fn read_touched<T: Txn>(
    txn: &T,
    layers: [&[LayerId]; 2],
    start: LogicalExtent,
) -> Result<TouchedWindow, ServiceError> {
    let count = layers.iter().map(|side| side.len()).sum::<usize>();
    let limit = (SLOTS_PER_WINDOW / count.max(1)).clamp(1, READ_LAYER_MAX);
    let cursors = layers.iter().enumerate().flat_map(|(side, layers)| {
        let next = Some(start);
        layers.iter().rev().map(move |layer| Cursor { layer: *layer, side, next, limit })
    });
    let mut cursors: Vec<Cursor> = cursors.collect();
    let mut window = TouchedWindow::default();
    let mut slots = 0;
    loop {
        let unread = cursors.iter_mut().filter_map(|cursor| Some((cursor.next?, cursor)));
        let Some((at, cursor)) = unread.min_by_key(|(at, _)| *at) else { return Ok(window) };
        if slots >= SLOTS_PER_WINDOW && at > start {
            window.extents.retain(|extent, _| *extent < at);
            window.next = Some(at);
            return Ok(window);
        }
        let read = ReadLayer { layer: cursor.layer, from: at, limit: cursor.limit };
        let (entries, next) = read_window(txn, read).await?.into_page(cursor.limit);
        cursor.next = next;
        cursor.limit = (cursor.limit * 2).min(READ_LAYER_MAX);
        for entry in entries {
            slots += usize::from(entry.own.is_some()) + entry.parts.len();
            let sides = window.extents.entry(entry.at).or_default();
            sides[cursor.side].insert(cursor.layer, entry);
        }
    }
}
