//! One of two programs that use the same blocks of a volume from two nodes, and say what cannot be:
//! a value that goes back, a block that is torn, a write of their own that is not there.
//!
//! Each program writes its own block and reads the other one's, or both pass a token on in one
//! block. What a program has read or written once, nothing older may be read again: that is all
//! that a block device of two nodes promises, and enough to see a write that is run twice, an old
//! map, or an answer that comes from a cache.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

const BLOCK: usize = 4096;
const O_DIRECT: i32 = 0o40000;
/// After so many writes one flush.
const FLUSH_EVERY: u64 = 8;

#[derive(Parser)]
#[command(about = "Uses blocks of a volume together with the same program on another node")]
struct Arguments {
    /// The device.
    device: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Count in one block and watch another one; prints "round N other M".
    Count {
        /// The block to write.
        #[arg(long)]
        own: u64,
        /// The block that the other program writes.
        #[arg(long)]
        other: u64,
        /// Where to go on counting.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Rounds to write at the most.
        #[arg(long, default_value_t = u64::MAX)]
        rounds: u64,
        /// Between two rounds, in milliseconds.
        #[arg(long, default_value_t = 0)]
        pause: u64,
    },
    /// Pass a token on: write what is one more, whenever it is this program's turn.
    Token {
        /// The block of the token.
        #[arg(long)]
        block: u64,
        /// 0 or 1: which tokens are passed on here.
        #[arg(long)]
        turn: u64,
        /// The last token.
        #[arg(long)]
        until: u64,
    },
    /// Print what a block holds.
    Read {
        /// The block.
        #[arg(long)]
        block: u64,
    },
}

/// A block in memory that O_DIRECT takes.
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

/// The device, and a buffer for it.
struct Device {
    file: File,
    block: Box<Block>,
}

impl Device {
    fn open(path: &str) -> Result<Self, Box<dyn Error>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(O_DIRECT);
        let file = options.open(path).map_err(|error| format!("cannot open {path}: {error}"))?;
        Ok(Self { file, block: Box::new(Block([0; BLOCK])) })
    }

    fn write(&mut self, at: u64, value: u64) -> Result<(), Box<dyn Error>> {
        for word in self.block.0.chunks_exact_mut(8) {
            word.copy_from_slice(&value.to_le_bytes());
        }
        Ok(self.file.write_all_at(&self.block.0, at * BLOCK as u64)?)
    }

    fn read(&mut self, at: u64) -> Result<u64, Box<dyn Error>> {
        self.file.read_exact_at(&mut self.block.0, at * BLOCK as u64)?;
        let mut words = self.block.0.chunks_exact(8);
        let first = words.next().ok_or("a block has words")?;
        if let Some(word) = words.find(|word| *word != first) {
            return Err(format!("block {at} is torn: {first:02x?} and {word:02x?}").into());
        }
        Ok(u64::from_le_bytes(first.try_into()?))
    }
}

/// The newest value that was seen of a block.
struct Newest {
    block: u64,
    value: u64,
}

impl Newest {
    fn see(&mut self, value: u64) -> Result<u64, Box<dyn Error>> {
        if value < self.value {
            let Self { block, value: before } = self;
            return Err(format!("block {block} went back from {before} to {value}").into());
        }
        self.value = value;
        Ok(value)
    }
}

fn say(line: &str) -> Result<(), Box<dyn Error>> {
    writeln!(std::io::stdout(), "{line}")?;
    Ok(std::io::stdout().flush()?)
}

fn count(
    device: &mut Device,
    (own, other): (u64, u64),
    (from, rounds): (u64, u64),
    pause: Duration,
) -> Result<(), Box<dyn Error>> {
    let mut newest = Newest { block: other, value: 0 };
    for round in from + 1..=from.saturating_add(rounds) {
        device.write(own, round)?;
        if round % FLUSH_EVERY == 0 {
            device.file.sync_data()?;
        }
        let found = device.read(own)?;
        if found != round {
            return Err(format!("block {own} holds {found}, and {round} was written").into());
        }
        let seen = newest.see(device.read(other)?)?;
        say(&format!("round {round} other {seen}"))?;
        rest(pause);
    }
    Ok(())
}

fn rest(pause: Duration) {
    if !pause.is_zero() {
        #[allow(clippy::disallowed_methods, reason = "a load that leaves gaps")]
        std::thread::sleep(pause);
    }
}

fn pass_on(
    device: &mut Device,
    (block, turn): (u64, u64),
    until: u64,
) -> Result<(), Box<dyn Error>> {
    let mut newest = Newest { block, value: 0 };
    loop {
        let token = newest.see(device.read(block)?)?;
        if token >= until {
            return say(&format!("token {token}"));
        }
        if token % 2 == turn {
            device.write(block, token + 1)?;
            newest.see(token + 1)?;
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut device = Device::open(&arguments.device)?;
    match arguments.command {
        Command::Count { own, other, from, rounds, pause } => {
            let pause = Duration::from_millis(pause);
            count(&mut device, (own, other), (from, rounds), pause)
        }
        Command::Token { block, turn, until } => pass_on(&mut device, (block, turn), until),
        Command::Read { block } => {
            let value = device.read(block)?;
            say(&format!("value {value}"))
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
