//! Replays a log of dm-log-writes onto a device: what was durable at a moment, and what a power
//! cut then may have left of the rest.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use lunar_e2e::log_writes::{Cache, Event, Log};

#[derive(Parser)]
#[command(about = "Replays a log of dm-log-writes up to a moment")]
struct Arguments {
    /// The device with the log.
    log: String,
    /// The byte where the second region begins, which has a cache of its own.
    #[arg(long)]
    split: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print each mark and each flush: "mark INDEX NAME", "flush INDEX first|second PENDING".
    List,
    /// Write to a device what became durable at the entries from one up to before another.
    Replay {
        #[command(flatten)]
        onto: Onto,
        /// The first entry; those before were replayed onto the device already.
        #[arg(long)]
        from: u64,
    },
    /// Write to a device what one power cut has left of what was not durable.
    Scatter {
        #[command(flatten)]
        onto: Onto,
        /// Which one.
        #[arg(long)]
        seed: u64,
    },
}

#[derive(Args)]
struct Onto {
    /// The device.
    device: String,
    /// The first entry that has not happened yet.
    #[arg(long)]
    until: u64,
}

impl Onto {
    fn open(&self) -> Result<File, Box<dyn Error>> {
        let opened = OpenOptions::new().write(true).open(&self.device);
        Ok(opened.map_err(|error| format!("cannot open {}: {error}", self.device))?)
    }
}

fn list(log: &Log, split: u64) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let mut cache = Cache::new(split);
    for event in log.events() {
        let (index, event) = event?;
        match &event {
            Event::Mark(name) => writeln!(out, "mark {index} {name}")?,
            Event::Io { at, is_flush: true, .. } => {
                let region = if cache.is_first(*at) { "first" } else { "second" };
                writeln!(out, "flush {index} {region} {}", cache.pending().len())?;
            }
            Event::Io { .. } => {}
        }
        cache.pass(&event);
    }
    Ok(())
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let file = File::open(&arguments.log);
    let file = file.map_err(|error| format!("cannot open {}: {error}", arguments.log))?;
    let log = Log::open(file)?;
    let cache = Cache::new(arguments.split);
    let (onto, writes) = match &arguments.command {
        Command::List => return list(&log, arguments.split),
        Command::Replay { onto, from } => {
            let mut writes = Vec::new();
            log.pass(cache, onto.until, |index, durable| {
                if index >= *from {
                    writes.extend(durable);
                }
                Ok(())
            })?;
            (onto, writes)
        }
        Command::Scatter { onto, seed } => {
            let cache = log.pass(cache, onto.until, |_, _| Ok(()))?;
            (onto, cache.left_by_power_cut(*seed))
        }
    };
    let device = onto.open()?;
    let (count, bytes) = (writes.len(), writes.iter().map(|write| write.bytes).sum::<u64>());
    log.apply(writes, &device)?;
    device.sync_all()?;
    writeln!(std::io::stdout(), "{count} writes, {bytes} B")?;
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            // A closed standard error leaves the exit code to tell.
            let _ = writeln!(std::io::stderr(), "{error}{cause}");
            ExitCode::FAILURE
        }
    }
}
