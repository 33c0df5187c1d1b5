//! Who was heard to want a volume, and since when nobody owns it, on this process's own clock.
//!
//! Invariant: what this process cannot know (it has just started) counts from when it is first
//! asked about it, so a wish lives longer and a turn is kept longer, never less.
//!
//! Deliberately absent: the wishes themselves, which are in the store.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lunar_types::{NodeId, VolumeId};

/// How long a wish lives that is not repeated.
const WISH_LIFE: Duration = Duration::from_secs(10);
/// How long a volume that nobody owns is kept for who has asked for it first.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// How long anything is remembered of which nobody speaks: a wish that is over by then would live
/// once more, for as long as any.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct State {
    heard: BTreeMap<(VolumeId, NodeId), Duration>,
    unowned: BTreeMap<VolumeId, Duration>,
}

/// When wishes were heard, and since when volumes have no owner.
#[derive(Default)]
pub(super) struct Wishes(Mutex<State>);

impl Wishes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer wants a volume.
    pub(super) fn hear(&self, volume: VolumeId, node: NodeId, now: Duration) {
        let mut state = self.lock();
        // What is as old as that says no more than what is not there, once the store has no wish.
        state.heard.retain(|_, heard| now.saturating_sub(*heard) < FORGOTTEN_AFTER);
        state.unowned.retain(|_, since| now.saturating_sub(*since) < FORGOTTEN_AFTER);
        state.heard.insert((volume, node), now);
    }

    /// Whether a peer was heard to want a volume lately.
    pub(super) fn is_fresh(&self, volume: VolumeId, node: NodeId, now: Duration) -> bool {
        let mut state = self.lock();
        let heard = *state.heard.entry((volume, node)).or_insert(now);
        now.saturating_sub(heard) < WISH_LIFE
    }

    /// Nobody owns a volume from now on.
    pub(super) fn released(&self, volume: VolumeId, now: Duration) {
        self.lock().unowned.insert(volume, now);
    }

    /// Whether a volume without an owner is still kept for who has asked for it first.
    pub(super) fn is_kept(&self, volume: VolumeId, now: Duration) -> bool {
        let since = *self.lock().unowned.entry(volume).or_insert(now);
        now.saturating_sub(since) < KEPT_FOR
    }

    /// A node is no peer of a volume any more.
    pub(super) fn forget(&self, volume: VolumeId, node: NodeId) {
        self.lock().heard.remove(&(volume, node));
    }

    /// A volume has an owner.
    pub(super) fn granted(&self, volume: VolumeId, node: NodeId) {
        let mut state = self.lock();
        state.unowned.remove(&volume);
        state.heard.remove(&(volume, node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: VolumeId = VolumeId::from_u128(7);
    const NODE: NodeId = NodeId::new(1);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_wish_that_is_not_repeated_is_over_after_ten_seconds() {
        let wishes = Wishes::default();
        wishes.hear(VOLUME, NODE, at(1));
        assert!(wishes.is_fresh(VOLUME, NODE, at(10)));
        assert!(!wishes.is_fresh(VOLUME, NODE, at(11)));
    }

    #[test]
    fn a_service_that_has_just_started_counts_from_then_on() {
        let wishes = Wishes::default();
        assert!(wishes.is_fresh(VOLUME, NODE, at(100)));
        assert!(!wishes.is_fresh(VOLUME, NODE, at(110)));
        assert!(wishes.is_kept(VOLUME, at(100)));
        assert!(!wishes.is_kept(VOLUME, at(101)));
        wishes.granted(VOLUME, NODE);
        wishes.released(VOLUME, at(200));
        assert!(wishes.is_kept(VOLUME, at(200)));
    }
}
