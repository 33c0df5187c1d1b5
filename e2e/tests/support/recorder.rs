//! The flush recorder as a load: what it has said, and how a device is compared with that.

use std::time::Duration;

use lunar_e2e::machine::MachineError;
use lunar_e2e::session::Session;
use lunar_lab::{Job, Node};

/// Blocks of 4 KiB that a recorder writes to, unless a test says otherwise.
pub(crate) const BLOCKS: u64 = 20_000;

/// Rounds that one device may show: everything of the first, nothing beyond the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    pub(crate) at_least: u64,
    pub(crate) at_most: u64,
}

/// A recorder's writes, which follow from its seed.
#[derive(Clone, Copy)]
pub(crate) struct Recorder {
    pub(crate) seed: u64,
    pub(crate) blocks: u64,
}

/// A recorder that writes.
pub(crate) struct Writer {
    job: Job,
}

impl Recorder {
    fn words(self, device: &str, mode: &str) -> String {
        format!("flush-recorder {device} --seed {} --blocks {} {mode}", self.seed, self.blocks)
    }

    /// Writes to the device until it is killed; reads this many blocks back after each flush.
    pub(crate) fn start(self, node: &Node, device: &str, reread: usize) -> Writer {
        let words = self.words(device, &format!("write --reread {reread}"));
        let words: Vec<&str> = words.split(' ').collect();
        Writer { job: node.spawn(&words).expect("the recorder starts") }
    }

    /// Compares a device with what it may show.
    pub(crate) fn verify(
        self,
        session: &Session<'_>,
        device: &str,
        rounds: Rounds,
    ) -> Result<(), MachineError> {
        let Rounds { at_least, at_most } = rounds;
        let mode = format!("verify --flushed {at_least} --ahead {}", at_most - at_least);
        session.quiet(&self.words(device, &mode)).map(drop)
    }
}

impl Writer {
    /// The last round that it said was flushed.
    pub(crate) fn flushed(&self) -> u64 {
        let round = |line: &str| line.strip_prefix("flushed ")?.parse().ok();
        self.job.stdout().lines().rev().find_map(round).unwrap_or(0)
    }

    /// The last round that can have been begun when this is called: the next one, or the one after
    /// it if the last line has not arrived yet.
    pub(crate) fn begun(&self) -> u64 {
        self.flushed() + 2
    }

    /// Waits until this round is flushed.
    pub(crate) fn wait_for(&self, round: u64, limit: Duration) {
        self.job.wait_for_output(&format!("flushed {round}\n"), limit).expect("it flushes");
    }

    /// Fails if it has ended: it ends by itself only when something is wrong.
    pub(crate) fn must_run(&self) {
        assert!(self.job.is_running(), "the recorder ended: {}", self.job.stderr());
    }

    /// Kills it, and gives what its device may show from now on.
    pub(crate) fn stop(self, limit: Duration) -> Rounds {
        self.must_run();
        self.job.kill(lunar_lab::Signal::SIGKILL).expect("it is running");
        self.job.wait(limit).expect("it ends");
        Rounds { at_least: self.flushed(), at_most: self.begun() }
    }
}
