//! fs-core is killed over and over under verified loads, in the middle of snapshots, clones,
//! deletions, growth and attachments, now and then together with the metadata service: no I/O
//! error, no mismatch, the device is the same one all the time, every snapshot and clone shows
//! what it was cut of, and fsck is clean.

mod support;

use std::time::Duration;

use lunar_e2e::machine::MachineError;
use lunar_e2e::main_job::{attach_quietly, device_of, mapped_bytes};
use lunar_e2e::product::Product;
use lunar_e2e::recorder::{Recorder, Rounds, Writer};
use lunar_e2e::session::{Session, wait_until};
use lunar_lab::{Job, LunSpec, Node, Outcome};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::fio::Fio;
use support::{GIB, MIB, lab, make_pool, must, product, say, session, setting, volume};

/// How often, unless `LUNAR_KILLS` says otherwise.
const KILLS: u64 = 20;
/// What the moments of the kills follow from, unless `LUNAR_KILL_SEED` says otherwise.
const SEED: u64 = 1;
/// The longest time between the begin of a change and the kill.
const DELAY_MAX_MS: u64 = 700;
const LIMIT: Duration = Duration::from_secs(120);
const RECORDER: Recorder = Recorder::new(3, 8_000);
const FIRST_BYTES: u64 = 256 * MIB;
const STEP_BYTES: u64 = 32 * MIB;
/// Blocks that the recorder reads back after each flush.
const REREAD: usize = 4;

/// A snapshot, or a clone of the live volume, and what it has to show.
struct Cut {
    name: String,
    rounds: Rounds,
}

/// What is under way when the kill comes.
#[derive(Clone, Copy, Debug)]
enum Change {
    Snapshot,
    AttachClone,
    Grow,
    CloneOfLive,
    Delete,
    None,
}

impl Change {
    const ALL: [Self; 6] = [
        Self::Snapshot,
        Self::AttachClone,
        Self::Grow,
        Self::CloneOfLive,
        Self::Delete,
        Self::None,
    ];
}

/// The volume `v` under its loads, and everything that was cut of it.
struct World<'l> {
    node: &'l Node,
    session: &'l Session<'l>,
    daemons: Product<'l>,
    device: String,
    writer: Writer,
    fio: Fio,
    snapshots: Vec<Cut>,
    bytes: u64,
    random: ChaCha8Rng,
}

impl World<'_> {
    fn must<T>(&self, done: Result<T, MachineError>) -> T {
        must(&self.daemons, done)
    }

    fn quiet(&self, command: &str) {
        self.must(self.session.quiet(command));
    }

    /// The exit code of a command that may fail.
    fn code(&self, command: &str) -> i32 {
        self.must(self.session.machine().sh(command, LIMIT)).code
    }

    /// Begins a command, kills at a random moment after it and restarts; gives how it ended.
    #[allow(clippy::disallowed_methods, reason = "the kill comes at a moment of its own")]
    fn kill_during(&mut self, kill: u64, command: Option<&str>) -> Option<i32> {
        let delay = Duration::from_millis(self.random.random_range(0..DELAY_MAX_MS));
        let with_metadata = kill % 7 == 3;
        let under_way: Option<Job> =
            command.map(|command| self.node.script(command).spawn().expect("it starts"));
        std::thread::sleep(delay);
        let killed = self.daemons.kill_fs_core();
        self.must(killed);
        if with_metadata {
            let restarted =
                self.daemons.kill_metadata().and_then(|()| self.daemons.start_metadata());
            self.must(restarted);
        }
        let started = self.daemons.start_fs_core();
        self.must(started);
        let ended = under_way.map(|job| match job.wait(LIMIT).expect("it ends") {
            Outcome::Exited(code) => code,
            other => panic!("{other}: {}", job.stderr()),
        });
        say(&format!(
            "kill {kill}: {} after {delay:?}{}, exit code {ended:?}",
            command.unwrap_or("nothing under way"),
            if with_metadata { ", the metadata service too" } else { "" },
        ));
        ended
    }

    /// One kill: in the middle of a change, which then has happened whole or not at all.
    fn kill(&mut self, kill: u64) {
        let change = Change::ALL[(kill % 6) as usize];
        match change {
            Change::Snapshot => self.kill_a_snapshot(kill),
            Change::AttachClone => self.kill_an_attachment(kill),
            Change::Grow => self.kill_a_growth(kill),
            Change::CloneOfLive => self.kill_a_clone_of_the_live_volume(kill),
            Change::Delete => self.kill_a_deletion(kill),
            Change::None => drop(self.kill_during(kill, None)),
        }
        self.goes_on();
    }

    /// The loads make progress on the same device as before.
    fn goes_on(&self) {
        self.writer.wait_for(self.writer.flushed() + 3, LIMIT);
        self.writer.must_run();
        self.fio.must_run();
        assert_eq!(self.must(device_of(self.session, "v")), self.device);
    }

    fn kill_a_snapshot(&mut self, kill: u64) {
        let name = format!("s{kill}");
        let mut at_least = self.writer.flushed();
        let create = format!("lunar snapshot create v {name}");
        let ended = self.kill_during(kill, Some(&create));
        let is_there = self.is_decided(&name);
        assert!(is_there || ended != Some(0), "{name} was made and is not there");
        if !is_there {
            // It came to nothing, so its name is free, and a new attempt is a whole one.
            at_least = self.writer.flushed();
            self.quiet(&create);
        }
        let rounds = Rounds { at_least, at_most: self.writer.begun() };
        self.snapshots.push(Cut { name, rounds });
    }

    /// Whether the snapshot is there, once that is certain.
    fn is_decided(&self, name: &str) -> bool {
        let mut is_there = false;
        let decided = wait_until("the snapshot is made or not", LIMIT, || {
            let shown = self.session.json(&format!("snapshot show {name}"));
            let state = shown.as_ref().ok().and_then(|it| it.pointer("/state")?.as_str());
            is_there = state == Some("ready");
            Ok(state != Some("creating"))
        });
        self.must(decided);
        is_there
    }

    fn kill_an_attachment(&mut self, kill: u64) {
        let Some(newest) = self.snapshots.last() else { return };
        let (rounds, clone) = (newest.rounds, format!("c{kill}"));
        self.quiet(&format!("lunar volume clone {} {clone}", newest.name));
        self.kill_during(kill, Some(&format!("lunar volume attach {clone}")));
        self.compare_and_drop(&Cut { name: clone, rounds });
    }

    fn kill_a_clone_of_the_live_volume(&mut self, kill: u64) {
        let name = format!("c{kill}");
        let at_least = self.writer.flushed();
        let ended =
            self.kill_during(kill, Some(&format!("lunar volume clone v {name} --of-volume")));
        let rounds = Rounds { at_least, at_most: self.writer.begun() };
        if self.code(&format!("lunar volume show {name}")) == 0 {
            self.compare_and_drop(&Cut { name, rounds });
        } else {
            assert_ne!(ended, Some(0), "{name} was made and is not there");
        }
    }

    /// Attaches a clone, if it is not attached, compares its content and deletes it.
    fn compare_and_drop(&self, clone: &Cut) {
        let Cut { name, rounds } = clone;
        let attached = wait_until("the clone is attached", LIMIT, || {
            // A half attachment of the killed daemon is undone first, which may take a moment.
            Ok(device_of(self.session, name).is_ok() || attach_quietly(self.session, name).is_ok())
        });
        self.must(attached);
        let device = self.must(device_of(self.session, name));
        self.must(RECORDER.verify(self.session, &device, *rounds));
        self.quiet(&format!("lunar volume detach {name} && lunar volume delete {name}"));
    }

    fn kill_a_growth(&mut self, kill: u64) {
        self.bytes += STEP_BYTES;
        let grow = format!("lunar volume grow v {}", self.bytes);
        self.kill_during(kill, Some(&grow));
        // Whether it has happened or not, the same again is safe.
        self.quiet(&grow);
        let size = self.must(self.session.quiet(&format!("blockdev --getsize64 {}", self.device)));
        assert_eq!(size.trim(), self.bytes.to_string());
        let last = self.bytes / 4096 - 1;
        self.quiet(&format!(
            "printf %04096d {} | dd of={} bs=4096 seek={last} oflag=direct conv=fsync",
            self.bytes, self.device
        ));
    }

    /// The last block of each size is as it was written.
    fn grown_parts_are_there(&self) {
        let mut bytes = FIRST_BYTES + STEP_BYTES;
        while bytes <= self.bytes {
            let last = bytes / 4096 - 1;
            self.quiet(&format!(
                "printf %04096d {bytes} > /tmp/expected && \
                 dd if={} bs=4096 skip={last} count=1 iflag=direct | cmp /tmp/expected -",
                self.device
            ));
            bytes += STEP_BYTES;
        }
    }

    fn kill_a_deletion(&mut self, kill: u64) {
        if self.snapshots.is_empty() {
            return;
        }
        let name = self.snapshots.remove(0).name;
        let delete = format!("lunar snapshot delete {name}");
        self.kill_during(kill, Some(&delete));
        // Again until it is gone: 3 says that there is none of this name.
        let gone = wait_until("the snapshot is gone", LIMIT, || {
            Ok(self.session.machine().sh(&delete, LIMIT)?.code == 3)
        });
        self.must(gone);
    }

    /// Ends the loads, compares everything that is left, and deletes it: all space comes back.
    fn end(mut self) {
        for Cut { name, rounds } in std::mem::take(&mut self.snapshots) {
            let clone = Cut { name: format!("of-{name}"), rounds };
            self.quiet(&format!("lunar volume clone {name} {}", clone.name));
            self.compare_and_drop(&clone);
            self.quiet(&format!("lunar snapshot delete {name} --no-wait"));
        }
        let (session, daemons) = (self.session, &self.daemons);
        must(daemons, session.quiet("lunar fsck"));
        self.grown_parts_are_there();
        let rounds = self.writer.stop(LIMIT);
        self.fio.stop(LIMIT);
        must(daemons, RECORDER.verify(session, &self.device, rounds));
        for name in ["v", "f"] {
            let gone = format!("lunar volume detach {name} && lunar volume delete {name}");
            must(daemons, session.quiet(&gone));
        }
        let empty = wait_until("all space to come back", LIMIT, || Ok(mapped_bytes(session)? == 0));
        must(daemons, empty);
        must(daemons, session.quiet("lunar fsck"));
    }
}

#[test]
fn kills_in_the_middle_of_changes_lose_and_mix_nothing() {
    let lab = lab([LunSpec::new(GIB), LunSpec::new(GIB).write_cache(true)]);
    let daemons = product(&lab);
    let session = session(&lab);
    let (node, seed) = (lab.node(0), setting("LUNAR_KILL_SEED", SEED));
    must(&daemons, make_pool(&session, &lab));
    let fio_device = must(&daemons, volume(&session, "f", "512MiB"));
    let device = must(&daemons, volume(&session, "v", &FIRST_BYTES.to_string()));
    // Two jobs, so that both queues are used.
    let options = ["--numjobs=2", "--offset_increment=256M", "--rate_iops=100"];
    let fio = Fio::start(node, &fio_device, &options);
    let writer = RECORDER.start(node, &device, REREAD);
    writer.wait_for(5, LIMIT);
    println!("LUNAR_KILL_SEED={seed}");
    let random = ChaCha8Rng::seed_from_u64(seed);
    let (snapshots, session) = (Vec::new(), &session);
    let bytes = FIRST_BYTES;
    let mut world = World { node, session, daemons, device, writer, fio, snapshots, bytes, random };
    for kill in 0..setting("LUNAR_KILLS", KILLS) {
        world.kill(kill);
    }
    world.end();
    lab.down();
}
