//! The doctor's judgements: facts in, lines of the report out.

use std::path::Path;

use lunar_identity::CertFacts;
use lunar_proto::domain::{Cluster, PoolStatus, WatermarkLevel};
use lunar_proto::v1;

use super::Check;
use super::host::{CAP_IPC_LOCK, CAP_SYS_ADMIN, HostFacts, MemoryLock, UblkDriver};
use crate::error::CliError;
use crate::views::time::DAY;

/// From when on the end of a certificate is a remark.
const CERTIFICATE_WARN_DAYS: i64 = 14;

/// What fs-core locks at least: its map, its queues and itself.
const MEMORY_LOCK_MIN: u64 = 1 << 30;

const GET_UBLK: &str = "boot a kernel with CONFIG_BLK_DEV_UBLK and its module: on Debian the one \
    of backports (apt-get install -t trixie-backports linux-image-amd64, or \
    linux-image-cloud-amd64 in a virtual machine), then modprobe ublk_drv";

const USE_RESERVATIONS: &str = "make pools of LUNs whose array has persistent reservations \
    (SCSI-3, NVMe): then lost nodes are cut off and their volumes taken over";

const MAKE_ROOM: &str = "delete snapshots or volumes, add a LUN with lunar pool add-lun, see \
    lunar pool status for what is reserved or in quarantine";

/// What only the host itself says.
#[must_use]
pub fn of_host(facts: &HostFacts) -> Vec<Check> {
    vec![
        ublk(facts),
        io_uring(facts),
        privilege(facts),
        memory_lock(facts),
        run_directory(facts),
        tools(facts),
    ]
}

fn ublk(facts: &HostFacts) -> Check {
    const NAME: &str = "ublk";
    let release = &facts.kernel_release;
    let config = facts.ublk_config.as_ref().map(|line| format!(" ({line})")).unwrap_or_default();
    match facts.ublk {
        UblkDriver::Present => Check::ok(NAME, format!("kernel {release}, /dev/ublk-control")),
        UblkDriver::Loadable => Check::fail(
            NAME,
            format!("kernel {release} has the module ublk_drv, which is not loaded"),
            "modprobe ublk_drv, and a line 'ublk_drv' in /etc/modules-load.d/lunar.conf",
        ),
        UblkDriver::Missing => {
            Check::fail(NAME, format!("kernel {release} has no ublk{config}"), GET_UBLK)
        }
    }
}

fn io_uring(facts: &HostFacts) -> Check {
    const NAME: &str = "io_uring";
    match facts.io_uring_disabled {
        Some(0) => Check::ok(NAME, "allowed for everybody"),
        Some(1) => Check::ok(NAME, "allowed for the privileged, as fs-core is"),
        Some(value) => Check::fail(
            NAME,
            format!("kernel.io_uring_disabled is {value}: nobody may use it"),
            "sysctl -w kernel.io_uring_disabled=1, and the same line in /etc/sysctl.d/lunar.conf",
        ),
        None => Check::warn(
            NAME,
            "kernel.io_uring_disabled cannot be read",
            "a kernel before 6.6 lacks the setting and is fine; a newer one was built without \
             CONFIG_IO_URING and is not",
        ),
    }
}

fn privilege(facts: &HostFacts) -> Check {
    const NAME: &str = "privilege";
    match facts.has_capability(CAP_SYS_ADMIN) {
        true => Check::ok(NAME, "CAP_SYS_ADMIN"),
        false => Check::warn(
            NAME,
            "no CAP_SYS_ADMIN: fs-core's socket and parts of this report are out of reach",
            "run lunar as root; fs-core has to run as root",
        ),
    }
}

fn memory_lock(facts: &HostFacts) -> Check {
    const NAME: &str = "locked memory";
    let remedy = "LimitMEMLOCK=infinity in the unit of fs-core, or ulimit -l unlimited before it";
    match facts.memory_lock {
        _ if facts.has_capability(CAP_IPC_LOCK) => Check::ok(NAME, "unlimited, by CAP_IPC_LOCK"),
        Some(MemoryLock::Unlimited) => Check::ok(NAME, "unlimited"),
        Some(MemoryLock::Bytes(bytes)) if bytes >= MEMORY_LOCK_MIN => {
            Check::ok(NAME, format!("{} MiB", bytes >> 20))
        }
        Some(MemoryLock::Bytes(bytes)) => {
            Check::warn(NAME, format!("{} KiB, for this user", bytes >> 10), remedy)
        }
        None => Check::warn(NAME, "the limit cannot be read", remedy),
    }
}

fn run_directory(facts: &HostFacts) -> Check {
    const NAME: &str = "/run";
    let remedy = "mount tmpfs on /run: what is written there has to outlive fs-core, not the boot";
    match facts.run_on_tmpfs {
        Some(true) => Check::ok(NAME, "tmpfs"),
        Some(false) => Check::fail(NAME, "is not on tmpfs", remedy),
        None => Check::fail(NAME, "cannot be examined", remedy),
    }
}

fn tools(facts: &HostFacts) -> Check {
    const NAME: &str = "programs";
    let package = |tool: &&str| match *tool {
        "mkfs.ext4" => "e2fsprogs",
        "mkfs.xfs" => "xfsprogs",
        "modprobe" => "kmod",
        _ => "util-linux",
    };
    let missing = &facts.tools_missing;
    if missing.is_empty() {
        return Check::ok(NAME, super::host::TOOLS.join(", "));
    }
    let packages: Vec<&str> = missing.iter().map(package).collect();
    let found = format!("{} not found", missing.join(", "));
    let remedy = format!("apt-get install {}", packages.join(" "));
    // Labelling a LUN must recognise foreign content; file systems are the users' choice.
    match missing.contains(&"blkid") {
        true => Check::fail(NAME, found, remedy),
        false => Check::warn(NAME, found, remedy),
    }
}

/// Whether the own certificate is good for some time yet; `now` in seconds since 1970-01-01 UTC.
#[must_use]
pub fn of_certificate(path: &Path, own: &Result<CertFacts, String>, now: i64) -> Check {
    const NAME: &str = "certificate";
    let own = match own {
        Ok(own) => own,
        Err(problem) => {
            return Check::fail(NAME, problem, "lunar pki issue, or give another --tls-cert");
        }
    };
    let (name, days) = (&own.name, (own.not_after - now).div_euclid(DAY));
    let remedy = format!("lunar pki rotate, which has to reach {}", path.display());
    if !own.is_valid_at(now) {
        return Check::fail(NAME, format!("{name} is not valid now"), remedy);
    }
    let found = format!("{name}, valid for {days} days");
    match days {
        days if days < CERTIFICATE_WARN_DAYS => Check::warn(NAME, found, remedy),
        _ => Check::ok(NAME, found),
    }
}

/// Whether the metadata service answers.
#[must_use]
pub fn of_metadata(endpoint: &str, answer: &Result<Cluster, CliError>) -> Check {
    const NAME: &str = "metadata service";
    match answer {
        Ok(cluster) => {
            let version = &cluster.service_version;
            Check::ok(NAME, format!("{endpoint}, version {version}, cluster {}", cluster.id))
        }
        Err(error) => Check::fail(
            NAME,
            &error.message,
            "start metadata-service, or name its endpoint with --metadata or LUNAR_METADATA",
        ),
    }
}

/// Whether pools are above a watermark. Full pools are no fault of this host: none is a failure.
#[must_use]
pub fn of_pools(answer: &Result<Vec<PoolStatus>, CliError>) -> Option<Check> {
    const NAME: &str = "pools";
    let pools = match answer {
        Ok(pools) if pools.is_empty() => return None,
        Ok(pools) => pools,
        Err(error) => return Some(Check::fail(NAME, &error.message, &error.advice)),
    };
    let full = pools.iter().filter(|pool| pool.level() > WatermarkLevel::Normal);
    let full: Vec<String> = full.map(fullness).collect();
    Some(match full.as_slice() {
        [] => Check::ok(NAME, format!("{}, all below their watermarks", pools.len())),
        full => Check::warn(NAME, full.join("; "), MAKE_ROOM),
    })
}

/// Whether pools have what a lost node is cut off with. Without it they work, with limits that
/// somebody has to know.
#[must_use]
pub fn of_fencing(answer: &Result<Vec<PoolStatus>, CliError>) -> Option<Check> {
    const NAME: &str = "fencing";
    let pools = answer.as_ref().ok().filter(|pools| !pools.is_empty())?;
    let warned = pools.iter().filter_map(|status| {
        let warning = status.pool.fencing.warning()?;
        Some(format!("'{}': {warning}", status.pool.name))
    });
    let warned: Vec<String> = warned.collect();
    Some(match warned.as_slice() {
        [] => Check::ok(NAME, "every pool by reservations"),
        warned => Check::warn(NAME, warned.join("; "), USE_RESERVATIONS),
    })
}

fn fullness(status: &PoolStatus) -> String {
    let (name, used, level) = (&status.pool.name, status.fill.percent(), status.level());
    let mark = status.pool.watermarks.mark_of(level);
    format!("'{name}' is {used} % full, {level} from {mark} % on")
}

/// What fs-core says of itself and of its host.
#[derive(Clone, PartialEq, Debug)]
pub struct DaemonFacts {
    /// Who it is.
    pub status: v1::DaemonStatus,
    /// What it found.
    pub probe: v1::ProbeResponse,
    /// The LUNs that it sees.
    pub luns: Vec<v1::LocalLun>,
}

/// Whether fs-core answers, and what it lacks.
#[must_use]
pub fn of_daemon(answer: &Result<DaemonFacts, CliError>) -> Vec<Check> {
    match answer {
        Ok(facts) => {
            vec![
                daemon(facts),
                daemon_kernel(&facts.probe),
                daemon_process(&facts.probe),
                luns(facts),
            ]
        }
        Err(error) => vec![Check::fail("fs-core", &error.message, &error.advice)],
    }
}

fn daemon(facts: &DaemonFacts) -> Check {
    const NAME: &str = "fs-core";
    let status = &facts.status;
    let found = format!(
        "node '{}', version {}, volumes attached: {}",
        status.node_name, status.version, status.attachments
    );
    if !status.metadata_reachable {
        let endpoint = &status.metadata_endpoint;
        let remedy = format!("{}: see its endpoint {endpoint}", status.metadata_problem);
        return Check::fail(NAME, format!("{found}; no metadata service"), remedy);
    }
    match status.warnings.as_slice() {
        [] => Check::ok(NAME, found),
        warnings => Check::warn(NAME, found, warnings.join("; ")),
    }
}

fn daemon_kernel(probe: &v1::ProbeResponse) -> Check {
    const NAME: &str = "fs-core: ublk";
    if !probe.ublk_present {
        return Check::fail(NAME, &probe.ublk_problem, GET_UBLK);
    }
    match probe.ublk_missing.as_slice() {
        [] => Check::ok(NAME, "every feature that is needed"),
        missing => Check::fail(NAME, format!("lacks {}", missing.join(", ")), GET_UBLK),
    }
}

fn daemon_process(probe: &v1::ProbeResponse) -> Check {
    const NAME: &str = "fs-core: process";
    let mut problems = Vec::new();
    if !probe.memory_locked {
        problems.push(format!("memory is not locked ({})", probe.memory_lock_problem));
    }
    if !probe.io_flusher {
        problems.push("PR_SET_IO_FLUSHER is not set".to_owned());
    }
    if !probe.own_mount_namespace {
        problems.push("shares the mount namespace of the host".to_owned());
    }
    if probe.state_file_system != "tmpfs" {
        problems.push(format!("state is on {}, not on tmpfs", probe.state_file_system));
    }
    let remedy = "run fs-core as root without a wrapper that takes capabilities away";
    match problems.as_slice() {
        [] => Check::ok(NAME, "memory locked, I/O flusher, own mount namespace, state on tmpfs"),
        problems => Check::fail(NAME, problems.join("; "), remedy),
    }
}

fn luns(facts: &DaemonFacts) -> Check {
    const NAME: &str = "LUNs";
    let ours = facts.luns.iter().filter(|lun| lun.state() == v1::LunState::Ours).count();
    let bad = facts.luns.iter().filter(|lun| is_damaged(lun.state()));
    let problems: Vec<String> = bad.map(|lun| format!("{}: {}", lun.path, lun.problem)).collect();
    if !problems.is_empty() {
        return Check::fail(
            NAME,
            format!("{ours} labelled, {} damaged", problems.len()),
            problems.join("; "),
        );
    }
    match ours {
        0 => Check::warn(NAME, "none is labelled", "lunar lun label PATH, then lunar pool create"),
        ours => Check::ok(NAME, format!("{ours} labelled")),
    }
}

const fn is_damaged(state: v1::LunState) -> bool {
    matches!(
        state,
        v1::LunState::LabelCopyDamaged | v1::LunState::LabelDamaged | v1::LunState::Shrank
    )
}

#[cfg(test)]
mod tests;
