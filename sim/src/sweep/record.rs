//! What a run of a sequence leaves behind: every moment at which a crash may fall.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lunar_engine::io::IoOp;
use lunar_types::{Epoch, NodeIncarnation, VolumeId};

use super::medium::{Image, Medium, Write};
use super::model::{Expected, WriteNumber};
use super::store::StoreImage;
use crate::world::TableMemory;

/// The words of dirty tables, by attachment.
pub(super) type Tables = BTreeMap<(VolumeId, Epoch), Rc<[u64]>>;

/// A request that a successor is given again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pending {
    /// On which queue.
    pub(super) queue: u16,
    /// What it asks for.
    pub(super) op: IoOp,
    /// Its number, which its data carries.
    pub(super) write: WriteNumber,
}

/// A moment at which a crash may fall: everything that outlives it.
pub(super) struct Point {
    /// What no power cut takes away.
    pub(super) durable: Image,
    /// What one may.
    pub(super) volatile: Vec<Write>,
    /// The metadata service's store.
    pub(super) store: StoreImage,
    /// Dirty tables, which a kill leaves.
    pub(super) tables: Tables,
    /// As whom the daemon runs.
    pub(super) incarnation: NodeIncarnation,
    /// What is under way.
    pub(super) pending: Option<Pending>,
    /// What there has to be after the crash: one of these.
    pub(super) expected: Vec<Rc<Expected>>,
}

/// Writes down every moment.
pub(super) struct Recorder {
    /// The moments so far.
    pub(super) points: Vec<Point>,
    /// Whether moments are of interest yet.
    pub(super) is_on: bool,
    /// The store as it is.
    pub(super) store: StoreImage,
    /// The dirty tables.
    pub(super) tables: BTreeMap<(VolumeId, Epoch), TableMemory>,
    /// As whom the daemon runs.
    pub(super) incarnation: Option<NodeIncarnation>,
    /// What is under way.
    pub(super) pending: Option<Pending>,
    /// What there has to be: one of these.
    pub(super) expected: Vec<Rc<Expected>>,
}

impl Recorder {
    /// Nothing has happened yet.
    pub(super) fn new(expected: Expected) -> Self {
        Self {
            points: Vec::new(),
            is_on: false,
            store: StoreImage::default(),
            tables: BTreeMap::new(),
            incarnation: None,
            pending: None,
            expected: vec![Rc::new(expected)],
        }
    }

    /// A moment.
    pub(super) fn mark(&mut self, medium: &Medium) {
        let Some(incarnation) = self.incarnation.filter(|_| self.is_on) else { return };
        self.points.push(Point {
            durable: medium.durable.clone(),
            volatile: medium.volatile.clone(),
            store: self.store.clone(),
            tables: self.tables.iter().map(|(key, memory)| (*key, words_of(memory))).collect(),
            incarnation,
            pending: self.pending,
            expected: self.expected.clone(),
        });
    }

    /// What there has to be from now on.
    pub(super) fn expect(&mut self, expected: Expected) {
        self.expected = vec![Rc::new(expected)];
    }

    /// What there has to be, when no call is under way.
    pub(super) fn sure(&self) -> Expected {
        let last = self.expected.last().expect("there is always something to expect");
        Expected::clone(last)
    }
}

fn words_of(memory: &TableMemory) -> Rc<[u64]> {
    memory.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

/// Memory with these words.
pub(super) fn memory_of(words: &[u64]) -> TableMemory {
    Arc::new(words.iter().map(|word| (*word).into()).collect())
}
