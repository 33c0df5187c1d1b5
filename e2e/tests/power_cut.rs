//! The machine loses its power over and over under a load that says what it has flushed: nothing
//! flushed is lost, nothing is torn below 4 KiB, and fsck is clean each time.

mod support;

use std::time::Duration;

use lunar_e2e::main_job::attach;
use lunar_lab::LunSpec;
use support::{GIB, lab, make_pool, must, product, session, volume};

const CUTS: u64 = 10;
const BLOCKS: u64 = 20_000;
const LIMIT: Duration = Duration::from_secs(60);

/// The last round that the recorder said was flushed.
fn last_flushed(output: &str) -> u64 {
    let round = |line: &str| line.strip_prefix("flushed ")?.parse().ok();
    output.lines().rev().find_map(round).unwrap_or(0)
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
    for cut in 1..=CUTS {
        // A volume of its own for each cut: what was never written must read as zeros, although
        // its extents held the data of the volumes before it.
        let name = format!("v{cut}");
        let device = must(&daemons, volume(&session, &name, "1536MiB"));
        let (seed, blocks) = (cut.to_string(), BLOCKS.to_string());
        let common = [device.as_str(), "--seed", &seed, "--blocks", &blocks];
        let writer = node
            .spawn(&[&["flush-recorder"], &common[..], &["write"]].concat())
            .expect("the recorder starts");
        // A different depth each time; a checkpoint of the map in the middle of some.
        let rounds = 10 * cut;
        writer.wait_for_output(&format!("flushed {rounds}\n"), LIMIT).expect("it flushes");
        if cut % 3 == 0 {
            must(&daemons, session.quiet(&format!("lunar volume map {name} --checkpoint")));
        }
        node.cut().expect("the machine can be cut");
        let flushed = last_flushed(&writer.stdout());
        assert!(flushed >= rounds, "the recorder had flushed {flushed} rounds");
        daemons.power_lost();

        node.boot().expect("the machine boots");
        node.exec_ok(&["modprobe", "ublk_drv"]).expect("the lab's kernel has ublk");
        daemons = product(&lab);
        let device = must(&daemons, attach(&session, &name));
        must(
            &daemons,
            session.quiet(&format!(
                "flush-recorder {device} --seed {seed} --blocks {blocks} verify --flushed {flushed}"
            )),
        );
        must(&daemons, session.quiet(&format!("lunar volume detach {name}")));
        must(&daemons, session.quiet("lunar fsck"));
        must(&daemons, session.quiet(&format!("lunar volume delete {name}")));
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
