//! Volumes that grow while their file systems are written: every step is seen by the device and by
//! the file system, nothing is lost, and a kill of fs-core in the middle changes nothing.

mod support;

use std::time::Duration;

use lunar_e2e::main_job::device_of;
use lunar_e2e::session::Session;
use lunar_lab::LunSpec;
use support::fio::Fio;
use support::{GIB, lab, make_pool, must, product, session, volume};

const LIMIT: Duration = Duration::from_secs(120);
const VOLUMES: [(&str, &str); 2] = [("e", "mkfs.ext4 -q"), ("x", "mkfs.xfs -q")];

fn number(session: &Session<'_>, command: &str) -> u64 {
    let text = session.quiet(command).unwrap_or_else(|error| panic!("{error}"));
    text.trim().parse().unwrap_or_else(|_| panic!("{command}: {text}"))
}

/// The device has all of it, and the file system all but what it needs for itself.
fn assert_size(session: &Session<'_>, volume: &str, bytes: u64) {
    let device = device_of(session, volume).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(number(session, &format!("blockdev --getsize64 {device}")), bytes, "{volume}");
    let df = format!("df --block-size=1 --output=size /mnt/{volume} | tail -n 1");
    let usable = number(session, &df);
    assert!(usable > bytes * 9 / 10, "{volume} shows {usable} B of {bytes} B");
}

#[test]
fn volumes_grow_with_their_file_systems_under_load() {
    let lab = lab([LunSpec::new(2 * GIB), LunSpec::new(2 * GIB).write_cache(true)]);
    let node = lab.node(0);
    let mut daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    for (name, mkfs) in VOLUMES {
        let device = must(&daemons, volume(&session, name, "1GiB"));
        let mount =
            format!("{mkfs} {device} && mkdir -p /mnt/{name} && mount {device} /mnt/{name}");
        must(&daemons, session.quiet(&mount));
        let keep = format!("cd /mnt/{name} && cp -a /etc etc && sync -f .");
        must(&daemons, session.quiet(&keep));
    }
    let load = |(name, _): &(&str, &str)| Fio::start(node, &format!("/mnt/{name}/load"), &[]);
    let loads: Vec<Fio> = VOLUMES.iter().map(load).collect();
    for step in 1..=4_u64 {
        for (name, _) in VOLUMES {
            let bytes = (1 + step) * GIB;
            let grow = format!("lunar volume grow {name} {bytes} --fs");
            let growing = node.script(&grow).spawn().expect("lunar starts");
            if step % 2 == 0 {
                // The later it comes, the more of the growth has happened before it.
                must(&daemons, session.quiet(&format!("sleep 0.{step}")));
                let restarted = daemons.kill_fs_core().and_then(|()| daemons.start_fs_core());
                must(&daemons, restarted);
            }
            growing.wait(LIMIT).expect("lunar ends");
            // A command that a kill has ended says so; the same again is safe.
            must(&daemons, session.quiet(&grow));
            assert_size(&session, name, bytes);
        }
        assert!(loads.iter().all(Fio::is_running), "a load has ended at step {step}");
    }
    for (name, _) in VOLUMES {
        let said = must(&daemons, session.refused(&format!("lunar volume grow {name} 1GiB"), 4));
        assert!(said.contains("cannot be made smaller"), "{said}");
        assert_size(&session, name, 5 * GIB);
    }
    loads.into_iter().for_each(|load| load.stop(LIMIT));
    for (name, _) in VOLUMES {
        let same = format!("diff -r --no-dereference /etc /mnt/{name}/etc && umount /mnt/{name}");
        must(&daemons, session.quiet(&same));
        must(&daemons, session.quiet(&format!("lunar volume detach {name}")));
        let device = must(&daemons, lunar_e2e::main_job::attach_quietly(&session, name));
        let size = number(&session, &format!("blockdev --getsize64 {device}"));
        assert_eq!(size, 5 * GIB, "{name} attached again");
        must(&daemons, session.quiet(&format!("lunar volume detach {name}")));
    }
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}
