//! Publications that were taken back: what is attached under them is detached by force, each tried
//! until it is done or not told any more. See `docs/csi.md`.
//!
//! Invariants:
//! - only an attachment of that very publication is detached, and that is compared while no other
//!   change can be under way: the volume may have been given back, published anew and attached
//!   again since the recall was told;
//! - what a killed predecessor has left and nobody could take over yet is not given back: its
//!   writes may still be under way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{Recall, Selector};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Node, UNPOISONED};

/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// What this node is to give back.
#[derive(Default)]
pub(super) struct Recalls {
    /// As it was told last.
    told: BTreeSet<Recall>,
    /// Those that a task is at.
    taken: BTreeSet<Recall>,
}

impl Node {
    /// Takes up the recalls that nobody here is at yet.
    pub(super) fn follow_recalls(self: &Arc<Self>, told: &[Recall]) {
        let fresh: Vec<Recall> = {
            let mut recalls = self.recalls.lock().expect(UNPOISONED);
            recalls.told = told.iter().copied().collect();
            let fresh: Vec<_> = recalls.told.difference(&recalls.taken).copied().collect();
            recalls.taken.extend(&fresh);
            fresh
        };
        for recall in fresh {
            let node = Arc::clone(self);
            tokio::spawn(async move { node.give_back_recalled(recall).await });
        }
    }

    async fn give_back_recalled(self: Arc<Self>, recall: Recall) {
        let volume = Selector::Id(recall.volume);
        while self.is_told(recall) {
            match self.slot(&volume) {
                // The answer to an attachment was lost: whoever looks for such grants finds it.
                None => self.strays.expect(Instant::now()),
                Some(slot) => match self.detach_recalled(&slot, recall.publication).await {
                    Ok(Some(_)) => {
                        info!(volume = slot.name, "its publication was recalled: detached");
                        break;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        let why = error.message();
                        warn!(volume = slot.name, why, "recalled, and not detached yet");
                    }
                },
            }
            tokio::time::sleep(RETRY).await;
        }
        self.recalls.lock().expect(UNPOISONED).taken.remove(&recall);
    }

    fn is_told(&self, recall: Recall) -> bool {
        self.recalls.lock().expect(UNPOISONED).told.contains(&recall)
    }
}
