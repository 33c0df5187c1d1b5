//! A lab: nodes that share LUNs, from its builder to its end.
//!
//! Invariants:
//! - no machine outlives its [`Lab`], nor the process;
//! - a lab that is dropped during a panic keeps its logs and says where.

use crate::error::{AtPath, LabError, Result};
use crate::host::{self, MKE2FS, QEMU, SETPRIV};
use crate::image::Image;
use crate::lun::{LUNS_MAX, Lun, LunSpec};
use crate::node::{Node, ProgramsDisk};
use crate::programs::Programs;
use crate::progress::Step;
use crate::qemu::{Machine, MachineFiles};
use crate::run_dir::{RUN_VARIABLE, RunDir};
use crate::slots::Slot;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// `kvm` or `tcg`: how the machines are run; found out when it is not set.
pub const ACCEL_VARIABLE: &str = "LUNAR_LAB_ACCEL";

/// Most nodes of a lab.
pub const NODES_MAX: usize = 8;

const DATA_BYTES: u64 = 4 << 30;
/// Space that a lab may need at once; its disks are sparse.
const NEEDED_MIB: u64 = 1024;
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// What a lab should be.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct LabBuilder {
    name: Option<String>,
    nodes: usize,
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
        // Missing programs are reported before anything is made.
        QEMU.path()?;
        MKE2FS.path()?;
        SETPRIV.path().map(|_| ())
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

/// A running lab.
pub struct Lab {
    nodes: Vec<Node>,
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
        for (index, spec) in builder.luns.iter().enumerate() {
            let lun = Lun::plan(index, spec.clone(), &lun_directory)?;
            if self.luns.iter().any(|other| other.serial == lun.serial) {
                return Err(LabError::Settings(format!("two LUNs have serial {}", lun.serial)));
            }
            host::sparse_file(&lun.file, lun.spec.size_bytes)?;
            self.luns.push(lun);
        }
        let programs = Arc::new(ProgramsDisk {
            programs: builder.programs.clone(),
            image: directory.join("programs.ext4"),
            built: Mutex::default(),
        });
        programs.refresh()?;
        let host_facts = (takes_direct_io(&lun_directory)?, uses_kvm()?);
        for index in 0..builder.nodes {
            let node_directory = directory.join(format!("node{index}"));
            fs::create_dir(&node_directory).at("make", &node_directory)?;
            host::make_ext4(&node_directory.join("data.ext4"), DATA_BYTES, None)?;
            let machine = self.machine(builder, image, index, &node_directory, host_facts);
            let programs = Arc::clone(&programs);
            self.nodes.push(Node::new(machine, node_directory, builder.boot_limit, programs));
        }
        self.boot_all()
    }

    fn machine(
        &self,
        builder: &LabBuilder,
        image: &Image,
        index: usize,
        directory: &Path,
        (direct, kvm): (bool, bool),
    ) -> Machine {
        Machine {
            node: format!("node{index}"),
            cpus: builder.cpus,
            memory_mib: builder.memory_mib,
            kvm,
            kernel: image.kernel(),
            root: image.root(),
            programs: self.run.path().join("programs.ext4"),
            data: directory.join("data.ext4"),
            luns: self.luns.clone(),
            direct,
            files: MachineFiles {
                agent_socket: directory.join("agent.sock"),
                monitor_socket: directory.join("monitor.sock"),
                console_log: directory.join("console.log"),
                agent_log: directory.join("agent.log"),
                qemu_log: directory.join("qemu.log"),
            },
        }
    }

    fn boot_all(&self) -> Result<()> {
        let count = self.nodes.len();
        let _step =
            Step::begin(format!("booting {count} node{}", if count == 1 { "" } else { "s" }));
        thread::scope(|scope| {
            let boots: Vec<_> = self.nodes.iter().map(|node| scope.spawn(|| node.boot())).collect();
            boots.into_iter().try_for_each(|boot| boot.join().expect("booting does not panic"))
        })
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
        for node in &self.nodes {
            // A node that is off already is what is wanted.
            let _ = node.cut();
        }
        self.run.finish(self.failed || thread::panicking());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.end();
    }
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
