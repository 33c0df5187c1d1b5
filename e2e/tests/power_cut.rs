//! The machine loses its power over and over under a load that says what it has flushed, while
//! snapshots are taken and deleted: nothing flushed is lost, snapshots are what they were, nothing
//! is torn below 4 KiB, and fsck is clean each time.

mod support;

use std::time::Duration;

use lunar_e2e::main_job::attach_quietly;
use lunar_e2e::product::Product;
use lunar_e2e::recorder::{BLOCKS, Recorder, Rounds};
use lunar_e2e::session::Session;
use lunar_lab::{Lab, LunSpec};
use support::{GIB, lab, make_pool, must, product, session, setting, volume};

/// How often, unless `LUNAR_POWER_CUTS` says otherwise.
const CUTS: u64 = 10;
const LIMIT: Duration = Duration::from_secs(60);

/// A snapshot that was taken under load: what it is called and the rounds that it may show.
struct Taken {
    name: String,
    rounds: Rounds,
}

/// One life of the machine: a volume of its own that is written, snapshots of it, a cut.
struct Cycle<'l> {
    lab: &'l Lab,
    session: &'l Session<'l>,
    number: u64,
}

impl Cycle<'_> {
    const fn recorder(&self) -> Recorder {
        Recorder::new(self.number, BLOCKS)
    }

    /// Writes until the power goes; gives the last round that was flushed, and the snapshot.
    #[allow(clippy::disallowed_methods, reason = "the power goes at a moment of its own")]
    fn until_cut(&self, daemons: &Product<'_>) -> (u64, Option<Taken>) {
        let node = self.lab.node(0);
        let volume_name = format!("v{}", self.number);
        let device = must(daemons, volume(self.session, &volume_name, "1536MiB"));
        let writer = self.recorder().start(node, &device, 0);
        // A different depth each time; a checkpoint of the map in the middle of some.
        let rounds = 10 * (1 + (self.number - 1) % 10);
        writer.wait_for(rounds, LIMIT);
        if self.number.is_multiple_of(3) {
            let checkpoint = format!("lunar volume map {volume_name} --checkpoint");
            must(daemons, self.session.quiet(&checkpoint));
        }
        let taken = (!self.number.is_multiple_of(2)).then(|| {
            let (name, at_least) = (format!("s{}", self.number), writer.flushed());
            let create = format!("lunar snapshot create {volume_name} {name}");
            must(daemons, self.session.quiet(&create));
            Taken { name, rounds: Rounds { at_least, at_most: writer.begun() } }
        });
        if taken.is_some() {
            writer.wait_for(writer.flushed() + 10, LIMIT);
        }
        // The power goes while a snapshot is cut, or one is deleted and merged: with what outcome
        // is all the same, as long as there is one.
        let under_way = match &taken {
            Some(taken) if self.number % 4 == 1 => vec!["lunar", "snapshot", "delete", &taken.name],
            _ => vec!["lunar", "snapshot", "create", &volume_name, "half"],
        };
        let under_way = node.spawn(&under_way).expect("it starts");
        std::thread::sleep(Duration::from_millis(150 * (self.number % 7)));
        node.cut().expect("the machine can be cut");
        drop(under_way);
        let last = writer.flushed();
        assert!(last >= rounds, "the recorder had flushed {last} rounds");
        (last, taken)
    }

    fn after_boot(&self, daemons: &Product<'_>, flushed: u64, taken: Option<&Taken>) {
        let (session, name) = (self.session, format!("v{}", self.number));
        let device = must(daemons, attach_quietly(session, &name));
        // The last lines may have been lost with the power.
        let rounds = Rounds { at_least: flushed, at_most: flushed + 200 };
        must(daemons, self.recorder().verify(session, &device, rounds));
        must(daemons, session.quiet(&format!("lunar volume detach {name}")));
        let is_there = |name: &str| session.quiet(&format!("lunar snapshot show {name}")).is_ok();
        if let Some(taken) = taken.filter(|taken| is_there(&taken.name)) {
            must(daemons, session.quiet(&format!("lunar volume clone {} clone", taken.name)));
            let clone = must(daemons, attach_quietly(session, "clone"));
            must(daemons, self.recorder().verify(session, &clone, taken.rounds));
            must(daemons, session.quiet("lunar volume detach clone"));
            must(daemons, session.quiet("lunar volume delete clone"));
        }
        must(daemons, session.quiet("lunar fsck"));
        for snapshot in taken.iter().map(|taken| taken.name.as_str()).chain(["half"]) {
            if is_there(snapshot) {
                must(
                    daemons,
                    session.quiet(&format!("lunar snapshot delete {snapshot} --no-wait")),
                );
            }
        }
        must(daemons, session.quiet(&format!("lunar volume delete {name}")));
    }
}

#[test]
fn power_cut() {
    let specs = [
        LunSpec::new(GIB).write_cache(true).logical_block_bytes(4096),
        LunSpec::new(GIB).write_cache(true),
    ];
    let lab = lab(specs);
    let node = lab.node(0);
    let mut daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    for number in 1..=setting("LUNAR_POWER_CUTS", CUTS) {
        // A volume of its own for each cut: what was never written must read as zeros, although
        // its extents held the data of the volumes before it.
        let cycle = Cycle { lab: &lab, session: &session, number };
        let (flushed, taken) = cycle.until_cut(&daemons);
        daemons.power_lost();
        node.boot().expect("the machine boots");
        node.exec_ok(&["modprobe", "ublk_drv"]).expect("the lab's kernel has ublk");
        daemons = product(&lab);
        cycle.after_boot(&daemons, flushed, taken.as_ref());
        println!("cut {number}: {flushed} rounds were flushed and are there");
    }
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}

/// The recorder itself can fail: a block that was tampered with is found.
#[test]
fn the_recorder_finds_a_lost_and_a_torn_block() {
    let lab = lab([LunSpec::new(64 << 20)]);
    let node = lab.node(0);
    let device = lab.luns()[0].device();
    let recorder = |mode: &str| format!("flush-recorder {device} --seed 1 --blocks 500 {mode}");
    node.sh(&recorder("write --rounds 40")).expect("it writes");
    let verify = |flushed: &str| {
        let script = recorder(&format!("verify --flushed {flushed} --ahead 0"));
        node.script(&script).run().expect("it runs").code()
    };
    assert_eq!(verify("40"), Some(0));
    assert_eq!(verify("41"), Some(1), "a round that is missing must be found");
    let zero = |bytes: u32| {
        let script = format!(
            "at=$(for n in $(seq 0 499); do dd if={device} bs=4096 skip=$n count=1 2>/dev/null | \
             tr -d '\\0' | head -c 1 | grep -q . && echo $n && break; done); \
             dd if=/dev/zero of={device} bs=512 seek=$((at * 8 + 1)) count={} conv=notrunc \
             oflag=direct",
            bytes / 512
        );
        node.sh(&script).expect("it writes");
    };
    zero(512);
    assert_eq!(verify("40"), Some(1), "a torn block must be found");
    lab.down();
}
