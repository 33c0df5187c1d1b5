//! A lab: nodes that share LUNs, from its builder to its end.
//!
//! Invariants:
//! - no machine outlives its [`Lab`], nor the process;
//! - a lab that is dropped during a panic keeps its logs and says where.

use crate::error::{AtPath, LabError, Result};
use crate::host::{self, MKE2FS, QEMU, SETPRIV};
use crate::image::Image;
use crate::initiator::{self, Initiator};
use crate::lun::{LUNS_MAX, Lun, LunSpec};
use crate::network::{Network, Wiring};
use crate::node::{Node, ProgramsDisk};
use crate::programs::Programs;
use crate::progress::Step;
use crate::qemu::{Machine, MachineFiles};
use crate::run_dir::{RUN_VARIABLE, RunDir};
use crate::slots::Slot;
use crate::target::{self, TARGET_MACHINE, Target, TargetSpec};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// `kvm` or `tcg`: how the machines are run; found out when it is not set.
pub const ACCEL_VARIABLE: &str = "LUNAR_LAB_ACCEL";

/// Most nodes of a lab.
pub const NODES_MAX: usize = 8;

const DATA_BYTES: u64 = 4 << 30;
/// Space that a lab may need at once; its disks are sparse.
const NEEDED_MIB: u64 = 1024;
/// The target only passes blocks on; one processor also spares it QEMU's fault with stale code.
const TARGET_CPUS: u32 = 1;
const TARGET_MEMORY_MIB: u32 = 512;
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// What a lab should be.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct LabBuilder {
    name: Option<String>,
    nodes: usize,
    machines: Vec<String>,
    networks: bool,
    target: Option<TargetSpec>,
    luns: Vec<LunSpec>,
    programs: Programs,
    cpus: u32,
    memory_mib: u32,
    boot_limit: Duration,
}

impl LabBuilder {
    /// Gives the lab a fixed directory; unnamed labs have one of their own each.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the number of nodes; 1 otherwise.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Puts the networks [`Network::Control`] and [`Network::Storage`] between the machines;
    /// otherwise they have `lo` alone.
    pub fn networks(mut self) -> Self {
        self.networks = true;
        self
    }

    /// Adds a machine that is no node: on all networks, without LUNs; [`Lab::machine`] gives it.
    pub fn machine(mut self, name: impl Into<String>) -> Self {
        self.machines.push(name.into());
        self.networks()
    }

    /// Adds a target, which exports LUNs with reservations to every other machine; see
    /// [`crate::Node::lun_path`]. All nodes are connected to it when the lab has started.
    pub fn target(mut self, target: TargetSpec) -> Self {
        self.target = Some(target);
        self.networks()
    }

    /// Adds LUNs that every node sees.
    pub fn luns(mut self, luns: impl IntoIterator<Item = LunSpec>) -> Self {
        self.luns.extend(luns);
        self
    }

    /// Puts the executable files of a directory into the `PATH` of the machines.
    pub fn programs(mut self, directory: impl Into<PathBuf>) -> Self {
        self.programs.directories.push(directory.into());
        self
    }

    /// Puts one more executable file into the `PATH` of the machines.
    pub fn program(mut self, file: impl Into<PathBuf>) -> Self {
        self.programs.files.push(file.into());
        self
    }

    /// Names the agent binary; otherwise `$LUNAR_LAB_AGENT`, or `lab-agent` beside this program.
    pub fn agent(mut self, file: impl Into<PathBuf>) -> Self {
        self.programs.agent = Some(file.into());
        self
    }

    /// Sets the processors of a node; 2 otherwise.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Sets the memory of a node in MiB; 1024 otherwise.
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Sets how long a boot may take; 3 minutes otherwise.
    pub fn boot_limit(mut self, limit: Duration) -> Self {
        self.boot_limit = limit;
        self
    }

    fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(LabError::Settings(why));
        if self.nodes == 0 || self.nodes > NODES_MAX {
            return wrong(format!("{} nodes; a lab has 1 to {NODES_MAX}", self.nodes));
        }
        if self.luns.len() > LUNS_MAX {
            return wrong(format!("{} LUNs; a lab has at most {LUNS_MAX}", self.luns.len()));
        }
        if self.cpus == 0 || self.memory_mib < 256 {
            return wrong("a node has at least 1 processor and 256 MiB of memory".to_owned());
        }
        if let Some(name) = &self.name {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
                return wrong(format!("{name:?}: a name is 1 to 32 letters, digits, '-' or '_'"));
            }
        }
        self.check_machines()?;
        // Missing programs are reported before anything is made.
        QEMU.path()?;
        MKE2FS.path()?;
        SETPRIV.path().map(|_| ())
    }

    fn check_machines(&self) -> Result<()> {
        let wrong = |why: String| Err(LabError::Settings(why));
        for (index, name) in self.machines.iter().enumerate() {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            if name.is_empty() || name.len() > 16 || !name.chars().all(plain) {
                return wrong(format!("{name:?}: a machine has 1 to 16 small letters or digits"));
            }
            let reserved =
                name.starts_with("node") || name == TARGET_MACHINE || name == "localhost";
            if reserved || self.machines[..index].contains(name) {
                return wrong(format!("{name:?}: another machine has this name"));
            }
        }
        if self.machines.len() > NODES_MAX {
            return wrong(format!("{} machines beside the nodes; at most 8", self.machines.len()));
        }
        match &self.target {
            Some(target) if target.luns.is_empty() || target.luns.len() > LUNS_MAX => {
                wrong(format!("{} LUNs; a target has 1 to {LUNS_MAX}", target.luns.len()))
            }
            Some(target) => target.storage_networks().map(|_| ()),
            None => Ok(()),
        }
    }

    /// Names of all machines by their numbers: nodes, other machines, target.
    fn names(&self) -> Vec<String> {
        let nodes = (0..self.nodes).map(|index| format!("node{index}"));
        let target = self.target.iter().map(|_| TARGET_MACHINE.to_owned());
        nodes.chain(self.machines.iter().cloned()).chain(target).collect()
    }

    fn wiring(&self, names: &[String]) -> Result<Wiring> {
        if !self.networks {
            return Ok(Wiring::default());
        }
        let storage = match &self.target {
            Some(target) => target.storage_networks()?,
            None => &[Network::Storage],
        };
        Ok(Wiring::new(&[&[Network::Control], storage].concat(), names.to_vec()))
    }

    fn initiator(&self, target_number: usize, luns: &[Lun]) -> Result<Option<Initiator>> {
        self.target.as_ref().map(|target| target.initiator(target_number, luns)).transpose()
    }

    /// Makes the disks and boots all nodes.
    ///
    /// # Errors
    /// When a setting makes no sense, a program is missing, the image cannot be had, or a node does
    /// not come up. Nothing is left running then; logs are kept.
    pub fn start(self) -> Result<Lab> {
        self.check()?;
        let image = Image::ensure()?;
        let slot = if self.name.is_none() { Some(Slot::take()?) } else { None };
        let run = RunDir::create(self.name.as_deref())?;
        let mut lab = Lab {
            nodes: Vec::new(),
            machines: Vec::new(),
            target: None,
            wiring: Wiring::default(),
            luns: Vec::new(),
            run,
            _slot: slot,
            failed: false,
            ended: AtomicBool::new(false),
        };
        match lab.set_up(&self, &image) {
            Ok(()) => Ok(lab),
            Err(error) => {
                lab.failed = true;
                Err(error)
            }
        }
    }
}

/// Makes the machines of one lab.
struct MachineFactory<'a> {
    builder: &'a LabBuilder,
    image: &'a Image,
    directory: PathBuf,
    programs: Arc<ProgramsDisk>,
    wiring: &'a Wiring,
    initiator: Option<Arc<Initiator>>,
    direct: bool,
    kvm: bool,
}

impl MachineFactory<'_> {
    /// Makes the disks and the plugs of a machine; it is off.
    fn make(&self, number: usize, name: &str, luns: &[Lun]) -> Result<Node> {
        let directory = self.directory.join(name);
        fs::create_dir(&directory).at("make", &directory)?;
        host::make_ext4(&directory.join("data.ext4"), DATA_BYTES, None)?;
        let plugs = self.wiring.plug(number, &directory)?;
        let (cpus, memory_mib) = match name {
            TARGET_MACHINE => (TARGET_CPUS, TARGET_MEMORY_MIB),
            _ => (self.builder.cpus, self.builder.memory_mib),
        };
        let mut modules = Vec::new();
        if plugs.plan.is_some() {
            modules.push("virtio_net");
        }
        match &self.initiator {
            Some(_) if name == TARGET_MACHINE => modules.extend(target::MODULES),
            Some(_) if number < self.builder.nodes => modules.extend(initiator::MODULES),
            _ => {}
        }
        let machine = Machine {
            modules,
            node: name.to_owned(),
            cpus,
            memory_mib,
            kvm: self.kvm,
            kernel: self.image.kernel(),
            root: self.image.root(),
            programs: self.programs.image.clone(),
            data: directory.join("data.ext4"),
            luns: luns.to_vec(),
            direct: self.direct,
            network: plugs.plan.clone(),
            nics: plugs.nics(),
            files: MachineFiles {
                agent_socket: directory.join("agent.sock"),
                monitor_socket: directory.join("monitor.sock"),
                console_log: directory.join("console.log"),
                agent_log: directory.join("agent.log"),
                qemu_log: directory.join("qemu.log"),
            },
        };
        let (limit, programs) = (self.builder.boot_limit, Arc::clone(&self.programs));
        Ok(Node::new(machine, directory, limit, programs, (plugs, self.initiator.clone())))
    }
}

/// A running lab.
pub struct Lab {
    nodes: Vec<Node>,
    machines: Vec<Node>,
    target: Option<Target>,
    wiring: Wiring,
    luns: Vec<Lun>,
    run: RunDir,
    _slot: Option<Slot>,
    failed: bool,
    ended: AtomicBool,
}

impl Lab {
    /// A lab of one node without LUNs, to be changed.
    pub fn builder() -> LabBuilder {
        LabBuilder {
            name: None,
            nodes: 1,
            machines: Vec::new(),
            networks: false,
            target: None,
            luns: Vec::new(),
            programs: Programs::default(),
            cpus: 2,
            memory_mib: 1024,
            boot_limit: BOOT_LIMIT,
        }
    }

    fn set_up(&mut self, builder: &LabBuilder, image: &Image) -> Result<()> {
        let directory = self.run.path().to_owned();
        host::require_space("a lab", &directory, NEEDED_MIB, RUN_VARIABLE)?;
        let lun_directory = directory.join("luns");
        fs::create_dir(&lun_directory).at("make", &lun_directory)?;
        self.luns = make_luns(&builder.luns, &[], &lun_directory)?;
        let target_luns = builder.target.as_ref().map_or(&[][..], |target| &target.luns);
        let target_luns = make_luns(target_luns, &self.luns, &lun_directory)?;
        let programs = Arc::new(ProgramsDisk {
            programs: builder.programs.clone(),
            image: directory.join("programs.ext4"),
            built: Mutex::default(),
        });
        programs.refresh()?;
        let names = builder.names();
        self.wiring = builder.wiring(&names)?;
        let factory = MachineFactory {
            builder,
            image,
            directory,
            programs,
            wiring: &self.wiring,
            initiator: builder.initiator(names.len() - 1, &target_luns)?.map(Arc::new),
            direct: takes_direct_io(&lun_directory)?,
            kvm: uses_kvm()?,
        };
        for (number, name) in names.iter().enumerate() {
            if name == TARGET_MACHINE {
                let node = factory.make(number, name, &target_luns)?;
                let initiator = node.initiator.clone().expect("a lab with a target has it");
                let clients = names[..number].to_vec();
                self.target = Some(Target::new(node, initiator, clients, target_luns.clone()));
            } else if number < builder.nodes {
                self.nodes.push(factory.make(number, name, &self.luns)?);
            } else {
                self.machines.push(factory.make(number, name, &[])?);
            }
        }
        self.boot_all()
    }

    /// Boots all machines at once and then connects the nodes to the target.
    fn boot_all(&self) -> Result<()> {
        let count = self.all_machines().count();
        let kind = if count == self.nodes.len() { "node" } else { "machine" };
        let _step =
            Step::begin(format!("booting {count} {kind}{}", if count == 1 { "" } else { "s" }));
        in_turn(self.all_machines(), |machine| match &self.target {
            Some(target) if std::ptr::eq(target.node(), machine) => target.boot(),
            _ => machine.boot(),
        })?;
        match self.target {
            Some(_) => in_turn(self.nodes.iter(), Node::connect_luns),
            None => Ok(()),
        }
    }

    /// Every machine: nodes, others, target.
    pub fn all_machines(&self) -> impl Iterator<Item = &Node> {
        let target = self.target.iter().map(Target::node);
        self.nodes.iter().chain(&self.machines).chain(target)
    }

    /// The machine with this name: `node0`, a name given to [`LabBuilder::machine`], `target`.
    ///
    /// # Panics
    /// When there is none; see [`Lab::try_machine`].
    pub fn machine(&self, name: &str) -> &Node {
        self.try_machine(name).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The machine with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn try_machine(&self, name: &str) -> Result<&Node> {
        self.all_machines().find(|machine| machine.name() == name).ok_or_else(|| {
            let there: Vec<_> = self.all_machines().map(Node::name).collect();
            LabError::NoSuchMachine { name: name.to_owned(), there: there.join(", ") }
        })
    }

    /// The target.
    ///
    /// # Panics
    /// When the lab was built without one.
    pub fn target(&self) -> &Target {
        self.target.as_ref().expect("the lab was built with a target")
    }

    /// The target, if there is one.
    pub fn try_target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Boots a machine as its lab does: the target exports its LUNs, a node connects to them.
    ///
    /// # Errors
    /// As [`Node::boot`], [`Target::boot`] and [`Node::connect_luns`].
    pub fn boot(&self, machine: &Node) -> Result<()> {
        match &self.target {
            Some(target) if std::ptr::eq(target.node(), machine) => target.boot(),
            Some(_) if self.nodes.iter().any(|node| std::ptr::eq(node, machine)) => {
                machine.boot()?;
                machine.connect_luns()
            }
            _ => machine.boot(),
        }
    }

    /// The node with this number.
    ///
    /// # Panics
    /// When there is none; see [`Lab::try_node`].
    pub fn node(&self, index: usize) -> &Node {
        self.try_node(index).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The node with this number.
    ///
    /// # Errors
    /// When there is none.
    pub fn try_node(&self, index: usize) -> Result<&Node> {
        let count = self.nodes.len();
        self.nodes.get(index).ok_or(LabError::NoSuchNode { index, count })
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All LUNs, in the order in which they were asked for.
    pub fn luns(&self) -> &[Lun] {
        &self.luns
    }

    /// Where its disks, sockets and logs are.
    pub fn directory(&self) -> &Path {
        self.run.path()
    }

    /// Keeps the logs when the lab ends: for a failure that is no panic.
    pub fn keep_logs(&mut self) {
        self.failed = true;
    }

    /// Cuts all nodes and removes the lab's directory; so does dropping it.
    pub fn down(self) {
        drop(self);
    }

    /// What [`Lab::down`] does, for an owner that shares the lab; the second call does nothing.
    pub(crate) fn end(&self) {
        if self.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        for node in self.all_machines() {
            // A node that is off already is what is wanted.
            let _ = node.cut();
        }
        self.wiring.end();
        self.run.finish(self.failed || thread::panicking());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.end();
    }
}

/// Does the same to all machines; on half the host's processors at once, since a machine that boots
/// takes two: more of them wait for each other's time slices (see docs/lab.md).
fn in_turn<'a>(
    machines: impl Iterator<Item = &'a Node> + Send,
    step: impl Fn(&Node) -> Result<()> + Sync,
) -> Result<()> {
    let workers = thread::available_parallelism().map_or(1, |count| (count.get() / 2).max(1));
    let queue = Mutex::new(machines);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(machine) = next() {
            step(machine)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a step does not panic"))
    })
}

/// Makes the files of LUNs, whose serials differ from those of `others` too.
fn make_luns(specs: &[LunSpec], others: &[Lun], directory: &Path) -> Result<Vec<Lun>> {
    let mut luns: Vec<Lun> = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let lun = Lun::plan(index, spec.clone(), directory)?;
        if luns.iter().chain(others).any(|other| other.serial == lun.serial) {
            return Err(LabError::Settings(format!("two LUNs have serial {}", lun.serial)));
        }
        host::sparse_file(&lun.file, lun.spec.size_bytes)?;
        luns.push(lun);
    }
    Ok(luns)
}

/// Whether files of this directory can be opened past the host's page cache; tmpfs often refuses.
fn takes_direct_io(directory: &Path) -> Result<bool> {
    let path = directory.join("direct-io-probe");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).custom_flags(nix::libc::O_DIRECT);
    let taken = options.open(&path).is_ok();
    if path.exists() {
        fs::remove_file(&path).at("remove", path)?;
    }
    Ok(taken)
}

/// Whether the machines run on KVM: `$LUNAR_LAB_ACCEL`, else what the host offers.
fn uses_kvm() -> Result<bool> {
    match std::env::var(ACCEL_VARIABLE).as_deref() {
        Ok("kvm") => Ok(true),
        Ok("tcg") => Ok(false),
        Ok(other) => Err(LabError::Settings(format!("{ACCEL_VARIABLE}={other}; it is kvm or tcg"))),
        Err(_) => {
            // Some hosts have /dev/kvm without the processor's virtualisation behind it: such a KVM
            // stops at the first instruction that it cannot emulate.
            let facts = fs::read_to_string("/proc/cpuinfo").at("read", "/proc/cpuinfo")?;
            let real = facts.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
            Ok(real && OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok())
        }
    }
}
