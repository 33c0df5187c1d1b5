//! Findings: their kinds and how they are told.

use lunar_proto::domain::{FsckEvent, FsckFinding, FsckSummary};

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
    /// A reservation is in an unknown pool or LUN.
    ReservationUnknown = "reservation-unknown",
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

/// A fact of a finding.
pub(super) type Fact<'a> = (&'a str, &'a dyn ToString);

/// What has been found so far.
pub(super) struct Report<'a> {
    sink: &'a mut (dyn FnMut(FsckEvent) -> Flow + Send),
    flow: Flow,
    pub(super) summary: FsckSummary,
}

impl<'a> Report<'a> {
    pub(super) fn new(sink: &'a mut (dyn FnMut(FsckEvent) -> Flow + Send)) -> Self {
        Self { sink, flow: Flow::Continue, summary: FsckSummary::default() }
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

    /// Tells a finding.
    pub(super) fn find(&mut self, kind: FindingKind, message: String, facts: &[Fact<'_>]) {
        self.summary.findings += 1;
        let fact = |(name, value): &Fact<'_>| ((*name).to_owned(), value.to_string());
        self.tell(FsckEvent::Finding(FsckFinding {
            kind: kind.as_str().to_owned(),
            message,
            facts: facts.iter().map(fact).collect(),
        }));
    }

    /// Tells the summary.
    pub(super) fn finish(mut self) -> FsckSummary {
        self.tell(FsckEvent::Summary(self.summary));
        self.summary
    }
}
