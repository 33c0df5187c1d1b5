//! When each incarnation was last heard from.
//!
//! Invariants:
//! - this process alone knows it, on its own clock: one that has just started, or was stopped,
//!   counts from when it could hear again, so it acts later, never earlier;
//! - what is heard of a victim after its fence was begun does not count.
//!
//! Deliberately absent: what silence leads to.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lunar_types::NodeIncarnation;

/// When each incarnation was last heard from.
pub(super) struct Leases {
    hearing: Mutex<Hearing>,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    last: HashMap<NodeIncarnation, Duration>,
    /// Fences of these were begun: nothing that they say counts any more, whatever was read of them
    /// before.
    closed: HashSet<NodeIncarnation>,
}

/// Since when this process would have heard a node.
struct Hearing {
    since: Duration,
    looked: Duration,
}

/// How many renewals may be due between two looks before this process counts as having been deaf.
const DEAF_RENEWALS: u32 = 3;

impl Leases {
    pub(super) fn new(started: Duration) -> Self {
        let hearing = Hearing { since: started, looked: started };
        Self { hearing: Mutex::new(hearing), heard: Mutex::default() }
    }

    /// Looks at the clock: a process that was stopped meanwhile has heard nobody, so silence counts
    /// from now on again (attack 24).
    pub(super) fn look(&self, now: Duration, renew: Duration) {
        let mut hearing = self.hearing.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(hearing.looked) > renew * DEAF_RENEWALS {
            hearing.since = now;
        }
        hearing.looked = now;
    }

    fn hearing_since(&self) -> Duration {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner).since
    }

    /// Notes that an incarnation was heard from, and says whether that counts: not of one whose
    /// fence was begun since its record was read. A lease that is acknowledged after that would
    /// outlast what a fence waits for (attack 23).
    pub(super) fn hear(&self, node: NodeIncarnation, now: Duration) -> bool {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let Heard { last, closed } = &mut *heard;
        if closed.contains(&node) {
            return false;
        }
        // A late answer about an incarnation that is gone says nothing of the one that lives.
        if last.keys().any(|other| other.node == node.node && *other > node) {
            return true;
        }
        last.retain(|other, _| other.node != node.node || *other == node);
        closed.retain(|other| other.node != node.node);
        last.insert(node, now);
        true
    }

    /// A fence of an incarnation was begun.
    pub(super) fn close(&self, node: NodeIncarnation) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).closed.insert(node);
    }

    /// Time since the incarnation was heard from, if it was since the start.
    pub(super) fn heard_ago(&self, node: NodeIncarnation, now: Duration) -> Option<Duration> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.last.get(&node).map(|at| now.saturating_sub(*at))
    }

    /// How long the incarnation has been silent as far as this process can tell.
    pub(super) fn silence(&self, node: NodeIncarnation, now: Duration) -> Duration {
        let could_hear = now.saturating_sub(self.hearing_since());
        self.heard_ago(node, now).map_or(could_hear, |silence| silence.min(could_hear))
    }
}
