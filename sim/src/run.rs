//! Whole runs by seed.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use crate::planted::Planted;
use crate::trace::Trace;
use crate::world::{Stop, World};

pub use crate::counters::Counters;

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
    /// Only crashes of this kind.
    pub crash_kind: Option<CrashKind>,
    /// A bug to plant.
    pub planted: Option<Planted>,
    /// Whether to tell what happens.
    pub trace: Trace,
}

impl RunOptions {
    /// A run of this seed, of the usual length, with its own crashes.
    #[must_use]
    pub const fn of_seed(seed: u64) -> Self {
        Self {
            seed,
            moments: MOMENTS,
            crash_at: None,
            crash_kind: None,
            planted: None,
            trace: Trace::Off,
        }
    }

    /// The command that repeats the run.
    #[must_use]
    pub fn command(&self) -> String {
        let mut command = format!("cargo run --release -p sim -- --seed {}", self.seed);
        if self.moments != MOMENTS {
            command += &format!(" --moments {}", self.moments);
        }
        if let Some(step) = self.crash_at {
            command += &format!(" --crash-at {step}");
        }
        if let Some(kind) = self.crash_kind {
            command += &format!(" --crash-kind {}", kind.name());
        }
        if let Some(planted) = self.planted {
            command += &format!(" --planted {}", planted.name());
        }
        command
    }
}

/// What ends a life of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum CrashKind {
    /// SIGKILL of the daemon.
    Kill,
    /// The node loses its power.
    Cut,
}

impl CrashKind {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Cut => "cut",
        }
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
    world.crash_only(options.crash_kind);
    let what = match caught(|| lives(&mut world, options)) {
        Ok(Ok(())) => return Ok(world.counters()),
        Ok(Err(what)) | Err(what) => what,
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

thread_local! {
    /// What the panic of this thread's run says; `None` outside of a run.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs something whose panic is a finding, not the end of the program: it is told as text, and
/// nothing is printed.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            if !PANIC.with_borrow_mut(|text| note_panic(text, info)) {
                others(info);
            }
        }));
    });
    PANIC.set(Some(String::new()));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    let text = PANIC.take().unwrap_or_default();
    outcome.map_err(|_| format!("panic {text}"))
}

fn note_panic(text: &mut Option<String>, info: &PanicHookInfo<'_>) -> bool {
    let Some(text) = text else { return false };
    let place = info.location().map(|at| format!("at {}:{}", at.file(), at.line()));
    let what = info.payload_as_str().unwrap_or("without a text");
    *text = format!("{}: {what}", place.unwrap_or_default());
    true
}
