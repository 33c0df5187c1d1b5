//! Bugs that are planted on purpose, to prove that the simulator finds them.
//!
//! None of them is in the product: each is a lie of the driver, between the engine and the disks
//! or between the engine and the metadata service.

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Planted {
    /// The flush before a checkpoint's commit is skipped.
    CommitBeforeDataFlush,
    /// A flush covers only what the queue that sent it has written.
    FlushMissesOtherQueue,
    /// What a commit unmaps may be used again before the commit has happened.
    ExtentReusedEarly,
    /// A replay loses one presence bit.
    PresenceBitLost,
    /// Absent blocks of an extent show what the extent holds.
    StaleBytesReadable,
    /// A durable write is an ordinary one.
    FuaNotDurable,
    /// After a kill, extents that an unsuperseded journal may name are used at once.
    QuarantineSkipped,
    /// A commit is carried out whoever sends it and whenever it arrives.
    LateCommitAccepted,
    /// After a kill, requests that were under way are not given to the successor.
    ReissueSkipped,
    /// Without an answer to its vote, a volume goes on in the head that it voted to have sealed.
    WritesInOldHead,
    /// Records of a next head are not replayed when the service has the former head.
    UndecidedJournalDropped,
    /// What the service says of a former head's chain is taken for the present one's.
    LateOwnershipNotice,
    /// What was taken out of a head is used again although reads of it may be under way.
    PruneWithoutGrace,
    /// What differs between two snapshots leaves out what reads as zeros in the second one.
    DiffWithoutZero,
    /// A copy begins although writes of before its claim are under way.
    ClaimWithoutGrace,
    /// A device grows before the engine serves what is new.
    DeviceGrowsFirst,
    /// An attachment reads its layers the highest first.
    ChainReadTopDown,
    /// Of what was merged into one layer, that which came last lies on top.
    OrderByArrival,
    /// What was merged into a layer hides nothing below it but by its own blocks.
    OpaqueLostInMerge,
    /// A loading engine leaves out what several slots above hide together.
    HiddenSlotForgotten,
    /// Each member of a set is cut for itself.
    MembersCutOneByOne,
    /// A volume goes on to write in place into what its seal has taken from it.
    ThresholdNotRaised,
    /// A vote is sent while writes of before the freeze are under way.
    SealBeforeDrain,
    /// What a commit has unmapped is used again although a backup may name it.
    FreedUsedAgain,
    /// Which layer a replay has sealed is asked for afterwards, when it may be merged away.
    SealedLayerAskedFor,
    /// A copy of the consolidator is an ordinary write.
    CopyNotDurable,
}

impl Planted {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.expect("every bug can be asked for").get_name().to_owned()
    }

    /// Every planted bug.
    pub const ALL: [Self; 26] = [
        Self::CommitBeforeDataFlush,
        Self::FlushMissesOtherQueue,
        Self::ExtentReusedEarly,
        Self::PresenceBitLost,
        Self::StaleBytesReadable,
        Self::FuaNotDurable,
        Self::QuarantineSkipped,
        Self::LateCommitAccepted,
        Self::ReissueSkipped,
        Self::WritesInOldHead,
        Self::UndecidedJournalDropped,
        Self::LateOwnershipNotice,
        Self::PruneWithoutGrace,
        Self::DiffWithoutZero,
        Self::ClaimWithoutGrace,
        Self::DeviceGrowsFirst,
        Self::ChainReadTopDown,
        Self::OrderByArrival,
        Self::OpaqueLostInMerge,
        Self::HiddenSlotForgotten,
        Self::MembersCutOneByOne,
        Self::ThresholdNotRaised,
        Self::SealBeforeDrain,
        Self::FreedUsedAgain,
        Self::SealedLayerAskedFor,
        Self::CopyNotDurable,
    ];
}
