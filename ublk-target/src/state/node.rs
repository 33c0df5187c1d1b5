//! The incarnation that this daemon runs under, and what goes with it.

use std::path::PathBuf;
use std::str::FromStr;

use lunar_types::{BootId, ClusterId, Epoch, Incarnation, NodeId, NodeIncarnation, VolumeId};
use serde::{Deserialize, Serialize};

use super::{StateDir, StateError, read_json, write_json};

/// What is kept of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// The boot that it holds for.
    pub boot: BootId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The incarnation.
    pub node: NodeIncarnation,
    /// Journals of this incarnation that were left to be replayed: they may name any extent of
    /// the reservation, so none that a predecessor had is used again meanwhile.
    pub left_journals: Vec<(VolumeId, Epoch)>,
    /// The number of the next device: none is used twice in one boot.
    pub next_device: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    boot_id: String,
    cluster_id: String,
    node: u16,
    incarnation: u32,
    left_journals: Vec<LeftJournal>,
    next_device: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeftJournal {
    volume_id: String,
    epoch: u64,
}

impl StateDir {
    fn node_path(&self) -> PathBuf {
        self.root().join("node.json")
    }

    /// What was kept of the node, if anything.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn load_node(&self) -> Result<Option<NodeState>, StateError> {
        let path = self.node_path();
        let Some(file) = read_json::<NodeFile>(&path)? else { return Ok(None) };
        let odd = |source: serde_json::Error| StateError::Parse { path: path.clone(), source };
        Ok(Some(NodeState {
            boot: parsed(&file.boot_id).map_err(odd)?,
            cluster: parsed(&file.cluster_id).map_err(odd)?,
            node: NodeIncarnation {
                node: NodeId::new(file.node),
                incarnation: Incarnation::new(file.incarnation),
            },
            left_journals: file
                .left_journals
                .iter()
                .map(|left| Ok((parsed(&left.volume_id)?, Epoch::new(left.epoch))))
                .collect::<Result<_, _>>()
                .map_err(odd)?,
            next_device: file.next_device,
        }))
    }

    /// Keeps this of the node.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_node(&self, state: &NodeState) -> Result<(), StateError> {
        let file = NodeFile {
            boot_id: state.boot.to_string(),
            cluster_id: state.cluster.to_string(),
            node: state.node.node.get(),
            incarnation: state.node.incarnation.get(),
            left_journals: state
                .left_journals
                .iter()
                .map(|(volume, epoch)| LeftJournal {
                    volume_id: volume.to_string(),
                    epoch: epoch.get(),
                })
                .collect(),
            next_device: state.next_device,
        };
        write_json(&self.node_path(), &file)
    }
}

/// An id in a state file.
pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(
    text: &str,
) -> Result<T, serde_json::Error> {
    text.parse().map_err(<serde_json::Error as serde::de::Error>::custom)
}

/// The boot of this host.
///
/// # Errors
/// When the kernel does not tell.
pub fn boot_id() -> Result<BootId, StateError> {
    let path = PathBuf::from("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(&path).map_err(super::failed("read", &path))?;
    parsed(text.trim()).map_err(|source| StateError::Parse { path, source })
}

#[cfg(test)]
mod tests {
    use super::super::tests::state;
    use super::*;

    #[test]
    fn the_node_is_kept_whole() {
        let (_dir, state) = state();
        assert_eq!(state.load_node().expect("absent"), None);
        let node = NodeState {
            boot: boot_id().expect("Linux has one"),
            cluster: ClusterId::from_u128(5),
            node: NodeIncarnation { node: NodeId::new(3), incarnation: Incarnation::new(9) },
            left_journals: vec![(VolumeId::from_u128(7), Epoch::new(4))],
            next_device: 17,
        };
        state.save_node(&node).expect("saved");
        assert_eq!(state.load_node().expect("loaded"), Some(node));
    }
}
