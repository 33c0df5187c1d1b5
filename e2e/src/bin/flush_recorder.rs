//! Writes blocks whose content says what they are, flushes, and says what is flushed; later it
//! verifies a device against what it said.
//!
//! The writes follow from the seed alone, so that after a power cut the seed and the last line
//! that arrived are enough to know what must be there: each block holds the newest flushed value
//! or one that was written later, whole.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BLOCK: usize = 4096;
const MAGIC: u64 = 0x4c55_4e41_5246_4c55;
const O_DIRECT: i32 = 0o40000;

#[derive(Parser)]
#[command(about = "Writes and flushes stamped blocks; verifies them after a power cut")]
struct Arguments {
    /// The device.
    device: String,
    /// Where the writes follow from.
    #[arg(long)]
    seed: u64,
    /// Blocks of the device that are used.
    #[arg(long, default_value_t = 65536)]
    blocks: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write until stopped; prints "flushed N" after each flush.
    Write {
        /// Rounds to write at the most.
        #[arg(long, default_value_t = u64::MAX)]
        rounds: u64,
        /// Blocks of before that are read back and compared after each flush.
        #[arg(long, default_value_t = 0)]
        reread: usize,
    },
    /// Verify that everything up to this round is there.
    Verify {
        /// The last round that was said to be flushed; 0 if none was.
        #[arg(long)]
        flushed: u64,
        /// Rounds that may have been begun beyond it.
        #[arg(long, default_value_t = 200)]
        ahead: u64,
    },
}

/// Blocks that are verified with one read: a request each would be most of the time.
const BATCH: usize = 32;

/// A block in memory that O_DIRECT takes.
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

/// Blocks that are read at once.
#[repr(C, align(4096))]
struct Blocks([u8; BATCH * BLOCK]);

/// One write: where, and its number.
#[derive(Clone, Copy)]
struct Stamp {
    block: u64,
    number: u64,
}

impl Stamp {
    fn fill(self, seed: u64, into: &mut Block) {
        let words = [MAGIC, seed, self.block, self.number];
        for (n, chunk) in into.0.chunks_exact_mut(8).enumerate() {
            let word = words[n % 4].rotate_left((n / 4) as u32 % 64);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// The stamp of a block, if every byte of it belongs to one write.
    fn read(seed: u64, from: &[u8]) -> Option<Self> {
        let word = |n: usize| {
            let bytes = from.get(n * 8..n * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let stamp = Self { block: word(2)?, number: word(3)? };
        let mut expected = Block([0; BLOCK]);
        stamp.fill(seed, &mut expected);
        (expected.0 == from).then_some(stamp)
    }
}

/// The writes of a round; they follow from the seed and the round.
fn round_writes(seed: u64, round: u64, blocks: u64) -> Vec<Stamp> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let count = random.random_range(1..=24_u64);
    let number = |n: u64| round * 32 + n;
    (0..count).map(|n| Stamp { block: random.random_range(0..blocks), number: number(n) }).collect()
}

fn open(device: &str, write: bool) -> Result<File, Box<dyn Error>> {
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(O_DIRECT);
    Ok(options.open(device).map_err(|error| format!("cannot open {device}: {error}"))?)
}

fn write(arguments: &Arguments, rounds: u64, reread: usize) -> Result<(), Box<dyn Error>> {
    let device = open(&arguments.device, true)?;
    let mut block = Block([0; BLOCK]);
    let mut written = Written::default();
    for round in 1..=rounds {
        for stamp in round_writes(arguments.seed, round, arguments.blocks) {
            stamp.fill(arguments.seed, &mut block);
            device.write_all_at(&block.0, stamp.block * BLOCK as u64)?;
            written.note(stamp);
        }
        device.sync_data()?;
        writeln!(std::io::stdout(), "flushed {round}")?;
        std::io::stdout().flush()?;
        for stamp in written.some(arguments.seed ^ round, reread) {
            device.read_exact_at(&mut block.0, stamp.block * BLOCK as u64)?;
            let found = Stamp::read(arguments.seed, &block.0);
            if found.is_none_or(|found| (found.block, found.number) != (stamp.block, stamp.number))
            {
                let (at, number) = (stamp.block, stamp.number);
                let found = found.map(|found| (found.block, found.number));
                let said = format!("after round {round} block {at} holds {found:?}");
                return Err(format!("{said}, but write {number} was the last one to it").into());
            }
        }
    }
    Ok(())
}

/// What was written so far: the newest write of each block.
#[derive(Default)]
struct Written {
    newest: HashMap<u64, u64>,
    blocks: Vec<u64>,
}

impl Written {
    fn note(&mut self, stamp: Stamp) {
        if self.newest.insert(stamp.block, stamp.number).is_none() {
            self.blocks.push(stamp.block);
        }
    }

    /// The newest writes of some blocks.
    fn some(&self, seed: u64, count: usize) -> impl Iterator<Item = Stamp> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(move |_| {
            let block = self.blocks[random.random_range(0..self.blocks.len())];
            Stamp { block, number: self.newest[&block] }
        })
    }
}

/// What blocks may hold.
struct Expected {
    newest_flushed: HashMap<u64, u64>,
    later: HashMap<u64, Vec<u64>>,
}

impl Expected {
    fn new(arguments: &Arguments, flushed: u64, ahead: u64) -> Self {
        let mut newest_flushed: HashMap<u64, u64> = HashMap::new();
        let mut later: HashMap<u64, Vec<u64>> = HashMap::new();
        for round in 1..=flushed + ahead {
            for stamp in round_writes(arguments.seed, round, arguments.blocks) {
                if round <= flushed {
                    newest_flushed.insert(stamp.block, stamp.number);
                } else {
                    later.entry(stamp.block).or_default().push(stamp.number);
                }
            }
        }
        Self { newest_flushed, later }
    }

    fn check(&self, seed: u64, at: u64, block: &[u8]) -> Result<(), String> {
        let later = self.later.get(&at).map_or(&[][..], Vec::as_slice);
        let expected = self.newest_flushed.get(&at).copied();
        let is_blank = block.iter().all(|byte| *byte == 0);
        let found = if is_blank { None } else { Stamp::read(seed, block) };
        let holds = match found {
            None => is_blank && expected.is_none(),
            Some(stamp) => {
                let is_known = Some(stamp.number) == expected || later.contains(&stamp.number);
                stamp.block == at && is_known
            }
        };
        if holds {
            return Ok(());
        }
        let found = found.map(|stamp| (stamp.block, stamp.number));
        Err(format!(
            "block {at} holds {found:?} (blank: {is_blank}, first bytes {:02x?}), but write \
             {expected:?} was flushed and {later:?} came later",
            &block[..32]
        ))
    }
}

fn verify(arguments: &Arguments, flushed: u64, ahead: u64) -> Result<(), Box<dyn Error>> {
    let expected = Expected::new(arguments, flushed, ahead);
    let device = open(&arguments.device, false)?;
    let mut batch = Box::new(Blocks([0; BATCH * BLOCK]));
    let mut at = 0;
    while at < arguments.blocks {
        let count = (arguments.blocks - at).min(BATCH as u64);
        let bytes = &mut batch.0[..count as usize * BLOCK];
        device.read_exact_at(bytes, at * BLOCK as u64)?;
        for block in bytes.chunks_exact(BLOCK) {
            expected.check(arguments.seed, at, block)?;
            at += 1;
        }
    }
    writeln!(std::io::stdout(), "verified {} blocks", arguments.blocks)?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Write { rounds, reread } => write(&arguments, rounds, reread),
        Command::Verify { flushed, ahead } => verify(&arguments, flushed, ahead),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed standard error leaves the exit code to tell.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
