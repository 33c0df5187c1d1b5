//! What a power cut could have left of a LUN that loses its cache, at many moments of one run.
//!
//! dm-log-writes records every write, flush and FUA below a LUN and below the disk of the metadata
//! store, in one order, while ext4 and xfs on two volumes are written and synced, and snapshots are
//! taken and deleted and a volume grows. The programs mark the log after each round that they have
//! synced. Then, for each of many moments, at marks and just before flushes: what was durable is
//! replayed, some of what was not is scattered over it, and the product is started on that. Both
//! file systems must recover and be found clean, every round that was marked must be there, and
//! the metadata must be clean.

mod support;

use std::time::Duration;

use lunar_e2e::main_job::{attach_quietly, device_of};
use lunar_e2e::product::{Places, Product};
use lunar_e2e::session::Session;
use lunar_lab::{Job, Lab, LunSpec, Node};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{GIB, MIB, devices, lab, must, say, session, setting, volume};

/// Moments that are looked at, unless `LUNAR_LOG_MOMENTS` says otherwise: half of them at marks.
const MOMENTS: u64 = 8;
/// What the moments and the scattered writes follow from, unless `LUNAR_LOG_SEED` says otherwise.
const SEED: u64 = 1;
const LIMIT: Duration = Duration::from_secs(120);
const DISK_BYTES: u64 = GIB;
/// Where the LUN ends and the disk of the metadata store begins.
const SPLIT_BYTES: u64 = 896 * MIB;
/// Writes that a flush covers, or it is no moment at which a cut could tear something.
const PENDING_LEAST: u64 = 3;
/// Rounds of each file system between two changes of its volume.
const ROUNDS: u64 = 3;

/// A volume with a file system that is recorded.
struct FileSystem {
    volume: &'static str,
    make: &'static str,
    /// Fails when anything is wrong, and repairs nothing.
    check: &'static str,
    /// Replays the journal of `$device` where the kernel's mount does not get so far.
    recover: &'static str,
    seed: u64,
}

/// ext4 looks at the group descriptors before it replays its journal: while it grows, there may be
/// a superblock that counts groups whose descriptors are still in the journal only. Every
/// distribution runs `fsck -p` first, which replays it, and gives up on such descriptors if that
/// has not put them right.
const RECOVERED: &str = "recovered by fsck";

const FILE_SYSTEMS: [FileSystem; 2] = [
    FileSystem {
        volume: "e",
        make: "mkfs.ext4 -q",
        check: "fsck.ext4 -f -n",
        recover: "fsck.ext4 -p $device || [ $? = 1 ]",
        seed: 11,
    },
    FileSystem {
        volume: "x",
        make: "mkfs.xfs -q",
        check: "xfs_repair -n",
        recover: "false",
        seed: 12,
    },
];

/// The LUNs of the lab: what is recorded, the log, the replayed disk, what is written over that.
struct Disks {
    recorded: String,
    log: String,
    replayed: String,
    scattered: String,
}

impl Disks {
    fn of(lab: &Lab) -> Self {
        let [recorded, log, replayed, scattered] =
            <[String; 4]>::try_from(devices(lab)).expect("the lab has four");
        Self { recorded, log, replayed, scattered }
    }
}

/// Makes the LUN and the disk of the metadata store of two parts of one device. The target
/// `delay`, with no delay, passes flushes on with their position, by which they are told apart.
fn split(session: &Session<'_>, below: &str) {
    let (lun, meta) = (SPLIT_BYTES / 512, (DISK_BYTES - SPLIT_BYTES) / 512);
    let made = session.quiet(&format!(
        "dmsetup create lun --table '0 {lun} delay {below} 0 0' && \
         dmsetup create meta --table '0 {meta} delay {below} {lun} 0' && mkdir -p /mnt/meta"
    ));
    made.expect("the parts are made");
}

/// Makes the device that is recorded. Flushes reach the target one after the other, because one
/// thread of `delay` hands them on after a moment, and end in that order, because the disk below
/// has one queue. Two processors that flush at once would get ahead of each other otherwise, and
/// the log would show writes as pending that a flush has covered.
fn record_below(session: &Session<'_>, disks: &Disks) {
    let (sectors, logged) = (DISK_BYTES / 512, "/dev/mapper/logged");
    let log = format!("0 {sectors} log-writes {} {}", disks.recorded, disks.log);
    let (at_once, flushes_ms) = (format!("{logged} 0 0"), 1);
    let ordered = format!("0 {sectors} delay {at_once} {at_once} {logged} 0 {flushes_ms}");
    let made = session.quiet(&format!(
        "modprobe -a dm_log_writes dm_delay && dmsetup create logged --table '{log}' && \
         dmsetup create ordered --table '{ordered}'"
    ));
    made.expect("the lab's kernel has dm-log-writes");
    split(session, "/dev/mapper/ordered");
}

fn places() -> Places {
    let store = "/mnt/meta/metadata.redb".to_owned();
    Places { store, luns: vec!["/dev/mapper/lun".to_owned()], scan: false }
}

fn start<'n>(node: &'n Node) -> Product<'n> {
    let product = Product::start(node, places());
    product.unwrap_or_else(|error| panic!("the product does not start: {error}"))
}

fn marked(job: &Job) -> u64 {
    let round = |line: &str| line.strip_prefix("marked ")?.parse().ok();
    job.stdout().lines().rev().find_map(round).unwrap_or(0)
}

/// Runs the loads and the changes on the recorded device, and cuts the power.
fn record(lab: &Lab, disks: &Disks) {
    let (node, session) = (lab.node(0), session(lab));
    record_below(&session, disks);
    let mount = "mkfs.ext4 -q -E nodiscard /dev/mapper/meta && mount /dev/mapper/meta /mnt/meta";
    session.quiet(mount).expect("the disk of the metadata store is made");
    let daemons = start(node);
    let pool =
        "lunar lun label /dev/mapper/lun && lunar pool create tank --fencing none /dev/mapper/lun";
    must(&daemons, session.quiet(pool));
    let loads: Vec<Job> = FILE_SYSTEMS
        .iter()
        .map(|fs| {
            let device = must(&daemons, volume(&session, fs.volume, "384MiB"));
            let at = format!("/mnt/{}", fs.volume);
            let mount = format!("{} {device} && mkdir -p {at} && mount {device} {at}", fs.make);
            must(&daemons, session.quiet(&mount));
            let (seed, mark) = (fs.seed.to_string(), format!("{}-", fs.volume));
            let words = ["--seed", &seed, "write", "--logged", "logged", "--mark", &mark];
            let words: Vec<&str> = ["file-recorder", &at].into_iter().chain(words).collect();
            node.spawn(&words).expect("the recorder starts")
        })
        .collect();
    let goes_on = || {
        for load in &loads {
            let round = marked(load) + ROUNDS;
            load.wait_for_output(&format!("marked {round}\n"), LIMIT).expect("it goes on");
        }
    };
    goes_on();
    for change in [
        "lunar snapshot create e s1",
        "lunar snapshot create x s2 --fsfreeze always",
        "lunar volume grow e 448MiB --fs",
        "lunar snapshot delete s1",
        "lunar volume map x --checkpoint",
        "lunar volume clone s2 c",
        "lunar snapshot delete s2",
        "lunar volume map e --checkpoint",
    ] {
        must(&daemons, session.quiet(&format!("{change} > /dev/null")));
        goes_on();
    }
    node.cut().expect("the machine can be cut");
}

/// A moment of the run, and the rounds of each file system that were marked before it.
struct Moment {
    /// The first entry of the log that has not happened.
    until: u64,
    what: String,
    marked: [u64; 2],
}

/// Every moment that could be looked at: after each mark, and before each flush of something.
fn moments(session: &Session<'_>, disks: &Disks) -> (Vec<Moment>, Vec<Moment>) {
    let list = format!("log-replay {} --split {SPLIT_BYTES} list", disks.log);
    let list = session.quiet(&list).expect("the log can be read");
    let (mut marks, mut flushes, mut marked) = (Vec::new(), Vec::new(), [0; 2]);
    let mut flushed = [false; 2];
    for line in list.lines() {
        let words: Vec<&str> = line.split([' ', '-']).collect();
        let number = |word: usize| words[word].parse::<u64>().expect("a number");
        let what = line.to_owned();
        match words[0] {
            "mark" => {
                let fs = FILE_SYSTEMS.iter().position(|fs| fs.volume == words[2]);
                let Some(fs) = fs else { continue };
                assert_eq!(number(3), marked[fs] + 1, "{line}");
                marked[fs] += 1;
                // Before that, the other file system may not have been made.
                if marked.iter().all(|rounds| *rounds > 0) {
                    marks.push(Moment { until: number(1) + 1, what, marked });
                }
            }
            "flush" if marked.iter().all(|rounds| *rounds > 0) => {
                flushed[usize::from(words[2] == "second")] = true;
                if number(3) >= PENDING_LEAST {
                    flushes.push(Moment { until: number(1), what, marked });
                }
            }
            _ => {}
        }
    }
    // Both kinds are told apart, or the two caches would be one.
    assert_eq!(flushed, [true; 2], "flushes of both parts are in the log");
    let count = marks.len().min(flushes.len());
    let (ours, theirs) = (marks.len(), flushes.len());
    say(&format!("{ours} marks, {theirs} flushes of {PENDING_LEAST} writes and more"));
    assert!(count >= 40, "a run that shows something has more than {count} marks and flushes");
    (marks, flushes)
}

/// As many moments as are asked for, in order, evenly over the run.
fn chosen(session: &Session<'_>, disks: &Disks) -> Vec<Moment> {
    let count = usize::try_from(setting("LUNAR_LOG_MOMENTS", MOMENTS)).expect("it is small");
    let (marks, flushes) = moments(session, disks);
    let mut random = ChaCha8Rng::seed_from_u64(setting("LUNAR_LOG_SEED", SEED));
    let mut chosen = Vec::new();
    for (list, wanted) in [(marks, count.div_ceil(2)), (flushes, count / 2)] {
        let (length, mut part) = (list.len(), 0);
        let mut next = random.random_range(0..(length / wanted.max(1)).max(1));
        for (at, moment) in list.into_iter().enumerate() {
            if at == next && part < wanted {
                part += 1;
                let begin = part * length / wanted;
                let end = ((part + 1) * length / wanted).max(begin + 1);
                next = random.random_range(begin..end);
                chosen.push(moment);
            }
        }
    }
    chosen.sort_by_key(|moment| moment.until);
    chosen
}

/// Puts the disk as a power cut at this moment could have left it below the LUN and the store.
fn put_back(session: &Session<'_>, disks: &Disks, from: u64, moment: &Moment) {
    let Disks { log, replayed, scattered, .. } = disks;
    let (until, sectors) = (moment.until, DISK_BYTES / 512);
    let replay = format!("log-replay {log} --split {SPLIT_BYTES}");
    let put = session.quiet(&format!(
        "{replay} replay {replayed} --from {from} --until {until} && \
         dmsetup create crash --table '0 {sectors} snapshot {replayed} {scattered} N 8' && \
         {replay} scatter /dev/mapper/crash --until {until} --seed {until}"
    ));
    let put = put.unwrap_or_else(|error| panic!("{error}"));
    let put = put.trim().replace('\n', " durable, then scattered ");
    say(&format!("{}: {put}", moment.what));
    split(session, "/dev/mapper/crash");
}

/// Starts the product on the disk, and verifies everything.
fn verify(lab: &Lab, moment: &Moment) {
    let (node, session) = (lab.node(0), session(lab));
    session.quiet("mount /dev/mapper/meta /mnt/meta").expect("ext4 recovers");
    let mut daemons = start(node);
    must(&daemons, session.quiet("lunar fsck"));
    for (fs, rounds) in FILE_SYSTEMS.iter().zip(moment.marked) {
        let name = fs.volume;
        let device = must(&daemons, attach_quietly(&session, name));
        assert_eq!(must(&daemons, device_of(&session, name)), device);
        // The mount replays the file system's own journal; only then is a check worth something.
        let verify =
            format!("file-recorder /mnt/{name} --seed {} verify --rounds {rounds}", fs.seed);
        let recover = format!("{{ {}; }} && echo '{RECOVERED}'", fs.recover);
        let script = format!(
            "device={device}; mkdir -p /mnt/{name}; mount {device} /mnt/{name} || \
             {{ {recover} && mount {device} /mnt/{name}; }}; {verify}; umount /mnt/{name}; \
             {} {device}",
            fs.check
        );
        let said = must(&daemons, session.quiet(&script));
        if said.contains(RECOVERED) {
            say(&format!("{name}: mounted only after its fsck had replayed its journal:\n{said}"));
        }
        must(&daemons, session.quiet(&format!("lunar volume detach {name}")));
    }
    must(&daemons, session.quiet("lunar fsck"));
    let ended = daemons.stop_fs_core().and_then(|()| daemons.stop_metadata());
    must(&daemons, ended);
    // As after a boot: nothing of this moment is left for the next.
    let remove = "umount /mnt/meta && dmsetup remove lun meta && dmsetup remove crash && \
                  rm -r /run/lunar/state";
    must(&daemons, session.quiet(remove));
}

#[test]
fn at_every_moment_a_power_cut_leaves_what_was_synced() {
    let disk = || LunSpec::new(DISK_BYTES).write_cache(true).queues(1);
    let lab = lab([disk(), LunSpec::new(4 * GIB), disk(), LunSpec::new(GIB)]);
    let disks = Disks::of(&lab);
    record(&lab, &disks);
    // Another boot, as after a real cut: the product knows the recorded one by its boot id.
    lab.node(0).boot().expect("the machine boots");
    lab.node(0)
        .exec_ok(&["modprobe", "-a", "ublk_drv", "dm_delay", "dm_snapshot"])
        .expect("loaded");
    let session = session(&lab);
    let mut from = 0;
    for moment in chosen(&session, &disks) {
        put_back(&session, &disks, from, &moment);
        from = moment.until;
        verify(&lab, &moment);
    }
    lab.down();
}
