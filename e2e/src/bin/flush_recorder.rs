//! Writes blocks whose content says what they are, flushes, and says what is flushed; later it
//! verifies a device against what it said.
//!
//! The writes follow from the seed alone, so that after a power cut the seed and the last line
//! that arrived are enough to know what must be there. `lunar_e2e::load` says what a device may
//! show, `lunar_e2e::stamp` what a block says of itself.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Parser, Subcommand};
use lunar_e2e::load::{Expected, Load, Tenure};
use lunar_e2e::stamp::{STAMPED_BYTES, Stamp};
use lunar_types::{BlockIndex, Epoch, VolumeId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

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
    /// The volume, as the blocks name it; made of the seed if it is not given.
    #[arg(long)]
    volume: Option<VolumeId>,
    /// Epoch of the grant under which the volume is written.
    #[arg(long, default_value_t = 0)]
    epoch: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write until stopped; prints "flushed N" after each flush.
    Write {
        /// The first round.
        #[arg(long, default_value_t = 1)]
        first: u64,
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
        /// What the next owner has flushed: its epoch, its first and its last round.
        #[arg(long, value_name = "EPOCH:FIRST:LAST")]
        heir: Option<Heir>,
    },
}

/// What the next owner of the volume has written.
#[derive(Clone, Copy)]
struct Heir(Tenure);

impl FromStr for Heir {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<u64>, _> = text.split(':').map(str::parse).collect();
        let wrong = || format!("'{text}' is not EPOCH:FIRST:LAST");
        let [epoch, first, last] = numbers.map_err(|_| wrong())?[..] else { return Err(wrong()) };
        Ok(Self(Tenure { epoch: Epoch::new(epoch), first, flushed: last, begun: last }))
    }
}

/// Blocks that are verified with one read: a request each would be most of the time.
const BATCH: usize = 32;

/// A block in memory that O_DIRECT takes.
#[repr(C, align(4096))]
struct Block([u8; STAMPED_BYTES]);

/// Blocks that are read at once.
#[repr(C, align(4096))]
struct Blocks([[u8; STAMPED_BYTES]; BATCH]);

impl Arguments {
    fn load(&self) -> Load {
        let volume = self.volume.unwrap_or_else(|| VolumeId::from_u128(self.seed.into()));
        Load { volume, seed: self.seed, blocks: self.blocks }
    }
}

fn open(device: &str, write: bool) -> Result<File, Box<dyn Error>> {
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(O_DIRECT);
    Ok(options.open(device).map_err(|error| format!("cannot open {device}: {error}"))?)
}

fn offset(block: BlockIndex) -> u64 {
    block.get() * STAMPED_BYTES as u64
}

/// Writes so many rounds from this one on.
fn write(
    arguments: &Arguments,
    (first, rounds): (u64, u64),
    reread: usize,
) -> Result<(), Box<dyn Error>> {
    let device = open(&arguments.device, true)?;
    let (load, epoch) = (arguments.load(), Epoch::new(arguments.epoch));
    let mut block = Block([0; STAMPED_BYTES]);
    let mut written = Written::default();
    for round in first..first.saturating_add(rounds) {
        for stamp in load.stamps(round, epoch) {
            stamp.fill(&mut block.0);
            device.write_all_at(&block.0, offset(stamp.block))?;
            written.note(stamp);
        }
        device.sync_data()?;
        writeln!(std::io::stdout(), "flushed {round}")?;
        std::io::stdout().flush()?;
        for stamp in written.some(arguments.seed ^ round, reread) {
            device.read_exact_at(&mut block.0, offset(stamp.block))?;
            let found = Stamp::read(&block.0);
            if found != Ok(Some(stamp)) {
                let said = format!("after round {round} a block holds {found:?}");
                return Err(format!("{said}, but {stamp:?} was the last write to it").into());
            }
        }
    }
    Ok(())
}

/// What was written so far: the newest write of each block.
#[derive(Default)]
struct Written {
    newest: HashMap<BlockIndex, Stamp>,
    blocks: Vec<BlockIndex>,
}

impl Written {
    fn note(&mut self, stamp: Stamp) {
        if self.newest.insert(stamp.block, stamp).is_none() {
            self.blocks.push(stamp.block);
        }
    }

    /// The newest writes of some blocks.
    fn some(&self, seed: u64, count: usize) -> impl Iterator<Item = Stamp> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..count)
            .map(move |_| self.newest[&self.blocks[random.random_range(0..self.blocks.len())]])
    }
}

fn verify(arguments: &Arguments, tenures: &[Tenure]) -> Result<(), Box<dyn Error>> {
    let expected = Expected::new(arguments.load(), tenures);
    let device = open(&arguments.device, false)?;
    let mut batch = Box::new(Blocks([[0; STAMPED_BYTES]; BATCH]));
    let mut at = 0;
    while at < arguments.blocks {
        let count = (arguments.blocks - at).min(BATCH as u64) as usize;
        let blocks = &mut batch.0[..count];
        device.read_exact_at(blocks.as_flattened_mut(), offset(BlockIndex::new(at)))?;
        for block in blocks {
            let checked = expected.check(BlockIndex::new(at), block);
            checked.map_err(|wrong| format!("block {at}: {wrong}"))?;
            at += 1;
        }
    }
    writeln!(std::io::stdout(), "verified {} blocks", arguments.blocks)?;
    Ok(())
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    match arguments.command {
        Command::Write { first, rounds, reread } => write(arguments, (first, rounds), reread),
        Command::Verify { flushed, ahead, heir } => {
            let (epoch, begun) = (Epoch::new(arguments.epoch), flushed + ahead);
            let own = Tenure { epoch, first: 1, flushed, begun };
            let tenures: Vec<Tenure> = [own].into_iter().chain(heir.map(|heir| heir.0)).collect();
            verify(arguments, &tenures)
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed standard error leaves the exit code to tell.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::NamedTempFile;

    use super::*;

    const VOLUME: &str = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";

    /// A file on which direct I/O works.
    fn device() -> NamedTempFile {
        let file = NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        file.as_file().set_len(500 * STAMPED_BYTES as u64).expect("sized");
        file
    }

    fn recorder(device: &NamedTempFile, epoch: u64, mode: &str) -> Result<(), String> {
        let path = device.path().display();
        let words = format!(
            "flush-recorder {path} --seed 5 --blocks 500 --volume {VOLUME} --epoch {epoch} {mode}"
        );
        let arguments = Arguments::try_parse_from(words.split(' ')).map_err(|e| e.to_string())?;
        run(&arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn what_two_owners_wrote_is_there_and_a_late_write_of_the_first_is_found() {
        let device = device();
        recorder(&device, 3, "write --rounds 40 --reread 4").expect("written");
        recorder(&device, 3, "verify --flushed 40 --ahead 0").expect("it is there");
        recorder(&device, 3, "verify --flushed 39 --ahead 1").expect("the last may be there");
        let missing = recorder(&device, 3, "verify --flushed 41 --ahead 0").expect_err("it is not");
        assert!(missing.contains("was flushed"), "{missing}");
        recorder(&device, 4, "write --first 1000 --rounds 20").expect("written");
        let both = "verify --flushed 40 --ahead 2 --heir 4:1000:1019";
        recorder(&device, 3, both).expect("both are there");
        let stale = recorder(&device, 3, "verify --flushed 40 --ahead 2").expect_err("epoch 4");
        assert!(stale.contains("but the last owner has epoch 3"), "{stale}");
        // All that the first owner has under way arrives late.
        recorder(&device, 3, "write --rounds 40").expect("written");
        let late = recorder(&device, 3, both).expect_err("newer writes were flushed");
        assert!(late.contains("was flushed"), "{late}");
    }

    #[test]
    fn a_load_that_was_told_no_volume_has_one_of_its_own_and_an_heir_needs_three_numbers() {
        let device = device();
        let path = device.path().display().to_string();
        let words = |mode: &str| format!("flush-recorder {path} --seed 5 --blocks 500 {mode}");
        let parsed = |mode: &str| Arguments::try_parse_from(words(mode).split(' '));
        run(&parsed("write --rounds 3").expect("valid")).expect("written");
        run(&parsed("verify --flushed 3").expect("valid")).expect("it is there");
        assert!(recorder(&device, 0, "verify --flushed 3").is_err(), "of another volume");
        assert!(parsed("verify --flushed 3 --heir 1:2").is_err());
    }
}
