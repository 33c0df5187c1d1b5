//! Measures how long I/O stands still when fs-core is killed, by the number of its volumes.
//!
//! In a virtual machine of the lab, where every step is several times slower than on a host: the
//! figures compare one state of the code with another. Each line has the time from the kill to the
//! first write that was begun afterwards, for the first, the median and the last volume, and when
//! the successor had reached its steps, from its own log.

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lunar_e2e::machine::{Machine, MachineError};
use lunar_e2e::main_job::attach;
use lunar_e2e::product::{Places, Product};
use lunar_e2e::session::{Echo, Session};
use lunar_lab::{Lab, LunSpec};

const LUN_BYTES: u64 = 8 << 30;
const MEMORY_MIB: u32 = 2048;
/// From the kill of fs-core to the last volume; a probe that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(300);
const LOG: &str = "/tmp/successor.log";

#[derive(Parser)]
#[command(about = "Measures how long I/O stands still when fs-core is killed")]
struct Arguments {
    /// Numbers of volumes to measure with, in rising order.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    volumes: Vec<usize>,
    /// Kills for each.
    #[arg(long, default_value_t = 3)]
    kills: usize,
}

fn programs() -> Result<PathBuf, Box<dyn Error>> {
    let own = std::env::current_exe()?;
    Ok(own.parent().unwrap_or_else(|| Path::new(".")).to_owned())
}

fn say(text: &str) {
    // A reader that went away is no reason to stop.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Milliseconds since midnight of a line of a daemon's log.
fn time_of(line: &str) -> Option<u64> {
    let time = line.split_once('T')?.1;
    let number = |from: usize, to: usize| time.get(from..to)?.parse::<u64>().ok();
    let seconds = (number(0, 2)? * 60 + number(3, 5)?) * 60 + number(6, 8)?;
    Some(seconds * 1000 + number(9, 12)?)
}

/// When a step was reached first and last, in milliseconds after the successor's first line.
fn steps(log: &str) -> String {
    let Some(begin) = log.lines().find_map(time_of) else { return "no log".to_owned() };
    let mut text = String::new();
    for (name, mark) in [("joined", " joined "), ("taken over", " taken over ")] {
        let mut times = log.lines().filter(|line| line.contains(mark)).filter_map(time_of);
        let after = |time: u64| time.saturating_sub(begin);
        let first = times.next().map(after);
        let last = times.next_back().map(after).or(first);
        text += &format!(" {name} {} to {}", first.unwrap_or(0), last.unwrap_or(0));
    }
    text + &medians(log)
}

/// The median of each step of the takeovers: "steps_ms=\"drain 12, load 40\"".
fn medians(log: &str) -> String {
    let mut all: Vec<(String, Vec<u64>)> = Vec::new();
    let lists = log.lines().filter_map(|line| line.split_once("steps_ms=\"")?.1.split_once('"'));
    for step in lists.flat_map(|(list, _)| list.split(", ")) {
        let Some((name, Ok(time))) = step.split_once(' ').map(|(name, ms)| (name, ms.parse()))
        else {
            continue;
        };
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, times)) => times.push(time),
            None => all.push((name.to_owned(), vec![time])),
        }
    }
    all.iter_mut().fold(String::new(), |text, (name, times)| {
        times.sort_unstable();
        format!("{text}, {name} {}", times[times.len() / 2])
    })
}

/// Kills the fs-core that runs, and gives what the probe and its successor say.
fn measure(machine: &dyn Machine, devices: &[String]) -> Result<String, MachineError> {
    let devices = devices.join(" ");
    let probe = format!("recovery-probe --kill $(pidof fs-core) --log {LOG} {devices}");
    let said = machine.sh(&probe, LIMIT)?.expect_code(0)?.stdout;
    let log = machine.sh(&format!("cat {LOG}"), LIMIT)?.expect_code(0)?.stdout;
    Ok(format!("{}; successor:{}", said.trim(), steps(&log)))
}

fn bench(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let luns = [LunSpec::new(LUN_BYTES), LunSpec::new(LUN_BYTES)];
    let lab = Lab::builder().luns(luns).programs(programs()?).memory_mib(MEMORY_MIB).start()?;
    let node = lab.node(0);
    node.exec_ok(&["modprobe", "ublk_drv"])?;
    let session = Session::new(node, Echo::Off);
    let product = Product::start(node, Places::default())?;
    let luns: Vec<String> = lab.luns().iter().map(lunar_lab::Lun::device).collect();
    for lun in &luns {
        session.quiet(&format!("lunar lun label {lun}"))?;
    }
    session.quiet(&format!("lunar pool create tank --fencing none {}", luns.join(" ")))?;
    let mut devices: Vec<String> = Vec::new();
    for count in &arguments.volumes {
        while devices.len() < *count {
            let name = format!("v{}", devices.len());
            let create = format!("lunar volume create {name} --pool tank --size 64MiB");
            session.quiet(&create)?;
            devices.push(attach(&session, &name)?);
        }
        for _ in 0..arguments.kills {
            let measured = measure(node, &devices);
            let measured = measured.map_err(|error| format!("{error}\n{}", product.logs()))?;
            say(&format!("{count:>3} volumes, ms: {measured}"));
        }
    }
    lab.down();
    Ok(())
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            lunar_lab::say(&format!("bench-recovery: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_a_log() {
        let log = "2026-11-23T23:59:58.500000Z  INFO fs_core: fs-core starts\n\
                   2026-11-23T23:59:58.700000Z  INFO x: joined node=1\n\
                   2026-11-23T23:59:59.100000Z  INFO x: taken over volume=\"v\"\n\
                   2026-11-23T23:59:59.600000Z  INFO x: taken over steps_ms=\"a 1, b 2\" w=\"w\"\n\
                   2026-11-23T23:59:59.600000Z  INFO x: taken over steps_ms=\"a 3\"\n";
        assert_eq!(steps(log), " joined 200 to 200 taken over 600 to 1100, a 3, b 2");
        assert_eq!(steps("nothing"), "no log");
    }
}
