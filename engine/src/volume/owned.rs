//! Which slots a volume may write in place. Design: `docs/layers.md`, "The resolved map of an
//! engine".
//!
//! A generation stands for the layer that a slot was found in. When a layer below the head has been
//! merged into the head, its slots are the head's: nobody else can see them.
//!
//! Invariants:
//! - the last layer is the head, and generations are in the order of the ids;
//! - what is owned ends with the head: a seal leaves nothing but the new head, whatever was merged
//!   into the old one before;
//! - a notice about a layer that is not the head any more changes nothing.

use std::sync::atomic::Ordering;

use lunar_types::LayerId;

use super::Volume;
use super::core::Core;
use crate::io::Action;
use crate::map::Generation;

/// The layers of the generations, and from which on they are owned.
#[derive(Debug)]
pub(super) struct Owned {
    /// Of generation 1, 2, …; the head's parts have one, its own slots the next.
    layers: Vec<LayerId>,
    from: Generation,
}

impl Owned {
    /// Those of a chain that was just read: the head's slots, own and inherited.
    ///
    /// # Panics
    /// When there is no layer.
    pub(super) fn of_chain(chain: &[LayerId]) -> Self {
        let head = *chain.last().expect("a chain ends with its head");
        let mut layers = chain.to_vec();
        layers.push(head);
        Self { from: generation(chain.len()), layers }
    }

    /// The layer that is written.
    pub(super) fn head(&self) -> LayerId {
        *self.layers.last().expect("a chain ends with its head")
    }

    pub(super) const fn from(&self) -> Generation {
        self.from
    }

    /// The head is sealed, and this layer is the head; gives its generation.
    pub(super) fn seal(&mut self, head: LayerId) -> Generation {
        assert!(head > self.head(), "a child has a greater id than its parent");
        self.layers.push(head);
        self.from = generation(self.layers.len());
        self.from
    }

    /// What is above `parent` has been merged into the head; says whether that is news.
    fn merge(&mut self, parent: Option<LayerId>) -> bool {
        let below = self.layers.partition_point(|layer| Some(*layer) <= parent);
        let from = generation(below + 1).min(self.from);
        std::mem::replace(&mut self.from, from) != from
    }
}

fn generation(number: usize) -> Generation {
    Generation::new(u16::try_from(number).expect("seals and loads keep the number small"))
}

impl Volume {
    /// The metadata service says that `parent` is what lies directly below `head` now. If that is
    /// the head of this volume, slots of layers in between are its own from now on.
    pub fn merged_down_to(&self, head: LayerId, parent: Option<LayerId>, out: &mut Vec<Action>) {
        let mut core = self.lock();
        if core.owned.head() == head && core.owned.merge(parent) {
            core.has_new_cover = true;
            core.publish_owned(self);
            out.push(Action::WakeControl);
        }
    }
}

impl Core {
    /// Tells the lock-free path what it may write; while frozen it may write nothing.
    pub(super) fn publish_owned(&self, volume: &Volume) {
        if self.frozen.is_none() {
            volume.writable_from.store(self.owned.from().get(), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(ids: &[u64]) -> Vec<LayerId> {
        ids.iter().copied().map(LayerId::new).collect()
    }

    #[test]
    fn what_was_merged_into_the_head_is_owned_until_the_next_seal() {
        let mut owned = Owned::of_chain(&layers(&[3, 5, 9]));
        assert_eq!((owned.head(), owned.from().get()), (LayerId::new(9), 3));
        assert!(!owned.merge(Some(LayerId::new(5))), "nothing was merged");
        assert!(owned.merge(Some(LayerId::new(3))));
        assert_eq!(owned.from().get(), 2);
        assert_eq!(owned.seal(LayerId::new(12)).get(), 5);
        assert_eq!(owned.from().get(), 5, "the sealed layer is nobody's to write");
        assert!(owned.merge(Some(LayerId::new(3))), "the nameless one was merged back");
        assert_eq!(owned.from().get(), 2);
        assert!(owned.merge(None));
        assert_eq!(owned.from().get(), 1);
    }

    #[test]
    fn what_is_owned_never_shrinks_without_a_seal() {
        let mut owned = Owned::of_chain(&layers(&[3, 5, 9]));
        assert!(owned.merge(None));
        assert!(!owned.merge(Some(LayerId::new(5))), "an older notice");
        assert_eq!(owned.from().get(), 1);
    }
}
