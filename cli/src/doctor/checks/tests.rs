//! Each fault of a host is named, and a sound host has none.

use super::*;
use crate::doctor::{Diagnosis, Verdict};
use crate::error::Exit;
use crate::output::Report;

fn sound_host() -> HostFacts {
    HostFacts {
        kernel_release: "7.3.4-cloud-amd64".to_owned(),
        ublk: UblkDriver::Present,
        ublk_config: None,
        io_uring_disabled: Some(0),
        capabilities: u64::MAX,
        memory_lock: Some(MemoryLock::Unlimited),
        run_on_tmpfs: Some(true),
        tools_missing: Vec::new(),
    }
}

fn sound_daemon() -> DaemonFacts {
    DaemonFacts {
        status: v1::DaemonStatus {
            node_name: "n1".to_owned(),
            version: "0.1.0".to_owned(),
            metadata_reachable: true,
            ..v1::DaemonStatus::default()
        },
        probe: v1::ProbeResponse {
            ublk_present: true,
            memory_locked: true,
            io_flusher: true,
            own_mount_namespace: true,
            state_file_system: "tmpfs".to_owned(),
            ..v1::ProbeResponse::default()
        },
        luns: vec![lun(v1::LunState::Ours)],
    }
}

fn lun(state: v1::LunState) -> v1::LocalLun {
    v1::LocalLun {
        path: "/dev/sdb".to_owned(),
        state: state.into(),
        problem: "why".to_owned(),
        ..v1::LocalLun::default()
    }
}

fn verdicts(checks: &[Check]) -> Vec<Verdict> {
    checks.iter().map(|check| check.verdict).collect()
}

fn pool_status(used_extents: u64) -> PoolStatus {
    PoolStatus {
        pool: lunar_proto::domain::Pool {
            id: lunar_types::PoolId::from_u128(1),
            name: "tank".parse().expect("a name"),
            extent_size: lunar_types::ExtentSize::DEFAULT,
            luns: Vec::new(),
            logical_block_size: lunar_types::LogicalBlockSize::B4096,
            fencing: lunar_proto::domain::PoolFencing::None,
            watermarks: lunar_proto::domain::Watermarks::DEFAULT,
        },
        usage: lunar_proto::domain::SpaceUsage::default(),
        fill: lunar_proto::domain::PoolFill { used_extents, usable_extents: 100 },
        provisioned: lunar_types::ByteCount::new(0),
        volumes: 0,
        luns: Vec::new(),
    }
}

#[test]
fn pools_that_no_array_fences_are_named() {
    use lunar_proto::domain::PoolFencing;
    let of = |kinds: &[PoolFencing]| {
        let pools = kinds.iter().map(|fencing| {
            let mut status = pool_status(0);
            status.pool.fencing = *fencing;
            status
        });
        of_fencing(&Ok(pools.collect()))
    };
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[PoolFencing::Reservations]).expect("a check").verdict, Verdict::Ok);
    let warned = of(&[PoolFencing::Reservations, PoolFencing::Lease]).expect("a check");
    assert_eq!(warned.verdict, Verdict::Warn);
    assert!(warned.found.contains("a machine that was paused can write"), "{}", warned.found);
    let warned = of(&[PoolFencing::None]).expect("a check");
    assert!(warned.found.contains("without an operator"), "{}", warned.found);
}

#[test]
fn pools_above_a_watermark_are_named() {
    let of = |used: &[u64]| of_pools(&Ok(used.iter().map(|used| pool_status(*used)).collect()));
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[0, 79]).expect("a check").verdict, Verdict::Ok);
    let full = of(&[10, 91]).expect("a check");
    assert_eq!(full.verdict, Verdict::Warn);
    assert_eq!(full.found, "'tank' is 91 % full, high from 90 % on");
    let error = CliError::new(Exit::Unavailable, "X", "no answer".to_owned());
    assert_eq!(of_pools(&Err(error)).expect("a check").verdict, Verdict::Fail);
}

/// The one check of a host with a fault that is not ok.
fn fault(spoil: impl FnOnce(&mut HostFacts)) -> Check {
    let mut facts = sound_host();
    spoil(&mut facts);
    let mut bad = of_host(&facts);
    bad.retain(|check| check.verdict != Verdict::Ok);
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert!(!bad[0].remedy.is_empty(), "{bad:?}");
    bad.remove(0)
}

/// The same of a daemon.
fn daemon_fault(spoil: impl FnOnce(&mut DaemonFacts)) -> Check {
    let mut facts = sound_daemon();
    spoil(&mut facts);
    let mut bad = of_daemon(&Ok(facts));
    bad.retain(|check| check.verdict != Verdict::Ok);
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert!(!bad[0].remedy.is_empty(), "{bad:?}");
    bad.remove(0)
}

#[test]
fn sound_host_and_daemon_have_no_fault() {
    assert_eq!(verdicts(&of_host(&sound_host())), [Verdict::Ok; 6]);
    assert_eq!(verdicts(&of_daemon(&Ok(sound_daemon()))), [Verdict::Ok; 4]);
}

#[test]
fn missing_and_unloaded_ublk_are_told_apart() {
    let missing = fault(|facts| facts.ublk = UblkDriver::Missing);
    assert_eq!((missing.name, missing.verdict), ("ublk", Verdict::Fail));
    assert!(missing.remedy.contains("CONFIG_BLK_DEV_UBLK"));
    let loadable = fault(|facts| facts.ublk = UblkDriver::Loadable);
    assert_eq!(loadable.verdict, Verdict::Fail);
    assert!(loadable.remedy.starts_with("modprobe ublk_drv"));
}

#[test]
fn faults_of_the_host_have_their_verdict() {
    let all = |facts: &mut HostFacts| facts.capabilities = 0;
    assert_eq!(fault(all).name, "privilege");
    let disabled = fault(|facts| facts.io_uring_disabled = Some(2));
    assert_eq!((disabled.name, disabled.verdict), ("io_uring", Verdict::Fail));
    let unknown = fault(|facts| facts.io_uring_disabled = None);
    assert_eq!(unknown.verdict, Verdict::Warn);
    let disk = fault(|facts| facts.run_on_tmpfs = Some(false));
    assert_eq!((disk.name, disk.verdict), ("/run", Verdict::Fail));
    let memory = fault(|facts| {
        facts.capabilities = 1 << CAP_SYS_ADMIN;
        facts.memory_lock = Some(MemoryLock::Bytes(8 << 20));
    });
    assert_eq!((memory.name, memory.verdict), ("locked memory", Verdict::Warn));
}

#[test]
fn missing_programs_name_their_packages() {
    let xfs = fault(|facts| facts.tools_missing = vec!["mkfs.xfs"]);
    assert_eq!((xfs.verdict, xfs.remedy.as_str()), (Verdict::Warn, "apt-get install xfsprogs"));
    let blkid = fault(|facts| facts.tools_missing = vec!["blkid"]);
    assert_eq!(blkid.verdict, Verdict::Fail);
}

#[test]
fn faults_of_the_daemon_have_their_verdict() {
    let cut_off = daemon_fault(|facts| facts.status.metadata_reachable = false);
    assert_eq!((cut_off.name, cut_off.verdict), ("fs-core", Verdict::Fail));
    let left = daemon_fault(|facts| facts.status.warnings.push("ublkb3 remains".to_owned()));
    assert_eq!((left.verdict, left.remedy.as_str()), (Verdict::Warn, "ublkb3 remains"));
    let old = daemon_fault(|facts| facts.probe.ublk_missing.push("UBLK_F_X".to_owned()));
    assert_eq!((old.verdict, old.found.as_str()), (Verdict::Fail, "lacks UBLK_F_X"));
    let absent = daemon_fault(|facts| {
        facts.probe.ublk_present = false;
        facts.probe.ublk_problem = "no driver".to_owned();
    });
    assert_eq!((absent.name, absent.found.as_str()), ("fs-core: ublk", "no driver"));
    let process = daemon_fault(|facts| facts.probe.io_flusher = false);
    assert_eq!((process.name, process.verdict), ("fs-core: process", Verdict::Fail));
}

#[test]
fn absent_and_damaged_luns_are_told_apart() {
    let none = daemon_fault(|facts| facts.luns.clear());
    assert_eq!((none.name, none.verdict), ("LUNs", Verdict::Warn));
    for state in [v1::LunState::LabelCopyDamaged, v1::LunState::LabelDamaged, v1::LunState::Shrank]
    {
        let damaged = daemon_fault(|facts| facts.luns.push(lun(state)));
        assert_eq!((damaged.verdict, damaged.remedy.as_str()), (Verdict::Fail, "/dev/sdb: why"));
    }
}

#[test]
fn unreachable_services_fail_with_the_reason() {
    let error = CliError::new(Exit::Unavailable, "X", "cannot be reached").advise("start it");
    let daemon = of_daemon(&Err(error.clone()));
    assert_eq!((daemon[0].verdict, daemon[0].remedy.as_str()), (Verdict::Fail, "start it"));
    assert_eq!(of_metadata("http://a:1", &Err(error)).verdict, Verdict::Fail);
}

#[test]
fn a_certificate_that_ends_soon_is_a_remark_and_one_that_has_ended_a_failure() {
    let name = "lunar://11111111-2222-4333-8444-555555555555/admin/root";
    let own = Ok(CertFacts {
        name: name.parse().expect("a name"),
        serial: "0a".parse().expect("a number"),
        not_before: 0,
        not_after: 100 * 86_400,
    });
    let at = |day: i64| of_certificate(Path::new("/root.crt"), &own, day * 86_400);
    assert_eq!(at(10).verdict, Verdict::Ok);
    let soon = at(90);
    assert_eq!((soon.verdict, soon.found), (Verdict::Warn, format!("{name}, valid for 10 days")));
    assert!(soon.remedy.contains("/root.crt"), "{}", soon.remedy);
    for day in [-1, 101] {
        assert_eq!(at(day).verdict, Verdict::Fail, "{day}");
    }
    let unread = of_certificate(Path::new("/x"), &Err("it cannot be read".to_owned()), 0);
    assert_eq!((unread.verdict, unread.found.as_str()), (Verdict::Fail, "it cannot be read"));
}

#[test]
fn report_for_people_ends_with_what_to_do() {
    let diagnosis = Diagnosis::new(vec![
        Check::ok("a", "fine"),
        Check::warn("b", "so so", "improve it"),
        Check::fail("c", "missing", "get it"),
    ]);
    let expected = "      CHECK  FOUND
ok    a      fine
warn  b      so so
FAIL  c      missing

b (warn): improve it

c (FAIL): get it

this host is not ready: see FAIL above
";
    assert_eq!(diagnosis.to_text(), expected);
    assert_eq!(diagnosis.verdict, Verdict::Fail);
}
