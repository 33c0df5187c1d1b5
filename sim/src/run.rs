//! Whole runs by seed.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::planted::Planted;
use crate::trace::Trace;
use crate::world::{Stop, World};

pub use crate::world::Counters;

/// Moments of a run, unless told otherwise.
pub const MOMENTS: u64 = 6000;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Decides everything.
    pub seed: u64,
    /// How long the run is, in moments.
    pub moments: u64,
    /// Instead of the seed's crashes: one, at this step.
    pub crash_at: Option<u64>,
    /// A bug to plant.
    pub planted: Option<Planted>,
    /// Whether to tell what happens.
    pub trace: Trace,
}

impl RunOptions {
    /// A run of this seed, of the usual length, with its own crashes.
    #[must_use]
    pub const fn of_seed(seed: u64) -> Self {
        Self { seed, moments: MOMENTS, crash_at: None, planted: None, trace: Trace::Off }
    }

    /// The command that repeats the run.
    #[must_use]
    pub fn command(&self) -> String {
        let mut command = format!("cargo run --release -p lunar-sim -- --seed {}", self.seed);
        if self.moments != MOMENTS {
            command += &format!(" --moments {}", self.moments);
        }
        if let Some(step) = self.crash_at {
            command += &format!(" --crash-at {step}");
        }
        if let Some(planted) = self.planted {
            command += &format!(" --planted {}", planted.name());
        }
        command
    }
}

/// A run that showed something wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}\n  at moment {moment}; repeat it with: {command} --trace")]
pub struct Failure {
    /// What is wrong.
    pub what: String,
    /// When it showed.
    pub moment: u64,
    /// The command that repeats the run.
    pub command: String,
}

/// Runs a seed to its end.
///
/// # Errors
/// When the product does what it must not do, or panics.
pub fn run(options: RunOptions) -> Result<Counters, Failure> {
    let mut world = World::new(options.seed, options.planted, options.trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| lives(&mut world, options)));
    let what = match outcome {
        Ok(Ok(())) => return Ok(world.counters()),
        Ok(Err(what)) => what,
        Err(panic) => format!("panic: {}", panic_text(&*panic)),
    };
    Err(Failure { what, moment: world.moment(), command: options.command() })
}

/// One life after another, with a crash between.
fn lives(world: &mut World, options: RunOptions) -> Result<(), String> {
    let mut crashes = match options.crash_at {
        Some(_) => 1,
        None => world.crashes(),
    };
    world.make_volumes()?;
    loop {
        if crashes > 0 {
            world.light_fuse(options.crash_at);
            crashes -= 1;
        }
        match world.live(options.moments) {
            Ok(()) => return Ok(()),
            Err(Stop::Failed(what)) => return Err(what),
            Err(Stop::Crash) => world.crash(),
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "without a text".to_owned())
}
