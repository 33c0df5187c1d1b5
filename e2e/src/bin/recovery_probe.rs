//! Kills fs-core, starts its successor and tells how long I/O to its devices stood still.
//!
//! Every device is written to all the time, one block after the other, each of them synced. The
//! time of a device is from the kill to the end of the first write that was begun after it.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BLOCK: usize = 4096;
/// Blocks of a device that are written to, one after the other.
const BLOCKS: u64 = 1024;
const O_DIRECT: i32 = 0o40000;
/// Longer than any recovery.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Parser)]
#[command(about = "Kills fs-core and tells how long I/O to its devices stood still")]
struct Arguments {
    /// The process to kill.
    #[arg(long)]
    kill: i32,
    /// Where the successor's log goes.
    #[arg(long)]
    log: String,
    /// Milliseconds between two writes to a device.
    #[arg(long, default_value_t = 20)]
    pause_ms: u64,
    /// How long the devices are written to before the kill.
    #[arg(long, default_value_t = 2000)]
    load_ms: u64,
    /// The devices.
    #[arg(required = true)]
    devices: Vec<String>,
}

/// A block in memory that O_DIRECT takes.
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

/// Writes to a device; sends when the first write has ended that was begun after the kill.
fn write(device: &File, pause: Duration, killed: &AtomicBool) -> std::io::Result<Instant> {
    let block = Block([0x5a; BLOCK]);
    for at in (0..BLOCKS).cycle() {
        let is_after = killed.load(Ordering::SeqCst);
        device.write_all_at(&block.0, at * BLOCK as u64)?;
        device.sync_data()?;
        if is_after {
            break;
        }
        sleep(pause);
    }
    Ok(now())
}

#[allow(clippy::disallowed_methods, reason = "measures real time")]
fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "a load with a rate")]
fn sleep(time: Duration) {
    std::thread::sleep(time);
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let killed = Arc::new(AtomicBool::new(false));
    let (done, ended) = mpsc::channel();
    let started = Arc::new(Barrier::new(arguments.devices.len() + 1));
    for path in &arguments.devices {
        let device = OpenOptions::new().write(true).custom_flags(O_DIRECT).open(path);
        let device = device.map_err(|error| format!("cannot open {path}: {error}"))?;
        let (killed, done, started) = (Arc::clone(&killed), done.clone(), Arc::clone(&started));
        let pause = Duration::from_millis(arguments.pause_ms);
        std::thread::spawn(move || {
            started.wait();
            // The receiver goes first only when the program has given up.
            let _ = done.send(write(&device, pause, &killed));
        });
    }
    started.wait();
    sleep(Duration::from_millis(arguments.load_ms));
    let log = File::create(&arguments.log)?;
    let mut successor = Command::new("fs-core");
    successor.arg("serve").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let begin = now();
    kill(Pid::from_raw(arguments.kill), Signal::SIGKILL)?;
    killed.store(true, Ordering::SeqCst);
    let successor = successor.spawn()?;
    let mut times = Vec::new();
    for _ in &arguments.devices {
        let resumed = ended.recv_timeout(LIMIT)??;
        times.push(resumed.duration_since(begin).as_millis());
    }
    times.sort_unstable();
    let (first, median, last) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    writeln!(
        std::io::stdout(),
        "successor {} first {first} median {median} last {last}",
        successor.id()
    )?;
    Ok(())
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
