//! One node of a lab: a machine that is on or off, and what survives in between.
//!
//! Invariants:
//! - the data disk and the LUNs survive [`Node::cut`] and [`Node::boot`]; the root file system is
//!   as new at each boot;
//! - all methods take `&self` and may be called from several threads: a cut in one thread ends the
//!   commands that others wait for.

use crate::client::{AgentClient, Event};
use crate::command::{COMMAND_LIMIT, Command, GRACE, Job, Output, collect};
use crate::error::{AtPath, LabError, Result};
use crate::frame::Kind;
use crate::host;
use crate::initiator::Initiator;
use crate::lun::{BlockStat, Lun};
use crate::message::WriteSpec;
use crate::network::{Network, NetworkPlan, Plugs};
use crate::programs::{Fingerprint, Programs};
use crate::qemu::Machine;
use crate::vm::{CONSOLE_LINES, STALE_CODE, Vm};
use std::fs::{self, OpenOptions};
use std::io::{Cursor, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Time for an orderly power off.
const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(60);
const PING_LIMIT: Duration = Duration::from_secs(20);
/// Bytes of each stream of a command that go into the node's record.
const RECORD_BYTES: usize = 8 << 10;

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// QEMU runs.
    Running,
    /// The virtual processors are stopped.
    Paused,
    /// There is no QEMU process.
    Off,
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Off => "off",
        })
    }
}

/// The programs disk that all nodes share.
pub(crate) struct ProgramsDisk {
    pub(crate) programs: Programs,
    pub(crate) image: PathBuf,
    pub(crate) built: Mutex<Fingerprint>,
}

impl ProgramsDisk {
    pub(crate) fn refresh(&self) -> Result<()> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        self.programs.build(&self.image, &mut built)
    }
}

#[derive(Default)]
struct Power {
    vm: Option<Vm>,
    paused: bool,
}

/// A node of a lab.
pub struct Node {
    machine: Machine,
    directory: PathBuf,
    boot_limit: Duration,
    programs: Arc<ProgramsDisk>,
    plugs: Plugs,
    pub(crate) initiator: Option<Arc<Initiator>>,
    power: Mutex<Power>,
    jobs: AtomicU32,
}

impl Node {
    pub(crate) fn new(
        machine: Machine,
        directory: PathBuf,
        boot_limit: Duration,
        programs: Arc<ProgramsDisk>,
        (plugs, initiator): (Plugs, Option<Arc<Initiator>>),
    ) -> Self {
        let (power, jobs) = (Mutex::default(), AtomicU32::new(0));
        Self { machine, directory, boot_limit, programs, plugs, initiator, power, jobs }
    }

    fn power(&self) -> MutexGuard<'_, Power> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name, which is also its host name.
    pub fn name(&self) -> &str {
        &self.machine.node
    }

    /// Its logs and records on the host.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether it runs.
    pub fn state(&self) -> NodeState {
        let mut power = self.power();
        let paused = power.paused;
        match power.vm.as_mut().is_some_and(Vm::is_running) {
            true if paused => NodeState::Paused,
            true => NodeState::Running,
            false => NodeState::Off,
        }
    }

    /// The kernel's id of this boot.
    ///
    /// # Errors
    /// When it is off.
    pub fn boot_id(&self) -> Result<String> {
        match &self.power().vm {
            Some(vm) => Ok(vm.hello().boot_id.clone()),
            None => Err(self.off("its boot id")),
        }
    }

    /// A command, to be run or spawned.
    pub fn command(&self, argv: &[impl AsRef<str>]) -> Command<'_> {
        Command::new(self, argv)
    }

    /// Runs a command to its end, whatever its exit code is.
    ///
    /// # Errors
    /// When the machine is off, goes away, or does not answer.
    pub fn exec(&self, argv: &[impl AsRef<str>]) -> Result<Output> {
        self.command(argv).run()
    }

    /// Runs a command that must succeed.
    ///
    /// # Errors
    /// As [`Node::exec`], and with the full output when it does not exit with code 0.
    pub fn exec_ok(&self, argv: &[impl AsRef<str>]) -> Result<Output> {
        self.command(argv).run_ok()
    }

    /// Runs a bash script that must succeed and gives its standard output; the first command that
    /// fails ends it.
    ///
    /// # Errors
    /// As [`Node::exec_ok`].
    pub fn sh(&self, script: &str) -> Result<String> {
        Ok(self.script(script).run_ok()?.stdout_text())
    }

    /// A bash script as a command; the first command of it that fails ends it.
    pub fn script(&self, script: &str) -> Command<'_> {
        self.command(&["bash", "-euo", "pipefail", "-c", script])
    }

    /// Starts a command and lets it run.
    ///
    /// # Errors
    /// When the machine is off or goes away, or the program cannot be started.
    pub fn spawn(&self, argv: &[impl AsRef<str>]) -> Result<Job> {
        self.command(argv).spawn()
    }

    /// Writes a file; missing directories are made.
    ///
    /// # Errors
    /// When the machine is off or goes away, or the file cannot be written.
    pub fn write_file(&self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Result<()> {
        let what = format!("write {path}");
        let spec = WriteSpec { path: path.to_owned(), mode };
        let payload = serde_json::to_vec(&spec).expect("plain strings are JSON");
        let channel = self.client(&what)?.start(Kind::WriteFile, payload, &what)?;
        channel.remote().input_from(Cursor::new(content.into()));
        self.succeed(what, collect(&channel, COMMAND_LIMIT + GRACE)?).map(|_| ())
    }

    /// Reads a file of at most 64 MiB.
    ///
    /// # Errors
    /// When the machine is off or goes away, or the file cannot be read.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        let what = format!("read {path}");
        let channel = self.client(&what)?.start(Kind::ReadFile, path.into(), &what)?;
        Ok(self.succeed(what, collect(&channel, COMMAND_LIMIT + GRACE)?)?.stdout)
    }

    fn succeed(&self, command: String, output: Output) -> Result<Output> {
        if output.success() {
            return Ok(output);
        }
        Err(LabError::CommandFailed {
            node: self.name().to_owned(),
            command,
            outcome: output.outcome.to_string(),
            stdout: output.stdout_text(),
            stderr: output.stderr_text(),
        })
    }

    /// Asks the agent for a sign of life.
    ///
    /// # Errors
    /// When none comes.
    pub fn ping(&self) -> Result<()> {
        let channel = self.client("ping")?.start(Kind::Ping, Vec::new(), "ping")?;
        while !matches!(channel.next(Some(PING_LIMIT))?, Event::Pong) {}
        Ok(())
    }

    /// What this node's kernel has done to a LUN since it booted.
    ///
    /// # Errors
    /// As [`Node::sh`].
    pub fn lun_stat(&self, lun: &Lun) -> Result<BlockStat> {
        self.block_stat(&lun.device())
    }

    /// What this node's kernel has done to a block device since it booted.
    ///
    /// # Errors
    /// As [`Node::sh`].
    pub fn block_stat(&self, device: &str) -> Result<BlockStat> {
        let line =
            self.sh(&format!("cat /sys/class/block/$(basename $(realpath {device}))/stat"))?;
        BlockStat::parse(&line).ok_or_else(|| LabError::CommandFailed {
            node: self.name().to_owned(),
            command: format!("the stat line of {device}"),
            outcome: "not such a line".to_owned(),
            stdout: line,
            stderr: String::new(),
        })
    }

    /// Power off at once, as if the cable were pulled.
    ///
    /// # Errors
    /// When it is off already.
    pub fn cut(&self) -> Result<()> {
        let mut power = self.power();
        power.paused = false;
        power.vm.take().ok_or_else(|| self.off("a power cut"))?.cut();
        Ok(())
    }

    /// Boots it with the same LUNs and the same data disk.
    ///
    /// # Errors
    /// When it runs, or does not come up in time.
    pub fn boot(&self) -> Result<()> {
        let mut power = self.power();
        if power.vm.as_mut().is_some_and(Vm::is_running) {
            return Err(LabError::NodeOn { node: self.name().to_owned() });
        }
        self.programs.refresh()?;
        power.paused = false;
        // A machine that ended by itself is let go before the next one opens its files.
        power.vm = None;
        power.vm = Some(Vm::start(&self.machine, self.boot_limit)?);
        Ok(())
    }

    /// Powers it off in order: data synced, data disk unmounted.
    ///
    /// # Errors
    /// When it is off already, or had to be cut.
    pub fn shut_down(&self) -> Result<()> {
        let mut power = self.power();
        power.paused = false;
        let vm = power.vm.take().ok_or_else(|| self.off("a power off"))?;
        vm.shut_down(self.name(), SHUT_DOWN_LIMIT)
    }

    /// Stops its processors: nothing runs, no time passes in it, until [`Node::resume`].
    ///
    /// # Errors
    /// When it is off.
    pub fn pause(&self) -> Result<()> {
        let mut power = self.power();
        power.vm.as_mut().ok_or_else(|| self.off("a pause"))?.pause()?;
        power.paused = true;
        Ok(())
    }

    /// Lets its processors go on.
    ///
    /// # Errors
    /// When it is off.
    pub fn resume(&self) -> Result<()> {
        let mut power = self.power();
        power.vm.as_mut().ok_or_else(|| self.off("a resume"))?.resume()?;
        power.paused = false;
        Ok(())
    }

    /// Cuts it off from a network: its packets vanish in both directions and nothing tells it so;
    /// the carrier stays, calls hang until their own time limits. Stays over [`Node::boot`].
    ///
    /// # Errors
    /// When it is not on this network.
    pub fn partition(&self, network: Network) -> Result<()> {
        self.plugs.port(self.name(), network)?.set_cut(true);
        Ok(())
    }

    /// Ends [`Node::partition`].
    ///
    /// # Errors
    /// When it is not on this network.
    pub fn heal(&self, network: Network) -> Result<()> {
        self.plugs.port(self.name(), network)?.set_cut(false);
        Ok(())
    }

    /// The networks that it is cut off from.
    pub fn partitions(&self) -> Vec<Network> {
        self.plugs.cut_networks()
    }

    /// Its address on a network, the same over all boots and in all labs.
    ///
    /// # Errors
    /// When it is not on this network.
    pub fn address(&self, network: Network) -> Result<Ipv4Addr> {
        let addresses = self.addresses();
        let found = addresses.into_iter().find(|(other, _)| *other == network);
        found.map(|(_, address)| address).ok_or_else(|| LabError::NoNetwork {
            machine: self.name().to_owned(),
            network: network.name(),
        })
    }

    /// All its addresses.
    pub fn addresses(&self) -> Vec<(Network, Ipv4Addr)> {
        let plan = self.plugs.plan.iter();
        let of = |plan: &NetworkPlan| {
            let number = plan.number;
            let networks = plan.networks.iter();
            networks.map(|network| (*network, network.address(number))).collect::<Vec<_>>()
        };
        plan.flat_map(of).collect()
    }

    /// Its console, the agent's log and what QEMU said, over all its boots.
    pub fn logs(&self) -> String {
        let files = &self.machine.files;
        let parts = [&files.console_log, &files.agent_log, &files.qemu_log];
        let text =
            |path: &PathBuf| format!("--- {}\n{}\n", path.display(), host::tail(path, usize::MAX));
        parts.map(text).concat()
    }

    /// The console of the kernel, over all its boots.
    pub fn console(&self) -> String {
        host::tail(&self.machine.files.console_log, usize::MAX)
    }

    pub(crate) fn client(&self, what: &str) -> Result<AgentClient> {
        match &self.power().vm {
            Some(vm) => Ok(vm.client()),
            None => Err(self.off(what)),
        }
    }

    /// Adds the end of the console to the error of a machine that went away by itself.
    pub(crate) fn explain(&self, error: LabError) -> LabError {
        match error {
            LabError::NodeGone { node, what, .. } => {
                let Some(start) = self.power().vm.as_ref().map(Vm::console_start) else {
                    let console = ": it was cut or shut down".to_owned();
                    return LabError::NodeGone { node, what, console };
                };
                let log = &self.machine.files.console_log;
                let text = host::console_excerpt(log, start, CONSOLE_LINES);
                let hint = if text.contains(STALE_CODE) {
                    " (this is a known fault of QEMU before 8.1, see docs/lab.md)"
                } else {
                    ""
                };
                let console = format!("{hint}; from its console:\n{text}");
                LabError::NodeGone { node, what, console }
            }
            other => other,
        }
    }

    fn off(&self, what: &str) -> LabError {
        LabError::NodeOff { node: self.name().to_owned(), what: what.to_owned() }
    }

    /// Files for the output of the next job.
    pub(crate) fn job_files(&self, program: &str) -> Result<(PathBuf, PathBuf)> {
        let number = self.jobs.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.join("jobs");
        fs::create_dir_all(&directory).at("make", &directory)?;
        let file = |end| directory.join(format!("{number:03}-{program}.{end}"));
        Ok((file("stdout"), file("stderr")))
    }

    /// Adds a command, its result and how long it took to the node's record, for whoever looks into
    /// a failure or into what a test spends its time on.
    pub(crate) fn record(&self, command: &str, took: Duration, result: &Result<Output>) {
        let took = took.as_secs_f64();
        let text = match result {
            Ok(output) => {
                let clip = |bytes: &[u8]| {
                    let end = bytes.len().min(RECORD_BYTES);
                    String::from_utf8_lossy(&bytes[..end]).into_owned()
                };
                let (stdout, stderr) = (clip(&output.stdout), clip(&output.stderr));
                format!("$ {command}\n{stdout}{stderr}[{}, {took:.2} s]\n", output.outcome)
            }
            Err(error) => format!("$ {command}\n[{error}, {took:.2} s]\n"),
        };
        let path = self.directory.join("commands.log");
        let file = OpenOptions::new().create(true).append(true).open(path);
        // The record is an extra; the command's own result is what counts.
        let _ = file.and_then(|mut file| file.write_all(text.as_bytes()));
    }
}
