//! Process 1 of a machine: mounts, names, links, then the server and the reaping of orphans.
//!
//! A step that fails is fatal and says so on the console: a half set-up machine would make tests
//! fail far from the cause. The exception are mounts for convenience, which are only logged.

use super::network;
use super::{
    AGENT_PORT, DATA_MOUNT, DATA_SERIAL, LOG_PORT, MODULES_PARAMETER, NODE_PARAMETER,
    PROGRAMS_MOUNT, log, port_path,
};
use crate::network::NetworkPlan;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::wait;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NO_EXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const NO_DEV: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

struct Mount {
    kind: &'static str,
    at: &'static str,
    flags: MsFlags,
    data: &'static str,
    needed: bool,
}

const fn needed(kind: &'static str, at: &'static str, flags: MsFlags, data: &'static str) -> Mount {
    Mount { kind, at, flags, data, needed: true }
}

const fn handy(kind: &'static str, at: &'static str) -> Mount {
    Mount { kind, at, flags: NO_EXEC, data: "", needed: false }
}

const MOUNTS: &[Mount] = &[
    needed("proc", "/proc", NO_EXEC, ""),
    needed("sysfs", "/sys", NO_EXEC, ""),
    needed("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"),
    needed("devpts", "/dev/pts", MsFlags::MS_NOSUID, "gid=5,mode=620,ptmxmode=666"),
    needed("tmpfs", "/dev/shm", NO_DEV, "mode=1777"),
    needed("tmpfs", "/run", NO_DEV, "mode=0755"),
    needed("tmpfs", "/tmp", NO_DEV, "mode=1777"),
    handy("configfs", "/sys/kernel/config"),
    handy("debugfs", "/sys/kernel/debug"),
    handy("tracefs", "/sys/kernel/tracing"),
    handy("cgroup2", "/sys/fs/cgroup"),
];

/// Environment of the server and so of every job.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PATH", "/opt/lunar/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
    ("TERM", "dumb"),
    // There is no udevd: device-mapper would wait for it for ever.
    ("DM_DISABLE_UDEV", "1"),
    ("RUST_BACKTRACE", "1"),
];

/// Sets the machine up, runs the server, powers off when it ends.
pub(super) fn run() -> io::Result<()> {
    if let Err(error) = set_up_and_serve() {
        log(&format!("fatal: {error}"));
    }
    nix::unistd::sync();
    // Only a missing privilege can make this return, and process 1 has them all.
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    Err(error.into())
}

fn set_up_and_serve() -> io::Result<()> {
    load_configfs();
    for entry in MOUNTS {
        mount_one(entry)?;
    }
    fs::create_dir_all("/run/lock")?;
    let node = kernel_parameter_or_default();
    nix::unistd::sethostname(&node)?;
    let plan = network::plan()?;
    write_identity(&node, plan.as_ref())?;
    link_disks_by_serial()?;
    mount_data_disk()?;
    load_modules()?;
    network::bring_up(plan.as_ref())?;
    start_processors()?;
    // Kernel messages after the boot are evidence; during the boot they only cost time.
    fs::write("/proc/sys/kernel/printk", "6")?;
    let log_port = OpenOptions::new().write(true).open(port_path(LOG_PORT)?)?;
    let mut server = Command::new(std::env::current_exe()?)
        .arg("serve")
        .env_clear()
        .envs(ENVIRONMENT.iter().copied())
        .current_dir("/root")
        .stdin(Stdio::null())
        .stdout(log_port.try_clone()?)
        .stderr(log_port)
        .spawn()?;
    let server_pid = i32::try_from(server.id()).expect("process ids are positive i32");
    log(&format!("{node} is set up, serving {AGENT_PORT}"));
    loop {
        // Also reaps every orphan of the machine.
        let status = wait()?;
        if status.pid().map(nix::unistd::Pid::as_raw) == Some(server_pid) {
            let _ = server.try_wait();
            return Err(io::Error::other(format!("the server ended: {status:?}")));
        }
    }
}

fn kernel_parameter_or_default() -> String {
    super::kernel_parameter(NODE_PARAMETER).unwrap_or_else(|| "lab".to_owned())
}

/// Loads the modules that the kernel command line asks for. While there is one processor this
/// takes a second; with two, that wait for each other at each patch of code, ten times as long.
fn load_modules() -> io::Result<()> {
    let Some(modules) = super::kernel_parameter(MODULES_PARAMETER) else {
        return Ok(());
    };
    let status = Command::new("/usr/sbin/modprobe").arg("-a").args(modules.split(',')).status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("modprobe -a {modules}: {status}")))
}

/// The directory to mount configfs at exists only when its module is there.
fn load_configfs() {
    match Command::new("/usr/sbin/modprobe").arg("configfs").status() {
        Ok(status) if status.success() => {}
        Ok(status) => log(&format!("modprobe configfs: {status}")),
        Err(error) => log(&format!("modprobe: {error}")),
    }
}

fn mount_one(entry: &Mount) -> io::Result<()> {
    let Mount { kind, at, flags, data, needed } = *entry;
    if needed {
        fs::create_dir_all(at)?;
    } else if !Path::new(at).is_dir() {
        return Ok(());
    }
    match mount(Some(kind), at, Some(kind), flags, Some(data)) {
        // The labinit script and the kernel have mounted some of them already.
        Ok(()) | Err(nix::Error::EBUSY) => Ok(()),
        Err(error) if needed => Err(io::Error::other(format!("mount {kind} at {at}: {error}"))),
        Err(error) => {
            log(&format!("mount {kind} at {at}: {error}"));
            Ok(())
        }
    }
}

/// Gives the node names that are its own and stay the same over boots.
fn write_identity(node: &str, plan: Option<&NetworkPlan>) -> io::Result<()> {
    let number = node.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let tail = number & 0xffff_ffff_ffff;
    fs::write("/etc/hostname", format!("{node}\n"))?;
    fs::write("/etc/machine-id", format!("{number:016x}{number:016x}\n"))?;
    let host_id = format!("00000000-0000-4000-8000-{tail:012x}");
    if Path::new("/etc/nvme").is_dir() {
        fs::write("/etc/nvme/hostid", format!("{host_id}\n"))?;
        let host_nqn = format!("nqn.2014-08.org.nvmexpress:uuid:{host_id}\n");
        fs::write("/etc/nvme/hostnqn", host_nqn)?;
    }
    if Path::new("/etc/iscsi").is_dir() {
        let name = format!("InitiatorName={}\n", crate::initiator::name_of(node));
        fs::write("/etc/iscsi/initiatorname.iscsi", name)?;
    }
    let hosts = match plan {
        Some(plan) => format!("127.0.0.1 localhost\n::1 localhost\n{}", plan.hosts()),
        None => format!("127.0.0.1 localhost {node}\n::1 localhost\n"),
    };
    fs::write("/etc/hosts", hosts)
}

/// The virtio disks of the machine: kernel name and serial.
fn virtio_disks() -> io::Result<Vec<(String, String)>> {
    let mut disks = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Ok(serial) = fs::read_to_string(entry.path().join("serial"))
            && name.starts_with("vd")
        {
            disks.push((name, serial.trim().to_owned()));
        }
    }
    Ok(disks)
}

/// Makes the links that udev would make.
fn link_disks_by_serial() -> io::Result<()> {
    let directory = Path::new("/dev/disk/by-id");
    fs::create_dir_all(directory)?;
    for (name, serial) in virtio_disks()? {
        let link = directory.join(format!("virtio-{serial}"));
        symlink(format!("../../{name}"), link)?;
    }
    Ok(())
}

fn mount_data_disk() -> io::Result<()> {
    let disks = virtio_disks()?;
    let Some((name, _)) = disks.iter().find(|(_, serial)| serial == DATA_SERIAL) else {
        return Err(io::Error::other(format!("no disk with serial {DATA_SERIAL}")));
    };
    fs::create_dir_all(DATA_MOUNT)?;
    let device = PathBuf::from("/dev").join(name);
    mount(Some(&device), DATA_MOUNT, Some("ext4"), MsFlags::empty(), None::<&str>).map_err(
        |error| io::Error::other(format!("mount {} at {DATA_MOUNT}: {error}", device.display())),
    )?;
    log(&format!("programs at {PROGRAMS_MOUNT}, data disk {name} at {DATA_MOUNT}"));
    Ok(())
}

/// Starts the processors that the kernel has left off.
fn start_processors() -> io::Result<()> {
    for entry in fs::read_dir("/sys/devices/system/cpu")? {
        let switch = entry?.path().join("online");
        // The first processor has no switch on many kernels; other entries are no processors.
        if fs::read_to_string(&switch).is_ok_and(|state| state.trim() == "0") {
            fs::write(&switch, "1")
                .map_err(|error| io::Error::other(format!("{}: {error}", switch.display())))?;
        }
    }
    Ok(())
}
