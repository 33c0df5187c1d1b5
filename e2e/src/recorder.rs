//! The flush recorder as a load: what it has said, and how a device is compared with that.

use std::time::Duration;

use lunar_lab::{Job, Node, Outcome};
use lunar_types::{Epoch, VolumeId};

use crate::machine::MachineError;
use crate::session::Session;

/// Blocks of 4 KiB that a recorder writes to, unless a test says otherwise.
pub const BLOCKS: u64 = 20_000;

/// Rounds that one device may show.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Everything up to this one.
    pub at_least: u64,
    /// Nothing beyond this one.
    pub at_most: u64,
}

/// A recorder's writes, which follow from its seed.
#[derive(Clone, Copy, Debug)]
pub struct Recorder {
    seed: u64,
    blocks: u64,
    /// What the blocks say of the volume and the grant under which it is written.
    granted: Option<(VolumeId, Epoch)>,
}

/// Rounds of the next owner of a volume, all of them flushed.
#[derive(Clone, Copy, Debug)]
pub struct HeirRounds {
    /// Of its grant.
    pub epoch: Epoch,
    /// Its first round.
    pub first: u64,
    /// Its last round.
    pub last: u64,
}

/// A recorder that writes.
pub struct Writer {
    job: Job,
}

impl Recorder {
    /// A load of this many blocks, which say no epoch, and a volume that follows from the seed.
    #[must_use]
    pub const fn new(seed: u64, blocks: u64) -> Self {
        Self { seed, blocks, granted: None }
    }

    /// The same load on this volume, under this grant.
    #[must_use]
    pub const fn granted(self, volume: VolumeId, epoch: Epoch) -> Self {
        Self { granted: Some((volume, epoch)), ..self }
    }

    fn words(self, device: &str, mode: &str) -> String {
        let granted = self.granted.map_or_else(String::new, |(volume, epoch)| {
            format!(" --volume {volume} --epoch {epoch}")
        });
        let Self { seed, blocks, .. } = self;
        format!("flush-recorder {device} --seed {seed} --blocks {blocks}{granted} {mode}")
    }

    /// The command that writes so many rounds from this one on.
    #[must_use]
    pub fn writing(self, device: &str, first: u64, rounds: u64) -> String {
        self.words(device, &format!("write --first {first} --rounds {rounds}"))
    }

    /// Writes to the device until it is killed; reads this many blocks back after each flush.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(self, node: &Node, device: &str, reread: usize) -> Writer {
        let words = self.words(device, &format!("write --reread {reread}"));
        let words: Vec<&str> = words.split(' ').collect();
        Writer { job: node.spawn(&words).expect("the recorder starts") }
    }

    /// The command that compares a device with what it may show.
    #[must_use]
    pub fn verification(self, device: &str, rounds: Rounds) -> String {
        let Rounds { at_least, at_most } = rounds;
        self.words(device, &format!("verify --flushed {at_least} --ahead {}", at_most - at_least))
    }

    /// The command that compares a device with what it may show after the volume was taken over.
    #[must_use]
    pub fn verification_of_both(self, device: &str, rounds: Rounds, heir: HeirRounds) -> String {
        let HeirRounds { epoch, first, last } = heir;
        format!("{} --heir {epoch}:{first}:{last}", self.verification(device, rounds))
    }

    /// Compares a device with what it may show.
    ///
    /// # Errors
    /// When a block holds something else.
    pub fn verify(
        self,
        session: &Session<'_>,
        device: &str,
        rounds: Rounds,
    ) -> Result<(), MachineError> {
        session.quiet(&self.verification(device, rounds)).map(drop)
    }
}

impl Writer {
    /// The last round that it said was flushed.
    #[must_use]
    pub fn flushed(&self) -> u64 {
        let round = |line: &str| line.strip_prefix("flushed ")?.parse().ok();
        self.job.stdout().lines().rev().find_map(round).unwrap_or(0)
    }

    /// The last round that can have been begun when this is called: the next one, or the one after
    /// it if the last line has not arrived yet.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.flushed() + 2
    }

    /// What a device may show of it when this is called.
    #[must_use]
    pub fn rounds(&self) -> Rounds {
        Rounds { at_least: self.flushed(), at_most: self.begun() }
    }

    /// Waits until this round is flushed.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn wait_for(&self, round: u64, limit: Duration) {
        self.job.wait_for_output(&format!("flushed {round}\n"), limit).expect("it flushes");
    }

    /// Fails if it has ended: it ends by itself only when something is wrong.
    ///
    /// # Panics
    /// When it has.
    pub fn must_run(&self) {
        assert!(self.job.is_running(), "the recorder ended: {}", self.job.stderr());
    }

    /// Waits until it has failed by itself; gives what it said.
    ///
    /// # Errors
    /// When it goes on, or ends without an error.
    pub fn must_fail(&self, limit: Duration) -> Result<String, MachineError> {
        match self.job.wait(limit)? {
            Outcome::Exited(1) => Ok(self.job.stderr()),
            other => Err(MachineError::Unexpected(format!("the recorder ended so: {other:?}"))),
        }
    }

    /// Kills it, and gives what its device may show from now on.
    ///
    /// # Panics
    /// When it had ended before.
    pub fn stop(self, limit: Duration) -> Rounds {
        self.must_run();
        self.job.kill(lunar_lab::Signal::SIGKILL).expect("it is running");
        self.job.wait(limit).expect("it ends");
        self.rounds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorder_is_told_what_its_blocks_say() {
        let plain = Recorder::new(7, 500);
        assert_eq!(
            plain.verification("/dev/x", Rounds { at_least: 9, at_most: 11 }),
            "flush-recorder /dev/x --seed 7 --blocks 500 verify --flushed 9 --ahead 2"
        );
        let granted = plain.granted(VolumeId::from_u128(1), Epoch::new(4));
        let told = "flush-recorder /dev/x --seed 7 --blocks 500 \
                    --volume 00000000-0000-0000-0000-000000000001 --epoch 4";
        assert_eq!(
            granted.writing("/dev/x", 1000, 3),
            format!("{told} write --first 1000 --rounds 3")
        );
        let heir = HeirRounds { epoch: Epoch::new(5), first: 1000, last: 1002 };
        assert_eq!(
            granted.verification_of_both("/dev/x", Rounds { at_least: 9, at_most: 11 }, heir),
            format!("{told} verify --flushed 9 --ahead 2 --heir 5:1000:1002")
        );
    }
}
