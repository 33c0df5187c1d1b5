//! fs-core is killed over and over under a verified load: no I/O error, no mismatch, and the
//! device is the same one all the time.

mod support;

use std::time::Duration;

use lunar_e2e::main_job::device_of;
use lunar_e2e::session::wait_until;
use lunar_lab::LunSpec;
use support::{GIB, lab, make_pool, must, product, session, volume};

const KILLS: usize = 20;
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn kill_daemon() {
    let lab = lab([LunSpec::new(2 * GIB), LunSpec::new(2 * GIB).write_cache(true)]);
    let node = lab.node(0);
    let mut daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    let device = must(&daemons, volume(&session, "v", "3GiB"));
    // It goes on until it is told to stop: writes, reads back and verifies, with flushes between.
    let load = node
        .spawn(&[
            "fio",
            "--name=load",
            &format!("--filename={device}"),
            "--direct=1",
            "--ioengine=libaio",
            "--bs=4k-64k",
            "--rw=randwrite",
            "--iodepth=8",
            "--numjobs=2",
            "--size=64M",
            "--offset_increment=1G",
            "--fsync=64",
            "--verify=crc32c",
            "--verify_backlog=256",
            "--verify_fatal=1",
            "--time_based",
            "--runtime=1200",
            "--verify_state_save=0",
        ])
        .expect("fio starts");
    for kill in 0..KILLS {
        let before = written(&session, &device);
        let restarted = daemons.kill_fs_core().and_then(|()| daemons.start_fs_core());
        must(&daemons, restarted);
        let goes_on = wait_until("the load goes on", LIMIT, || {
            Ok(!load.is_running() || written(&session, &device) > before + 1024)
        });
        must(&daemons, goes_on);
        assert!(
            load.is_running(),
            "kill {kill} ended the load:\n{}{}",
            load.stdout(),
            load.stderr()
        );
        assert_eq!(must(&daemons, device_of(&session, "v")), device, "after kill {kill}");
    }
    load.kill(lunar_lab::Signal::SIGINT).expect("fio is running");
    load.wait(LIMIT).expect("fio ends");
    let output = format!("{}{}", load.stdout(), load.stderr());
    assert!(output.contains("err= 0"), "fio reported an error:\n{output}");
    assert!(!output.contains("verify:"), "fio found a mismatch:\n{output}");
    must(&daemons, session.quiet("lunar volume detach v"));
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}

/// Sectors that the device has written.
fn written(session: &lunar_e2e::session::Session<'_>, device: &str) -> u64 {
    let name = device.trim_start_matches("/dev/");
    let stat = session.quiet(&format!("awk '{{print $7}}' /sys/block/{name}/stat"));
    stat.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
