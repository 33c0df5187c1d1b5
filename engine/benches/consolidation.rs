//! What depth costs a reader before and after consolidation, and what a snapshot costs a writer.
//!
//! - Two volumes of the same content: one layer, and 64 layers with random 4 KiB writes in each.
//!   LUN I/Os a read, and the time of random 4 KiB reads of both in turn, before and after the deep
//!   one was consolidated. The content is compared block by block.
//! - Random 4 KiB first writes after a snapshot: bytes written to the LUN, journal included, for
//!   each byte of the guest.
//!
//! The LUN is a sparse file; the metadata service answers at once.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![allow(clippy::print_stdout, reason = "its figures are what it is for")]

mod layered;

use std::time::{Duration, Instant};

use layered::{BLOCK, BLOCKS, Bench, Shape};
use lunar_engine::volume::{CopyStep, NoClaim, blocking};

const DEPTH: u64 = 64;
const EXTENTS: u64 = 64;
/// As many bits as the number of a block of them has.
const READ_BITS: u32 = (EXTENTS * BLOCKS).ilog2();
/// Blocks of each extent that a layer above the lowest has.
const WRITES: u64 = 8;
const ROUNDS: usize = 41;
const READS: u64 = 20_000;

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Nanoseconds of a random 4 KiB read.
fn time_reads(bench: &mut Bench, seed: u64) -> f64 {
    let begun = Instant::now();
    for n in 0..READS {
        bench.read(layered::scattered(seed * READS + n, READ_BITS), 1);
    }
    begun.elapsed().as_nanos() as f64 / READS as f64
}

/// Nanoseconds of a read of the one and of the other, taken in turn.
fn compare(flat: &mut Bench, deep: &mut Bench) -> (f64, f64) {
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        one.push(time_reads(flat, round));
        other.push(time_reads(deep, round));
    }
    (median(one), median(other))
}

/// LUN I/Os for each read of so many blocks.
fn ios_a_read(bench: &mut Bench, blocks: u64) -> f64 {
    let before = bench.lun_ios;
    for n in 0..READS {
        let first = layered::scattered(n, READ_BITS) / blocks * blocks;
        bench.read(first, blocks as u32);
    }
    (bench.lun_ios - before) as f64 / READS as f64
}

fn consolidate(bench: &mut Bench) -> Duration {
    let begun = Instant::now();
    loop {
        match bench.volume.claim(Duration::ZERO) {
            Ok(claim) => {
                let (volume, queue, luns) = (&bench.volume, &mut bench.control, &bench.lun);
                let step = blocking::run_copy(volume, queue, claim, luns, &mut Vec::new());
                assert_eq!(step, CopyStep::Begun, "nobody writes");
            }
            Err(NoClaim::NothingDue) => return begun.elapsed(),
            Err(other) => panic!("{other}"),
        }
    }
}

fn report(name: &str, flat: f64, deep: f64) {
    let ratio = flat / deep;
    println!(
        "{name}: depth 1 {flat:.0} ns, depth {DEPTH} {deep:.0} ns a read; {ratio:.3} × depth 1"
    );
}

fn depth() {
    let mut flat = Bench::new(Shape { layers: 1, extents: EXTENTS, writes: 0, has_content: true });
    let mut deep =
        Bench::new(Shape { layers: DEPTH, extents: EXTENTS, writes: WRITES, has_content: true });
    let blocks = |bench: &mut Bench| -> Vec<u64> {
        (0..EXTENTS * BLOCKS).map(|block| bench.read(block, 1)).collect()
    };
    let content = blocks(&mut deep);
    for (name, count) in [("4 KiB", 1), ("64 KiB", 16), ("1 MiB", BLOCKS)] {
        let (flat, deep) = (ios_a_read(&mut flat, count), ios_a_read(&mut deep, count));
        println!("before, {name}: depth 1 {flat:.2}, depth {DEPTH} {deep:.2} LUN I/Os a read");
    }
    let (one, other) = compare(&mut flat, &mut deep);
    report("before, random 4 KiB", one, other);
    let took = consolidate(&mut deep);
    let stats = deep.volume.stats();
    let mib = stats.consolidated_bytes as f64 / f64::from(1 << 20);
    let rate = mib / took.as_secs_f64();
    println!("{} extents, {mib:.0} MiB copied, {rate:.0} MiB/s", stats.consolidated_extents);
    assert_eq!(stats.consolidated_extents, EXTENTS);
    assert!(blocks(&mut deep) == content, "a copy shows what was there");
    for (name, count) in [("4 KiB", 1), ("64 KiB", 16), ("1 MiB", BLOCKS)] {
        let deep = ios_a_read(&mut deep, count);
        println!("after, {name}: depth {DEPTH} {deep:.2} LUN I/Os a read");
    }
    let (one, other) = compare(&mut flat, &mut deep);
    report("after, random 4 KiB", one, other);
    let ratio = one / other;
    println!("required: at least 0.95 × depth 1; {}", verdict(ratio >= 0.95));
}

/// Bytes on the LUN for each byte of the guest, with a flush after so many writes.
fn amplification(extents: u64, flush_every: Option<u64>) -> f64 {
    const GUEST_WRITES: u64 = 100_000;
    /// The checkpoint interval at 4,000 writes a second.
    const CHECKPOINT_EVERY: u64 = 20_000;
    let mut bench = Bench::new(Shape { layers: 2, extents, writes: 0, has_content: false });
    for n in 0..GUEST_WRITES {
        bench.write(layered::scattered(n, (extents * BLOCKS).ilog2()));
        if flush_every.is_some_and(|every| n % every == every - 1) {
            bench.flush();
        }
        if n % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1 {
            bench.checkpoint();
        } else if n % 64 == 63 {
            bench.work();
        }
    }
    bench.checkpoint();
    bench.lun_written_bytes as f64 / (GUEST_WRITES * BLOCK) as f64
}

const fn verdict(holds: bool) -> &'static str {
    if holds { "met" } else { "NOT MET" }
}

fn main() {
    depth();
    for gib in [1, 64] {
        for every in [None, Some(256), Some(32), Some(8), Some(1)] {
            let how = every.map_or("no flush".to_owned(), |every| format!("a flush every {every}"));
            let factor = amplification(gib << 10, every);
            println!("first 4 KiB writes to {gib} GiB, {how}: {factor:.3} LUN bytes a guest byte");
            if every.is_none() {
                println!("required: at most 1.3; {}", verdict(factor <= 1.3));
            }
        }
    }
}
