//! Faults under load: the metadata service goes away, a LUN fails, the pool fills up, the journal
//! is damaged. What was promised holds, what cannot be is an error, and it goes on afterwards.

mod support;

use std::os::unix::fs::FileExt;

use lunar_e2e::machine::Machine;
use lunar_e2e::main_job::attach_quietly;
use lunar_lab::LunSpec;
use support::{GIB, MIB, devices, lab, make_pool, must, product, session, volume};

const REFUSED: i32 = 4;
const UNAVAILABLE: i32 = 5;

#[test]
fn io_goes_on_while_the_metadata_service_is_away() {
    let lab = lab([LunSpec::new(GIB).write_cache(true), LunSpec::new(GIB)]);
    let mut daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    let device = must(&daemons, volume(&session, "v", "1GiB"));
    // A volume that has just been attached may not have its reserve yet.
    let reserved = lunar_e2e::session::wait_until("a reserve", support_limit(), || {
        let shown = session.json("volume show v")?;
        Ok(shown["attachment"]["counters"]["reserved_extents"].as_u64() > Some(8))
    });
    must(&daemons, reserved);
    let killed = daemons.kill_metadata();
    must(&daemons, killed);
    // First writes into reserved extents, each flushed: more flushes than the journal has blocks.
    must(
        &daemons,
        session.quiet(&format!(
            "fio --name=away --filename={device} --direct=1 --rw=randwrite --bs=4k --size=8M \
             --fsync=1 --number_ios=700 --verify=crc32c --do_verify=1 --verify_fatal=1 \
             --verify_state_save=0 --minimal > /dev/null"
        )),
    );
    let error = session.refused("lunar volume attach w", UNAVAILABLE);
    let error = must(&daemons, error);
    assert!(error.contains("metadata"), "it says what is away: {error}");
    let restarted = daemons.start_metadata();
    must(&daemons, restarted);
    must(&daemons, session.quiet("lunar volume map v --checkpoint > /dev/null"));
    must(&daemons, session.quiet("lunar volume detach v"));
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}

#[test]
fn first_writes_wait_for_the_metadata_service_when_the_reserve_is_empty() {
    let lab = lab([LunSpec::new(2 * GIB), LunSpec::new(2 * GIB)]);
    let mut daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    let device = must(&daemons, volume(&session, "v", "3GiB"));
    let killed = daemons.kill_metadata();
    must(&daemons, killed);
    // One block in each extent: far more extents than any reserve.
    let script = format!(
        "fio --name=wait --filename={device} --direct=1 --rw=write --bs=4k --zonemode=strided \
         --zonesize=4k --zonerange=1M --io_size=8M --size=3G --ioengine=libaio --iodepth=4 \
         --minimal"
    );
    let load = lab.node(0).script(&script).spawn().expect("fio starts");
    let parked = lunar_e2e::session::wait_until("writes wait", support_limit(), || {
        let shown = session.json("volume show v");
        // The CLI needs the metadata service for the volume's own facts: ask fs-core's side only.
        Ok(shown.is_err() && load.is_running())
    });
    must(&daemons, parked);
    let restarted = daemons.start_metadata();
    must(&daemons, restarted);
    let ended = load.wait(support_limit()).expect("the load ends once the service is back");
    assert_eq!(ended, lunar_lab::Outcome::Exited(0), "{}{}", load.stdout(), load.stderr());
    must(&daemons, session.quiet("lunar volume detach v"));
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}

const fn support_limit() -> std::time::Duration {
    std::time::Duration::from_secs(120)
}

#[test]
fn a_full_pool_is_enospc_and_goes_on_after_space_is_added() {
    let lab = lab([LunSpec::new(128 * MIB), LunSpec::new(256 * MIB)]);
    let mut daemons = product(&lab);
    let session = session(&lab);
    let luns = devices(&lab);
    for lun in &luns {
        must(&daemons, session.quiet(&format!("lunar lun label {lun}")));
    }
    must(&daemons, session.quiet(&format!("lunar pool create tank --fencing none {}", luns[0])));
    let fill = |device: &str, size: &str| {
        format!(
            "fio --name=fill --filename={device} --direct=1 --ioengine=libaio --iodepth=8 \
             --rw=write --bs=64k --size={size} --verify=crc32c --do_verify=1 --verify_fatal=1 \
             --verify_state_save=0 --minimal"
        )
    };
    let other = must(&daemons, volume(&session, "other", "1GiB"));
    must(&daemons, session.quiet(&fill(&other, "40M")));
    must(&daemons, session.quiet("lunar volume detach other"));
    let device = must(&daemons, volume(&session, "v", "1GiB"));
    let ran = Machine::sh(lab.node(0), &fill(&device, "100M"), support_limit());
    let ran = ran.expect("fio runs");
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert_ne!(ran.code, 0, "140 MiB do not fit 128 MiB");
    assert!(said.contains("No space left"), "ENOSPC is told as such: {said}");

    // Space of another volume comes back while the device lives on.
    must(&daemons, session.quiet("lunar volume delete other"));
    let goes_on = lunar_e2e::session::wait_until("writes find space", support_limit(), || {
        Ok(Machine::sh(lab.node(0), &fill(&device, "100M"), support_limit())?.code == 0)
    });
    must(&daemons, goes_on);
    // A new LUN is used at once, and is there for whoever takes the device over.
    let full = Machine::sh(lab.node(0), &fill(&device, "200M"), support_limit());
    assert_ne!(full.expect("fio runs").code, 0, "200 MiB do not fit 128 MiB");
    must(&daemons, session.quiet(&format!("lunar pool add-lun tank {}", luns[1])));
    let goes_on = lunar_e2e::session::wait_until("writes use the LUN", support_limit(), || {
        Ok(Machine::sh(lab.node(0), &fill(&device, "200M"), support_limit())?.code == 0)
    });
    must(&daemons, goes_on);
    let killed = daemons.kill_fs_core();
    must(&daemons, killed);
    let restarted = daemons.start_fs_core();
    must(&daemons, restarted);
    must(&daemons, session.quiet(&fill(&device, "220M")));
    must(&daemons, session.quiet("lunar volume detach v"));
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}

#[test]
fn a_failing_lun_is_eio_a_failed_flush_poisons_and_flushed_data_survives() {
    let lab = lab([LunSpec::new(512 * MIB).write_cache(true)]);
    let node = lab.node(0);
    let disk = devices(&lab).remove(0);
    let sectors = 512 * MIB / 512;
    node.sh(&format!(
        "modprobe dm_flakey; echo \"0 {sectors} linear {disk} 0\" | dmsetup create shaky; \
         test -b /dev/mapper/shaky"
    ))
    .expect("a device that can be made to fail");
    let daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, session.quiet("lunar lun label /dev/mapper/shaky"));
    must(&daemons, session.quiet("lunar pool create tank --fencing none /dev/mapper/shaky"));
    let device = must(&daemons, volume(&session, "v", "256MiB"));
    let recorder = |mode: &str| format!("flush-recorder {device} --seed 5 --blocks 2000 {mode}");
    must(&daemons, session.quiet(&recorder("write --rounds 20")));
    let reload = |table: &str| {
        node.sh(&format!(
            "dmsetup suspend --noflush shaky; echo \"0 {sectors} {table}\" | dmsetup load shaky; \
             dmsetup resume shaky"
        ))
        .expect("the device changes");
    };
    reload("error");
    let failed = session.refused(&recorder("write --rounds 3"), 1);
    let failed = must(&daemons, failed);
    assert!(failed.contains("Input/output error"), "a write or flush fails with EIO: {failed}");
    reload(&format!("linear {disk} 0"));
    let read = format!("dd if={device} of=/dev/null bs=1M count=8 iflag=direct");
    must(&daemons, session.quiet(&read));
    must(&daemons, session.quiet("lunar volume detach v --force"));
    let device = must(&daemons, attach_quietly(&session, "v"));
    must(
        &daemons,
        session.quiet(&format!(
            "flush-recorder {device} --seed 5 --blocks 2000 verify --flushed 20 --ahead 3"
        )),
    );
    must(&daemons, session.quiet("lunar volume detach v"));
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}

#[test]
fn a_damaged_journal_is_an_error_that_names_the_place() {
    let lab = lab([LunSpec::new(512 * MIB)]);
    let node = lab.node(0);
    let mut daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    let device = must(&daemons, volume(&session, "v", "256MiB"));
    must(
        &daemons,
        session.quiet(&format!("flush-recorder {device} --seed 6 --blocks 2000 write --rounds 9")),
    );
    node.cut().expect("the machine can be cut");
    daemons.power_lost();
    damage_journal(lab.luns()[0].file());
    node.boot().expect("the machine boots");
    node.exec_ok(&["modprobe", "ublk_drv"]).expect("the lab's kernel has ublk");
    let daemons = product(&lab);
    let error = session.refused("lunar volume attach v", REFUSED).or_else(|_| {
        // Damage is a failure of the system, not of the request, where the daemon says so.
        session.refused("lunar volume attach v", 1)
    });
    let error = must(&daemons, error);
    assert!(error.contains("journal") && error.contains("damaged"), "it says what: {error}");
    lab.down();
}

/// Flips bits in the first journal block of a LUN that carries records, behind its sector's head.
fn damage_journal(lun: &std::path::Path) {
    let file = std::fs::File::options().read(true).write(true).open(lun).expect("the LUN's file");
    let length = file.metadata().expect("it has a length").len();
    let mut block = [0; 4096];
    let at = (0..length).step_by(4096).find(|at| {
        file.read_exact_at(&mut block, *at).expect("it can be read");
        // docs/format/journal.md: magic, version 2, at least one record.
        block[16..22] == *b"LJNL\x02\0" && block[22] > 0
    });
    let at = at.expect("the journal has a block with records") + 200;
    file.write_all_at(&[0xff, 0x5a, 0xff], at).expect("it can be written");
}
