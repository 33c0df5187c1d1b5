//! Snapshots leave the cluster and come back the same: in every format, whole and as differences,
//! through a pipe, onto a full file system, and however often the export is killed.

mod support;

use std::time::Duration;

use lunar_e2e::main_job::attach;
use lunar_e2e::product::Product;
use lunar_e2e::session::{Session, wait_until};
use lunar_lab::LunSpec;
use serde_json::Value;
use support::{GIB, lab, make_pool, must, product, session, volume};

const LIMIT: Duration = Duration::from_secs(120);
const FORMATS: [&str; 3] = ["raw", "qcow2", "stream"];

/// What every step needs.
struct Scene<'a> {
    daemons: &'a Product<'a>,
    session: &'a Session<'a>,
}

impl Scene<'_> {
    fn run(&self, command: &str) -> String {
        must(self.daemons, self.session.quiet(command))
    }

    fn json(&self, arguments: &str) -> Value {
        must(self.daemons, self.session.json(arguments))
    }

    fn refused(&self, command: &str, code: i32) -> String {
        must(self.daemons, self.session.refused(command, code))
    }

    fn sha256(&self, path: &str) -> String {
        let text = self.run(&format!("sha256sum {path}"));
        text.split_whitespace().next().expect("a digest").to_owned()
    }

    /// Random bytes over a part of a device, in MiB.
    fn fill(&self, device: &str, at: u64, length: u64) {
        self.run(&format!(
            "dd if=/dev/urandom of={device} bs=1M seek={at} count={length} iflag=fullblock \
             oflag=direct conv=fsync,notrunc status=none"
        ));
    }

    /// A file system for exports on a volume of its own.
    fn mount(&self, name: &str, size: &str) {
        let device = must(self.daemons, volume(self.session, name, size));
        self.run(&format!(
            "mkfs.ext4 -q {device} && mkdir /mnt/{name} && mount {device} /mnt/{name}"
        ));
    }

    fn unmount(&self, name: &str) {
        self.run(&format!("umount /mnt/{name} && lunar volume detach {name}"));
    }

    /// A volume has these bytes.
    fn assert_content(&self, volume: &str, digest: &str) {
        let device = must(self.daemons, attach(self.session, volume));
        assert_eq!(self.sha256(&device), digest, "volume {volume}");
        self.run(&format!("lunar volume detach {volume}"));
    }

    /// No volume, attachment or snapshot of an export or import is there, and the map is sound.
    fn assert_nothing_left(&self) {
        let freed = wait_until("deletions to end", LIMIT, || {
            let operations = self.session.json("operation list")?;
            Ok(operations["operations"].as_array().is_some_and(Vec::is_empty))
        });
        must(self.daemons, freed);
        let lists = format!("{}{}", self.json("volume list"), self.json("snapshot list"));
        for own in ["\"export-", "\"import-undo-", "\"import-check-"] {
            assert!(!lists.contains(own), "{own}: {lists}");
        }
        assert!(!self.json("volume list").to_string().contains("\"import-"), "{lists}");
        self.run("lunar fsck");
    }
}

/// Exports of both snapshots in all formats, the second one as differences.
fn export_all(scene: &Scene<'_>, first: &str, second: &str) {
    for format in FORMATS {
        scene.run(&format!("lunar snapshot export s1 --format {format} --to /mnt/out/1.{format}"));
        let under = match format {
            "stream" => String::new(),
            _ => format!("--base-file /mnt/out/1.{format}"),
        };
        scene.run(&format!(
            "lunar snapshot export s2 --base s1 --format {format} {under} --to /mnt/out/2.{format}"
        ));
        for n in 1..=2 {
            scene.run(&format!("lunar snapshot verify /mnt/out/{n}.{format}"));
        }
    }
    assert_eq!(scene.sha256("/mnt/out/1.raw"), first);
    assert_eq!(scene.sha256("/mnt/out/2.raw"), second);
    let size = |file: &str| {
        let text = scene.run(&format!("du --block-size=1 {file} | cut -f1"));
        text.trim().parse::<u64>().expect("a number")
    };
    assert!(size("/mnt/out/1.raw") < 60 << 20, "holes are kept");
    assert!(size("/mnt/out/2.stream") < 16 << 20, "only differences are written");
}

fn import_all(scene: &Scene<'_>, first: &str, second: &str) {
    for format in FORMATS {
        let name = format!("from-{format}");
        scene.run(&format!("lunar snapshot import /mnt/out/1.{format} {name} --pool tank"));
        scene.assert_content(&name, first);
        if format != "raw" {
            scene.run(&format!("lunar snapshot import /mnt/out/2.{format} --onto {name}"));
            scene.assert_content(&name, second);
            // It is not as the base was any more.
            let again = format!("lunar snapshot import /mnt/out/2.{format} --onto {name}");
            let said = scene.refused(&again, 4);
            assert!(said.contains("was written since"), "{said}");
            scene.assert_content(&name, second);
        }
    }
    scene.run(
        "set -o pipefail; lunar snapshot export s2 --format stream --to - | lunar snapshot import \
         - piped --pool tank",
    );
    scene.assert_content("piped", second);
}

/// How many bytes an export that was broken off is sure of: its chunks, or its manifest.
fn left_behind(scene: &Scene<'_>, format: &str, out: &str) -> u64 {
    let sure = if format == "stream" { format!("{out}.partial") } else { format!("{out}.lunar") };
    let size = format!("test -e {out}.partial && stat --format %s {sure} || echo 0");
    scene.run(&size).trim().parse().expect("a number")
}

/// Kills the export, later every time, until it has ended by itself; how often it was killed, and
/// how often in the middle of the data.
fn kill_until_done(scene: &Scene<'_>, format: &str, out: &str) -> (u64, u64) {
    const HEADER: u64 = 64;
    let (mut kills, mut in_the_middle, mut milliseconds) = (0, 0, 100);
    loop {
        let signal = if kills % 3 == 2 { "INT" } else { "KILL" };
        let seconds = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
        let export = format!(
            "code=0; timeout --preserve-status -s {signal} {seconds} lunar snapshot export s2 \
             --format {format} --to {out} --resume >/tmp/said 2>&1 || code=$?; echo $code"
        );
        match scene.run(&export).trim() {
            "0" => return (kills, in_the_middle),
            // The kill before came after the file had its name.
            "4" if scene.run("cat /tmp/said").contains("is there already") => {
                return (kills, in_the_middle);
            }
            "137" | "130" => kills += 1,
            other => panic!("code {other}: {}", scene.run("cat /tmp/said")),
        }
        in_the_middle += u64::from(left_behind(scene, format, out) > HEADER);
        milliseconds = milliseconds * 6 / 5;
        assert!(milliseconds < 100_000, "it never ends: {}", scene.run("cat /tmp/said"));
    }
}

/// An export that is killed again and again is whole in the end.
fn killed(scene: &Scene<'_>, format: &str, second: &str) -> (u64, u64) {
    let out = format!("/mnt/out/killed.{format}");
    let (kills, in_the_middle) = kill_until_done(scene, format, &out);
    assert!(kills > 0, "{format}: it ended before it could be killed");
    scene.run(&format!("lunar snapshot verify {out}"));
    if format == "raw" {
        assert_eq!(scene.sha256(&out), second);
    } else {
        // What a kill has left is deleted by this one too.
        let name = format!("killed-{format}");
        scene.run(&format!("lunar snapshot import {out} {name} --pool tank"));
        scene.assert_content(&name, second);
    }
    scene.run(&format!("rm {out}*"));
    (kills, in_the_middle)
}

/// A device of another volume becomes the snapshot, whatever it had.
fn overwritten(scene: &Scene<'_>, first: &str) {
    let device = must(scene.daemons, volume(scene.session, "over", "160MiB"));
    scene.fill(&device, 0, 8);
    scene.fill(&device, 80, 8);
    let export = format!("lunar snapshot export s1 --format raw --to {device}");
    scene.refused(&export, 4);
    scene.run(&format!("{export} --overwrite-device"));
    assert_eq!(scene.sha256(&device), first);
    scene.run("lunar volume detach over");
}

/// A target without room is an error that says so, and the export goes on when there is room.
fn filled(scene: &Scene<'_>, second: &str) {
    scene.mount("small", "128MiB");
    scene.run("fallocate --length 80M /mnt/small/filler");
    let export = "lunar snapshot export s2 --format raw --to /mnt/small/s2.raw";
    let said = scene.refused(export, 1);
    assert!(said.contains("No space left") && said.contains("--resume"), "{said}");
    scene.run("rm /mnt/small/filler && sync --file-system /mnt/small");
    scene.run(&format!("{export} --resume"));
    assert_eq!(scene.sha256("/mnt/small/s2.raw"), second);
    scene.unmount("small");
}

#[test]
fn exports_come_back_the_same_whatever_happens_to_them() {
    let lab = lab([
        LunSpec::new(2 * GIB).write_cache(true).logical_block_bytes(4096),
        LunSpec::new(2 * GIB).write_cache(true),
    ]);
    let daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    let scene = Scene { daemons: &daemons, session: &session };
    scene.mount("out", "768MiB");
    let device = must(&daemons, volume(&session, "v", "160MiB"));
    scene.fill(&device, 0, 40);
    scene.fill(&device, 100, 10);
    scene.run("lunar snapshot create v s1");
    let first = scene.sha256(&device);
    scene.fill(&device, 35, 10);
    scene.fill(&device, 159, 1);
    scene.run(&format!("blkdiscard --offset 8M --length 8M {device}"));
    scene.run(&format!("blkdiscard --zeroout --offset 104M --length 68K {device}"));
    scene.run("lunar snapshot create v s2");
    let second = scene.sha256(&device);
    assert_ne!(first, second);

    export_all(&scene, &first, &second);
    scene.assert_nothing_left();
    import_all(&scene, &first, &second);
    scene.assert_nothing_left();
    let mut all = 0;
    for format in FORMATS {
        let (kills, in_the_middle) = killed(&scene, format, &second);
        println!("{format}: killed {kills} times, {in_the_middle} times in the middle");
        all += in_the_middle;
    }
    assert!(all > 0, "no kill has come in the middle of the data");
    scene.assert_nothing_left();
    overwritten(&scene, &first);
    filled(&scene, &second);
    // The volume went on being attached all the time, and both snapshots are what they were.
    assert_eq!(scene.sha256(&device), second);
    scene.run("lunar volume detach v");
    scene.run("lunar volume rollback v s1");
    scene.assert_content("v", &first);
    scene.unmount("out");
    scene.assert_nothing_left();
    drop(daemons);
    lab.down();
}
