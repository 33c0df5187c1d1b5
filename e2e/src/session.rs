//! Runs commands as a person would; the demo shows each of them before its output.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::machine::{Machine, MachineError, Ran};

/// More than any command of the main job needs, on an emulated processor too.
pub const LIMIT: Duration = Duration::from_secs(240);
/// What takes longer than this gets a line that says how long it took.
const SLOW: Duration = Duration::from_secs(2);

/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether commands and their output are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Echo {
    /// Shown.
    On,
    /// Not shown; a failure shows everything of the command that failed.
    Off,
}

/// Commands on one machine, one after the other.
pub struct Session<'m> {
    machine: &'m dyn Machine,
    echo: Echo,
}

impl<'m> Session<'m> {
    /// A session on this machine.
    #[must_use]
    pub fn new(machine: &'m dyn Machine, echo: Echo) -> Self {
        Self { machine, echo }
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &'m dyn Machine {
        self.machine
    }

    /// Says what comes next.
    pub fn headline(&self, text: &str) {
        self.show(&format!("\n== {text}"));
    }

    fn show(&self, text: &str) {
        if self.echo == Echo::On {
            // A reader that went away is no reason to stop.
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    }

    /// Runs a command that has to succeed, shows it and gives its standard output.
    ///
    /// # Errors
    /// When it fails, with all its output.
    pub fn run(&self, command: &str) -> Result<String, MachineError> {
        self.show(&format!("$ {command}"));
        let ran = self.timed(command)?;
        let output = format!("{}{}", ran.stdout, ran.stderr);
        self.show(output.trim_end());
        Ok(ran.expect_code(0)?.stdout)
    }

    #[allow(clippy::disallowed_methods, reason = "tells a person how long a command took")]
    fn timed(&self, command: &str) -> Result<Ran, MachineError> {
        let start = Instant::now();
        let ran = self.machine.sh(command, LIMIT)?;
        if start.elapsed() >= SLOW {
            self.show(&format!("  ({:.1} s)", start.elapsed().as_secs_f64()));
        }
        Ok(ran)
    }

    /// Runs a command that nobody needs to see; it has to succeed.
    ///
    /// # Errors
    /// When it fails, with all its output.
    pub fn quiet(&self, command: &str) -> Result<String, MachineError> {
        Ok(self.machine.sh(command, LIMIT)?.expect_code(0)?.stdout)
    }

    /// Runs a command that has to fail with this exit code, and gives what it said.
    ///
    /// # Errors
    /// When it succeeds or fails in another way.
    pub fn refused(&self, command: &str, code: i32) -> Result<String, MachineError> {
        let ran = self.machine.sh(command, LIMIT)?.expect_code(code)?;
        Ok(ran.stderr)
    }

    /// Runs `lunar` for its JSON.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn json(&self, arguments: &str) -> Result<Value, MachineError> {
        let text = self.quiet(&format!("lunar -o json {arguments}"))?;
        serde_json::from_str(&text).map_err(|error| {
            MachineError::Unexpected(format!("lunar {arguments}: {error}: {text}"))
        })
    }
}

/// Waits until something holds.
///
/// # Errors
/// When it does not within the limit, or looking fails.
#[allow(clippy::disallowed_methods, reason = "watches real programs on a real clock")]
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> Result<bool, MachineError>,
) -> Result<(), MachineError> {
    let start = Instant::now();
    while !holds()? {
        if start.elapsed() > limit {
            return Err(MachineError::TimedOut { what: what.to_owned(), limit });
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
