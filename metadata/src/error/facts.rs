//! The facts of an error: its objects and numbers by name, for programs.

use lunar_proto::error::Facts;

use super::ServiceError;

impl ServiceError {
    /// The objects and numbers of the error by name.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        let mut fact = |name: &str, value: &dyn ToString| {
            facts.insert(name.to_owned(), value.to_string());
        };
        match self {
            Self::Field(error) => return error.report().facts,
            Self::Fencing(error) => return error.facts(),
            Self::Peer(error) => return error.facts(),
            Self::Publication(error) => return error.facts(),
            Self::Content(error) => return error.facts(),
            Self::Group(error) => return error.facts(),
            Self::RequestIdReused { request } => fact("request", request),
            Self::PoolNotFound { pool } => fact("pool", pool),
            Self::VolumeNotFound { volume } => fact("volume", volume),
            Self::LayerNotFound { layer } => fact("layer", layer),
            Self::NodeNotFound { node } => fact("node", node),
            Self::FindingsChanged { given, found, count } => {
                fact("findings_given", given);
                fact("findings_found", found);
                fact("findings", count);
            }
            Self::JournalNotFound { volume, epoch } => {
                fact("volume", volume);
                fact("epoch_given", epoch);
            }
            Self::PoolExists { name, pool } => {
                fact("name", name);
                fact("pool", pool);
            }
            Self::VolumeExists { name, volume } => {
                fact("name", name);
                fact("volume", volume);
            }
            Self::LunInUse { lun, pool, pool_name } => {
                fact("lun", lun);
                fact("pool", pool);
                fact("pool_name", pool_name);
            }
            Self::LunTwice { lun } => fact("lun", lun),
            Self::LunBlockSize { lun, lun_blocks, pool_name, pool_blocks } => {
                fact("lun", lun);
                fact("lun_block_size", lun_blocks);
                fact("pool_name", pool_name);
                fact("pool_block_size", pool_blocks);
            }
            Self::PoolWatermark { pool, pool_name, used, mark } => {
                fact("pool", pool);
                fact("pool_name", pool_name);
                fact("used_percent", used);
                fact("critical_percent", mark);
            }
            Self::VolumeBlockSize { asked, pool_name, pool_blocks } => {
                fact("volume_block_size", asked);
                fact("pool_name", pool_name);
                fact("pool_block_size", pool_blocks);
            }
            _ => return self.holding_facts(),
        }
        facts
    }

    /// The facts of errors about grants and incarnations.
    fn holding_facts(&self) -> Facts {
        let mut facts = Facts::new();
        let mut fact = |name: &str, value: &dyn ToString| {
            facts.insert(name.to_owned(), value.to_string());
        };
        match self {
            Self::VolumeNotReady { volume, state } => {
                fact("volume", volume);
                fact("state", state);
            }
            Self::VolumeWouldShrink { volume, held, given } => {
                fact("volume", volume);
                fact("size", &held.bytes());
                fact("size_given", &given.bytes());
            }
            Self::VolumeTooLarge { name, given, limit, .. } => {
                fact("volume_name", name);
                fact("size_given", &given.bytes());
                fact("limit", &limit.get());
            }
            Self::VolumeAttached { volume, holder, .. } => {
                fact("volume", volume);
                fact("node", &holder.node);
                fact("node_name", &holder.node_name);
                fact("epoch_held", &holder.epoch);
            }
            Self::NotAttached { volume } => fact("volume", volume),
            Self::StaleEpoch { volume, held, held_by, given, given_by } => {
                fact("volume", volume);
                fact("epoch_held", held);
                fact("held_by", held_by);
                fact("epoch_given", given);
                fact("given_by", given_by);
            }
            Self::NodeFenced { node, newest, state } => {
                fact("node", node);
                fact("newest_incarnation", newest);
                fact("state", state);
            }
            Self::NodeTooOld { node } => fact("node", node),
            Self::StaleSession { name, node, held, given } => {
                fact("node_name", name);
                fact("node", node);
                fact("session_held", held);
                fact("session_given", given);
            }
            Self::NodeAlive { name, node, heard_ago, wait } => {
                fact("node_name", name);
                fact("node", node);
                fact("heard_ago_ms", &heard_ago.as_millis());
                fact("wait_ms", &wait.as_millis());
            }
            Self::NodeHoldsAttachments { node, count, volume } => {
                fact("node", node);
                fact("attachments", count);
                fact("volume", volume);
            }
            _ => return self.content_facts(),
        }
        facts
    }

    /// The facts of errors about maps, journals and space.
    fn content_facts(&self) -> Facts {
        let mut facts = Facts::new();
        let mut fact = |name: &str, value: &dyn ToString| {
            facts.insert(name.to_owned(), value.to_string());
        };
        match self {
            Self::StaleJournals { volume, oldest, .. } => {
                fact("volume", volume);
                fact("oldest_epoch", oldest);
            }
            Self::LayerNotWritable { layer, volume, head } => {
                fact("layer", layer);
                fact("volume", volume);
                fact("head", head);
            }
            Self::ExtentNotReserved { extent, pool, node }
            | Self::ExtentHeldForBackup { extent, pool, node } => {
                fact("extent", extent);
                fact("pool", pool);
                fact("node", node);
            }
            Self::CommitOutOfOrder { volume, epoch, last, given } => {
                fact("volume", volume);
                fact("epoch", epoch);
                fact("commit_last", last);
                fact("commit_given", given);
            }
            Self::NextHeadMismatch { volume, head, held, given } => {
                fact("volume", volume);
                fact("head", head);
                fact("next_head_held", held);
                fact("next_head_given", given);
            }
            Self::CheckpointRegression { volume, epoch, stored, given } => {
                fact("volume", volume);
                fact("epoch", epoch);
                fact("checkpoint_stored", stored);
                fact("checkpoint_given", given);
            }
            Self::PoolFull { pool, pool_name, held } => {
                fact("pool", pool);
                fact("pool_name", pool_name);
                fact("held_for_backups_extents", &held.for_backups);
                fact("held_by_hand_extents", &held.by_hand);
            }
            Self::LimitReached { what, limit } => {
                fact("what", what);
                fact("limit", limit);
            }
            Self::Corrupt { key, .. } => fact("key", key),
            _ => return self.snapshot_facts(),
        }
        facts
    }

    /// The facts of errors about snapshots and chains of layers.
    fn snapshot_facts(&self) -> Facts {
        let mut facts = Facts::new();
        let mut fact = |name: &str, value: &dyn ToString| {
            facts.insert(name.to_owned(), value.to_string());
        };
        match self {
            Self::SnapshotNotFound { snapshot } => fact("snapshot", snapshot),
            Self::SnapshotExists { name, snapshot } => {
                fact("name", name);
                fact("snapshot", snapshot);
            }
            Self::SnapshotNotReady { snapshot, state } => {
                fact("snapshot", snapshot);
                fact("state", state);
            }
            Self::SnapshotOfOtherVolume { snapshot, origin, volume } => {
                fact("snapshot", snapshot);
                fact("origin", origin);
                fact("volume", volume);
            }
            Self::SnapshotsUnrelated { from, to } => {
                fact("from", from);
                fact("to", to);
            }
            Self::VolumeNotAtRest { volume, oldest } => {
                fact("volume", volume);
                fact("oldest_epoch", oldest);
            }
            Self::VolumeBusy { volume, set } => {
                fact("volume", volume);
                fact("set", set);
            }
            Self::SetNotFound { set } => fact("set", set),
            Self::SetDecided { set, state } => {
                fact("set", set);
                fact("state", state);
            }
            Self::ChainTooDeep { layer, depth, most } => {
                fact("layer", layer);
                fact("depth", depth);
                fact("limit", most);
            }
            Self::Restored(error) => return error.facts(),
            _ => {}
        }
        facts
    }
}
