//! Findings: their kinds and how they are told.

use std::collections::{BTreeSet, HashSet};

use lunar_proto::domain::{FindingsDigest, FsckEvent, FsckFinding, FsckRemedy, FsckSummary};

use super::repair::Repair;
use crate::keyspace::hash_bytes;

/// Whether the check goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// It goes on.
    Continue,
    /// Nobody listens any more.
    Stop,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// The kinds of damage.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum FindingKind {
            $($(#[doc = $doc])+ $name,)+
        }

        impl FindingKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The stable name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

kinds! {
    /// A key or a value cannot be read.
    EntryUnreadable = "entry-unreadable",
    /// A name points to nothing or to an object of another name, or an object has no name.
    NameMismatch = "name-mismatch",
    /// A LUN and what finds it by id disagree, or its pool is unknown.
    LunMismatch = "lun-mismatch",
    /// What a pool lists as its volumes is not what the volumes say.
    PoolVolumeMismatch = "pool-volume-mismatch",
    /// A volume is in an unknown pool.
    VolumePoolUnknown = "volume-pool-unknown",
    /// The head of a volume is missing, sealed, or another volume's.
    VolumeHeadInvalid = "volume-head-invalid",
    /// A layer is the head of several volumes.
    HeadShared = "head-shared",
    /// Two grants or journals have the same next head: one would write into the other's layer.
    NextHeadShared = "next-head-shared",
    /// A volume is being deleted, and somebody holds it.
    DeletingAttached = "deleting-attached",
    /// A volume is Deleting and nothing deletes it, or an operation works on the wrong thing.
    OperationMismatch = "operation-mismatch",
    /// A layer is needed by no volume, snapshot or operation, or stands on one that is missing.
    LayerOrphan = "layer-orphan",
    /// A layer is not younger than the one it stands on, or that one is writable; or a next head
    /// is not younger than the head, or exists.
    LayerOrder = "layer-order",
    /// A layer has more layers below it than a chain may have.
    ChainTooDeep = "chain-too-deep",
    /// The list of children of a layer and the parents that layers name disagree.
    ChildMismatch = "child-mismatch",
    /// No name and fewer than two children: nothing needs the layer, and nothing removes it.
    LayerStranded = "layer-stranded",
    /// A snapshot and the layer that it names disagree, or one of them does not exist.
    SnapshotLayerInvalid = "snapshot-layer-invalid",
    /// What a volume lists as its snapshots is not what the snapshots say.
    SnapshotListMismatch = "snapshot-list-mismatch",
    /// An open set of snapshots and its members, volumes, snapshots or the lists of holders
    /// disagree, or a decided one has any.
    SetMismatch = "set-mismatch",
    /// A layer counts other than it has slots or parts, or has too many parts at one place.
    LayerCount = "layer-count",
    /// The slots or parts of a layer are not those that were written.
    LayerDigest = "layer-digest",
    /// A part was born in its own layer or above it, or too far below it to have come by a merge.
    BirthOutOfRange = "birth-out-of-range",
    /// A slot is not older than one of the same logical extent in a layer above it, into which its
    /// layer is being merged.
    BirthOrder = "birth-order",
    /// An attachment or stale journal is of an unknown volume.
    AttachmentOrphan = "attachment-orphan",
    /// An attachment or stale journal and its node's list disagree.
    AttachmentIndexMismatch = "attachment-index-mismatch",
    /// An epoch is greater than one that must be later.
    EpochInversion = "epoch-inversion",
    /// A node has had fewer sessions than incarnations: calls of the dead could pass for its own.
    SessionBehind = "session-behind",
    /// What an attachment says of its last commit cannot be.
    CommitNumberInvalid = "commit-number-invalid",
    /// Something belongs to an incarnation that never was.
    IncarnationUnknown = "incarnation-unknown",
    /// A registration and its node's list disagree, it is at a LUN that is in no pool, or a holder
    /// has none where it may write.
    RegistrationMismatch = "registration-mismatch",
    /// A fence and the state of its victim disagree, it does not speak of every LUN, or it is
    /// complete without a proof.
    FenceMismatch = "fence-mismatch",
    /// A peer and its node's list disagree, or a volume is shared that has no peers, too many, or
    /// an owner who is none.
    PeerMismatch = "peer-mismatch",
    /// A publication is of an unknown volume or node, there are more of a volume than there may
    /// be, one is recalled in one place only, or a node holds what is published to others.
    PublicationMismatch = "publication-mismatch",
    /// A group of snapshots and its name or its snapshots disagree.
    GroupMismatch = "group-mismatch",
    /// A reservation is in an unknown pool or LUN.
    ReservationUnknown = "reservation-unknown",
    /// An extent is marked as one that the map has named, and is not in the reservation.
    UnmappedNotReserved = "unmapped-not-reserved",
    /// What is in quarantine waits for a backup that comes after one that was never begun.
    QuarantineStamp = "quarantine-stamp",
    /// A reservation of an incarnation that is gone, and nothing takes it back.
    ReservationStuck = "reservation-stuck",
    /// A counter is behind an id that was given.
    CounterBehind = "counter-behind",
    /// A slot is of an unknown layer.
    SlotOrphan = "slot-orphan",
    /// A slot lies beyond the end of its volume.
    SlotOutOfRange = "slot-out-of-range",
    /// A ZERO slot has presence bits.
    PresenceOnZero = "presence-on-zero",
    /// A slot has not one presence bit for each block of the pool's extents.
    PresenceSize = "presence-size",
    /// An extent lies beyond the end of its LUN, or on an unknown one.
    ExtentOutOfRange = "extent-out-of-range",
    /// An extent has more than one owner.
    ExtentDoublyOwned = "extent-doubly-owned",
    /// An extent has an owner and is free: it could be given away again.
    ExtentUnallocated = "extent-unallocated",
    /// An extent is allocated and has no owner.
    ExtentLeaked = "extent-leaked",
}

impl FindingKind {
    /// Why nothing repairs it, and what to do instead.
    pub(super) const fn why_not(self) -> &'static str {
        match self {
            Self::EntryUnreadable => {
                "what it said is not known: bring back a copy of the store, or ask for help with \
                 the key"
            }
            Self::ExtentDoublyOwned => {
                "which owner is right is not known: copy what the volumes of these layers still \
                 hold, compare it with other copies, and delete the volume that is wrong"
            }
            Self::ExtentOutOfRange | Self::SlotOutOfRange => {
                "where the data is, or whether there is any, is not known: bring back a copy of \
                 the store, or the volume from a copy of its data"
            }
            Self::LayerDigest | Self::PresenceOnZero | Self::PresenceSize => {
                "which blocks are present is not known: bring back a copy of the store, or the \
                 volume from a copy of its data"
            }
            _ => {
                "the records contradict each other, and which one is right is not known: bring \
                 back a copy of the store"
            }
        }
    }
}

/// Why nothing is repaired beside an entry that cannot be read.
const ENTRY_IN_DOUBT: &str =
    "the other half may be in an entry that cannot be read: see to that one first";

/// A fact of a finding.
pub(super) type Fact<'a> = (&'a str, &'a dyn ToString);

/// What has been found so far.
pub(super) struct Report<'a> {
    sink: &'a mut (dyn FnMut(FsckEvent) -> Flow + Send),
    flow: Flow,
    found: BTreeSet<FindingKind>,
    repairs: Vec<Repair>,
    wanted: HashSet<Repair>,
    pub(super) summary: FsckSummary,
}

/// The repair of a finding; or why none is safe, and what to do instead.
pub(super) type Remedy = Result<Repair, String>;

/// The end of a check.
pub(super) struct Checked {
    pub(super) summary: FsckSummary,
    /// The safe ones, in the order of the findings.
    pub(super) repairs: Vec<Repair>,
}

/// The findings of a check are a sum, as the digests of slots are.
fn digest_of(finding: &FsckFinding) -> u64 {
    let (FsckRemedy::Repair(remedy) | FsckRemedy::Refused(remedy)) = &finding.remedy;
    let facts = finding.facts.iter().flat_map(|(name, value)| [name, value]);
    let texts = [&finding.kind, &finding.message, remedy].into_iter().chain(facts);
    // No text has a zero byte.
    hash_bytes(texts.flat_map(|text| text.bytes().chain([0])))
}

impl<'a> Report<'a> {
    pub(super) fn new(sink: &'a mut (dyn FnMut(FsckEvent) -> Flow + Send)) -> Self {
        Self {
            sink,
            flow: Flow::Continue,
            found: BTreeSet::new(),
            repairs: Vec::new(),
            wanted: HashSet::new(),
            summary: FsckSummary::default(),
        }
    }

    fn tell(&mut self, event: FsckEvent) {
        if self.flow == Flow::Continue {
            self.flow = (self.sink)(event);
        }
    }

    /// Whether nobody listens any more.
    pub(super) fn is_stopped(&self) -> bool {
        self.flow == Flow::Stop
    }

    /// Whether one of these kinds was found by now.
    pub(super) fn has_found(&self, kinds: &[FindingKind]) -> bool {
        kinds.iter().any(|kind| self.found.contains(kind))
    }

    /// Tells a finding that no repair is safe for.
    pub(super) fn find(&mut self, kind: FindingKind, message: String, facts: &[Fact<'_>]) {
        self.find_with(kind, message, facts, Err(kind.why_not().to_owned()));
    }

    /// Tells a finding. While an entry cannot be read no repair is safe: it could be the other half
    /// of an index, an owner, or what the repair would have to write.
    pub(super) fn find_with(
        &mut self,
        kind: FindingKind,
        message: String,
        facts: &[Fact<'_>],
        remedy: Remedy,
    ) {
        let remedy = match self.has_found(&[FindingKind::EntryUnreadable]) {
            true => remedy.and_then(|_| Err(ENTRY_IN_DOUBT.to_owned())),
            false => remedy,
        };
        let fact = |(name, value): &Fact<'_>| ((*name).to_owned(), value.to_string());
        let finding = FsckFinding {
            kind: kind.as_str().to_owned(),
            message,
            facts: facts.iter().map(fact).collect(),
            remedy: match &remedy {
                Ok(repair) => FsckRemedy::Repair(repair.to_string()),
                Err(why) => FsckRemedy::Refused(why.clone()),
            },
        };
        self.found.insert(kind);
        self.summary.findings += 1;
        let digest = self.summary.digest.get().wrapping_add(digest_of(&finding));
        self.summary.digest = FindingsDigest::new(digest);
        if let Ok(repair) = remedy {
            self.summary.repairable += 1;
            if self.wanted.insert(repair.clone()) {
                self.repairs.push(repair);
            }
        }
        self.tell(FsckEvent::Finding(finding));
    }

    /// Tells the summary.
    pub(super) fn finish(mut self) -> Checked {
        self.tell(FsckEvent::Summary(self.summary));
        Checked { summary: self.summary, repairs: self.repairs }
    }
}
