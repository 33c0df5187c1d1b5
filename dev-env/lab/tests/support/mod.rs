//! What the tests of the lab share: a builder with the agent of this build, a real clock.

#![allow(dead_code, reason = "each test program uses its own part")]

use lunar_lab::{Lab, LabBuilder};
use std::time::{Duration, Instant};

/// More than any call of these tests needs, on a busy host too.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A builder that uses the agent that was built with this test.
pub(crate) fn lab() -> LabBuilder {
    Lab::builder().agent(env!("CARGO_BIN_EXE_lab-agent"))
}

/// Waits until `condition` holds; fails after [`LIMIT`].
#[allow(clippy::disallowed_methods, reason = "the tests watch real processes on a real clock")]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
