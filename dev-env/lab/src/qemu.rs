//! The command line of one machine.
//!
//! A pure function from [`Machine`] to arguments, so that it can be tested without QEMU. It relies
//! on a kernel that has NVMe, ext4, virtio-pci and virtio-console built in: the root disk is an
//! emulated NVMe disk and no initial ram disk is needed.

use crate::agent::{
    AGENT_PORT, DATA_SERIAL, LOG_PORT, MODULES_PARAMETER, NODE_PARAMETER, PROGRAMS_SERIAL,
};
use crate::lun::Lun;
use crate::network::{HardwareAddress, NetworkPlan};
use serde_json::json;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Everything that differs between machines.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) node: String,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) kvm: bool,
    pub(crate) kernel: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) programs: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) luns: Vec<Lun>,
    /// Whether the files of LUNs can be opened with `O_DIRECT`.
    pub(crate) direct: bool,
    /// Addresses and names; a machine without networks has `lo` alone.
    pub(crate) network: Option<NetworkPlan>,
    pub(crate) nics: Vec<Nic>,
    /// Kernel modules that the agent loads during the boot.
    pub(crate) modules: Vec<&'static str>,
    pub(crate) files: MachineFiles,
}

/// A network interface and the socket of the switch that it is plugged into.
#[derive(Debug, Clone)]
pub(crate) struct Nic {
    pub(crate) name: &'static str,
    pub(crate) address: HardwareAddress,
    pub(crate) socket: PathBuf,
}

/// Sockets and logs of a machine on the host.
#[derive(Debug, Clone)]
pub(crate) struct MachineFiles {
    /// Listening socket of the host; QEMU connects and passes the agent's port through.
    pub(crate) agent_socket: PathBuf,
    /// Listening socket of the host; QEMU connects with its monitor.
    pub(crate) monitor_socket: PathBuf,
    /// Console of the kernel.
    pub(crate) console_log: PathBuf,
    /// What the agent says.
    pub(crate) agent_log: PathBuf,
    /// What QEMU says.
    pub(crate) qemu_log: PathBuf,
}

impl Machine {
    /// The arguments after the program's name.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut line = Arguments(Vec::new());
        line.option("-name", &self.node);
        line.option("-machine", "q35");
        if self.kvm {
            line.option("-accel", "kvm");
        } else {
            line.option("-accel", "tcg,thread=multi");
        }
        line.option("-cpu", "max");
        line.option("-smp", &self.cpus.to_string());
        line.option("-m", &format!("{}M", self.memory_mib));
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            line.0.push(flag.into());
        }
        line.option("-display", "none");
        line.path("-kernel", &self.kernel);
        line.option("-append", &self.kernel_command_line());
        self.root_disk(&mut line);
        self.channels(&mut line);
        line.disk(&Disk {
            name: "programs",
            file: &self.programs,
            serial: PROGRAMS_SERIAL,
            read_only: true,
            write_cache: false,
            direct: false,
            logical_block_bytes: 512,
            queues: None,
        });
        line.disk(&Disk {
            name: "data",
            file: &self.data,
            serial: DATA_SERIAL,
            read_only: false,
            write_cache: true,
            direct: false,
            logical_block_bytes: 512,
            queues: None,
        });
        for (index, lun) in self.luns.iter().enumerate() {
            line.disk(&Disk {
                name: &format!("lun{index}"),
                file: &lun.file,
                serial: &lun.serial,
                read_only: false,
                write_cache: lun.spec.write_cache,
                direct: self.direct,
                logical_block_bytes: lun.spec.logical_block_bytes,
                queues: lun.spec.queues,
            });
        }
        for nic in &self.nics {
            line.nic(nic);
        }
        line.0
    }

    fn kernel_command_line(&self) -> String {
        // The check of the timer compares it with a busy loop, which fails on a busy host.
        let base = "console=ttyS0 loglevel=4 root=/dev/nvme0n1 rootfstype=ext4 rw init=/labinit \
                    panic=-1 oops=panic no_timer_check";
        // QEMU before 8.1 without KVM may run stale code when one processor patches what another
        // one runs. The kernel patches itself mostly during its boot: the agent starts the other
        // processors after that.
        let processors = if self.kvm { "" } else { "maxcpus=1 " };
        let network = self.network.as_ref().map(|plan| plan.kernel_words() + " ");
        let network = network.unwrap_or_default();
        let modules = match &self.modules[..] {
            [] => String::new(),
            modules => format!("{MODULES_PARAMETER}={} ", modules.join(",")),
        };
        format!("{base} {processors}{modules}{network}{NODE_PARAMETER}={}", self.node)
    }

    /// The root disk: the shared image below, a throw-away overlay above.
    fn root_disk(&self, line: &mut Arguments) {
        let file = self.root.to_string_lossy().replace(',', ",,");
        line.option(
            "-drive",
            &format!("file={file},format=raw,if=none,id=root,snapshot=on,cache=unsafe"),
        );
        line.option("-device", "nvme,drive=root,serial=root");
    }

    fn channels(&self, line: &mut Arguments) {
        line.option("-device", "virtio-serial-pci");
        let files = &self.files;
        line.channel_socket("agent", &files.agent_socket);
        line.option("-device", &format!("virtserialport,chardev=agent,name={AGENT_PORT}"));
        line.channel_file("log", &files.agent_log);
        line.option("-device", &format!("virtserialport,chardev=log,name={LOG_PORT}"));
        line.channel_file("console", &files.console_log);
        line.option("-serial", "chardev:console");
        line.channel_socket("monitor", &files.monitor_socket);
        line.option("-mon", "chardev=monitor,mode=control");
    }
}

struct Disk<'a> {
    name: &'a str,
    file: &'a Path,
    serial: &'a str,
    read_only: bool,
    write_cache: bool,
    direct: bool,
    logical_block_bytes: u32,
    queues: Option<u16>,
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn option(&mut self, name: &str, value: &str) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    fn path(&mut self, name: &str, path: &Path) {
        self.0.push(name.into());
        self.0.push(path.into());
    }

    fn channel_socket(&mut self, id: &str, path: &Path) {
        let path = path.to_string_lossy().replace(',', ",,");
        self.option("-chardev", &format!("socket,id={id},path={path},server=off"));
    }

    fn channel_file(&mut self, id: &str, path: &Path) {
        let path = path.to_string_lossy().replace(',', ",,");
        self.option("-chardev", &format!("file,id={id},path={path},append=on"));
    }

    fn nic(&mut self, nic: &Nic) {
        let Nic { name, address, socket } = nic;
        let path = socket.to_string_lossy().replace(',', ",,");
        let peer = format!("stream,id={name},server=off,addr.type=unix,addr.path={path}");
        self.option("-netdev", &peer);
        // Nobody boots from it, so it needs no ROM.
        let device = format!("virtio-net-pci,netdev={name},mac={address},romfile=");
        self.option("-device", &device);
    }

    fn disk(&mut self, disk: &Disk<'_>) {
        let Disk { name, file, serial, read_only, write_cache, direct, .. } = *disk;
        // A write that the guest sees completed is in the file, which outlives QEMU: an fsync of
        // the host's own disk would add nothing but minutes, hence no-flush.
        let cache = json!({ "direct": direct, "no-flush": true });
        let file_node = json!({
            "driver": "file",
            "node-name": format!("{name}-file"),
            "filename": file.to_string_lossy(),
            "locking": "off",
            "read-only": read_only,
            "cache": cache,
            "discard": "unmap",
        });
        let raw_node = json!({
            "driver": "raw",
            "node-name": name,
            "file": format!("{name}-file"),
            "read-only": read_only,
            "cache": cache,
            "discard": "unmap",
        });
        self.option("-blockdev", &file_node.to_string());
        self.option("-blockdev", &raw_node.to_string());
        let write_cache = if write_cache { "on" } else { "off" };
        let queues = disk.queues.map(|queues| format!(",num-queues={queues}")).unwrap_or_default();
        let block = disk.logical_block_bytes;
        self.option(
            "-device",
            &format!(
                "virtio-blk-pci,drive={name},serial={serial},share-rw=on,write-cache={write_cache},\
                 logical_block_size={block},physical_block_size=4096{queues}"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lun::LunSpec;
    use crate::network::Network;

    fn machine(luns: Vec<LunSpec>) -> Machine {
        let directory = Path::new("/run/lab,1");
        let luns = luns.into_iter().enumerate();
        Machine {
            node: "node3".into(),
            cpus: 2,
            memory_mib: 1024,
            kvm: false,
            kernel: "/image/vmlinuz".into(),
            root: "/image/root,0.ext4".into(),
            programs: directory.join("programs.ext4"),
            data: directory.join("data.ext4"),
            luns: luns.map(|(i, spec)| Lun::plan(i, spec, directory).unwrap()).collect(),
            direct: true,
            network: None,
            nics: Vec::new(),
            modules: Vec::new(),
            files: MachineFiles {
                agent_socket: directory.join("agent"),
                monitor_socket: directory.join("monitor"),
                console_log: directory.join("console.log"),
                agent_log: directory.join("agent.log"),
                qemu_log: directory.join("qemu.log"),
            },
        }
    }

    fn values(machine: &Machine, option: &str) -> Vec<String> {
        let arguments = machine.arguments();
        let text: Vec<String> = arguments.iter().map(|a| a.to_string_lossy().into()).collect();
        text.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone()).collect()
    }

    #[test]
    fn luns_are_shared_direct_and_say_whether_they_cache() {
        let specs = vec![
            LunSpec::new(1 << 30).serial("first"),
            LunSpec::new(1 << 30).write_cache(true).logical_block_bytes(4096),
        ];
        let machine = machine(specs);
        let devices = values(&machine, "-device");
        let find = |serial: &str| devices.iter().find(|d| d.contains(serial)).unwrap().clone();
        let first = find("serial=first,");
        assert!(first.contains("share-rw=on,write-cache=off,logical_block_size=512,"), "{first}");
        let second = find("serial=lun1,");
        assert!(second.contains("share-rw=on,write-cache=on,logical_block_size=4096,"), "{second}");
        let nodes: Vec<serde_json::Value> = values(&machine, "-blockdev")
            .iter()
            .map(|text| serde_json::from_str(text).unwrap())
            .collect();
        let file = nodes.iter().find(|n| n["node-name"] == "lun0-file").unwrap();
        assert_eq!(file["filename"], "/run/lab,1/first.raw");
        assert_eq!(file["locking"], "off");
        assert_eq!(file["cache"]["direct"], true);
        let programs = nodes.iter().find(|n| n["node-name"] == "programs-file").unwrap();
        assert_eq!(programs["read-only"], true);
    }

    #[test]
    fn root_is_a_throw_away_overlay_and_commas_are_escaped() {
        let drives = values(&machine(vec![]), "-drive");
        assert_eq!(drives.len(), 1);
        assert!(drives[0].contains("file=/image/root,,0.ext4,"), "{drives:?}");
        assert!(drives[0].contains("snapshot=on"), "{drives:?}");
        let sockets = values(&machine(vec![]), "-chardev");
        assert!(sockets.iter().any(|s| s.contains("path=/run/lab,,1/agent,")), "{sockets:?}");
    }

    #[test]
    fn kernel_line_names_the_node_and_never_reboots() {
        let machine = machine(vec![]);
        let append = values(&machine, "-append").remove(0);
        assert!(append.ends_with("lunar.node=node3"), "{append}");
        assert!(append.contains("init=/labinit"), "{append}");
        assert!(machine.arguments().contains(&OsString::from("-no-reboot")));
        assert_eq!(values(&machine, "-accel"), ["tcg,thread=multi"]);
        assert!(values(&machine, "-netdev").is_empty(), "no network unless asked for");
    }

    #[test]
    fn interfaces_are_plugged_into_the_switch_of_the_lab() {
        let mut machine = machine(vec![]);
        let network = Network::Storage;
        machine.network = Some(NetworkPlan {
            number: 1,
            machines: vec!["node0".into(), "node3".into()],
            networks: vec![network],
        });
        machine.nics.push(Nic {
            name: network.name(),
            address: network.hardware_address(1),
            socket: "/run/lab,1/storage.sock".into(),
        });
        let peers = values(&machine, "-netdev");
        let expected =
            "stream,id=storage,server=off,addr.type=unix,addr.path=/run/lab,,1/storage.sock";
        assert_eq!(peers, [expected]);
        let devices = values(&machine, "-device");
        let mac = "mac=52:54:00:6c:4e:01";
        assert!(devices.iter().any(|d| d.contains(mac) && d.contains("netdev=storage")));
        let append = values(&machine, "-append").remove(0);
        assert!(append.contains(" lunar.machines=node0,node3 lunar.networks=storage "), "{append}");
    }
}
