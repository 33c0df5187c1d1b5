//! Media that break their promise, where the journal claims to notice: a decayed block, a write
//! that was acknowledged and lost, a write that went to another place of the ring.
//!
//! A fault is put on the medium after a power cut. Then the engine must name the damage, or what
//! it recovers must pass the oracle. When it has named it, the medium is mended and the attachment
//! is tried again. The end of the last batch is spared: that it is gone cannot be told from a
//! batch that was never written.

use std::collections::BTreeMap;

use lunar_engine::journal::format::{BlockState, decode};
use lunar_engine::journal::{JournalDamage, JournalIdentity};
use lunar_types::BLOCK_BYTES;

use crate::recovery::{Attempt, LunTrouble};
use crate::world::{Flow, World, failed};

const BLOCK: usize = BLOCK_BYTES as usize;

/// Whether what is written is a journal block, and not a copy of an extent.
pub(crate) fn is_journal(bytes: &[u8]) -> bool {
    bytes.get(16..20) == Some(b"LJNL")
}

/// Where a journal is: LUN and byte of each block, in order of positions.
#[derive(Clone, Debug)]
pub(crate) struct KnownRing {
    /// Whose it is.
    pub(crate) identity: JournalIdentity,
    /// LUN and byte of each position.
    pub(crate) blocks: Vec<(usize, u64)>,
    /// What each block held before it was written last, by position.
    pub(crate) before: BTreeMap<usize, Vec<u8>>,
}

/// A fault that is on the medium.
#[derive(Debug)]
pub(crate) struct Injected {
    guest: usize,
    mends: Vec<Mend>,
}

/// How a block is mended.
#[derive(Debug)]
struct Mend {
    lun: usize,
    at: u64,
    sound: Vec<u8>,
    faulty: Vec<u8>,
}

impl World {
    /// A journal write is sent: what it covers is remembered.
    pub(crate) fn remember_blocks(&mut self, guest: usize, lun: usize, at: u64, length: usize) {
        if self.scenario.journal_faults == 0 {
            return;
        }
        let Some(ring) = self.rings.get_mut(&guest) else { return };
        let disk = &mut self.luns.disks.borrow_mut()[lun];
        for block in (0..length).step_by(BLOCK) {
            let place = (lun, at + block as u64);
            let Some(position) = ring.blocks.iter().position(|other| *other == place) else {
                continue;
            };
            ring.before.insert(position, disk.medium(place.1, BLOCK));
        }
    }

    /// After a power cut: puts a fault on some journal, now and then.
    pub(crate) fn inject_journal_fault(&mut self) {
        self.mend();
        let guests: Vec<usize> = self.rings.keys().copied().collect();
        if guests.is_empty() || !self.dice.chance(self.scenario.journal_faults) {
            return;
        }
        let guest = self.dice.one_of(&guests);
        let ring = self.rings[&guest].clone();
        let written = self.written_blocks(&ring);
        if written.is_empty() {
            return;
        }
        let (position, is_followed) = self.dice.one_of(&written);
        let mut mends = Vec::new();
        let choice = self.dice.below(3);
        let before = ring.before.get(&position).cloned().filter(|_| is_followed);
        match (choice, before) {
            (1 | 2, Some(before)) => {
                let there = self.swap_block(ring.blocks[position], &before, &mut mends);
                if choice == 2 {
                    let astray = self.dice.index(ring.blocks.len());
                    self.swap_block(ring.blocks[astray], &there, &mut mends);
                }
            }
            _ => {
                let mut bytes = self.block_at(ring.blocks[position]);
                let bit = self.dice.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                self.swap_block(ring.blocks[position], &bytes, &mut mends);
            }
        }
        let moment = self.moment;
        self.trace.line(moment, || {
            format!("v{guest} journal block at {position} gets a fault of kind {choice}")
        });
        self.injected = Some(Injected { guest, mends });
    }

    /// Takes a fault away that nobody has met.
    fn mend(&mut self) {
        for mend in self.injected.take().iter().flat_map(|injected| injected.mends.iter().rev()) {
            let disk = &mut self.luns.disks.borrow_mut()[mend.lun];
            // Whoever has it now may have written to it since.
            if disk.medium(mend.at, BLOCK) == mend.faulty {
                disk.overwrite_medium(mend.at, &mend.sound);
            }
        }
    }

    /// Positions of blocks with records, and whether a later batch follows.
    fn written_blocks(&self, ring: &KnownRing) -> Vec<(usize, bool)> {
        let count = ring.blocks.len() as u32;
        let orders: Vec<(usize, u64, u64)> = (0..count)
            .zip(&ring.blocks)
            .filter_map(|(position, place)| {
                let block = self.block_at(*place);
                match decode(&ring.identity, count, position, &block) {
                    BlockState::Written(order, _, _) => {
                        Some((position as usize, order.batch_last, order.batch_first))
                    }
                    _ => None,
                }
            })
            .collect();
        let last = orders.iter().map(|(_, _, first)| *first).max().unwrap_or(0);
        orders.iter().map(|(position, batch_last, _)| (*position, *batch_last < last)).collect()
    }

    fn block_at(&self, (lun, at): (usize, u64)) -> Vec<u8> {
        self.luns.disks.borrow_mut()[lun].medium(at, BLOCK)
    }

    fn swap_block(&self, (lun, at): (usize, u64), bytes: &[u8], mends: &mut Vec<Mend>) -> Vec<u8> {
        let disk = &mut self.luns.disks.borrow_mut()[lun];
        let there = disk.medium(at, BLOCK);
        disk.overwrite_medium(at, bytes);
        mends.push(Mend { lun, at, sound: there.clone(), faulty: bytes.to_vec() });
        there
    }

    /// The engine says that a journal is damaged: right if a fault is there, which is mended.
    pub(crate) fn damage_was_found<T>(
        &mut self,
        guest: usize,
        damage: &JournalDamage,
    ) -> Attempt<T> {
        match self.injected.take() {
            Some(injected) if injected.guest == guest => {
                self.injected = Some(injected);
                self.mend();
                self.counters.damage_found += 1;
                Ok(Err(LunTrouble(format!("damage found: {damage}"))))
            }
            _ => self.false_alarm(guest, damage),
        }
    }

    fn false_alarm<T>(&self, guest: usize, damage: &JournalDamage) -> Flow<T> {
        failed(format!("v{guest}: the medium is sound, but {damage}"))
    }
}
