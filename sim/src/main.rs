//! `sim`: runs seeds of the simulation and prints the command that repeats a failing one.

use std::process::ExitCode;

use clap::Parser;
use lunar_sim::planted::Planted;
use lunar_sim::run::{CrashKind, MOMENTS, RunOptions, run};
use lunar_sim::seeds::{SeedRange, run_seeds};
use lunar_sim::trace::Trace;

/// Runs engine and metadata service over modelled disks, by seed.
#[derive(Parser, Debug)]
#[command(name = "sim", version)]
struct Arguments {
    /// Runs this seed.
    #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
    seed: Option<u64>,
    /// Runs the seeds from A up to B, B not included.
    #[arg(long, value_name = "A..B")]
    seeds: Option<SeedRange>,
    /// Length of a run, in moments.
    #[arg(long, default_value_t = MOMENTS)]
    moments: u64,
    /// Crashes once, at this step, instead of where the seed would.
    #[arg(long)]
    crash_at: Option<u64>,
    /// Only crashes of this kind.
    #[arg(long)]
    crash_kind: Option<CrashKind>,
    /// Plants a bug, which the run should find.
    #[arg(long)]
    planted: Option<Planted>,
    /// Tells everything that happens.
    #[arg(long)]
    trace: bool,
    /// Goes on after a failing seed.
    #[arg(long)]
    keep_going: bool,
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the program's output")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = RunOptions {
        seed: arguments.seed.unwrap_or(0),
        moments: arguments.moments,
        crash_at: arguments.crash_at,
        crash_kind: arguments.crash_kind,
        planted: arguments.planted,
        trace: if arguments.trace { Trace::On } else { Trace::Off },
    };
    let Some(seeds) = arguments.seeds else {
        return match run(options) {
            Ok(counters) => {
                println!("seed {}: {counters:?}", options.seed);
                ExitCode::SUCCESS
            }
            Err(failure) => {
                eprintln!("seed {}: {failure}", options.seed);
                ExitCode::FAILURE
            }
        };
    };
    let report = run_seeds(options, seeds, arguments.keep_going);
    println!("{} seeds: {:?}", report.seeds, report.counters);
    for (seed, failure) in &report.failures {
        eprintln!("seed {seed}: {failure}");
    }
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
