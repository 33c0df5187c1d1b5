//! `lunar doctor`: what this host needs to run Lunar, what of it is there, how to get the rest.
//!
//! - [`host`] gathers facts and judges nothing; [`checks`] judges facts and touches nothing, so
//!   every verdict is tested without a host that has the fault.
//! - `fail` keeps Lunar from working here, `warn` is worse than it could be.

pub mod checks;
pub mod host;

use std::fmt;

use serde::Serialize;

use crate::output::{Report, table};

/// How a check came out.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could.
    Warn,
    /// It keeps Lunar from working here.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

/// One line of the doctor's report.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// Stable name, for programs.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty where all is well.
    pub remedy: String,
}

impl Check {
    /// All is well.
    #[must_use]
    pub fn ok(name: &'static str, found: impl fmt::Display) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.to_string(), remedy: String::new() }
    }

    /// Something could be better.
    #[must_use]
    pub fn warn(name: &'static str, found: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        let (found, remedy) = (found.to_string(), remedy.to_string());
        Self { name, verdict: Verdict::Warn, found, remedy }
    }

    /// Something is missing.
    #[must_use]
    pub fn fail(name: &'static str, found: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(name, found, remedy) }
    }
}

/// The doctor's report.
#[derive(Serialize, Debug)]
pub struct Diagnosis {
    /// The worst of the verdicts.
    pub verdict: Verdict,
    checks: Vec<Check>,
}

impl Diagnosis {
    /// The report of these checks.
    #[must_use]
    pub fn new(checks: Vec<Check>) -> Self {
        let verdict = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
        Self { verdict, checks }
    }

    fn remedies(&self) -> String {
        let bad = self.checks.iter().filter(|check| !check.remedy.is_empty());
        bad.map(|check| format!("\n{} ({}): {}\n", check.name, check.verdict, check.remedy))
            .collect()
    }
}

impl Report for Diagnosis {
    fn to_text(&self) -> String {
        let row =
            |check: &Check| [check.verdict.to_string(), check.name.to_owned(), check.found.clone()];
        let rows = self.checks.iter().map(row).collect();
        let closing = match self.verdict {
            Verdict::Ok => "\nthis host is ready\n",
            Verdict::Warn => "\nthis host is ready, with the remarks above\n",
            Verdict::Fail => "\nthis host is not ready: see FAIL above\n",
        };
        table(["", "CHECK", "FOUND"], rows, "nothing was checked") + &self.remedies() + closing
    }
}
