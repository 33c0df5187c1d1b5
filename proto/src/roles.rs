//! Who may call what: the roles, and one row for each call of the metadata service.
//!
//! Invariants:
//! - a call without a row is refused to everybody, and a test compares the rows with the
//!   descriptors of the services, so that no call is forgotten;
//! - the table says which *role* may call; which *node* a caller speaks for is compared with what
//!   the call names by its handler.
//!
//! Deliberately absent: how a caller proves its role (`identity`), and who enforces the table (the
//! guard of the metadata service's server).

use std::fmt;
use std::str::FromStr;

include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// What a certificate makes of its holder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// A node that serves volumes: changes what is granted to it, and nothing else.
    Node,
    /// The controller of the Kubernetes driver: volumes and snapshots, and fences of dead nodes.
    CsiController,
    /// A node that serves no volumes and only cuts others off from LUNs.
    Fencer,
    /// A person or a program that administers.
    Admin,
    /// The metadata service itself, towards its clients. It calls nothing.
    Metadata,
}

/// No role at all, or none of ours.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is no role: give node, csi-controller, fencer, admin or metadata")]
pub struct RoleError(String);

impl Role {
    /// Every role.
    pub const ALL: &[Self] =
        &[Self::Node, Self::CsiController, Self::Fencer, Self::Admin, Self::Metadata];

    /// The role as it is written in certificates.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::CsiController => "csi-controller",
            Self::Fencer => "fencer",
            Self::Admin => "admin",
            Self::Metadata => "metadata",
        }
    }

    /// Whether the holder speaks for the node that its certificate names.
    #[must_use]
    pub const fn is_node(self) -> bool {
        matches!(self, Self::Node | Self::Fencer)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        let found = Self::ALL.iter().copied().find(|role| role.as_str() == text);
        found.ok_or_else(|| RoleError(text.to_owned()))
    }
}

/// Calls of a node about volumes that are granted to it.
const SERVES: &[Role] = &[Role::Node];
/// Calls of a node about itself, about LUNs and fences, and what it holds: a daemon asks that when
/// it starts, also one that will hold nothing.
const FENCES: &[Role] = &[Role::Node, Role::Fencer];
/// What every client may look at: what the cluster is, its pools with their LUNs, one node.
const LOOKS: &[Role] = &[Role::Node, Role::CsiController, Role::Fencer, Role::Admin];
/// What a controller of volumes does and looks at.
const PROVISIONS: &[Role] = &[Role::CsiController, Role::Admin];
/// What nodes look at to serve, and administrators to explain.
const READS_MAPS: &[Role] = &[Role::Node, Role::Admin];
/// What an operator alone decides.
const OPERATES: &[Role] = &[Role::Admin];

/// Every call of the metadata service, and who may make it.
pub const TABLE: &[(&str, &[Role])] = &[
    ("/lunar.v1.Admin/GetCluster", LOOKS),
    ("/lunar.v1.Admin/ListOperations", OPERATES),
    ("/lunar.v1.Admin/Fsck", OPERATES),
    ("/lunar.v1.Admin/Repair", OPERATES),
    ("/lunar.v1.Admin/ReleaseQuarantine", OPERATES),
    ("/lunar.v1.Admin/Backup", OPERATES),
    ("/lunar.v1.Admin/BackupDone", OPERATES),
    ("/lunar.v1.Admin/ListBackups", OPERATES),
    ("/lunar.v1.Admin/SetBackupHorizon", OPERATES),
    ("/lunar.v1.Certificates/RevokeCertificate", OPERATES),
    ("/lunar.v1.Certificates/ListRevoked", OPERATES),
    // What a volume holds is known to who serves it.
    ("/lunar.v1.Contents/GetContent", SERVES),
    ("/lunar.v1.Contents/BeginFormat", SERVES),
    ("/lunar.v1.Contents/EndFormat", SERVES),
    ("/lunar.v1.Contents/UseContent", SERVES),
    ("/lunar.v1.Fencing/IntendRegistrations", FENCES),
    ("/lunar.v1.Fencing/ConfirmRegistration", FENCES),
    ("/lunar.v1.Fencing/Activate", FENCES),
    ("/lunar.v1.Fencing/JudgeKeys", FENCES),
    ("/lunar.v1.Fencing/BeginFenceLun", FENCES),
    ("/lunar.v1.Fencing/EndFenceLun", FENCES),
    // The proof is the array's, so a fence that was asked for without need costs a node its lease
    // and nobody any data. To take it back, and to vouch for a machine, is a person's.
    ("/lunar.v1.Fencing/FenceNode", PROVISIONS),
    ("/lunar.v1.Fencing/UnfenceNode", OPERATES),
    ("/lunar.v1.Fencing/DrainNode", OPERATES),
    ("/lunar.v1.Fencing/CertifyPoweredOff", OPERATES),
    ("/lunar.v1.Fencing/ListFences", PROVISIONS),
    ("/lunar.v1.Fencing/ListAudit", OPERATES),
    ("/lunar.v1.Groups/GetGroup", PROVISIONS),
    ("/lunar.v1.Groups/ListGroups", PROVISIONS),
    ("/lunar.v1.Groups/DeleteGroup", PROVISIONS),
    ("/lunar.v1.Map/CommitMap", SERVES),
    ("/lunar.v1.Map/ReadLayer", READS_MAPS),
    ("/lunar.v1.Map/PruneLayer", SERVES),
    ("/lunar.v1.Reservations/ReserveExtents", SERVES),
    ("/lunar.v1.Reservations/ReleaseExtents", SERVES),
    ("/lunar.v1.Reservations/ListReservations", FENCES),
    ("/lunar.v1.Members/WatchNode", FENCES),
    ("/lunar.v1.Members/MemberReady", SERVES),
    ("/lunar.v1.Members/MemberFailed", SERVES),
    ("/lunar.v1.Members/MemberPaused", SERVES),
    ("/lunar.v1.Nodes/Join", FENCES),
    ("/lunar.v1.Nodes/Heartbeat", FENCES),
    ("/lunar.v1.Nodes/Leave", FENCES),
    ("/lunar.v1.Nodes/GetNode", LOOKS),
    ("/lunar.v1.Nodes/ListNodes", PROVISIONS),
    ("/lunar.v1.Pools/CreatePool", OPERATES),
    ("/lunar.v1.Pools/AddLuns", OPERATES),
    ("/lunar.v1.Pools/GetPool", LOOKS),
    ("/lunar.v1.Pools/ListPools", LOOKS),
    ("/lunar.v1.Pools/GetPoolStatus", LOOKS),
    ("/lunar.v1.Pools/SetWatermarks", OPERATES),
    ("/lunar.v1.Snapshots/CreateSnapshots", PROVISIONS),
    ("/lunar.v1.Snapshots/GetSnapshotSet", PROVISIONS),
    ("/lunar.v1.Snapshots/AbortSnapshots", PROVISIONS),
    ("/lunar.v1.Snapshots/GetSnapshot", PROVISIONS),
    ("/lunar.v1.Snapshots/ListSnapshots", PROVISIONS),
    ("/lunar.v1.Snapshots/DeleteSnapshot", PROVISIONS),
    ("/lunar.v1.Snapshots/DiffSnapshots", PROVISIONS),
    ("/lunar.v1.Snapshots/GetUsage", PROVISIONS),
    ("/lunar.v1.Volumes/CreateVolume", PROVISIONS),
    ("/lunar.v1.Volumes/GetVolume", PROVISIONS),
    ("/lunar.v1.Volumes/ListVolumes", PROVISIONS),
    ("/lunar.v1.Volumes/DeleteVolume", PROVISIONS),
    ("/lunar.v1.Volumes/CloneVolume", PROVISIONS),
    // Kubernetes knows no rollback, and it throws a volume's content away.
    ("/lunar.v1.Volumes/RollbackVolume", OPERATES),
    ("/lunar.v1.Volumes/GrowVolume", PROVISIONS),
    // A grant belongs to the process that will write: no controller takes or gives it back.
    ("/lunar.v1.Attachments/Attach", SERVES),
    ("/lunar.v1.Attachments/ResumeAttachment", SERVES),
    ("/lunar.v1.Attachments/Detach", SERVES),
    ("/lunar.v1.Attachments/SealLayer", SERVES),
    ("/lunar.v1.Attachments/RetireJournal", SERVES),
    ("/lunar.v1.Attachments/ListAttachments", FENCES),
    ("/lunar.v1.Peers/AddPeer", SERVES),
    ("/lunar.v1.Peers/RequestOwnership", SERVES),
    ("/lunar.v1.Peers/ReleaseOwnership", SERVES),
    ("/lunar.v1.Peers/LeavePeers", SERVES),
    // A peer that does not own the volume has nothing under way: its row goes without proof.
    ("/lunar.v1.Peers/RemovePeer", PROVISIONS),
    ("/lunar.v1.Publications/PublishVolume", PROVISIONS),
    ("/lunar.v1.Publications/UnpublishVolume", PROVISIONS),
];

/// Who may make the call of this path; nobody, where the table has no row.
#[must_use]
pub fn callers_of(path: &str) -> &'static [Role] {
    TABLE.iter().find(|(row, _)| *row == path).map_or(&[], |(_, callers)| callers)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Served by fs-core on a Unix socket, not by the metadata service.
    const OF_THE_DAEMON: &str = "/lunar.v1.FsCore/";

    #[test]
    fn every_call_has_one_row_and_every_row_is_a_call() {
        let rows: BTreeSet<&str> = TABLE.iter().map(|(path, _)| *path).collect();
        assert_eq!(rows.len(), TABLE.len(), "a row is there twice");
        let calls = METHODS.iter().filter(|path| !path.starts_with(OF_THE_DAEMON));
        let calls: BTreeSet<&str> = calls.copied().collect();
        assert_eq!(rows, calls);
    }

    #[test]
    fn a_call_without_a_row_is_nobodys() {
        for path in ["", "/", "/lunar.v1.Pools/", "/lunar.v1.FsCore/Probe", "/lunar.v1.Pools/Drop"]
        {
            assert_eq!(callers_of(path), &[], "{path}");
        }
    }

    #[test]
    fn servers_call_nothing_and_no_node_administers() {
        for (path, callers) in TABLE {
            assert!(!callers.contains(&Role::Metadata), "{path}");
            assert!(!callers.is_empty(), "{path}");
        }
        for path in ["Pools/CreatePool", "Volumes/DeleteVolume", "Fencing/CertifyPoweredOff"] {
            let callers = callers_of(&format!("/lunar.v1.{path}"));
            assert!(!callers.iter().any(|role| role.is_node()), "{path}");
        }
        for path in ["Attachments/Attach", "Map/CommitMap", "Attachments/Detach"] {
            assert_eq!(callers_of(&format!("/lunar.v1.{path}")), SERVES, "{path}");
        }
    }

    #[test]
    fn a_role_is_read_as_it_is_written() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(*role));
        }
        let error = "root".parse::<Role>().expect_err("no role");
        assert!(error.to_string().contains("'root'"), "{error}");
    }
}
