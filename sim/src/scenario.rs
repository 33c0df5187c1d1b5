//! What a seed makes of a run: sizes, rates and how much goes wrong.

use std::time::Duration;

use lunar_engine::volume::Tuning;
use lunar_types::{ExtentSize, LogicalBlockSize};

use crate::dice::Dice;
use crate::disk::FaultRates;

/// The choices that hold for a whole run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The unit of allocation.
    pub extent_size: ExtentSize,
    /// What a power cut does not tear: the logical block of the LUNs.
    pub lun_block: LogicalBlockSize,
    /// LUNs at the start.
    pub luns: u16,
    /// Nodes with a daemon each.
    pub hosts: u16,
    /// Extents of each LUN.
    pub lun_extents: u64,
    /// Volumes at a time.
    pub volumes: usize,
    /// The most extents of a volume.
    pub volume_extents: u64,
    /// Queues of a device.
    pub queues: u16,
    /// Requests of a queue.
    pub depth: u16,
    /// Extents of the journal that the ring uses.
    pub ring_extents: u32,
    /// Entries of the dirty table at the most.
    pub dirty_capacity: usize,
    /// Whether volumes are large and their users write all over them.
    pub is_wide: bool,
    /// Checkpoints and reserves.
    pub tuning: Tuning,
    /// How often LUN commands fail.
    pub faults: FaultRates,
    /// How often a LUN command lets hundreds of others pass, in a thousand.
    pub slow: u64,
    /// How often the metadata service goes away, in a thousand steps.
    pub outage: u64,
    /// How often its answer is lost, in a thousand calls.
    pub answer_lost: u64,
    /// How often the network holds a second copy, in a thousand calls.
    pub copied: u64,
    /// How often so long a time passes that requests are forgotten, in ten thousand steps of the
    /// operator, and in a thousand crashes.
    pub quiet_hours: u64,
    /// The most updates of a commit.
    pub commit_updates: usize,
    /// How often another node takes all free extents, in a thousand steps.
    pub squeeze: u64,
    /// How many crashes.
    pub crashes: u64,
    /// How many of a thousand crashes are power cuts; the others are kills.
    pub power_cuts: u64,
    /// How many of a thousand power cuts damage the journal too.
    pub journal_faults: u64,
    /// The longest way to the next crash, in steps.
    pub crash_within: u64,
    /// How often something is done with snapshots, in a thousand steps of the operator.
    pub layers: u64,
    /// How often an extent is claimed to be made solid, in a thousand idle steps of a control task.
    pub consolidate: u64,
    /// How often a volume grows, or its daemon hears of it, in a thousand steps of the operator.
    pub growth: u64,
    /// How often the operator begins or ends a backup, in a thousand steps.
    pub backups: u64,
    /// How often volumes are detached, deleted and made anew, in ten thousand steps.
    pub turnover: u64,
}

const EXTENT_SIZES: [u64; 8] = [16, 16, 16, 16, 16, 17, 18, 20];

impl Scenario {
    /// The scenario of a seed.
    pub fn draw(dice: &mut Dice) -> Self {
        let shift = dice.one_of(&EXTENT_SIZES);
        let extent_size = ExtentSize::from_bytes(1 << shift).expect("a valid extent size");
        // Few scenarios have batches of several journal blocks: they need many dirty slots.
        let is_wide = dice.chance(120) && (shift == 16 || shift == 20);
        let volumes = if is_wide { 1 } else { dice.between(1, 3) as usize };
        let (volume_extents, dirty_capacity) = match (shift, is_wide) {
            (20, true) => (dice.between(30, 60), dice.between(60, 140)),
            (_, true) => (dice.between(150, 260), dice.between(400, 590)),
            (20, false) => (dice.between(2, 6), dice.between(2, 30)),
            (_, false) => (dice.between(3, 24), dice.between(2, 30)),
        };
        let journals = (2 << 20 >> shift) * (3 * volumes as u64 + 2);
        let luns = dice.between(1, 3) as u16;
        let data = volume_extents * volumes as u64 * dice.between(50, 150) / 100;
        let reserve_min = if is_wide { dice.between(20, 60) } else { dice.between(1, 6) } as u32;
        let (read, write, flush, short) = if dice.chance(300) {
            dice.one_of(&[(5, 5, 0, 5), (2, 2, 20, 2)])
        } else {
            (0, 0, 0, 0)
        };
        let interval =
            dice.between(if is_wide { 2000 } else { 20 }, if is_wide { 9000 } else { 3000 });
        let interval = Duration::from_millis(interval);
        let hosts = if is_wide { 1 } else { dice.one_of(&[1, 2, 2]) };
        Self {
            hosts,
            extent_size,
            lun_block: dice.one_of(&[LogicalBlockSize::B512, LogicalBlockSize::B4096]),
            luns,
            lun_extents: (journals + data + u64::from(hosts - 1) * 8).div_ceil(u64::from(luns)) + 1,
            volumes,
            volume_extents,
            queues: dice.between(1, 3) as u16,
            depth: dice.between(2, 6) as u16,
            ring_extents: dice.between(1, 3) as u32,
            dirty_capacity: dirty_capacity as usize,
            is_wide,
            tuning: Tuning {
                checkpoint_interval: interval,
                reserve_min,
                reserve_max: reserve_min + dice.below(if is_wide { 60 } else { 10 }) as u32,
                pool_full_retry: Duration::from_millis(dice.between(5, 300)),
                consolidate_reads: dice.between(1, 4) as u32,
                consolidate_slots: dice.between(1, 5) as u32,
            },
            faults: FaultRates { read, write, flush, short },
            slow: if is_wide { 0 } else { dice.one_of(&[0, 20, 100]) },
            outage: dice.one_of(&[0, 0, 1, 3]),
            answer_lost: dice.one_of(&[0, 50, 200]),
            copied: dice.one_of(&[0, 30, 150]),
            quiet_hours: dice.one_of(&[0, 50, 200]),
            commit_updates: dice.one_of(&[1, 2, 5, 1000]),
            squeeze: dice.one_of(&[0, 2, 5]),
            crashes: dice.between(2, 9),
            power_cuts: dice.one_of(&[300, 500, 700]),
            journal_faults: dice.one_of(&[0, 0, 300]),
            crash_within: if is_wide { 3000 } else { dice.one_of(&[300, 1000, 3000]) },
            layers: dice.one_of(&[0, 100, 400]),
            consolidate: dice.one_of(&[0, 200, 1000]),
            turnover: dice.one_of(&[0, 5, 20]),
            growth: dice.one_of(&[0, 30, 120]),
            backups: dice.one_of(&[0, 0, 0, 40]),
        }
    }
}
