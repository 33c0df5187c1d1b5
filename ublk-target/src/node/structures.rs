//! Follows what becomes of the chains of volumes that are served here.
//!
//! Invariants:
//! - a volume's structure is the one of the attachment that was taken in last, so what was missed
//!   is told again;
//! - a change here of another kind (a cut, a detachment) is not waited for: the news is told again.

use lunar_proto::domain::{ChangedStructure, Selector};
use tracing::{info, warn};

use super::{Node, Stage};

impl Node {
    /// The structures of what is served, as known here.
    pub(super) fn structures(&self) -> Vec<ChangedStructure> {
        let served = self.slots().into_iter().filter_map(|slot| slot.view().served);
        let structure = |served: std::sync::Arc<crate::volume::served::ServedVolume>| {
            let (volume, structure) = (served.facts.grant.volume, served.structure());
            ChangedStructure { volume, structure }
        };
        served.map(structure).collect()
    }

    /// Takes in what has changed; says whether all of it was.
    pub(super) async fn follow(&self, changed: &[ChangedStructure]) -> bool {
        let mut is_all = true;
        for one in changed {
            is_all &= self.follow_one(one).await;
        }
        is_all
    }

    async fn follow_one(&self, changed: &ChangedStructure) -> bool {
        let Some(slot) = self.slot(&Selector::Id(changed.volume)) else { return true };
        let Ok(stage) = slot.gate.try_lock() else { return false };
        let Stage::Serving(serving) = &*stage else { return false };
        let grant = serving.served.facts.grant;
        match self.metadata.resume_attachment(grant).await {
            Ok(attachment) => {
                info!(volume = slot.name, structure = %attachment.structure, "its chain changed");
                serving.control.follow(&attachment);
                true
            }
            Err(problem) => {
                warn!(volume = slot.name, %problem, "its chain changed, and is not known");
                false
            }
        }
    }
}
