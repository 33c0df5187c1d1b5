//! Snapshots of a volume that is written all the time: each holds what was flushed before it was
//! asked for, and nothing changes it, whatever happens to the volume afterwards.

mod support;

use std::time::Duration;

use lunar_e2e::main_job::attach;
use lunar_e2e::product::Product;
use lunar_e2e::session::Session;
use lunar_lab::LunSpec;
use support::{GIB, lab, make_pool, must, product, session, volume};

const BLOCKS: u64 = 20_000;
const SNAPSHOTS: u64 = 6;
const LIMIT: Duration = Duration::from_secs(120);

/// The last round that the recorder said was flushed.
fn last_flushed(output: &str) -> u64 {
    let round = |line: &str| line.strip_prefix("flushed ")?.parse().ok();
    output.lines().rev().find_map(round).unwrap_or(0)
}

fn recorder(device: &str, mode: &str) -> String {
    format!("flush-recorder {device} --seed 7 --blocks {BLOCKS} {mode}")
}

/// What a snapshot shows: everything of a round, and at most what was written until another one.
fn verify(session: &Session<'_>, device: &str, (flushed, at_most): (u64, u64)) {
    let ahead = at_most - flushed;
    let mode = format!("verify --flushed {flushed} --ahead {ahead}");
    let verified = session.quiet(&recorder(device, &mode));
    verified.unwrap_or_else(|error| panic!("{flushed} to {at_most}: {error}"));
}

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
    let write = recorder(&device, "write");
    let words: Vec<&str> = write.split(' ').collect();
    let writer = node.spawn(&words).expect("the recorder starts");
    let mut rounds = Vec::new();
    for n in 1..=SNAPSHOTS {
        writer.wait_for_output(&format!("flushed {}\n", 20 * n), LIMIT).expect("it flushes");
        if n == 4 {
            let restarted = daemons.kill_fs_core().and_then(|()| daemons.start_fs_core());
            must(&daemons, restarted);
        }
        let flushed = last_flushed(&writer.stdout());
        must(&daemons, session.quiet(&format!("lunar snapshot create v s{n}")));
        // The round that was being written when the answer came may be in it, whole or in part.
        let at_most = last_flushed(&writer.stdout()) + 2;
        println!("snapshot {n}: at least round {flushed}, at most {at_most}");
        rounds.push((flushed, at_most));
        assert!(writer.is_running(), "the load ended: {}", writer.stderr());
    }
    for line in daemons.logs().lines().filter(|line| line.contains("paused_us")) {
        println!("{line}");
    }
    let last = last_flushed(&writer.stdout());
    writer.wait_for_output(&format!("flushed {}\n", last + 20), LIMIT).expect("it goes on");
    writer.kill(lunar_lab::Signal::SIGKILL).expect("it is running");
    writer.wait(LIMIT).expect("it ends");

    for (n, expected) in (1..=SNAPSHOTS).zip(&rounds) {
        must(&daemons, session.quiet(&format!("lunar volume clone s{n} c{n}")));
        let clone = must(&daemons, attach(&session, &format!("c{n}")));
        verify(&session, &clone, *expected);
        // What is written to a clone is nobody else's.
        must(&daemons, session.quiet(&format!("blkdiscard --zeroout --length 16M {clone}")));
        must(&daemons, session.quiet(&format!("lunar volume detach c{n}")));
    }
    must(&daemons, session.quiet("lunar fsck"));

    give_back(&session, &daemons);

    must(&daemons, session.quiet("lunar volume rollback v s2 --reattach"));
    let device = must(&daemons, lunar_e2e::main_job::device_of(&session, "v"));
    verify(&session, &device, rounds[1]);
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
