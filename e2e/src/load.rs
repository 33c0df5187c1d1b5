//! A load that can be repeated, and what a device may show of it.
//!
//! The writes follow from the seed alone, so the seed and the last round that was said to be
//! flushed are enough to know what must be there. A volume that changes hands is written by one
//! owner after the other, each in a [`Tenure`] of its own.
//!
//! Invariants of what a device shows ([`Expected::check`]):
//! - a block is whole, and says that it is that block of that volume;
//! - it is at least as new as the last flushed write to it, and nothing that was never begun;
//! - its epoch is that of the owner whose turn its sequence was: none is above the last owner's,
//!   none of before comes with a sequence of after, and none falls while sequences rise.

use std::collections::HashMap;

use lunar_types::{BlockIndex, Epoch, VolumeId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::stamp::{STAMPED_BYTES, Sequence, Stamp, StampError};

/// Sequences that a round has; it uses fewer.
const ROUND_SEQUENCES: u64 = 32;
const ROUND_WRITES_MAX: u64 = 24;

/// Where the writes follow from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// What they are written to.
    pub volume: VolumeId,
    /// Which of all loads it is.
    pub seed: u64,
    /// Blocks that are written to, from the first one of the volume.
    pub blocks: u64,
}

/// What one owner of a volume wrote. Rounds count from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tenure {
    /// Of its grant.
    pub epoch: Epoch,
    /// Its first round.
    pub first: u64,
    /// Its last flushed round: what it wrote up to there is there.
    pub flushed: u64,
    /// The last round that it can have begun: what it wrote up to there may be there.
    pub begun: u64,
}

/// What is wrong with a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Wrong {
    /// It carries no stamp that holds.
    #[error(transparent)]
    Stamp(#[from] StampError),
    /// It is blank.
    #[error("it is blank, but write {acknowledged} was flushed")]
    Lost {
        /// The newest flushed write to it.
        acknowledged: Sequence,
    },
    /// It belongs to another volume.
    #[error("it is of volume {0}")]
    OtherVolume(VolumeId),
    /// It belongs elsewhere.
    #[error("it is what was written to block {}", _0.get())]
    OtherBlock(BlockIndex),
    /// It is older than it may be.
    #[error("it holds write {found}, but write {acknowledged} was flushed")]
    Older {
        /// What it holds.
        found: Sequence,
        /// The newest flushed write to it.
        acknowledged: Sequence,
    },
    /// Nobody has begun that write.
    #[error("it holds write {0}, which nobody has begun there")]
    NeverWritten(Sequence),
    /// Nobody was granted that epoch.
    #[error("it was written under epoch {found}, but the last owner has epoch {owner}")]
    EpochAhead {
        /// What it says.
        found: Epoch,
        /// The last owner's.
        owner: Epoch,
    },
    /// A former owner wrote after its time.
    #[error("write {sequence} was made under the stale epoch {found}, in the time of epoch {due}")]
    EpochStale {
        /// Which write.
        sequence: Sequence,
        /// What it says.
        found: Epoch,
        /// Of the owner whose turn that write was.
        due: Epoch,
    },
    /// A later owner's epoch comes before its time: it falls with the next write of this owner.
    #[error("write {sequence} was made under epoch {found}, in the time of epoch {due}")]
    EpochFalls {
        /// Which write.
        sequence: Sequence,
        /// What it says.
        found: Epoch,
        /// Of the owner whose turn that write was.
        due: Epoch,
    },
}

impl Load {
    /// The writes of a round, in their order.
    #[must_use]
    pub fn round(&self, round: u64) -> Vec<(BlockIndex, Sequence)> {
        let stream = round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ stream);
        let count = random.random_range(1..=ROUND_WRITES_MAX);
        let write = |n| {
            let block = BlockIndex::new(random.random_range(0..self.blocks));
            (block, Sequence::new(round * ROUND_SEQUENCES + n))
        };
        (0..count).map(write).collect()
    }

    /// What the owner with this epoch writes in a round.
    pub fn stamps(&self, round: u64, epoch: Epoch) -> impl Iterator<Item = Stamp> {
        let volume = self.volume;
        let writes = self.round(round).into_iter();
        writes.map(move |(block, sequence)| Stamp { volume, block, sequence, epoch })
    }
}

/// What each block may show.
pub struct Expected {
    load: Load,
    tenures: Vec<Tenure>,
    acknowledged: HashMap<BlockIndex, Sequence>,
    begun: HashMap<BlockIndex, Vec<Sequence>>,
}

impl Expected {
    /// What these owners, one after the other, have left.
    ///
    /// # Panics
    /// When there are none, or one begins before its predecessor can have ended.
    #[must_use]
    pub fn new(load: Load, tenures: &[Tenure]) -> Self {
        assert!(!tenures.is_empty(), "somebody has written");
        for pair in tenures.windows(2) {
            let (one, next) = (&pair[0], &pair[1]);
            assert!(one.begun < next.first, "no two owners have the same rounds: {pair:?}");
            assert!(one.epoch < next.epoch, "each grant has a later epoch: {pair:?}");
        }
        let (mut acknowledged, mut begun) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
        for tenure in tenures {
            for round in tenure.first..=tenure.begun {
                for (block, sequence) in load.round(round) {
                    if round <= tenure.flushed {
                        acknowledged.insert(block, sequence);
                    } else {
                        begun.entry(block).or_default().push(sequence);
                    }
                }
            }
        }
        Self { load, tenures: tenures.to_vec(), acknowledged, begun }
    }

    /// Whether a block may hold this.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn check(&self, at: BlockIndex, block: &[u8; STAMPED_BYTES]) -> Result<(), Wrong> {
        let acknowledged = self.acknowledged.get(&at).copied();
        let Some(stamp) = Stamp::read(block)? else {
            return acknowledged.map_or(Ok(()), |acknowledged| Err(Wrong::Lost { acknowledged }));
        };
        if stamp.volume != self.load.volume {
            return Err(Wrong::OtherVolume(stamp.volume));
        }
        if stamp.block != at {
            return Err(Wrong::OtherBlock(stamp.block));
        }
        self.check_epoch(&stamp)?;
        let found = stamp.sequence;
        match acknowledged {
            Some(acknowledged) if found < acknowledged => Err(Wrong::Older { found, acknowledged }),
            Some(acknowledged) if found == acknowledged => Ok(()),
            _ if self.begun.get(&at).is_some_and(|begun| begun.contains(&found)) => Ok(()),
            _ => Err(Wrong::NeverWritten(found)),
        }
    }

    fn check_epoch(&self, stamp: &Stamp) -> Result<(), Wrong> {
        let (sequence, found) = (stamp.sequence, stamp.epoch);
        let owner = self.tenures.last().expect("somebody has written").epoch;
        if found > owner {
            return Err(Wrong::EpochAhead { found, owner });
        }
        let round = sequence.get() / ROUND_SEQUENCES;
        let due = self.tenures.iter().rev().find(|tenure| tenure.first <= round);
        let due = due.ok_or(Wrong::NeverWritten(sequence))?.epoch;
        match found.cmp(&due) {
            std::cmp::Ordering::Less => Err(Wrong::EpochStale { sequence, found, due }),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(Wrong::EpochFalls { sequence, found, due }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { volume: VolumeId::from_u128(7), seed: 3, blocks: 400 };
    const LOST: Tenure = Tenure { epoch: Epoch::new(1), first: 1, flushed: 20, begun: 22 };
    const HEIR: Tenure = Tenure { epoch: Epoch::new(2), first: 1000, flushed: 1004, begun: 1004 };

    type Block = [u8; STAMPED_BYTES];

    fn written(device: &mut [Block], epoch: Epoch, rounds: impl IntoIterator<Item = u64>) {
        for stamp in rounds.into_iter().flat_map(|round| LOAD.stamps(round, epoch)) {
            stamp.fill(&mut device[stamp.block.get() as usize]);
        }
    }

    /// What a takeover leaves, with so many rounds of the lost owner.
    fn taken_over(rounds: u64) -> Vec<Block> {
        let mut device = vec![[0; STAMPED_BYTES]; LOAD.blocks as usize];
        written(&mut device, LOST.epoch, 1..=rounds);
        written(&mut device, HEIR.epoch, HEIR.first..=HEIR.flushed);
        device
    }

    fn all_wrong(device: &[Block], tenures: &[Tenure]) -> Vec<(BlockIndex, Wrong)> {
        let expected = Expected::new(LOAD, tenures);
        let blocks = (0..).map(BlockIndex::new).zip(device);
        blocks.filter_map(|(at, block)| Some((at, expected.check(at, block).err()?))).collect()
    }

    fn newest(device: &[Block], of: Epoch) -> (usize, Stamp) {
        let stamps = device.iter().map(|block| Stamp::read(block).expect("a stamp holds"));
        let of_this = stamps.enumerate().filter_map(|(at, stamp)| Some((at, stamp?)));
        let of_this = of_this.filter(|(_, stamp)| stamp.epoch == of);
        of_this.max_by_key(|(_, stamp)| stamp.sequence).expect("it has written")
    }

    /// The only thing that is wrong after one block was made to say something else.
    fn wrong_after(of: Epoch, alter: impl FnOnce(&mut Stamp)) -> (Stamp, Wrong) {
        let mut device = taken_over(LOST.flushed);
        let (at, was) = newest(&device, of);
        let mut stamp = was;
        alter(&mut stamp);
        stamp.fill(&mut device[at]);
        let wrong = all_wrong(&device, &[LOST, HEIR]);
        let [(found, wrong)] = wrong[..] else { panic!("one block is wrong: {wrong:?}") };
        assert_eq!(found, BlockIndex::new(at as u64));
        (was, wrong)
    }

    #[test]
    fn flushed_rounds_are_there_and_begun_ones_may_be() {
        for rounds in LOST.flushed..=LOST.begun {
            assert_eq!(all_wrong(&taken_over(rounds), &[LOST, HEIR]), []);
        }
        assert_ne!(all_wrong(&taken_over(LOST.flushed - 1), &[LOST, HEIR]), []);
        assert_ne!(all_wrong(&taken_over(LOST.begun + 1), &[LOST, HEIR]), []);
        let alone = Tenure { flushed: 0, begun: 0, ..LOST };
        assert_eq!(all_wrong(&vec![[0; STAMPED_BYTES]; 400], &[alone]), []);
    }

    #[test]
    fn a_flushed_write_that_is_blank_or_older_is_found() {
        let mut device = taken_over(LOST.flushed);
        let (at, stamp) = newest(&device, HEIR.epoch);
        device[at] = [0; STAMPED_BYTES];
        let (block, acknowledged) = (stamp.block, stamp.sequence);
        let lost = (block, Wrong::Lost { acknowledged });
        assert_eq!(all_wrong(&device, &[LOST, HEIR]), [lost]);
        // A write of the lost owner that arrives late: its own epoch, its own sequence.
        let (found, epoch) = (Sequence::new(LOST.begun * ROUND_SEQUENCES), LOST.epoch);
        Stamp { sequence: found, epoch, ..stamp }.fill(&mut device[at]);
        let older = (block, Wrong::Older { found, acknowledged });
        assert_eq!(all_wrong(&device, &[LOST, HEIR]), [older]);
    }

    #[test]
    fn another_volume_and_another_block_are_found() {
        let other = VolumeId::from_u128(8);
        let (_, wrong) = wrong_after(HEIR.epoch, |stamp| stamp.volume = other);
        assert_eq!(wrong, Wrong::OtherVolume(other));
        let (was, wrong) = wrong_after(LOST.epoch, |stamp| {
            stamp.block = BlockIndex::new(stamp.block.get() + 1);
        });
        assert_eq!(wrong, Wrong::OtherBlock(BlockIndex::new(was.block.get() + 1)));
    }

    #[test]
    fn an_epoch_that_nobody_had_or_that_falls_with_rising_sequence_is_found() {
        let ahead = Epoch::new(3);
        let (_, wrong) = wrong_after(HEIR.epoch, |stamp| stamp.epoch = ahead);
        assert_eq!(wrong, Wrong::EpochAhead { found: ahead, owner: HEIR.epoch });
        let (was, wrong) = wrong_after(HEIR.epoch, |stamp| stamp.epoch = LOST.epoch);
        let (found, due) = (LOST.epoch, HEIR.epoch);
        assert_eq!(wrong, Wrong::EpochStale { sequence: was.sequence, found, due });
        let (was, wrong) = wrong_after(LOST.epoch, |stamp| stamp.epoch = HEIR.epoch);
        assert_eq!(wrong, Wrong::EpochFalls { sequence: was.sequence, found: due, due: found });
        let (_, wrong) = wrong_after(LOST.epoch, |stamp| stamp.sequence = Sequence::new(1));
        assert_eq!(wrong, Wrong::NeverWritten(Sequence::new(1)), "before the first round");
    }

    #[test]
    fn a_torn_and_a_foreign_block_are_found() {
        let mut device = taken_over(LOST.flushed);
        let (at, stamp) = newest(&device, LOST.epoch);
        device[at][512..1024].fill(0);
        let torn = (stamp.block, Wrong::Stamp(StampError::Torn(stamp)));
        assert_eq!(all_wrong(&device, &[LOST, HEIR]), [torn]);
        device[at].fill(0x5a);
        let foreign = (stamp.block, Wrong::Stamp(StampError::Foreign([0x5a; 16])));
        assert_eq!(all_wrong(&device, &[LOST, HEIR]), [foreign]);
    }

    #[test]
    #[should_panic(expected = "no two owners have the same rounds")]
    fn owners_do_not_share_rounds() {
        let _ = Expected::new(LOAD, &[LOST, Tenure { first: LOST.begun, ..HEIR }]);
    }
}
