//! What other nodes want of the volumes that are owned here, each followed until it is not wanted
//! any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{KnownPeer, OwnershipWish, Selector};
use lunar_types::VolumeId;
use tokio::time::Instant;
use tracing::info;

use super::super::{Membership, Node, Slot, UNPOISONED};
use super::release::Given;
use crate::state::record::Sharing;

/// Between two looks at a turn.
const LOOK: Duration = Duration::from_millis(5);
/// Before a volume that could not be given away is tried again.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(16);
/// Between two looks at a volume that is being taken over.
const RECOVERING: Duration = Duration::from_millis(100);

/// What others want.
#[derive(Default)]
pub(in super::super) struct Wishes {
    /// As it was told last.
    wanted: BTreeMap<VolumeId, OwnershipWish>,
    /// Those that a task is at.
    taken: BTreeSet<VolumeId>,
}

impl Node {
    /// Takes up what the other peers want, and gives up what no slot here knows of.
    pub(in super::super) async fn follow_peers(
        self: &Arc<Self>,
        peers: &[KnownPeer],
        member: &Membership,
    ) {
        let fresh: Vec<VolumeId> = {
            let mut wishes = self.wishes.lock().expect(UNPOISONED);
            let is_wanted = |peer: &&KnownPeer| peer.wish != OwnershipWish::None;
            wishes.wanted =
                peers.iter().filter(is_wanted).map(|peer| (peer.volume, peer.wish)).collect();
            let fresh = wishes.wanted.keys().filter(|volume| !wishes.taken.contains(volume));
            let fresh: Vec<_> = fresh.copied().collect();
            wishes.taken.extend(&fresh);
            fresh
        };
        for volume in fresh {
            let node = Arc::clone(self);
            tokio::spawn(async move { node.give_away(volume).await });
        }
        for volume in peers.iter().map(|peer| peer.volume) {
            if self.slot(&Selector::Id(volume)).is_none() {
                self.leave_stray(volume, member).await;
            }
        }
        self.look_for_deserted(peers).await;
    }

    fn wish_for(&self, volume: VolumeId) -> Option<OwnershipWish> {
        self.wishes.lock().expect(UNPOISONED).wanted.get(&volume).copied()
    }

    /// Nothing is known of what the others want any more, until it is told again.
    fn forget_wish(&self, volume: VolumeId) {
        let mut wishes = self.wishes.lock().expect(UNPOISONED);
        wishes.wanted.remove(&volume);
        wishes.taken.remove(&volume);
    }

    async fn give_away(self: Arc<Self>, volume: VolumeId) {
        let (mut told, mut waits_since, mut backoff) = (None, None, RETRY);
        while let Some(wish) = self.wish_for(volume) {
            let Some(slot) = self.slot(&Selector::Id(volume)) else { break };
            let pause = match self.give_away_once(&slot, wish).await {
                Given::Away => {
                    info!(volume = slot.name, "given to the other node");
                    break;
                }
                Given::NotServed if slot.view().record.sharing == Sharing::Alone => break,
                Given::NotServed | Given::Lost => RECOVERING,
                Given::NotYet => LOOK,
                Given::Waits => {
                    // Who waits for the answer is about to hear it. Otherwise it was granted by a
                    // call of which nobody here waits for the answer any more.
                    let since = *waits_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= RETRY {
                        slot.is_said_to_own.notify_one();
                        waits_since = None;
                    }
                    LOOK
                }
                Given::Kept(why) => {
                    if told.as_ref() != Some(&why) {
                        let warning = format!("volume '{}' is not given away: {why}", slot.name);
                        self.warn(&about(&slot), warning);
                        told = Some(why);
                    }
                    // Each try may keep requests waiting for a while.
                    let pause = backoff;
                    backoff = (backoff * 2).min(RETRY_MAX);
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
        if let Some(slot) = self.slot(&Selector::Id(volume)) {
            self.unwarn(&about(&slot));
        }
        self.forget_wish(volume);
    }

    /// Looks whether a volume whose device waits here is still shared with this node: a person may
    /// have taken it off.
    async fn look_for_deserted(self: &Arc<Self>, peers: &[KnownPeer]) {
        let known: BTreeSet<VolumeId> = peers.iter().map(|peer| peer.volume).collect();
        for slot in self.slots() {
            if !known.contains(&slot.volume) && slot.view().record.sharing == Sharing::Migratable {
                self.end_if_deserted(&slot).await;
            }
        }
    }
}

/// What a warning about a volume that is not given away is filed under.
fn about(slot: &Slot) -> String {
    format!("move of volume '{}'", slot.name)
}
