//! Errors on the wire: one reason a failed step, its gRPC code, and its facts.
//!
//! Invariants:
//! - a reason has one text and one code, in one table; a client matches on the reason, and a
//!   program that knows no reasons still gets a sensible code;
//! - the facts (volume, pool, node, epoch held, epoch given …) travel as `google.rpc.ErrorInfo`
//!   metadata beside the message for people.

use std::collections::BTreeMap;
use std::fmt;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of every `ErrorInfo` of Lunar.
pub const ERROR_DOMAIN: &str = "lunar.storage";

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal => $code:ident,)+) => {
        /// Why a call failed, for programs.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum ErrorReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl ErrorReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The text on the wire: upper case, words joined by `_`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The gRPC code that goes with the reason.
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $(Self::$name => Code::$code,)+ }
            }

            /// The reason of this text.
            #[must_use]
            pub fn from_text(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| reason.as_str() == text)
            }
        }
    };
}

reasons! {
    /// A field of the request is missing, malformed or out of range; facts: `field`.
    InvalidField = "INVALID_FIELD" => InvalidArgument,
    /// The request id was used before for a different request.
    RequestIdReused = "REQUEST_ID_REUSED" => InvalidArgument,
    /// No pool has this id or name.
    PoolNotFound = "POOL_NOT_FOUND" => NotFound,
    /// No volume has this id or name.
    VolumeNotFound = "VOLUME_NOT_FOUND" => NotFound,
    /// No snapshot has this id or name.
    SnapshotNotFound = "SNAPSHOT_NOT_FOUND" => NotFound,
    /// No layer has this id.
    LayerNotFound = "LAYER_NOT_FOUND" => NotFound,
    /// No node has this id or name.
    NodeNotFound = "NODE_NOT_FOUND" => NotFound,
    /// The volume has no stale journal of this epoch.
    JournalNotFound = "JOURNAL_NOT_FOUND" => NotFound,
    /// No snapshot set has this id, or it was decided long ago.
    SetNotFound = "SET_NOT_FOUND" => NotFound,
    /// A pool of this name exists.
    PoolExists = "POOL_EXISTS" => AlreadyExists,
    /// A volume of this name exists.
    VolumeExists = "VOLUME_EXISTS" => AlreadyExists,
    /// A snapshot of this name exists.
    SnapshotExists = "SNAPSHOT_EXISTS" => AlreadyExists,
    /// The LUN is in a pool already, or twice in the request.
    LunInUse = "LUN_IN_USE" => AlreadyExists,
    /// The LUN has greater logical blocks than the pool or the volume allows.
    LunBlockSize = "LUN_BLOCK_SIZE" => FailedPrecondition,
    /// The volume is being created or deleted.
    VolumeNotReady = "VOLUME_NOT_READY" => FailedPrecondition,
    /// A journal of the volume waits to be replayed: it cannot be cut now.
    VolumeNotAtRest = "VOLUME_NOT_AT_REST" => FailedPrecondition,
    /// The volume is a member of an open snapshot set; facts: `volume`, `set`.
    VolumeBusy = "VOLUME_BUSY" => FailedPrecondition,
    /// The snapshot set is sealed and cannot be aborted any more.
    SetDecided = "SET_DECIDED" => FailedPrecondition,
    /// The snapshot is being cut or deleted.
    SnapshotNotReady = "SNAPSHOT_NOT_READY" => FailedPrecondition,
    /// The snapshot was cut of another volume.
    SnapshotOfOtherVolume = "SNAPSHOT_OF_OTHER_VOLUME" => FailedPrecondition,
    /// The snapshots stand on no common layer: neither says what changed since the other.
    SnapshotsUnrelated = "SNAPSHOTS_UNRELATED" => FailedPrecondition,
    /// The volume is larger than it would be made; facts: `size`, `size_given`.
    VolumeWouldShrink = "VOLUME_WOULD_SHRINK" => FailedPrecondition,
    /// The volume would have more extents than one can be attached with; facts: `size_given`,
    /// `limit`.
    VolumeTooLarge = "VOLUME_TOO_LARGE" => FailedPrecondition,
    /// A live node holds the volume; facts: `node`, `node_name`, `epoch_held`.
    VolumeAttached = "VOLUME_ATTACHED" => FailedPrecondition,
    /// Nodes have the volume together for a live migration; facts: `volume`, `peers`.
    VolumeShared = "VOLUME_SHARED" => FailedPrecondition,
    /// Two nodes have the volume together already; facts: `volume`, `peers`.
    PeersFull = "PEERS_FULL" => FailedPrecondition,
    /// The node does not have the volume together with another one; facts: `volume`, `node`.
    PeerNotFound = "PEER_NOT_FOUND" => NotFound,
    /// The peer owns the volume: it cannot just leave; facts: `volume`, `node`, `epoch_held`.
    PeerOwns = "PEER_OWNS" => FailedPrecondition,
    /// The volume is published to a node; facts: `volume`, `nodes`.
    VolumePublished = "VOLUME_PUBLISHED" => FailedPrecondition,
    /// The volume is published to the node in another way; facts: `volume`, `node`.
    PublishedOtherwise = "PUBLISHED_OTHERWISE" => AlreadyExists,
    /// The publication is being taken back: try again; facts: `volume`, `node`.
    VolumeRecalled = "VOLUME_RECALLED" => Aborted,
    /// The node has no leave to attach the volume; facts: `volume`, `nodes`.
    NotPublished = "NOT_PUBLISHED" => FailedPrecondition,
    /// The volume was used: no file system is made on it; fact: `volume`.
    ContentUsed = "CONTENT_USED" => FailedPrecondition,
    /// Somebody else has begun to make a file system since; fact: `volume`.
    OtherFormat = "OTHER_FORMAT" => Aborted,
    /// No group of snapshots has this id or name.
    GroupNotFound = "GROUP_NOT_FOUND" => NotFound,
    /// A group of snapshots of this name exists; facts: `name`, `group`.
    GroupExists = "GROUP_EXISTS" => AlreadyExists,
    /// Nobody holds the volume.
    NotAttached = "NOT_ATTACHED" => FailedPrecondition,
    /// The epoch or the holder in the request is not the current one; facts: `epoch_held`,
    /// `epoch_given`.
    StaleEpoch = "STALE_EPOCH" => FailedPrecondition,
    /// The incarnation is fenced, has left, or has been replaced by a newer one.
    NodeFenced = "NODE_FENCED" => FailedPrecondition,
    /// The incarnation has not registered at all LUNs yet, or is being fenced; facts: `node`,
    /// `state`.
    NodeNotActive = "NODE_NOT_ACTIVE" => FailedPrecondition,
    /// The incarnation before is being fenced: the node joins when it is; facts: `node`,
    /// `waits_for`.
    NodeFencing = "NODE_FENCING" => FailedPrecondition,
    /// An operator has fenced the node: it joins when it is unfenced.
    NodeBarred = "NODE_BARRED" => FailedPrecondition,
    /// Something of a former process of the node may be under way on this boot; fact: `node`.
    NodeUndrained = "NODE_UNDRAINED" => FailedPrecondition,
    /// The node is being drained: it gets no volume; fact: `node_name`.
    NodeDraining = "NODE_DRAINING" => FailedPrecondition,
    /// The node still renews its lease: a machine that runs is not powered off.
    NodeRenews = "NODE_RENEWS" => FailedPrecondition,
    /// The incarnation has no confirmed registration at a LUN of the pool; facts: `lun`, `node`.
    LunNotRegistered = "LUN_NOT_REGISTERED" => FailedPrecondition,
    /// No pool with reservations has this LUN.
    LunNotFound = "LUN_NOT_FOUND" => NotFound,
    /// There is no such fence, or it is complete.
    FenceNotFound = "FENCE_NOT_FOUND" => NotFound,
    /// A later attempt has begun; facts: `attempt_held`, `attempt_given`.
    StaleFenceAttempt = "STALE_FENCE_ATTEMPT" => FailedPrecondition,
    /// A later process of the node has joined; facts: `node`, `session_held`, `session_given`.
    StaleSession = "STALE_SESSION" => FailedPrecondition,
    /// The node was heard from a moment ago: a second daemon must not take its place.
    NodeAlive = "NODE_ALIVE" => FailedPrecondition,
    /// The daemon does not know layers: it would serve holes in the place of data.
    NodeTooOld = "NODE_TOO_OLD" => FailedPrecondition,
    /// The metadata was restored, and nobody has certified that no daemon of before runs; facts:
    /// `backup`, `restored`.
    RestoreNotCertified = "RESTORE_NOT_CERTIFIED" => FailedPrecondition,
    /// The volume came back with a backup and may be a mixture: it has to be accepted; fact:
    /// `volume`.
    VolumeRestored = "VOLUME_RESTORED" => FailedPrecondition,
    /// The incarnation still holds attachments.
    NodeHoldsAttachments = "NODE_HOLDS_ATTACHMENTS" => FailedPrecondition,
    /// Journals of earlier epochs wait to be replayed and retired, the oldest first.
    StaleJournals = "STALE_JOURNALS" => FailedPrecondition,
    /// The layer is sealed or is not the head of the volume.
    LayerNotWritable = "LAYER_NOT_WRITABLE" => FailedPrecondition,
    /// The extent is not in the reservation that it should come from.
    ExtentNotReserved = "EXTENT_NOT_RESERVED" => FailedPrecondition,
    /// A backup may name the extent: it was to be released.
    ExtentHeldForBackup = "EXTENT_HELD_FOR_BACKUP" => FailedPrecondition,
    /// There is no backup of this number.
    BackupNotFound = "BACKUP_NOT_FOUND" => NotFound,
    /// The commit does not follow the last one under this grant; facts: `commit_last`,
    /// `commit_given`.
    CommitOutOfOrder = "COMMIT_OUT_OF_ORDER" => FailedPrecondition,
    /// The next head in the request is neither the one of the grant nor the head; facts: `head`,
    /// `next_head_held`, `next_head_given`.
    NextHeadMismatch = "NEXT_HEAD_MISMATCH" => FailedPrecondition,
    /// The checkpoint would fall behind the one that is stored.
    CheckpointRegression = "CHECKPOINT_REGRESSION" => FailedPrecondition,
    /// The check finds other damage than the repair was asked for; facts: `findings_given`,
    /// `findings_found`.
    FindingsChanged = "FINDINGS_CHANGED" => FailedPrecondition,
    /// The pool has no free extent.
    PoolFull = "POOL_FULL" => ResourceExhausted,
    /// The pool is above its critical watermark: nothing new begins in it unless the caller
    /// insists; facts: `pool`, `pool_name`, `used_percent`, `critical_percent`.
    PoolWatermark = "POOL_WATERMARK" => ResourceExhausted,
    /// The volume would stand on more layers than a chain may have.
    ChainTooDeep = "CHAIN_TOO_DEEP" => ResourceExhausted,
    /// A limit of the design is reached: LUNs of a pool, nodes of a cluster.
    LimitReached = "LIMIT_REACHED" => ResourceExhausted,
    /// The store could not finish the transaction now; the same request may be sent again.
    StoreBusy = "STORE_BUSY" => Unavailable,
    /// The store failed: nothing can be said of the request until it is sent again.
    StoreFailed = "STORE_FAILED" => Unavailable,
    /// What the store holds contradicts itself or cannot be read; run the check.
    StoreCorrupt = "STORE_CORRUPT" => DataLoss,
    /// The caller's identity may not do this.
    NotPermitted = "NOT_PERMITTED" => PermissionDenied,
    /// The connection has no identity.
    NoIdentity = "NO_IDENTITY" => Unauthenticated,
    /// The certificate of the connection was revoked; fact: `serial`.
    CertificateRevoked = "CERTIFICATE_REVOKED" => Unauthenticated,
    /// The certificate of the connection is not valid any more: its time is over, or who signed it
    /// is not trusted any more; fact: `serial`.
    CertificateExpired = "CERTIFICATE_EXPIRED" => Unauthenticated,
    /// The certificate of the connection is of another cluster; facts: `cluster`, `cluster_given`.
    OtherCluster = "OTHER_CLUSTER" => Unauthenticated,
}

impl fmt::Display for ErrorReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The facts of an error by name, such as `volume`, `epoch_held`.
pub type Facts = BTreeMap<String, String>;

/// An error as it travels: reason, message for people, facts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorReport {
    /// Why, for programs.
    pub reason: ErrorReason,
    /// What failed, on which object, why, and what to do.
    pub message: String,
    /// The objects and numbers in the message.
    pub facts: Facts,
}

impl ErrorReport {
    /// The report as a gRPC status with `ErrorInfo`.
    #[must_use]
    pub fn to_status(&self) -> Status {
        let facts = self.facts.clone().into_iter().collect::<Vec<_>>();
        let details = ErrorDetails::with_error_info(
            self.reason.as_str(),
            ERROR_DOMAIN,
            facts.into_iter().collect::<std::collections::HashMap<_, _>>(),
        );
        Status::with_error_details(self.reason.code(), self.message.clone(), details)
    }

    /// The report in a gRPC status, or nothing when the status is not one of Lunar's.
    #[must_use]
    pub fn from_status(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        if info.domain != ERROR_DOMAIN {
            return None;
        }
        Some(Self {
            reason: ErrorReason::from_text(&info.reason)?,
            message: status.message().to_owned(),
            facts: info.metadata.into_iter().collect(),
        })
    }
}

/// The text of the reason in a status of Lunar's, also of one that this program does not know.
#[must_use]
pub fn reason_text(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == ERROR_DOMAIN).then_some(info.reason)
}

/// A field of a message that cannot be what it says.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("field '{field}': {problem}")]
pub struct FieldError {
    field: String,
    problem: String,
}

impl FieldError {
    /// The field with this name has this problem.
    #[must_use]
    pub fn new(field: &str, problem: impl fmt::Display) -> Self {
        Self { field: field.to_owned(), problem: problem.to_string() }
    }

    /// The field is not there.
    #[must_use]
    pub fn missing(field: &str) -> Self {
        Self::new(field, "is missing")
    }

    /// The same problem, with the field's name seen from the message that holds it.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        Self { field: format!("{outer}.{}", self.field), problem: self.problem }
    }

    /// The path of the field, such as `luns[3].size_bytes`.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The error as it travels.
    #[must_use]
    pub fn report(&self) -> ErrorReport {
        ErrorReport {
            reason: ErrorReason::InvalidField,
            message: self.to_string(),
            facts: Facts::from([("field".to_owned(), self.field.clone())]),
        }
    }
}

impl From<FieldError> for Status {
    fn from(error: FieldError) -> Self {
        error.report().to_status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contract with clients in other languages: text and number never change.
    const TABLE: &[(&str, i32)] = &[
        ("INVALID_FIELD", 3),
        ("REQUEST_ID_REUSED", 3),
        ("POOL_NOT_FOUND", 5),
        ("VOLUME_NOT_FOUND", 5),
        ("SNAPSHOT_NOT_FOUND", 5),
        ("LAYER_NOT_FOUND", 5),
        ("NODE_NOT_FOUND", 5),
        ("JOURNAL_NOT_FOUND", 5),
        ("SET_NOT_FOUND", 5),
        ("POOL_EXISTS", 6),
        ("VOLUME_EXISTS", 6),
        ("SNAPSHOT_EXISTS", 6),
        ("LUN_IN_USE", 6),
        ("LUN_BLOCK_SIZE", 9),
        ("VOLUME_NOT_READY", 9),
        ("VOLUME_NOT_AT_REST", 9),
        ("VOLUME_BUSY", 9),
        ("SET_DECIDED", 9),
        ("SNAPSHOT_NOT_READY", 9),
        ("SNAPSHOT_OF_OTHER_VOLUME", 9),
        ("SNAPSHOTS_UNRELATED", 9),
        ("VOLUME_WOULD_SHRINK", 9),
        ("VOLUME_TOO_LARGE", 9),
        ("VOLUME_ATTACHED", 9),
        ("VOLUME_SHARED", 9),
        ("PEERS_FULL", 9),
        ("PEER_NOT_FOUND", 5),
        ("PEER_OWNS", 9),
        ("VOLUME_PUBLISHED", 9),
        ("PUBLISHED_OTHERWISE", 6),
        ("VOLUME_RECALLED", 10),
        ("NOT_PUBLISHED", 9),
        ("CONTENT_USED", 9),
        ("OTHER_FORMAT", 10),
        ("GROUP_NOT_FOUND", 5),
        ("GROUP_EXISTS", 6),
        ("NOT_ATTACHED", 9),
        ("STALE_EPOCH", 9),
        ("NODE_FENCED", 9),
        ("NODE_NOT_ACTIVE", 9),
        ("NODE_FENCING", 9),
        ("NODE_BARRED", 9),
        ("NODE_UNDRAINED", 9),
        ("NODE_DRAINING", 9),
        ("NODE_RENEWS", 9),
        ("LUN_NOT_REGISTERED", 9),
        ("LUN_NOT_FOUND", 5),
        ("FENCE_NOT_FOUND", 5),
        ("STALE_FENCE_ATTEMPT", 9),
        ("STALE_SESSION", 9),
        ("NODE_ALIVE", 9),
        ("NODE_TOO_OLD", 9),
        ("RESTORE_NOT_CERTIFIED", 9),
        ("VOLUME_RESTORED", 9),
        ("NODE_HOLDS_ATTACHMENTS", 9),
        ("STALE_JOURNALS", 9),
        ("LAYER_NOT_WRITABLE", 9),
        ("EXTENT_NOT_RESERVED", 9),
        ("EXTENT_HELD_FOR_BACKUP", 9),
        ("BACKUP_NOT_FOUND", 5),
        ("COMMIT_OUT_OF_ORDER", 9),
        ("NEXT_HEAD_MISMATCH", 9),
        ("CHECKPOINT_REGRESSION", 9),
        ("FINDINGS_CHANGED", 9),
        ("POOL_FULL", 8),
        ("POOL_WATERMARK", 8),
        ("CHAIN_TOO_DEEP", 8),
        ("LIMIT_REACHED", 8),
        ("STORE_BUSY", 14),
        ("STORE_FAILED", 14),
        ("STORE_CORRUPT", 15),
        ("NOT_PERMITTED", 7),
        ("NO_IDENTITY", 16),
        ("CERTIFICATE_REVOKED", 16),
        ("CERTIFICATE_EXPIRED", 16),
        ("OTHER_CLUSTER", 16),
    ];

    #[test]
    fn every_reason_has_its_text_and_code() {
        let table: Vec<_> = ErrorReason::ALL
            .iter()
            .map(|reason| (reason.as_str(), i32::from(reason.code())))
            .collect();
        assert_eq!(table, TABLE);
        for reason in ErrorReason::ALL {
            assert_eq!(ErrorReason::from_text(reason.as_str()), Some(*reason));
        }
    }

    #[test]
    fn a_report_survives_the_status() {
        for reason in ErrorReason::ALL {
            let report = ErrorReport {
                reason: *reason,
                message: format!("attach volume 'a': {reason}"),
                facts: Facts::from([("epoch_held".to_owned(), "7".to_owned())]),
            };
            assert_eq!(ErrorReport::from_status(&report.to_status()), Some(report));
        }
    }

    #[test]
    fn a_foreign_status_is_no_report() {
        assert_eq!(ErrorReport::from_status(&Status::not_found("x")), None);
        let details = ErrorDetails::with_error_info(
            "POOL_FULL",
            "example.com",
            std::collections::HashMap::<String, String>::new(),
        );
        let status = Status::with_error_details(Code::ResourceExhausted, "x", details);
        assert_eq!(ErrorReport::from_status(&status), None);
    }

    #[test]
    fn a_field_error_names_the_path() {
        let error = FieldError::new("size_bytes", "is 0").within("luns[3]");
        assert_eq!(error.to_string(), "field 'luns[3].size_bytes': is 0");
        assert_eq!(error.report().facts["field"], "luns[3].size_bytes");
    }
}
