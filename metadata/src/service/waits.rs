//! Merges that wait for room in the layer above them, and what this process knows of room.
//!
//! Invariants:
//! - a merge that waits is due after [`MERGE_RETRY`], when the layer above it has lost slots, or
//!   when its own layer has got some: they may be hidden by what is above;
//! - what happens to a layer is noted whether anybody waits for it by then or not, so nothing is
//!   missed between the look of a pass and the moment when the merge is seen to wait;
//! - the notes that a merge could be due for are forgotten when a pass of it begins, before it
//!   looks. A note that was there too early costs a pass that finds nothing, and no more.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lunar_proto::domain::OperationId;
use lunar_types::LayerId;

/// How long a merge that has no room rests before it is tried again.
const MERGE_RETRY: Duration = Duration::from_secs(600);
/// How long a note is kept for which nobody asks. A pass that lasts longer may miss it, which costs
/// a rest.
const NOTE_KEPT: Duration = Duration::from_secs(3600);

/// What moved in one step of a merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moved {
    /// The layer that has fewer slots now.
    pub(super) below: LayerId,
    /// The layer that got some, if any was not hidden.
    pub(super) into: Option<LayerId>,
}

/// The merges that wait, and notes of what happened to layers.
#[derive(Default)]
pub(super) struct Waits {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Merges that were seen to wait, and since when.
    resting: BTreeMap<OperationId, Duration>,
    /// Layers that have lost slots, and when.
    emptied: BTreeMap<LayerId, Duration>,
    /// Layers that have got slots from below, and when.
    filled: BTreeMap<LayerId, Duration>,
}

fn note(notes: &mut BTreeMap<LayerId, Duration>, layer: LayerId, now: Duration) {
    notes.retain(|_, since| now.saturating_sub(*since) < NOTE_KEPT);
    notes.insert(layer, now);
}

impl Waits {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a merge of one layer into the one above, which waits for room, is to be tried again.
    pub(super) fn is_due(
        &self,
        operation: OperationId,
        (below, above): (LayerId, LayerId),
        now: Duration,
    ) -> bool {
        let mut state = self.lock();
        let since = *state.resting.entry(operation).or_insert(now);
        now.saturating_sub(since) >= MERGE_RETRY
            || state.emptied.contains_key(&above)
            || state.filled.contains_key(&below)
    }

    /// A pass of a merge begins: it looks at everything anew.
    pub(super) fn pass_begins(
        &self,
        operation: OperationId,
        (below, above): (LayerId, Option<LayerId>),
    ) {
        let mut state = self.lock();
        state.resting.remove(&operation);
        state.filled.remove(&below);
        if let Some(above) = above {
            state.emptied.remove(&above);
        }
    }

    /// A layer has fewer slots.
    pub(super) fn emptied(&self, layer: LayerId, now: Duration) {
        note(&mut self.lock().emptied, layer, now);
    }

    /// A merge has moved slots.
    pub(super) fn moved(&self, moved: Moved, now: Duration) {
        self.emptied(moved.below, now);
        if let Some(into) = moved.into {
            note(&mut self.lock().filled, into, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATION: OperationId = OperationId::new(7);
    const LAYERS: (LayerId, LayerId) = (LayerId::new(1), LayerId::new(2));

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A pass begins, of a merge whose layers are known.
    fn pass_begins(waits: &Waits) {
        waits.pass_begins(OPERATION, (LAYERS.0, Some(LAYERS.1)));
    }

    #[test]
    fn room_that_comes_before_the_wait_is_seen_is_not_missed() {
        let waits = Waits::default();
        pass_begins(&waits);
        waits.emptied(LAYERS.1, at(1));
        assert!(waits.is_due(OPERATION, LAYERS, at(2)), "it came after the look of the pass");
        pass_begins(&waits);
        assert!(!waits.is_due(OPERATION, LAYERS, at(3)), "and was looked at");
        waits.emptied(LAYERS.0, at(4));
        assert!(!waits.is_due(OPERATION, LAYERS, at(4)), "room in its own layer is none");
        waits.moved(Moved { below: LayerId::new(0), into: Some(LAYERS.0) }, at(5));
        assert!(waits.is_due(OPERATION, LAYERS, at(5)), "what it got may be hidden");
    }

    #[test]
    fn a_merge_is_tried_again_after_ten_minutes() {
        let waits = Waits::default();
        assert!(!waits.is_due(OPERATION, LAYERS, at(1)));
        assert!(!waits.is_due(OPERATION, LAYERS, at(600)));
        assert!(waits.is_due(OPERATION, LAYERS, at(601)));
        pass_begins(&waits);
        assert!(!waits.is_due(OPERATION, LAYERS, at(602)));
    }
}
