//! Snapshots of a volume that is written all the time: each holds what was flushed before it was
//! asked for, and nothing changes it, whatever happens to the volume afterwards.

mod support;

use std::time::Duration;

use lunar_e2e::main_job::attach_quietly;
use lunar_e2e::product::Product;
use lunar_e2e::recorder::{BLOCKS, Recorder, Rounds};
use lunar_e2e::session::Session;
use lunar_lab::LunSpec;
use support::{GIB, lab, make_pool, must, product, session, volume};

const RECORDER: Recorder = Recorder::new(7, BLOCKS);
const SNAPSHOTS: u64 = 6;
const LIMIT: Duration = Duration::from_secs(120);

/// What a volume overwrote since a snapshot comes back when that is deleted, while it is attached.
fn give_back(session: &Session<'_>, daemons: &Product<'_>) {
    let mapped = || lunar_e2e::main_job::mapped_bytes(session);
    let device = must(daemons, volume(session, "w", "64MiB"));
    let fill = |byte: u8| {
        let bytes = format!("head --bytes=64M /dev/zero | tr '\\0' '\\{byte:03o}'");
        let write =
            format!("{bytes} | dd of={device} bs=1M iflag=fullblock oflag=direct conv=fsync");
        must(daemons, session.quiet(&write));
        must(daemons, session.quiet("lunar volume map w --checkpoint"));
        format!("{bytes} | cmp - {device}")
    };
    let before = must(daemons, mapped());
    fill(0x11);
    must(daemons, session.quiet("lunar snapshot create w w1"));
    let is_same = fill(0x22);
    assert_eq!(must(daemons, mapped()), before + (128 << 20), "nothing is overwritten in place");
    must(daemons, session.quiet("lunar snapshot delete w1"));
    let one_copy = lunar_e2e::session::wait_until("what is hidden to come back", LIMIT, || {
        Ok(mapped()? == before + (64 << 20))
    });
    must(daemons, one_copy);
    must(daemons, session.quiet(&is_same));
    // What came from the snapshot's layer is the volume's own now.
    must(daemons, session.quiet("lunar snapshot create w w2"));
    must(daemons, session.quiet("lunar snapshot delete w2"));
    let is_same = fill(0x33);
    must(daemons, session.quiet(&is_same));
    must(daemons, session.quiet("lunar volume detach w"));
    must(daemons, session.quiet("lunar volume delete w"));
}

/// Extents that a snapshot has left in pieces are made whole when they are read often, and show
/// the same. One read of a whole extent takes one I/O then.
fn make_whole(session: &Session<'_>, daemons: &Product<'_>) {
    const EXTENTS: u64 = 64;
    let device = must(daemons, volume(session, "p", "64MiB"));
    let zeros = format!("head --bytes={EXTENTS}M /dev/zero | tr '\\0' '\\104'");
    let fill = format!("{zeros} | dd of={device} bs=1M iflag=fullblock oflag=direct conv=fsync");
    must(daemons, session.quiet(&fill));
    must(daemons, session.quiet("lunar snapshot create p p1"));
    let one_block = format!("dd of={device} bs=4k oflag=direct status=none seek=$((n * 256 + 7))");
    let write = format!("head --bytes=4096 /dev/zero | tr '\\0' '\\105' | {one_block}");
    let pieces = format!("for n in $(seq 0 {}); do {write}; done", EXTENTS - 1);
    must(daemons, session.quiet(&pieces));
    let read = format!("dd if={device} bs=1M iflag=direct status=none");
    let sum = must(daemons, session.quiet(&format!("{read} | sha256sum")));
    let counters = || Ok(session.json("volume show p")?["attachment"]["counters"].clone());
    let before = must(daemons, counters());
    let read_often = format!("for n in $(seq 5); do {read} >/dev/null; done");
    let whole = lunar_e2e::session::wait_until("all extents to be made whole", LIMIT, || {
        session.quiet(&read_often)?;
        Ok(counters()?["consolidated_extents"] == EXTENTS)
    });
    must(daemons, whole);
    let after = must(daemons, counters());
    assert!(after["split_reads"].as_u64() > before["split_reads"].as_u64(), "they were in pieces");
    assert_eq!(after["failed_copies"], 0);
    assert_eq!(must(daemons, session.quiet(&format!("{read} | sha256sum"))), sum);
    let now = must(daemons, counters());
    assert_eq!(now["split_reads"], after["split_reads"], "nothing is in pieces any more");
    must(daemons, session.quiet("lunar volume detach p"));
    must(daemons, session.quiet("lunar fsck"));
    let device = must(daemons, attach_quietly(session, "p"));
    let again = format!("dd if={device} bs=1M iflag=direct status=none | sha256sum");
    assert_eq!(must(daemons, session.quiet(&again)), sum, "after another attachment");
    must(daemons, session.quiet("lunar volume detach p"));
    must(daemons, session.quiet("lunar snapshot delete p1 --no-wait"));
    must(daemons, session.quiet("lunar volume delete p"));
}

#[test]
fn snapshots_under_load_hold_what_was_flushed_and_never_change() {
    let lab = lab([
        LunSpec::new(GIB).write_cache(true).logical_block_bytes(4096),
        LunSpec::new(GIB).write_cache(true),
    ]);
    let node = lab.node(0);
    let mut daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    let device = must(&daemons, volume(&session, "v", "1536MiB"));
    let writer = RECORDER.start(node, &device, 0);
    let mut rounds = Vec::new();
    for n in 1..=SNAPSHOTS {
        writer.wait_for(20 * n, LIMIT);
        if n == 4 {
            let restarted = daemons.kill_fs_core().and_then(|()| daemons.start_fs_core());
            must(&daemons, restarted);
        }
        let at_least = writer.flushed();
        must(&daemons, session.quiet(&format!("lunar snapshot create v s{n}")));
        // The round that was being written when the answer came may be in it, whole or in part.
        let at_most = writer.begun();
        println!("snapshot {n}: at least round {at_least}, at most {at_most}");
        rounds.push(Rounds { at_least, at_most });
        writer.must_run();
    }
    for line in daemons.logs().lines().filter(|line| line.contains("paused_us")) {
        println!("{line}");
    }
    writer.wait_for(writer.flushed() + 20, LIMIT);
    writer.stop(LIMIT);

    for (n, expected) in (1..=SNAPSHOTS).zip(&rounds) {
        must(&daemons, session.quiet(&format!("lunar volume clone s{n} c{n}")));
        let clone = must(&daemons, attach_quietly(&session, &format!("c{n}")));
        must(&daemons, RECORDER.verify(&session, &clone, *expected));
        // What is written to a clone is nobody else's.
        must(&daemons, session.quiet(&format!("blkdiscard --zeroout --length 16M {clone}")));
        must(&daemons, session.quiet(&format!("lunar volume detach c{n}")));
    }
    must(&daemons, session.quiet("lunar fsck"));

    give_back(&session, &daemons);
    make_whole(&session, &daemons);

    must(&daemons, session.quiet("lunar volume rollback v s2 --reattach"));
    let device = must(&daemons, lunar_e2e::main_job::device_of(&session, "v"));
    must(&daemons, RECORDER.verify(&session, &device, rounds[1]));
    must(&daemons, session.quiet("lunar volume detach v"));
    for n in [3, 1, 6, 2, 5, 4] {
        must(&daemons, session.quiet(&format!("lunar snapshot delete s{n} --no-wait")));
        must(&daemons, session.quiet(&format!("lunar volume delete c{n}")));
    }
    must(&daemons, session.quiet("lunar volume delete v"));
    let fsck = "lunar fsck".to_owned();
    must(&daemons, session.quiet(&fsck));
    let empty = lunar_e2e::session::wait_until("all space to come back", LIMIT, || {
        Ok(lunar_e2e::main_job::mapped_bytes(&session)? == 0)
    });
    must(&daemons, empty);
    lab.down();
}
