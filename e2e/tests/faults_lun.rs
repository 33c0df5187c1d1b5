//! LUNs that are slow or hang while fs-core is killed, and many attachments in a row.

mod support;

use std::time::Duration;

use lunar_e2e::main_job::attach_quietly;
use lunar_e2e::session::wait_until;
use lunar_lab::{Lab, LunSpec};
use support::{MIB, devices, lab, must, product, session, volume};

const LIMIT: Duration = Duration::from_secs(120);
/// How long the slow LUN takes for a write; a takeover without I/O under way takes far less.
const DELAY_S: u64 = 15;
const CYCLES: usize = 12;
const LUN_BYTES: u64 = 512 * MIB;
/// Nothing of the file system is still to be made later, in the background.
const MKFS: &str = "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0";
/// It may be tried again.
const UNAVAILABLE: i32 = 5;

/// Puts the device mapper below the lab's LUN, passing everything through, as `/dev/mapper/lun`.
fn mapped_lun(lab: &Lab) {
    lab.node(0)
        .sh(&format!(
            "modprobe -a dm_delay; echo '{}' | dmsetup create lun; test -b /dev/mapper/lun",
            linear(lab)
        ))
        .expect("the lab's kernel has the device mapper");
}

fn linear(lab: &Lab) -> String {
    format!("0 {} linear {} 0", LUN_BYTES / 512, devices(lab)[0])
}

fn delayed(lab: &Lab, seconds: u64) -> String {
    let disk = &devices(lab)[0];
    format!("0 {} delay {disk} 0 0 {disk} 0 {}", LUN_BYTES / 512, seconds * 1000)
}

fn reload(lab: &Lab, table: &str) {
    lab.node(0)
        .sh(&format!(
            "dmsetup suspend lun && echo '{table}' | dmsetup load lun && dmsetup resume lun"
        ))
        .expect("the device changes");
}

/// Labels the mapped LUN, makes the pool and a volume whose first 4 MiB are mapped.
fn served_volume(lab: &Lab, daemons: &lunar_e2e::product::Product<'_>) -> String {
    let session = session(lab);
    must(daemons, session.quiet("lunar lun label /dev/mapper/lun"));
    must(daemons, session.quiet("lunar pool create tank --fencing none /dev/mapper/lun"));
    let device = must(daemons, volume(&session, "v", "256MiB"));
    let fill = format!("dd if=/dev/urandom of={device} bs=1M count=4 oflag=direct conv=fsync");
    must(daemons, session.quiet(&fill));
    must(daemons, session.quiet("lunar volume map v --checkpoint > /dev/null"));
    device
}

/// Seconds since the machine has booted.
fn uptime(lab: &Lab) -> f64 {
    let text = lab.node(0).sh("cut -d' ' -f1 /proc/uptime").expect("it tells");
    text.trim().parse().expect("a number")
}

/// Starts a write of one block of the letter Z to a mapped extent; gives the job that writes.
fn start_write(lab: &Lab, device: &str) -> lunar_lab::Job {
    lab.node(0)
        .script(&format!(
            "head -c 4096 /dev/zero | tr '\\0' Z > /tmp/block; \
             dd if=/tmp/block of={device} bs=4k seek=9 count=1 oflag=direct"
        ))
        .spawn()
        .expect("the write starts")
}

/// Whether the slow LUN has writes that it has not ended.
fn is_under_way(lab: &Lab) -> bool {
    let status = lab.node(0).sh("dmsetup status lun").expect("it tells");
    let mut counts = status.split_whitespace().skip_while(|word| *word != "delay").skip(1);
    let (_reads, writes) = (counts.next(), counts.next());
    writes.expect("reads, writes, flushes") != "0"
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    wait_until(what, LIMIT, || Ok(holds())).unwrap_or_else(|error| panic!("{error}"));
}

/// Reads the block; it is answered only by a daemon that serves.
fn read_is_answered(lab: &Lab, device: &str) {
    let read = format!("dd if={device} of=/tmp/read bs=4k skip=9 count=1 iflag=direct");
    lab.node(0).script(&read).timeout(LIMIT).run_ok().expect("the device is read");
}

/// The write of [`start_write`] ends well, and what it wrote is there.
fn write_ends_and_is_read(lab: &Lab, write: &lunar_lab::Job, device: &str) {
    let ended = write.wait(LIMIT).expect("the write ends");
    assert_eq!(ended, lunar_lab::Outcome::Exited(0), "{}", write.stderr());
    read_is_answered(lab, device);
    lab.node(0).sh("cmp /tmp/block /tmp/read").expect("what was written is read");
}

#[test]
fn a_successor_starts_only_after_the_dead_daemons_writes_have_drained() {
    let lab = lab([LunSpec::new(LUN_BYTES)]);
    mapped_lun(&lab);
    let mut daemons = product(&lab);
    let device = served_volume(&lab, &daemons);

    let idle = uptime(&lab);
    let restarted = daemons.kill_fs_core().and_then(|()| daemons.start_fs_core());
    must(&daemons, restarted);
    read_is_answered(&lab, &device);
    let idle = uptime(&lab) - idle;
    assert!(idle < DELAY_S as f64, "without I/O under way a takeover took {idle} s");

    reload(&lab, &delayed(&lab, DELAY_S));
    let began = uptime(&lab);
    let write = start_write(&lab, &device);
    wait_for("the write reaches the LUN", || is_under_way(&lab));
    let restarted = daemons.kill_fs_core().and_then(|()| daemons.start_fs_core());
    must(&daemons, restarted);
    read_is_answered(&lab, &device);
    let drained = uptime(&lab) - began;
    assert!(
        drained >= DELAY_S as f64,
        "served again after {drained} s, while the dead daemon's write was on its way to the LUN"
    );
    reload(&lab, &linear(&lab));
    write_ends_and_is_read(&lab, &write, &device);
    let session = session(&lab);
    must(&daemons, session.quiet("lunar volume detach v"));
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}

#[test]
fn a_lun_that_hangs_is_named_and_its_volume_goes_on_when_it_answers_again() {
    let lab = lab([LunSpec::new(LUN_BYTES)]);
    mapped_lun(&lab);
    let mut daemons = product(&lab);
    let device = served_volume(&lab, &daemons);
    let session = session(&lab);
    lab.node(0).sh("dmsetup suspend --noflush --nolockfs lun").expect("the LUN hangs");
    let write = start_write(&lab, &device);
    wait_for("the write reaches the driver", || {
        let name = device.trim_start_matches("/dev/");
        let inflight = lab.node(0).sh(&format!("cat /sys/block/{name}/inflight"));
        inflight.expect("it tells").split_whitespace().any(|count| count != "0")
    });
    // Detaching comes to an end, one way or the other, and says what stands in the way.
    let error = session.refused("lunar volume detach v --force", UNAVAILABLE);
    let error = must(&daemons, error);
    assert!(error.contains("hang"), "it says that a LUN hangs: {error}");
    lab.node(0).sh("dmsetup resume lun").expect("the LUN answers again");
    let ended = write.wait(LIMIT).expect("the write ends");
    assert!(matches!(ended, lunar_lab::Outcome::Exited(_)), "{ended:?}");
    must(&daemons, session.quiet("lunar volume detach v --force"));
    let device = must(&daemons, attach_quietly(&session, "v"));
    read_is_answered(&lab, &device);

    lab.node(0).sh("dmsetup suspend --noflush --nolockfs lun").expect("the LUN hangs");
    let write = start_write(&lab, &device);
    let killed = daemons.kill_fs_core();
    must(&daemons, killed);
    lab.node(0).sh("sleep 2; dmsetup resume lun").expect("the LUN answers again");
    let restarted = daemons.start_fs_core();
    must(&daemons, restarted);
    write_ends_and_is_read(&lab, &write, &device);
    must(&daemons, session.quiet("lunar volume detach v"));
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}

/// Snapshots a mounted volume, in the background.
fn start_snapshot(lab: &Lab, name: &str) -> lunar_lab::Job {
    let command = format!("lunar snapshot create v {name} --fsfreeze always");
    lab.node(0).script(&command).spawn().expect("it starts")
}

/// The file system takes writes, and nothing is left of what froze it.
fn file_system_goes_on(lab: &Lab, file: &str) {
    let write = format!("echo there > /mnt/{file}; sync -f /mnt; grep there /mnt/{file}");
    lab.node(0).script(&write).timeout(LIMIT).run_ok().expect("the file system takes writes");
    wait_for("nothing is marked as frozen", || {
        lab.node(0).sh("ls /run/lunar/state/frozen").expect("listed").trim().is_empty()
    });
}

/// Syncing and freezing wait for the device that the daemon serves. If its own threads did it, a
/// killed daemon could not end before its successor has served what they wait for.
#[test]
fn a_daemon_killed_while_its_file_systems_sync_or_freeze_is_taken_over() {
    const SLOW_S: u64 = 8;
    let lab = lab([LunSpec::new(LUN_BYTES)]);
    mapped_lun(&lab);
    let mut daemons = product(&lab);
    let device = served_volume(&lab, &daemons);
    let session = session(&lab);
    must(&daemons, session.quiet(&format!("{MKFS} {device} && mount {device} /mnt")));
    must(&daemons, session.quiet("echo first > /mnt/first; sync -f /mnt"));

    let name = device.trim_start_matches("/dev/");
    let is_writing = || {
        let inflight = lab.node(0).sh(&format!("cat /sys/block/{name}/inflight"));
        inflight.expect("it tells").split_whitespace().nth(1) != Some("0")
    };
    reload(&lab, &delayed(&lab, SLOW_S));
    must(&daemons, session.quiet("dd if=/dev/urandom of=/mnt/dirty bs=64k count=16"));
    let snapshot = start_snapshot(&lab, "s1");
    wait_for("dirty pages are on their way", is_writing);
    must(&daemons, session.quiet("sleep 1"));
    let killed = daemons.kill_fs_core();
    must(&daemons, killed);
    reload(&lab, &linear(&lab));
    let restarted = daemons.start_fs_core();
    must(&daemons, restarted);
    file_system_goes_on(&lab, "after-sync");
    // The successor may still be in time to cut it.
    let ended = snapshot.wait(LIMIT).expect("the command ends");
    assert!(matches!(ended, lunar_lab::Outcome::Exited(_)), "{ended:?}");

    // What is clean need not be synced; freezing it writes its superblock. The cut of before has
    // thawed it, which has made that dirty again.
    must(&daemons, session.quiet("sync -f /mnt"));
    reload(&lab, &delayed(&lab, SLOW_S));
    let snapshot = start_snapshot(&lab, "s2");
    wait_for("it freezes", || {
        !lab.node(0).sh("ls /run/lunar/state/frozen").expect("listed").trim().is_empty()
    });
    let killed = daemons.kill_fs_core();
    must(&daemons, killed);
    reload(&lab, &linear(&lab));
    let restarted = daemons.start_fs_core();
    must(&daemons, restarted);
    file_system_goes_on(&lab, "after-freeze");
    let ended = snapshot.wait(LIMIT).expect("the command ends");
    assert!(matches!(ended, lunar_lab::Outcome::Exited(code) if code != 0), "{ended:?}");

    must(&daemons, session.quiet("lunar snapshot create v s3 --fsfreeze always"));
    file_system_goes_on(&lab, "after-all");
    must(&daemons, session.quiet("umount /mnt; lunar volume detach v; lunar fsck"));
    lab.down();
}

#[test]
fn attaching_and_detaching_over_and_over_leaves_nothing_behind() {
    let lab = lab([LunSpec::new(LUN_BYTES)]);
    mapped_lun(&lab);
    let daemons = product(&lab);
    let first = served_volume(&lab, &daemons);
    let session = session(&lab);
    must(&daemons, session.quiet("lunar volume create w --pool tank --size 1GiB"));
    must(&daemons, session.quiet("lunar volume detach v"));
    let mut seen = vec![first];
    for _ in 0..CYCLES {
        for name in ["v", "w"] {
            let device = must(&daemons, attach_quietly(&session, name));
            assert!(!seen.contains(&device), "{device} is used for another attachment");
            read_is_answered(&lab, &device);
            seen.push(device);
        }
        must(&daemons, session.quiet("lunar volume detach v && lunar volume detach w"));
    }
    let left = must(&daemons, session.quiet("ls /sys/class/ublk-char; ls /run/lunar/state"));
    assert!(!left.contains("ublkc"), "devices are left: {left}");
    let threads = session.quiet("ls /proc/$(pidof fs-core)/task | wc -l");
    let threads: usize = must(&daemons, threads).trim().parse().expect("a number");
    assert!(threads < 30, "{threads} threads are left");
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}
