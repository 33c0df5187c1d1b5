//! Many seeds on all cores: each run is one thread's alone, so the order does not matter.

use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::run::{Counters, Failure, RunOptions, run};

/// Seeds from one up to another, which is not included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeedRange {
    /// The first.
    pub from: u64,
    /// One past the last.
    pub to: u64,
}

impl FromStr for SeedRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("'{text}' is no range of seeds: write for example 0..1000");
        let (from, to) = text.split_once("..").ok_or_else(malformed)?;
        let from = from.parse().map_err(|_| malformed())?;
        let to = to.parse().map_err(|_| malformed())?;
        if from < to { Ok(Self { from, to }) } else { Err(malformed()) }
    }
}

/// What many runs gave.
#[derive(Debug, Default)]
pub struct SeedReport {
    /// Runs that were made.
    pub seeds: u64,
    /// The sums of their counters.
    pub counters: Counters,
    /// Those that failed, by seed.
    pub failures: Vec<(u64, Failure)>,
}

/// Runs every seed of a range on all cores; stops at the first failure unless told to go on.
///
/// # Panics
/// When a thread of its own panics, which a run does not.
#[must_use]
pub fn run_seeds(options: RunOptions, seeds: SeedRange, keep_going: bool) -> SeedReport {
    let next = AtomicU64::new(seeds.from);
    let stop = AtomicBool::new(false);
    let report = Mutex::new(SeedReport::default());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.to {
                break;
            }
            let outcome = run(RunOptions { seed, ..options });
            let mut report = report.lock().expect("no thread panics with the report");
            report.seeds += 1;
            match outcome {
                Ok(counters) => report.counters.add(&counters),
                Err(failure) => {
                    report.failures.push((seed, failure));
                    stop.store(!keep_going, Ordering::Relaxed);
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    let mut report = report.into_inner().expect("no thread panics with the report");
    report.failures.sort_by_key(|(seed, _)| *seed);
    report
}
