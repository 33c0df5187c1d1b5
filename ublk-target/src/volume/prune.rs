//! Gives back what a head hides: slots that came into it by merges and that its own slots cover.
//! Takes in as well what became the volume's own by a merge.
//!
//! Invariants:
//! - the service says which, by what is committed; the engine hides at least as much by then;
//! - a page that was not answered is asked for again under its key: what it took out is in the
//!   node's reservation, and only the answer says what that is.

use std::time::Duration;

use lunar_engine::volume::PrunedSlot;
use lunar_metadata_client::fresh_request_id;
use lunar_proto::domain::{Attachment, PrunedPart};
use lunar_types::{LayerId, LogicalExtent, RequestId};
use tokio::time::Instant;
use tracing::{debug, info};

use super::control::Control;
use crate::metadata::Prune;

/// Between two looks at what can be given back.
pub(super) const PAUSE: Duration = Duration::from_secs(60);
/// The same while the pool is full.
pub(super) const PAUSE_WHEN_FULL: Duration = Duration::from_secs(2);

/// Where the giving back is.
#[derive(Debug, Default)]
pub(super) struct Pruning {
    /// The head hides more once so many checkpoints have ended.
    due_after: Option<u64>,
    last: Option<Instant>,
    /// A page that is asked for.
    page: Option<(RequestId, LayerId, LogicalExtent)>,
}

impl Control {
    /// Takes in what the service says of the chain now. Its size is another matter.
    pub fn follow(&self, attachment: &Attachment) {
        let (head, parent) = (attachment.volume.head, attachment.layers.first());
        let parent = parent.and_then(|layer| layer.parent);
        let mut out = Vec::new();
        self.served.shared.volume.merged_down_to(head, parent, &mut out);
        self.wake(&mut out);
    }

    /// Gives back what can be, if the last look at that is long enough ago. For who has the
    /// driver's lock: no cut begins meanwhile, which layer is the head stays as it is.
    pub(super) async fn prune_locked(&self, pause: Duration) {
        let mut pruning = self.pruning.lock().await;
        let stats = self.served.stats();
        if self.served.shared.volume.takes_cover() {
            // What is dirty now may be captured by the checkpoint after the one under way.
            pruning.due_after = Some(stats.checkpoints + 2);
        }
        let is_committed = |after: u64| stats.checkpoints >= after || stats.dirty_extents == 0;
        let is_due = pruning.due_after.is_some_and(is_committed)
            && pruning.last.is_none_or(|last| last.elapsed() >= pause);
        if pruning.page.is_none() && !is_due {
            return;
        }
        let heads = self.heads();
        if heads.pending.is_some() {
            return;
        }
        let first = (fresh_request_id(), heads.layer, LogicalExtent::new(0));
        let mut page = pruning.page.take().or(Some(first));
        let mut count = 0;
        while let Some((request, layer, from)) = page {
            let prune = Prune { request, grant: self.served.facts.grant, layer, from };
            match self.metadata.prune(prune).await {
                Ok(pruned) => {
                    count += pruned.parts.len();
                    self.note_freed(pruned.freed);
                    self.forget(&pruned.parts);
                    page = pruned.next.map(|from| (fresh_request_id(), layer, from));
                }
                Err(problem) if problem.is_unavailable() => {
                    debug!(volume = self.name(), %problem, "not known what was given back");
                    pruning.page = page;
                    return;
                }
                Err(problem) => {
                    debug!(volume = self.name(), %problem, "nothing is given back now");
                    break;
                }
            }
        }
        (pruning.due_after, pruning.last) = (None, Some(Instant::now()));
        if count > 0 {
            info!(volume = self.name(), count, "slots that nothing shows were given back");
        }
    }

    fn forget(&self, parts: &[PrunedPart]) {
        let slot = |part: &PrunedPart| PrunedSlot {
            logical: part.at,
            birth: part.birth,
            extent: part.extent,
        };
        let slots: Vec<PrunedSlot> = parts.iter().map(slot).collect();
        let mut out = Vec::new();
        self.served.shared.volume.pruned(&slots, &mut out);
        self.wake(&mut out);
    }
}

#[cfg(test)]
mod tests;
