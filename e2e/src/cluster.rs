//! Several nodes over LUNs of one target, with the metadata service on a machine of its own: TLS
//! between them, certificates made by `lunar pki`.

use std::path::PathBuf;
use std::time::Duration;

use lunar_lab::{InitiatorTimeouts, Lab, LunSpec, Node, Signal, TargetSpec};
use lunar_types::{Epoch, VolumeId};
use serde_json::Value;

use crate::machine::{Background, Machine, MachineError};
use crate::session::{LIMIT, wait_until};

/// Starts and stops within this, on an emulated processor too.
const START_LIMIT: Duration = Duration::from_secs(90);
const META: &str = "meta";
const PKI: &str = "/var/lib/lunar/pki";
const STORE: &str = "/var/lib/lunar/metadata.redb";
const TLS: &str = "/etc/lunar/tls";

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// Nodes that run fs-core.
    pub nodes: usize,
    /// LUNs of the target.
    pub luns: usize,
    /// Processors of each machine, and so queues of each device.
    pub cpus: u32,
    /// Paths from each node to each LUN, 1 or 2. With 2 each LUN is a dm-multipath device.
    pub paths: usize,
    /// Where the programs are.
    pub programs: PathBuf,
}

/// A volume on a node, as `lunar` tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// Which volume.
    pub volume: VolumeId,
    /// Of its grant to the node.
    pub epoch: Epoch,
    /// Its device there.
    pub device: String,
}

impl Attached {
    /// From the JSON of an attachment.
    ///
    /// # Errors
    /// When something is missing there.
    pub fn of(shown: &Value) -> Result<Self, MachineError> {
        let text = |field: &str| shown.get(field).and_then(Value::as_str);
        let volume = text("volume_id").and_then(|id| id.parse().ok());
        let epoch = shown.get("epoch").and_then(Value::as_u64).map(Epoch::new);
        let device = text("device_path").map(str::to_owned);
        match (volume, epoch, device) {
            (Some(volume), Some(epoch), Some(device)) => Ok(Self { volume, epoch, device }),
            _ => Err(MachineError::Unexpected(format!("no attachment in {shown}"))),
        }
    }
}

/// A running cluster.
pub struct Cluster {
    lab: Lab,
    paths: usize,
    metadata: Option<Box<dyn Background>>,
    fs_cores: Vec<Option<Box<dyn Background>>>,
}

/// Bytes of each LUN.
const LUN_BYTES: u64 = 1 << 30;

impl Cluster {
    /// Boots everything, makes the certificates, and starts the daemons.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn start(spec: &ClusterSpec) -> Result<Self, MachineError> {
        let luns = (0..spec.luns).map(|_| LunSpec::new(LUN_BYTES));
        // A path that is silent fails while a takeover is still waited for, and outlasts a target
        // that starts again.
        // Where there is another one, it fails sooner.
        let timeouts = InitiatorTimeouts {
            noop_interval: Duration::from_secs(2),
            noop_timeout: Duration::from_secs(3),
            replacement: Duration::from_secs(if spec.paths > 1 { 3 } else { 30 }),
        };
        let lab = Lab::builder()
            .nodes(spec.nodes)
            .cpus(spec.cpus)
            .machine(META)
            .target(TargetSpec::new(luns).paths(spec.paths).timeouts(timeouts))
            .programs(&spec.programs)
            .start()?;
        let fs_cores = (0..spec.nodes).map(|_| None).collect();
        let mut cluster = Self { lab, paths: spec.paths, metadata: None, fs_cores };
        cluster.make_certificates()?;
        cluster.start_metadata()?;
        for node in 0..spec.nodes {
            cluster.prepare(node)?;
            cluster.start_fs_core(node)?;
        }
        Ok(cluster)
    }

    /// The lab.
    #[must_use]
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The lab, to be told to keep its logs.
    pub const fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// A node.
    #[must_use]
    pub fn node(&self, node: usize) -> &Node {
        self.lab.node(node)
    }

    /// The machine of the metadata service.
    #[must_use]
    pub fn meta(&self) -> &Node {
        self.lab.machine(META)
    }

    /// The first start, on loopback, says which cluster it is; the certificates are of that.
    fn make_certificates(&mut self) -> Result<(), MachineError> {
        let meta = self.lab.machine(META);
        let first = meta.start(&["metadata-service", "serve", "--store", STORE])?;
        self.metadata = Some(first);
        self.metadata_serves()?;
        let doctor = meta.sh("lunar -o json doctor || true")?;
        let cluster = cluster_id(&doctor)?;
        self.stop_metadata()?;
        let mut script = format!("mkdir -p {PKI}; cd {PKI}; lunar pki init --cluster {cluster}");
        let issue = |role: &str, name: &str| {
            format!("; lunar pki issue --role {role} --name {name} > /dev/null")
        };
        script += &issue("metadata", META);
        script += &issue("admin", "operator");
        for node in self.lab.nodes() {
            script += &issue("node", node.name());
        }
        let script = format!("export LUNAR_PKI_DIR={PKI}; {script}");
        self.lab.machine(META).sh(&script)?;
        Ok(())
    }

    /// Gives a node its certificate, and the operator's; loads what a boot forgets.
    ///
    /// # Errors
    /// When the machine fails.
    pub fn prepare(&self, node: usize) -> Result<(), MachineError> {
        let machine = self.lab.node(node);
        machine.exec_ok(&["modprobe", "ublk_drv"])?;
        if self.paths > 1 {
            self.join_paths(node)?;
        }
        machine.sh(&format!("mkdir -p {TLS}"))?;
        let name = machine.name().to_owned();
        for (from, to) in [
            ("ca.crt", "ca.crt"),
            (&format!("{name}.crt"), "node.crt"),
            (&format!("{name}.key"), "node.key"),
            ("operator.crt", "operator.crt"),
            ("operator.key", "operator.key"),
        ] {
            let content = self.meta().read_file(&format!("{PKI}/{from}"))?;
            machine.write_file(&format!("{TLS}/{to}"), content, 0o600)?;
        }
        let environment = format!(
            "export LUNAR_METADATA=https://{META}:7420 LUNAR_TLS_CA={TLS}/ca.crt \
             LUNAR_TLS_CERT={TLS}/operator.crt LUNAR_TLS_KEY={TLS}/operator.key\n"
        );
        machine.write_file("/etc/lunar/operator", environment, 0o600)?;
        Ok(())
    }

    /// Makes one device of the paths to each LUN, as multipathd does.
    fn join_paths(&self, node: usize) -> Result<(), MachineError> {
        let mut script = "modprobe -a dm-multipath dm-round-robin".to_owned();
        for lun in 0..self.lab.target().luns().len() {
            let paths = self.lab.node(node).lun_paths(lun)?;
            let devices: Vec<_> = paths.iter().map(|path| path.device.as_str()).collect();
            let (first, count) = (devices[0], devices.len());
            let each: String = devices.iter().map(|device| format!(" {device} 1")).collect();
            script += &format!(
                "; dmsetup create mp{lun} --uuid mpath-lab{lun} --table \"0 $(blockdev --getsz \
                 {first}) multipath 0 0 1 1 round-robin 0 {count} 1{each}\"; \
                 dmsetup mknodes mp{lun}"
            );
        }
        self.lab.node(node).sh(&format!("set -e; {script}")).map(drop).map_err(Into::into)
    }

    /// The device of a LUN on a node: the one of all its paths.
    ///
    /// # Errors
    /// When the node does not see it.
    pub fn lun_device(&self, node: usize, lun: usize) -> Result<String, MachineError> {
        match self.paths {
            1 => Ok(self.lab.node(node).lun_path(lun)?),
            _ => Ok(format!("/dev/mapper/mp{lun}")),
        }
    }

    /// Starts the metadata service, over TLS.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_metadata(&mut self) -> Result<(), MachineError> {
        let argv = [
            "metadata-service",
            "serve",
            "--store",
            STORE,
            "--listen",
            "0.0.0.0:7420",
            "--tls-cert",
            &format!("{PKI}/{META}.crt"),
            "--tls-key",
            &format!("{PKI}/{META}.key"),
            "--tls-client-ca",
            &format!("{PKI}/ca.crt"),
        ];
        self.metadata = Some(self.lab.machine(META).start(&argv)?);
        self.metadata_serves()
    }

    fn metadata_serves(&self) -> Result<(), MachineError> {
        let daemon = self.metadata.as_deref();
        wait_until("the metadata service serves", START_LIMIT, || {
            Ok(daemon.is_some_and(|daemon| daemon.log().contains(" serving ")))
        })
        .map_err(|error| self.with_logs(error))
    }

    /// What the metadata service has logged since it was started.
    #[must_use]
    pub fn metadata_log(&self) -> String {
        self.metadata.as_ref().map_or_else(String::new, |daemon| daemon.log())
    }

    /// Waits until the metadata service has logged something.
    ///
    /// # Errors
    /// When it does not in time; the logs of all daemons are in the message.
    pub fn wait_for_metadata(&self, text: &str) -> Result<(), MachineError> {
        let logged = || Ok(self.metadata_log().contains(text));
        wait_until(&format!("the metadata service logs '{text}'"), START_LIMIT, logged)
            .map_err(|error| self.with_logs(error))
    }

    /// Kills the metadata service and starts it again.
    ///
    /// # Errors
    /// When it does not end or come up.
    pub fn restart_metadata(&mut self) -> Result<(), MachineError> {
        self.end_metadata(Signal::SIGKILL)?;
        self.start_metadata()
    }

    /// Stops the metadata service.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_metadata(&mut self) -> Result<(), MachineError> {
        self.end_metadata(Signal::SIGTERM)
    }

    fn end_metadata(&mut self, signal: Signal) -> Result<(), MachineError> {
        let Some(mut daemon) = self.metadata.take() else { return Ok(()) };
        daemon.signal(signal)?;
        daemon.wait(START_LIMIT)
    }

    /// Starts fs-core on a node, and waits until it lets requests in.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_fs_core(&mut self, node: usize) -> Result<(), MachineError> {
        self.spawn_fs_core(node)?;
        self.lets_requests_in(node, 1)
    }

    /// Starts fs-core on a node, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_fs_core(&mut self, node: usize) -> Result<(), MachineError> {
        let argv = [
            "fs-core",
            "serve",
            "--metadata-endpoint",
            &format!("https://{META}:7420"),
            "--tls-ca",
            &format!("{TLS}/ca.crt"),
            "--tls-cert",
            &format!("{TLS}/node.crt"),
            "--tls-key",
            &format!("{TLS}/node.key"),
        ];
        self.fs_cores[node] = Some(self.lab.node(node).start(&argv)?);
        Ok(())
    }

    /// Waits until the daemon of a node has said so often that it lets requests in: it says so once
    /// an incarnation.
    ///
    /// # Errors
    /// When it does not in time; the logs of all daemons are in the message.
    pub fn lets_requests_in(&self, node: usize, times: usize) -> Result<(), MachineError> {
        let what = format!("fs-core of node {node} lets requests in for time {times}");
        wait_until(&what, START_LIMIT, || Ok(self.times_let_in(node) >= times))
            .map_err(|error| self.with_logs(error))
    }

    /// How often the daemon of a node, since it was started, has let requests in.
    #[must_use]
    pub fn times_let_in(&self, node: usize) -> usize {
        self.log_of(node).matches("requests are let in").count()
    }

    /// What the daemon of a node has logged.
    #[must_use]
    pub fn log_of(&self, node: usize) -> String {
        self.fs_cores[node].as_ref().map_or_else(String::new, |daemon| daemon.log())
    }

    /// Sends the daemon of a node a signal.
    ///
    /// # Errors
    /// When it cannot be delivered.
    pub fn signal_fs_core(&mut self, node: usize, signal: Signal) -> Result<(), MachineError> {
        match &mut self.fs_cores[node] {
            Some(daemon) => daemon.signal(signal),
            None => Err(MachineError::Unexpected(format!("node {node} runs no fs-core"))),
        }
    }

    /// Kills the daemon of a node and starts it again.
    ///
    /// # Errors
    /// When it does not end or come up.
    pub fn restart_fs_core(&mut self, node: usize) -> Result<(), MachineError> {
        if let Some(mut daemon) = self.fs_cores[node].take() {
            daemon.signal(Signal::SIGKILL)?;
            daemon.wait(START_LIMIT)?;
        }
        self.start_fs_core(node)
    }

    /// A node has lost its power.
    ///
    /// # Errors
    /// When the machine cannot be cut.
    pub fn cut(&mut self, node: usize) -> Result<(), MachineError> {
        self.lab.node(node).cut()?;
        self.fs_cores[node] = None;
        Ok(())
    }

    /// Boots a node that was cut, and starts its daemon.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn boot(&mut self, node: usize) -> Result<(), MachineError> {
        self.lab.boot(self.lab.node(node))?;
        self.prepare(node)?;
        self.start_fs_core(node)
    }

    /// A command line of the operator on a node.
    #[must_use]
    pub fn as_operator(command: &str) -> String {
        format!("source /etc/lunar/operator; {command}")
    }

    /// Runs a command of the operator on a node; it has to succeed.
    ///
    /// # Errors
    /// When it fails, with all its output and the logs of the daemons.
    pub fn run(&self, node: usize, command: &str) -> Result<String, MachineError> {
        let ran = self.lab.node(node).sh_machine(&Self::as_operator(command))?;
        let done = ran.expect_code(0).map_err(|error| self.with_logs(error))?;
        Ok(done.stdout)
    }

    /// Runs `lunar` on a node for its JSON.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn json(&self, node: usize, arguments: &str) -> Result<Value, MachineError> {
        let text = self.run(node, &format!("lunar -o json {arguments}"))?;
        serde_json::from_str(&text).map_err(|error| {
            MachineError::Unexpected(format!("lunar {arguments}: {error}: {text}"))
        })
    }

    /// Attaches a volume to a node.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn attach(&self, node: usize, volume: &str, how: &str) -> Result<Attached, MachineError> {
        Attached::of(&self.json(node, &format!("volume attach {volume} {how}"))?)
    }

    /// The error, with what every daemon has logged.
    #[must_use]
    pub fn with_logs(&self, error: MachineError) -> MachineError {
        let metadata = self.metadata.as_ref().map_or_else(String::new, |daemon| daemon.log());
        let mut text = format!("{error}\nmetadata-service:\n{metadata}");
        for node in 0..self.fs_cores.len() {
            text += &format!("\nfs-core of node {node}:\n{}", self.log_of(node));
        }
        MachineError::Unexpected(text)
    }
}

trait AsMachine {
    fn sh_machine(&self, script: &str) -> Result<crate::machine::Ran, MachineError>;
}

impl AsMachine for Node {
    fn sh_machine(&self, script: &str) -> Result<crate::machine::Ran, MachineError> {
        Machine::sh(self, script, LIMIT)
    }
}

/// The cluster id in the doctor's report.
fn cluster_id(report: &str) -> Result<String, MachineError> {
    let id = report.split_once("cluster ").map(|(_, rest)| rest);
    let id = id.map(|rest| rest.chars().take_while(|c| c.is_ascii_hexdigit() || *c == '-'));
    let id: String = id.into_iter().flatten().collect();
    match id.len() {
        36 => Ok(id),
        _ => Err(MachineError::Unexpected(format!("no cluster id in {report}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_is_read_from_what_lunar_shows() {
        let id = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";
        let shown = format!(r#"{{"volume_id": "{id}", "epoch": 2, "device_path": "/dev/ublkb0"}}"#);
        let shown: Value = serde_json::from_str(&shown).expect("valid");
        let attached = Attached::of(&shown).expect("all is there");
        assert_eq!((attached.volume.to_string().as_str(), attached.epoch.get()), (id, 2));
        assert_eq!(attached.device, "/dev/ublkb0");
        assert!(Attached::of(&Value::Null).is_err());
    }

    #[test]
    fn the_cluster_is_found_in_the_report_of_the_doctor() {
        let id = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";
        let report = format!("\"found\": \"http://x, version 0.1.0, cluster {id}\", …");
        assert_eq!(cluster_id(&report).expect("it is there"), id);
        assert!(cluster_id("no cluster here").is_err());
    }
}
