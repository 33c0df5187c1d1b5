//! A node is lost in some way under load, another takes its volume over, the lost one comes back:
//! everything flushed is there, and the target has done nothing of the old owner after the new one
//! has begun.
//!
//! How stale writes are found: the target's own record of commands, by its own clock. Whatever it
//! has done for the old owner's machine, and not ended before the first write that it took from the
//! new owner's, is stale. That machine writes nothing before its grant, and the grant comes after
//! the end of the fence.
//!
//! What a stale write has left is found too: the new owner writes over a part of the blocks, under
//! its own epoch, before the lost node comes back, and every block says of which volume, block,
//! write and epoch it is ([`crate::load`]).

use std::fmt;
use std::time::{Duration, Instant};

use lunar_lab::{Network, Outcome, Signal, TargetCommand, TargetMark};
use lunar_types::VolumeId;
use serde_json::Value;

use crate::cluster::{Attached, Cluster};
use crate::machine::{Machine, MachineError};
use crate::recorder::{BLOCKS, HeirRounds, Recorder, Rounds, Writer};
use crate::session::LIMIT;

/// Rounds that are flushed before the node is lost.
const ROUNDS: u64 = 15;
/// The first round of the new owner: more than the lost one can come to.
const HEIR_FIRST: u64 = 1_000_000;
/// Rounds of the new owner.
const HEIR_ROUNDS: u64 = 20;
const WAIT: Duration = Duration::from_secs(60);
/// More than the command that takes over waits.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(180);
/// The last renewal that the service heard was at most so long before the fault.
const RENEW: Duration = Duration::from_secs(2);

/// How a node is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Its power goes.
    Cut,
    /// The whole machine stands still, and goes on later.
    Pause,
    /// Its daemon is stopped (SIGSTOP), and goes on later.
    Stop,
    /// It cannot reach the metadata service; it can reach the LUNs.
    NoMetadata,
    /// It cannot reach the LUNs; it can reach the metadata service, so somebody has to ask for the
    /// takeover.
    NoStorage,
    /// It cannot reach LUN 1; it can reach the others and the metadata service.
    OneLun,
}

impl Fault {
    /// Those that a run repeats.
    pub const ALL: [Self; 5] =
        [Self::Cut, Self::Pause, Self::Stop, Self::NoMetadata, Self::NoStorage];

    /// Whether the service hears by itself that the node is lost.
    const fn is_silent(self) -> bool {
        !matches!(self, Self::NoStorage | Self::OneLun)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cut => "power cut",
            Self::Pause => "pause",
            Self::Stop => "stopped daemon",
            Self::NoMetadata => "no metadata service",
            Self::NoStorage => "no LUNs",
            Self::OneLun => "one LUN less",
        })
    }
}

/// What a takeover was like.
#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    /// How the node was lost.
    pub fault: Fault,
    /// From the last renewal that can have been heard, or from the operator's command, to the first
    /// writes that the new owner flushed.
    pub took: Duration,
    /// Writes of the old owner that the target did after the new one had begun.
    pub stale: usize,
    /// Writes of the old owner that the target refused.
    pub refused: usize,
    /// Rounds of the load that were flushed, and are there.
    pub flushed: u64,
}

impl fmt::Display for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, took, stale, refused, flushed } = self;
        write!(
            f,
            "{fault}: takeover {:.1} s, {flushed} flushed rounds are there, {refused} writes \
             refused, stale writes: {stale}",
            took.as_secs_f64()
        )
    }
}

/// What happens while a volume is being taken over.
pub type Meanwhile<'m> = dyn FnMut(&mut Cluster) -> Result<(), MachineError> + 'm;

/// One takeover.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of the load, and of the volume's name; each once.
    pub number: u64,
    /// Where the volume is.
    pub pool: &'static str,
    /// How the node is lost.
    pub fault: Fault,
    /// Which node is lost.
    pub victim: usize,
    /// Which node takes over.
    pub heir: usize,
}

impl Plan {
    /// The nodes 0 and 1 by turns.
    #[must_use]
    pub fn by_turns(number: u64, fault: Fault) -> Self {
        let victim = usize::from(number % 2 == 1);
        Self { number, pool: "tank", fault, victim, heir: 1 - victim }
    }

    fn volume(&self) -> String {
        format!("v{}", self.number)
    }
}

/// Attaches the volume to the heir, which then writes its first round; prints the attachment.
/// Attaches again if the heir's own daemon was killed meanwhile.
fn takeover_script(plan: Plan, volume: VolumeId) -> String {
    let how = if plan.fault.is_silent() { "--wait 120" } else { "--force --wait 120" };
    let field = |name: &str| {
        format!("$(sed -n 's/.*\"{name}\": \"\\?\\([^\",]*\\).*/\\1/p' <<< \"$shown\")")
    };
    // The shell fills in the grant, which nobody knows before.
    format!(
        "for try in 1 2 3 4 5; do shown=$(lunar -o json volume attach {} {how}) && break; \
         sleep 2; done; echo \"$shown\"; device={}; epoch={}; \
         flush-recorder $device --seed {} --blocks {BLOCKS} --volume {volume} --epoch $epoch \
         write --first {HEIR_FIRST} --rounds 1 > /dev/null",
        plan.volume(),
        field("device_path"),
        field("epoch"),
        plan.number,
    )
}

/// A takeover on a cluster.
struct Cycle<'c> {
    cluster: &'c mut Cluster,
    plan: Plan,
}

/// Makes the pool `tank` of every LUN of the target.
///
/// # Errors
/// When a step fails.
pub fn make_pool(cluster: &Cluster) -> Result<(), MachineError> {
    // Reservations are the default here, so nothing is said of fencing.
    make_pool_of(cluster, "tank", 0..cluster.lab().target().luns().len())
}

/// Makes a pool of some LUNs of the target; its name may have options behind it.
///
/// # Errors
/// When a step fails.
pub fn make_pool_of(
    cluster: &Cluster,
    name: &str,
    luns: std::ops::Range<usize>,
) -> Result<(), MachineError> {
    let paths: Result<Vec<String>, _> = luns.map(|lun| cluster.lun_device(0, lun)).collect();
    let paths = paths?;
    let labels: String = paths.iter().map(|path| format!("lunar lun label {path} && ")).collect();
    cluster.run(0, &format!("{labels} lunar pool create {name} {}", paths.join(" "))).map(drop)
}

/// Loses a node and has another one take over, while something else happens.
///
/// # Errors
/// When something fails, or flushed content is not there.
pub fn take_over(
    cluster: &mut Cluster,
    plan: Plan,
    meanwhile: &mut Meanwhile<'_>,
) -> Result<Takeover, MachineError> {
    let mut cycle = Cycle { cluster, plan };
    match cycle.run(meanwhile) {
        Ok(takeover) => Ok(takeover),
        Err(error) => Err(cycle.cluster.with_logs(error)),
    }
}

/// So many takeovers of each fault, each told as it ends.
///
/// # Errors
/// As [`take_over`].
pub fn take_over_and_over(
    cluster: &mut Cluster,
    cycles: u64,
    tell: &mut dyn FnMut(&str),
) -> Result<Vec<Takeover>, MachineError> {
    let faults = (0..cycles).flat_map(|_| Fault::ALL);
    let mut takeovers = Vec::new();
    for (number, fault) in (1..).zip(faults) {
        let takeover = take_over(cluster, Plan::by_turns(number, fault), &mut |_| Ok(()))?;
        tell(&format!("cycle {number}, {takeover}"));
        takeovers.push(takeover);
    }
    Ok(takeovers)
}

impl Cycle<'_> {
    /// The load under this grant.
    const fn recorder(&self, attached: &Attached) -> Recorder {
        Recorder::new(self.plan.number, BLOCKS).granted(attached.volume, attached.epoch)
    }

    fn victim_name(&self) -> String {
        self.cluster.node(self.plan.victim).name().to_owned()
    }

    fn run(&mut self, meanwhile: &mut Meanwhile<'_>) -> Result<Takeover, MachineError> {
        let volume = self.plan.volume();
        let pool = self.plan.pool;
        let create = format!("lunar volume create {volume} --pool {pool} --size 256MiB");
        self.cluster.run(self.plan.victim, &create)?;
        let lost = self.cluster.attach(self.plan.victim, &volume, "--wait 60")?;
        let recorder = self.recorder(&lost);
        let writer = recorder.start(self.cluster.node(self.plan.victim), &lost.device, 0);
        writer.wait_for(ROUNDS + self.plan.number % 7, WAIT);
        let (mark, joined) =
            (self.cluster.lab().target().mark()?, self.cluster.times_let_in(self.plan.victim));
        let (took, heir) = self.lose_and_take_over(&lost, meanwhile)?;
        let writing = self.recorder(&heir).writing(&heir.device, HEIR_FIRST + 1, HEIR_ROUNDS - 1);
        self.cluster.run(self.plan.heir, &writing)?;
        self.bring_back(&writer, joined)?;
        let rounds = writer.rounds();
        self.verify(&lost, &heir, rounds)?;
        let nodes = (self.plan.victim, self.plan.heir);
        let (stale, refused) = judge(self.cluster, mark, nodes)?;
        let detach = format!("lunar volume detach {volume} && lunar volume delete {volume}");
        self.cluster.run(self.plan.heir, &detach)?;
        self.cluster.run(self.plan.heir, "lunar fsck")?;
        Ok(Takeover { fault: self.plan.fault, took, stale, refused, flushed: rounds.at_least })
    }

    /// Gives how long it took until the heir had completed a round of writes, and its attachment.
    #[allow(clippy::disallowed_methods, reason = "measures real machines on a real clock")]
    fn lose_and_take_over(
        &mut self,
        lost: &Attached,
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<(Duration, Attached), MachineError> {
        let victim = self.plan.victim;
        let before = Instant::now();
        match self.plan.fault {
            Fault::Cut => self.cluster.cut(victim)?,
            Fault::Pause => self.cluster.node(victim).pause()?,
            Fault::Stop => self.cluster.signal_fs_core(victim, Signal::SIGSTOP)?,
            Fault::NoMetadata => self.cluster.node(victim).partition(Network::Control)?,
            Fault::NoStorage => self.cluster.node(victim).partition(Network::Storage)?,
            Fault::OneLun => self.cluster.lab().target().mask_lun(1, &self.victim_name())?,
        }
        let script = takeover_script(self.plan, lost.volume);
        let heir = self.cluster.node(self.plan.heir);
        let taking_over = heir.script(&Cluster::as_operator(&script)).spawn()?;
        meanwhile(self.cluster)?;
        match taking_over.wait(TAKEOVER_LIMIT)? {
            Outcome::Exited(0) => {}
            other => {
                let said = taking_over.stderr();
                let text = format!("the takeover ended so: {other:?}: {said}");
                return Err(MachineError::Unexpected(text));
            }
        }
        let heard_before = if self.plan.fault.is_silent() { RENEW } else { Duration::ZERO };
        let took = before.elapsed() + heard_before;
        let shown = taking_over.stdout();
        let shown = serde_json::from_str(&shown)
            .map_err(|error| MachineError::Unexpected(format!("{error}: {shown}")))?;
        Ok((took, Attached::of(&shown)?))
    }

    /// The lost node comes back, finds that it is not the owner any more, and joins again.
    fn bring_back(&mut self, writer: &Writer, joined: usize) -> Result<(), MachineError> {
        let victim = self.plan.victim;
        match self.plan.fault {
            Fault::Cut => return self.cluster.boot(victim),
            Fault::Pause => self.cluster.node(victim).resume()?,
            Fault::Stop => self.cluster.signal_fs_core(victim, Signal::SIGCONT)?,
            Fault::NoMetadata => self.cluster.node(victim).heal(Network::Control)?,
            Fault::NoStorage => self.cluster.node(victim).heal(Network::Storage)?,
            Fault::OneLun => self.cluster.lab().target().unmask_lun(1, &self.victim_name())?,
        }
        writer.must_fail(WAIT)?;
        self.cluster.lets_requests_in(victim, joined + 1)?;
        let attached = self.cluster.json(victim, "node list")?.to_string();
        if attached.contains("\"fenced\"") {
            let text = format!("the lost node has not joined again: {attached}");
            return Err(MachineError::Unexpected(text));
        }
        Ok(())
    }

    /// Everything flushed is there, of both owners, and each block fits its owner's epoch.
    fn verify(&self, lost: &Attached, heir: &Attached, rounds: Rounds) -> Result<(), MachineError> {
        let shown =
            self.cluster.json(self.plan.heir, &format!("volume show {}", self.plan.volume()))?;
        let owner = Attached::of(shown.get("attachment").unwrap_or(&Value::Null))?;
        if owner != *heir || owner.volume != lost.volume || owner.epoch <= lost.epoch {
            let text = format!("{owner:?} is there, after {lost:?} and {heir:?}");
            return Err(MachineError::Unexpected(text));
        }
        let (epoch, last) = (owner.epoch, HEIR_FIRST + HEIR_ROUNDS - 1);
        let heir = HeirRounds { epoch, first: HEIR_FIRST, last };
        let script = self.recorder(lost).verification_of_both(&owner.device, rounds, heir);
        Machine::sh(self.cluster.node(self.plan.heir), &script, LIMIT)?.expect_code(0)?;
        Ok(())
    }
}

/// How many writes of the old owner were stale since a mark, and how many the target has refused.
///
/// # Errors
/// When the record cannot be read, or has no write of the new owner.
pub fn judge(
    cluster: &Cluster,
    mark: TargetMark,
    (victim, heir): (usize, usize),
) -> Result<(usize, usize), MachineError> {
    let writes = cluster.lab().target().writes_since(mark)?;
    let of = |node: usize| {
        let name = cluster.node(node).name().to_owned();
        writes.iter().filter(move |write| write.machine() == name)
    };
    let begun = of(heir).map(|write| write.time).min();
    let begun = begun.ok_or_else(|| {
        MachineError::Unexpected("the record has no write of the new owner".to_owned())
    })?;
    let is_stale = |write: &&TargetCommand| {
        write.is_done() && write.end.as_ref().is_some_and(|(end, _)| *end > begun)
    };
    let stale: Vec<_> = of(victim).filter(is_stale).collect();
    if !stale.is_empty() {
        lunar_lab::say(&format!("stale: {stale:#?}"));
    }
    let refused = of(victim).filter(|write| write.is_refused()).count();
    Ok((stale.len(), refused))
}

/// What many takeovers were like, in the words that a run ends with.
#[must_use]
pub fn summary(takeovers: &[Takeover]) -> String {
    let mut took: Vec<Duration> = takeovers.iter().map(|takeover| takeover.took).collect();
    took.sort();
    let stale: usize = takeovers.iter().map(|takeover| takeover.stale).sum();
    let seconds = |at: Option<&Duration>| at.map_or(0.0, Duration::as_secs_f64);
    format!(
        "{} takeovers: median {:.1} s, maximum {:.1} s (from the last heartbeat to the new owner's \
         first flushed writes)\nstale writes: {stale}",
        took.len(),
        seconds(took.get(took.len() / 2)),
        seconds(took.last()),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// With programs that say what they were called with instead of the real ones.
    #[test]
    fn the_heir_writes_under_the_epoch_that_it_was_told() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let program = |name: &str, script: &str| {
            let path = directory.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        };
        let volume = VolumeId::from_u128(7);
        let shown = format!(
            "{{\n  \"volume_id\": \"{volume}\",\n  \"epoch\": 12,\n  \"device_path\": \
             \"/dev/ublkb3\",\n  \"size_bytes\": 4096\n}}"
        );
        let told = directory.path().join("told");
        let tell = format!("echo \"$0 $*\" >> {}", told.display());
        program("lunar", &format!("{tell}; cat <<'END'\n{shown}\nEND"));
        program("flush-recorder", &format!("{tell}; echo flushed"));
        let path = format!("{}:/usr/bin:/bin", directory.path().display());
        let script = takeover_script(Plan::by_turns(4, Fault::NoStorage), volume);
        let mut shell = Command::new("bash");
        let ran = shell.args(["-euo", "pipefail", "-c", &script]).env("PATH", path).output();
        let ran = ran.expect("bash runs");
        assert!(ran.status.success(), "{ran:?}");
        let shown = serde_json::from_slice(&ran.stdout).expect("the attachment and nothing else");
        let attached = Attached::of(&shown).expect("an attachment");
        assert_eq!((attached.epoch.get(), attached.device.as_str()), (12, "/dev/ublkb3"));
        let told = fs::read_to_string(told).expect("both were called");
        assert!(told.contains("-o json volume attach v4 --force --wait 120\n"), "{told}");
        let recorder = Recorder::new(4, BLOCKS).granted(volume, attached.epoch);
        let writing = recorder.writing(&attached.device, HEIR_FIRST, 1);
        assert!(told.contains(&writing), "{told}");
    }
}
