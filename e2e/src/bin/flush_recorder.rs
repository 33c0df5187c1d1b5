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

/// A block in memory that O_DIRECT takes.
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

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
    fn read(seed: u64, from: &Block) -> Option<Self> {
        let word = |n: usize| u64::from_le_bytes(from.0[n * 8..n * 8 + 8].try_into().ok()?).into();
        let (block, number): (Option<u64>, Option<u64>) = (word(2), word(3));
        let stamp = Self { block: block?, number: number? };
        let mut expected = Block([0; BLOCK]);
        stamp.fill(seed, &mut expected);
        (expected.0 == from.0).then_some(stamp)
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

fn write(arguments: &Arguments, rounds: u64) -> Result<(), Box<dyn Error>> {
    let device = open(&arguments.device, true)?;
    let mut block = Block([0; BLOCK]);
    for round in 1..=rounds {
        for stamp in round_writes(arguments.seed, round, arguments.blocks) {
            stamp.fill(arguments.seed, &mut block);
            device.write_all_at(&block.0, stamp.block * BLOCK as u64)?;
        }
        device.sync_data()?;
        writeln!(std::io::stdout(), "flushed {round}")?;
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn verify(arguments: &Arguments, flushed: u64, ahead: u64) -> Result<(), Box<dyn Error>> {
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
    let device = open(&arguments.device, false)?;
    let mut block = Block([0; BLOCK]);
    for at in 0..arguments.blocks {
        device.read_exact_at(&mut block.0, at * BLOCK as u64)?;
        let later = later.get(&at).map_or(&[][..], Vec::as_slice);
        let expected = newest_flushed.get(&at).copied();
        let is_blank = block.0.iter().all(|byte| *byte == 0);
        let found = Stamp::read(arguments.seed, &block);
        let holds = match found {
            None => is_blank && expected.is_none(),
            Some(stamp) => {
                let is_known = Some(stamp.number) == expected || later.contains(&stamp.number);
                stamp.block == at && is_known
            }
        };
        if !holds {
            let found = found.map(|stamp| (stamp.block, stamp.number));
            return Err(format!(
                "block {at} holds {found:?} (blank: {is_blank}, first bytes {:02x?}), but write \
                 {expected:?} was flushed and {later:?} came later",
                &block.0[..32]
            )
            .into());
        }
    }
    writeln!(std::io::stdout(), "verified {} blocks", arguments.blocks)?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Write { rounds } => write(&arguments, rounds),
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
