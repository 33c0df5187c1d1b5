//! `sim`: runs seeds of the simulation, or enumerates crash states, and prints the command that
//! repeats a failing one.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use lunar_sim::planted::Planted;
use lunar_sim::run::{CrashKind, MOMENTS, RunOptions, run};
use lunar_sim::seeds::{SeedRange, run_seeds};
use lunar_sim::sweep::{Op, Report, Scope, StateName, Sweep, Torn, replay};
use lunar_sim::trace::Trace;

/// Runs engine and metadata service over modelled disks, by seed.
#[derive(Parser, Debug)]
#[command(name = "sim", version, args_conflicts_with_subcommands = true)]
#[command(subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
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

#[derive(Subcommand, Debug)]
enum Command {
    /// Enumerates the crash states of all sequences of up to three operations.
    CrashSweep {
        /// Fails when there are fewer different states than this.
        #[arg(long, default_value_t = 1_000_000)]
        at_least: u64,
        /// Plants a bug, which the sweep should find.
        #[arg(long)]
        planted: Option<Planted>,
    },
    /// Repeats one crash state.
    CrashState(CrashState),
}

/// A crash state by name, as a failing sweep prints it.
#[derive(Args, Debug)]
struct CrashState {
    /// The operations, with commas between.
    #[arg(long, value_delimiter = ',', required = true)]
    sequence: Vec<Op>,
    /// Which moment of the sequence.
    #[arg(long)]
    moment: usize,
    /// What ends the daemon.
    #[arg(long)]
    crash_kind: CrashKind,
    /// The writes that survive whole: one bit each, in hex.
    #[arg(long, value_parser = hex)]
    whole: u64,
    /// A write of which only some sectors survive: one bit each, in hex.
    #[arg(long, value_name = "WRITE:SECTORS")]
    torn: Option<Torn>,
    /// Plants a bug.
    #[arg(long)]
    planted: Option<Planted>,
}

fn hex(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|error| format!("'{text}' is no hex number: {error}"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.command {
        None => seeds(&arguments),
        Some(Command::CrashSweep { at_least, planted }) => crash_sweep(*at_least, *planted),
        Some(Command::CrashState(state)) => crash_state(state),
    }
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the program's output")]
fn crash_sweep(at_least: u64, planted: Option<Planted>) -> ExitCode {
    /// Sequences from one line of progress to the next.
    const EVERY: u64 = 25;
    let tell = |report: &Report| {
        let Report { sequences, moments, states, distinct, kills, .. } = report;
        println!(
            "{sequences} sequences, {moments} moments, {states} states, {distinct} different, \
             {kills} of them after a kill"
        );
    };
    let report = Sweep::new(Scope::Whole, planted, 10).run(|report, last| {
        if report.sequences % EVERY == 0 {
            tell(report);
            println!("last: {last:?}");
        }
    });
    tell(&report);
    for failure in &report.failures {
        eprintln!("{failure}");
    }
    if report.distinct < at_least && report.failures.is_empty() {
        eprintln!("fewer than {at_least} different states: the sweep looks at too little");
        return ExitCode::FAILURE;
    }
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the program's output")]
fn crash_state(state: &CrashState) -> ExitCode {
    let name = StateName {
        sequence: state.sequence.clone(),
        moment: state.moment,
        is_kill: state.crash_kind == CrashKind::Kill,
        whole: state.whole,
        torn: state.torn,
    };
    match replay(&name, state.planted) {
        Ok(()) => {
            println!("the state is recovered as it must be");
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the program's output")]
fn seeds(arguments: &Arguments) -> ExitCode {
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
