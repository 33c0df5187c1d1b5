//! The volume engine among crashes: random requests, kills, losses of power and late answers.

mod crash;

use std::time::Duration;

use crash::{Answer, EXTENT, VOLUME_BYTES, World};
use lunar_engine::io::{IoError, IoOp};
use lunar_engine::volume::{ControlWork, WorkDone};
use lunar_types::LogicalBlockSize;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Do {
    Io { kind: u8, offset: u64, length: u64, fill: u8 },
    Flush,
    Progress(u8),
    Control(Answer),
    Checkpoint,
    Kill,
    LoseNode,
}

fn step() -> impl Strategy<Value = Do> {
    let length = prop_oneof![4 => 1..40_u64, 1 => Just(128_u64), 1 => Just(256_u64)];
    let offset = prop_oneof![3 => 0..VOLUME_BYTES / 512, 1 => (0..3_u64).prop_map(|n| n * 128)];
    let io = (0..7_u8, offset, length, 1..=200_u8).prop_map(|(kind, offset, length, fill)| {
        Do::Io { kind, offset: offset * 512, length: length * 512, fill }
    });
    let answer = prop_oneof![
        4 => Just(Answer::Prompt),
        1 => Just(Answer::Lost),
        1 => Just(Answer::LostAfterCommit),
    ];
    prop_oneof![
        20 => io,
        5 => Just(Do::Flush),
        24 => (1..6_u8).prop_map(Do::Progress),
        10 => answer.prop_map(Do::Control),
        2 => Just(Do::Checkpoint),
        1 => Just(Do::Kill),
        1 => Just(Do::LoseNode),
    ]
}

fn op(block: LogicalBlockSize, kind: u8, offset: u64, length: u64) -> IoOp {
    let unit = u64::from(block.bytes());
    let offset = offset / unit * unit;
    let length = length.next_multiple_of(unit).min(VOLUME_BYTES - offset);
    let short = u32::try_from(length).expect("small");
    match kind {
        0 => IoOp::Read { offset, length: short },
        1 | 2 => IoOp::Write { offset, length: short, fua: false },
        3 => IoOp::Write { offset, length: short, fua: true },
        4 | 5 => IoOp::Discard { offset, length },
        _ => IoOp::WriteZeroes { offset, length },
    }
}

fn run(block: LogicalBlockSize, with_base: bool, seed: u64, steps: &[Do]) {
    let mut world = World::new(block, with_base, seed);
    for step in steps {
        match step {
            Do::Io { kind, offset, length, fill } => {
                let op = op(block, *kind, *offset, *length);
                if !world.overlaps(op) {
                    world.submit(op, *fill);
                }
            }
            Do::Flush => {
                world.submit(IoOp::Flush, 0);
            }
            Do::Progress(count) => (0..*count).for_each(|_| {
                world.progress();
            }),
            Do::Control(answer) => {
                world.control(*answer);
            }
            Do::Checkpoint => world.volume.request_checkpoint(&mut Vec::new()),
            Do::Kill => world.kill(),
            Do::LoseNode => world.lose_node(),
        }
    }
    world.settle();
    world.submit(IoOp::Read { offset: 0, length: VOLUME_BYTES as u32 }, 0);
    world.settle();
    for (id, result) in world.done.drain(..) {
        assert_eq!(result, Ok(()), "{id:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_completed_or_flushed_is_lost(
        steps in prop::collection::vec(step(), 1..300),
        seed in any::<u64>(),
        small_blocks in any::<bool>(),
        with_base in any::<bool>(),
    ) {
        let block = if small_blocks { LogicalBlockSize::B512 } else { LogicalBlockSize::B4096 };
        run(block, with_base, seed, &steps);
    }
}

fn write(offset: u64, length: u32) -> IoOp {
    IoOp::Write { offset, length, fua: false }
}

fn discard(offset: u64, length: u64) -> IoOp {
    IoOp::Discard { offset, length }
}

fn calm_world() -> World {
    World::new(LogicalBlockSize::B4096, false, 1)
}

/// A detach flushes and commits until nothing is left; a LUN index that does not exist and a
/// block written over in place must not keep it from getting there.
#[test]
fn a_volume_becomes_clean_after_a_kill_and_after_an_overwrite() {
    let mut world = calm_world();
    world.submit(write(0, EXTENT as u32), 1);
    world.settle();
    world.kill();
    assert_becomes_clean(&mut world);
    world.submit(write(0, 4096), 2);
    world.settle();
    assert!(!world.volume.is_clean(), "what was written over is not flushed");
    assert_becomes_clean(&mut world);
}

fn assert_becomes_clean(world: &mut World) {
    world.volume.request_checkpoint(&mut Vec::new());
    for _ in 0..20 {
        world.control(Answer::Prompt);
        world.settle();
    }
    assert!(world.volume.is_clean(), "{:?}", world.volume.stats());
}

/// The pool is full, but a discard has made room that a checkpoint brings back.
#[test]
fn a_first_write_waits_for_discarded_extents_when_the_pool_is_full() {
    let mut world = calm_world();
    for extent in 0..2 {
        world.submit(write(extent * EXTENT, EXTENT as u32), 1);
        world.settle();
    }
    world.metadata.free.clear();
    world.volume.take_reserve(usize::MAX);
    world.submit(discard(0, EXTENT), 0);
    world.settle();
    assert!(world.control(Answer::Prompt), "the reserve is asked for, and the pool is full");
    world.done.clear();
    world.submit(write(2 * EXTENT, 4096), 2);
    world.settle();
    assert_eq!(world.done.iter().map(|(_, result)| *result).collect::<Vec<_>>(), [Ok(())]);
}

/// A refused commit means a new owner: a round under way writes no journal and promises nothing.
#[test]
fn a_flush_fails_when_a_commit_is_refused_under_it() {
    let mut world = calm_world();
    world.submit(write(0, 4096), 1);
    world.settle();
    world.submit(IoOp::Flush, 0);
    world.settle();
    let (now, mut out) = (Duration::from_secs(100), Vec::new());
    world.volume.request_checkpoint(&mut out);
    let work = world.volume.next_work(now, &mut out);
    assert!(matches!(work, Some(ControlWork::Commit(_))), "{work:?}");
    world.submit(write(8192, 4096), 2);
    world.settle();
    world.done.clear();
    world.submit(IoOp::Flush, 0);
    world.volume.work_done(WorkDone::Rejected("another owner".into()), now, &mut out);
    let blocks = world.volume.stats().journal_blocks;
    world.settle();
    let ended: Vec<_> = world.done.iter().map(|(_, result)| *result).collect();
    assert_eq!(ended, [Err(IoError::Poisoned)]);
    assert_eq!(world.volume.stats().journal_blocks, blocks, "the journal is not ours any more");
}

/// A volume is given up while a call is under way; the answer comes after that.
#[test]
fn an_answer_that_comes_after_a_volume_was_given_up_is_ignored() {
    for late in [WorkDone::Unavailable, WorkDone::Committed] {
        let mut world = calm_world();
        world.submit(write(0, 4096), 1);
        world.settle();
        let (now, mut out) = (Duration::from_secs(100), Vec::new());
        world.submit(IoOp::Flush, 0);
        world.settle();
        world.volume.request_checkpoint(&mut out);
        let work = world.volume.next_work(now, &mut out);
        assert!(matches!(work, Some(ControlWork::Commit(_))), "{work:?}");
        world.volume.work_done(WorkDone::Rejected("detached by force".into()), now, &mut out);
        world.volume.work_done(late, now, &mut out);
        assert_eq!(world.volume.poison().as_deref().map(|why| why.contains("force")), Some(true));
        assert_eq!(world.volume.next_work(now, &mut out), None);
    }
}
