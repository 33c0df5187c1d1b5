//! Machines and their disks: kernel modules, shared LUNs, power cuts, pauses, crashes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use lunar_lab::{LabError, LunSpec, NodeState};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use support::{LIMIT, lab, wait_until};

#[test]
fn kernel_has_ublk_and_the_targets_and_faults_that_tests_need() {
    let lab = lab().start().unwrap();
    let node = lab.node(0);
    node.sh("modprobe ublk_drv && test -c /dev/ublk-control").unwrap();
    for module in [
        "nvme-tcp",
        "nvmet-tcp",
        "target_core_iblock",
        "target_core_file",
        "iscsi_target_mod",
        "iscsi_tcp",
        "scsi_debug",
        "dm_thin_pool",
        "dm_flakey",
        "dm_delay",
        "dm_log_writes",
        "null_blk",
        "nbd",
        "loop",
        "xfs",
    ] {
        node.exec_ok(&["modprobe", module]).unwrap();
    }
    // A fault below a LUN, made as the tests make it.
    node.sh("truncate -s 64M /tmp/x; d=$(losetup --find --show /tmp/x); \
             echo \"0 131072 error\" | dmsetup create broken; test -b /dev/mapper/broken; \
             ! dd if=/dev/mapper/broken of=/dev/null count=1; \
             dmsetup remove broken; losetup -d $d")
        .unwrap();
    lab.down();
}

#[test]
fn luns_are_the_same_disks_in_every_node() {
    let specs = [
        LunSpec::new(256 << 20),
        LunSpec::new(128 << 20).serial("cached").write_cache(true).logical_block_bytes(4096),
    ];
    let lab = lab().nodes(2).luns(specs).start().unwrap();
    let (first, second) = (lab.node(0), lab.node(1));
    for lun in lab.luns() {
        let device = lun.device();
        let bytes = format!("{}\n", lun.spec().size_bytes);
        for node in [first, second] {
            assert_eq!(
                node.exec_ok(&["blockdev", "--getsize64", &device]).unwrap().stdout_text(),
                bytes
            );
        }
        let write =
            format!("printf 'from node0' | dd of={device} bs=4096 seek=5 conv=sync oflag=direct");
        first.sh(&write).unwrap();
        let read = format!("dd if={device} bs=4096 skip=5 count=1 iflag=direct | head -c 10");
        assert_eq!(second.sh(&read).unwrap(), "from node0");
        let file = fs::read(lun.file()).unwrap();
        assert_eq!(&file[5 * 4096..][..10], b"from node0", "the write is in the file");
    }
    let attribute = |lun: usize, name: &str| {
        let device = lab.luns()[lun].device();
        first.sh(&format!("cat /sys/block/$(basename $(realpath {device}))/queue/{name}")).unwrap()
    };
    assert_eq!(attribute(0, "write_cache"), "write through\n");
    assert_eq!(attribute(1, "write_cache"), "write back\n");
    assert_eq!(attribute(0, "logical_block_size"), "512\n");
    assert_eq!(attribute(1, "logical_block_size"), "4096\n");

    let device = lab.luns()[0].device();
    let before = first.lun_stat(&lab.luns()[0]).unwrap();
    first.sh(&format!("dd if=/dev/zero of={device} bs=64k count=16 oflag=direct")).unwrap();
    let after = first.lun_stat(&lab.luns()[0]).unwrap();
    assert_eq!(after.written_bytes - before.written_bytes, 1 << 20);
    assert_eq!(
        second.lun_stat(&lab.luns()[0]).unwrap().written_bytes,
        0,
        "each node counts its own"
    );

    first.sh(&format!("blkdiscard {device}")).unwrap();
    assert!(first.lun_stat(&lab.luns()[0]).unwrap().discarded_bytes >= 256 << 20);
    lab.down();
}

#[test]
fn flushed_writes_survive_power_cuts() {
    let lab = lab().luns([LunSpec::new(64 << 20).write_cache(true)]).start().unwrap();
    let node = lab.node(0);
    let device = lab.luns()[0].device();
    let first_boot = node.boot_id().unwrap();
    node.sh("echo kept >/var/lib/lunar/file && sync && echo lost >/root/file").unwrap();
    for round in 1..=3 {
        // Reports the number of a block only after the block and its flush.
        let script = format!(
            "i=0; while :; do i=$((i+1)); printf 'round {round} block %08d' $i | \
             dd of={device} bs=4096 seek=$i conv=sync,fdatasync oflag=direct status=none; \
             echo done $i; done"
        );
        let job = node.spawn(&["bash", "-c", &script]).unwrap();
        job.wait_for_output("done 20\n", LIMIT).unwrap();
        node.cut().unwrap();
        assert_eq!(node.state(), NodeState::Off);
        assert!(matches!(node.exec(&["true"]), Err(LabError::NodeOff { .. })));
        assert!(matches!(job.wait(LIMIT), Err(LabError::NodeGone { .. })));
        node.boot().unwrap();
        let reported = job.stdout();
        let last: u32 =
            reported.lines().last().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        assert!(last >= 20);
        let read = format!("dd if={device} bs=4096 skip=1 count={last} status=none");
        let blocks = node.exec_ok(&["sh", "-c", &read]).unwrap().stdout;
        assert_eq!(blocks.len(), 4096 * last as usize);
        for (block, content) in (1..=last).zip(blocks.chunks(4096)) {
            let expected = format!("round {round} block {block:08}");
            assert!(content.starts_with(expected.as_bytes()), "block {block} of {last} is lost");
        }
    }
    assert_ne!(node.boot_id().unwrap(), first_boot);
    assert_eq!(node.sh("cat /var/lib/lunar/file").unwrap(), "kept\n");
    assert!(node.sh("cat /root/file").is_err(), "the root file system is new at each boot");
    node.shut_down().unwrap();
    assert_eq!(node.state(), NodeState::Off);
    node.boot().unwrap();
    assert!(matches!(node.boot(), Err(LabError::NodeOn { .. })));
    lab.down();
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a pause shows in real time only")]
fn a_paused_machine_does_nothing_until_it_is_resumed() {
    let lab = lab().start().unwrap();
    let node = lab.node(0);
    let job = node.spawn(&["sh", "-c", "while :; do echo tick; sleep 0.1; done"]).unwrap();
    wait_until("the first ticks", || job.stdout().lines().count() > 3);
    node.pause().unwrap();
    assert_eq!(node.state(), NodeState::Paused);
    std::thread::sleep(Duration::from_millis(300));
    let before = job.stdout();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(job.stdout(), before, "it ticked while it was paused");
    node.resume().unwrap();
    assert_eq!(node.state(), NodeState::Running);
    wait_until("ticks after the pause", || job.stdout().len() > before.len());
    node.ping().unwrap();
    // A paused machine can be cut and booted like any other.
    node.pause().unwrap();
    node.cut().unwrap();
    node.boot().unwrap();
    node.ping().unwrap();
    lab.down();
}

#[test]
fn a_crash_of_the_kernel_is_reported_with_its_console() {
    let lab = lab().start().unwrap();
    let node = lab.node(0);
    let error = node.sh("echo c >/proc/sysrq-trigger; sleep 60").unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, LabError::NodeGone { .. }), "{text}");
    assert!(text.contains("Kernel panic"), "{text}");
    wait_until("QEMU has ended", || node.state() == NodeState::Off);
    node.boot().unwrap();
    assert!(node.console().contains("Kernel panic"), "the console of earlier boots is kept");
    lab.down();
}

#[test]
fn programs_are_in_the_path_and_fresh_at_each_boot() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("say-it");
    let write = |text: &str| {
        fs::write(&program, format!("#!/bin/sh\necho {text}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("one");
    fs::write(directory.path().join("notes.txt"), "no program").unwrap();
    let lab = lab().programs(directory.path()).start().unwrap();
    let node = lab.node(0);
    assert_eq!(node.exec_ok(&["say-it"]).unwrap().stdout_text(), "one\n");
    assert_eq!(node.sh("ls /opt/lunar/bin").unwrap(), "lab-agent\nsay-it\n");
    write("second");
    node.cut().unwrap();
    node.boot().unwrap();
    assert_eq!(node.exec_ok(&["say-it"]).unwrap().stdout_text(), "second\n");
    lab.down();
}

#[test]
fn a_machine_that_does_not_come_up_is_an_error_with_its_logs() {
    let limit = Duration::from_millis(300);
    let error = lab().boot_limit(limit).start().err().expect("no machine boots in 0.3 s");
    let text = error.to_string();
    assert!(matches!(&error, LabError::Boot { log, .. } if log.exists()), "{text}");
    assert!(text.contains("did not answer"), "{text}");
    remove_logs(error);

    let mut not_an_agent = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut not_an_agent, b"#!/bin/false\n").unwrap();
    let error = lunar_lab::Lab::builder().agent(not_an_agent.path()).boot_limit(LIMIT).start();
    let error = error.err().expect("a machine without an agent does not come up");
    assert!(error.to_string().contains("QEMU ended"), "{error}");
    remove_logs(error);
}

fn remove_logs(error: LabError) {
    let LabError::Boot { log, .. } = error else {
        panic!("not an error of a boot: {error}");
    };
    fs::remove_dir_all(log.ancestors().nth(2).unwrap()).unwrap();
}
