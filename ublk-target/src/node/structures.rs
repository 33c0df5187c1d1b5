//! Follows what becomes of the volumes that are served here: what is merged into their heads, and
//! their sizes.
//!
//! Invariants:
//! - a volume's structure is the one of the attachment that was taken in wholly last, so what was
//!   missed is told again;
//! - a change here of another kind (a cut, a detachment) is not waited for: the news is told again;
//! - what fails is not tried without end: it waits, and keeps nothing else waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{ChangedStructure, Selector};
use lunar_types::VolumeId;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Node, Stage};
use crate::volume::served::ServedVolume;

/// Before something that failed is tried again.
const PAUSE: Duration = Duration::from_secs(10);

/// Volumes whose news could not be taken in, and when that is tried again.
#[derive(Debug, Default)]
pub(super) struct Failed(BTreeMap<VolumeId, Instant>);

/// What became of news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Something else is being done with the volume.
    Busy,
    Failed,
}

impl Node {
    /// The structures of what is served, as known here, but for what failed not long ago.
    pub(super) fn structures(&self, failed: &mut Failed) -> Vec<ChangedStructure> {
        let now = Instant::now();
        failed.0.retain(|_, again| *again > now);
        let served = self.slots().into_iter().filter_map(|slot| slot.view().served);
        let structure = |served: Arc<ServedVolume>| {
            let (volume, structure) = (served.facts.grant.volume, served.structure());
            ChangedStructure { volume, structure }
        };
        served.map(structure).filter(|one| !failed.0.contains_key(&one.volume)).collect()
    }

    /// Takes in what has changed; says whether nothing has to be told again at once.
    pub(super) async fn follow(&self, changed: &[ChangedStructure], failed: &mut Failed) -> bool {
        let mut is_done = true;
        for ChangedStructure { volume, .. } in changed {
            match self.follow_one(*volume).await {
                Outcome::Done => {}
                Outcome::Busy => is_done = false,
                Outcome::Failed => {
                    failed.0.insert(*volume, Instant::now() + PAUSE);
                }
            }
        }
        is_done
    }

    async fn follow_one(&self, volume: VolumeId) -> Outcome {
        let Some(slot) = self.slot(&Selector::Id(volume)) else { return Outcome::Done };
        let Ok(stage) = slot.gate.try_lock() else { return Outcome::Busy };
        let Stage::Serving(serving) = &*stage else { return Outcome::Failed };
        let grant = serving.served.facts.grant;
        let attachment = match self.metadata.resume_attachment(grant).await {
            Ok(attachment) => attachment,
            Err(problem) => {
                warn!(volume = slot.name, %problem, "it changed, and how is not known");
                return Outcome::Failed;
            }
        };
        let (structure, size) = (attachment.structure, attachment.volume.size);
        info!(volume = slot.name, %structure, %size, "its chain or its size has changed");
        serving.control.follow(&attachment);
        // A failure is a warning of the node.
        match self.grow_served(serving, size).await {
            Ok(_) => {
                serving.served.note_structure(structure);
                Outcome::Done
            }
            Err(_) => Outcome::Failed,
        }
    }
}
