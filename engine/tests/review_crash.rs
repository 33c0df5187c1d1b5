//! The volume engine among crashes: random requests, kills, losses of power and late answers, and
//! extents that are made solid meanwhile.

mod crash;

use std::time::Duration;

use crash::{Answer, EXTENT, Options, QUEUES, VOLUME_BYTES, World};
use lunar_engine::io::{IoError, IoOp};
use lunar_engine::volume::{ControlWork, NoClaim, WorkDone};
use lunar_types::{LayerId, LogicalBlockSize};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Do {
    Io { kind: u8, offset: u64, length: u64, fill: u8 },
    Flush,
    Progress(u8),
    Control(Answer),
    Checkpoint,
    Consolidate,
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
        5 => Just(Do::Consolidate),
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
            Do::Consolidate => world.consolidate(),
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

/// Three lists and a solid extent, all of a layer below, with extents in reserve.
fn world_of_lists() -> World {
    let mut world = World::new(LogicalBlockSize::B4096, true, 1);
    world.control(Answer::Prompt);
    world
}

fn consolidated(world: &World) -> u64 {
    world.volume.stats().consolidated_extents
}

/// Copies until nothing is due.
fn consolidate_all(world: &mut World) {
    for _ in 0..100 {
        world.consolidate();
        world.settle();
        world.control(Answer::Prompt);
    }
    assert_eq!(world.claim(), Err(NoClaim::NothingDue));
}

fn read_all(world: &mut World) {
    world.submit(IoOp::Read { offset: 0, length: VOLUME_BYTES as u32 }, 0);
    world.settle();
}

/// The world checks what reads show.
#[test]
fn lists_become_solid_and_show_the_same() {
    let mut world = world_of_lists();
    world.submit(write(EXTENT + 4096, 4096), 77);
    world.settle();
    consolidate_all(&mut world);
    assert_eq!(consolidated(&world), 2, "the third extent is solid below");
    let before = world.volume.stats();
    read_all(&mut world);
    let after = world.volume.stats();
    assert_eq!(before.split_reads, after.split_reads, "no list is left");
    // 8 blocks of one extent came from below, 7 of it and 15 of the other were zeros.
    assert_eq!(after.consolidated_bytes, (15 + 16) * 4096);
    world.kill();
    read_all(&mut world);
    world.submit(IoOp::Flush, 0);
    world.settle();
    world.lose_node();
    read_all(&mut world);
}

/// Reads of several I/Os make a list due, as soon as there are enough of them within a minute.
#[test]
fn a_list_is_due_with_enough_reads_of_several_ios_within_a_minute() {
    let mut options = Options::new(LogicalBlockSize::B4096, true);
    options.tuning.consolidate_slots = 32;
    let mut world = World::with(options, 1);
    world.control(Answer::Prompt);
    world.submit(write(EXTENT + 6 * 4096, 4096), 77);
    world.settle();
    let read = IoOp::Read { offset: EXTENT, length: EXTENT as u32 };
    let read_often = |world: &mut World, times: u32, op: IoOp| {
        for _ in 0..times {
            world.submit(op, 0);
            world.settle();
        }
    };
    assert_eq!(world.claim(), Err(NoClaim::NothingDue));
    read_often(&mut world, 100, IoOp::Read { offset: EXTENT + 4 * 4096, length: 4096 });
    assert_eq!(world.claim(), Err(NoClaim::NothingDue), "each of them was one I/O");
    read_often(&mut world, 15, read);
    assert_eq!(world.claim(), Err(NoClaim::NothingDue));
    world.pass(61);
    assert_eq!(world.claim(), Err(NoClaim::NothingDue));
    read_often(&mut world, 15, read);
    assert_eq!(world.claim(), Err(NoClaim::NothingDue), "the first were too long ago");
    assert!(world.volume.check_claim(world.now()).is_err());
    read_often(&mut world, 1, read);
    for _ in 0..3 {
        assert_eq!(world.volume.check_claim(world.now()), Ok(()), "to ask claims nothing");
    }
    assert_eq!(world.claim(), Ok(()));
    assert_eq!(world.claim(), Err(NoClaim::Claimed));
    world.settle();
    assert_eq!(consolidated(&world), 1);
}

/// Attack 10: a write that began before the claim ends after it. Were its block copied meanwhile,
/// the copy would land over it.
#[test]
fn a_copy_waits_for_the_writes_of_before_its_claim() {
    let mut world = world_of_lists();
    let early = world.submit(write(EXTENT, 4096), 50);
    assert_eq!(world.claim(), Ok(()));
    for _ in 0..10 {
        assert!(!world.go_on_with_claim(), "the write is under way");
    }
    assert!(!world.perform_one_of(QUEUES), "nothing is read yet");
    let late = world.submit(write(EXTENT + 4096, 4096), 51);
    assert!(world.perform_one_of(early.queue.get()));
    assert!(!world.perform_one_of(late.queue.get()), "a write of a claimed extent waits");
    assert!(world.go_on_with_claim());
    assert!(world.volume.is_copying());
    world.settle();
    assert_eq!(consolidated(&world), 1);
    read_all(&mut world);
    assert!(world.done.iter().all(|(_, result)| result.is_ok()));
}

/// Discards and write-zeroes of a claimed extent wait too, reads do not.
#[test]
fn only_reads_go_on_in_a_claimed_extent() {
    let mut world = world_of_lists();
    assert_eq!(world.claim(), Ok(()));
    let length = 8192;
    let discarded = world.submit(discard(EXTENT, length), 0);
    let zeroed = world.submit(IoOp::WriteZeroes { offset: EXTENT + 8 * 4096, length }, 0);
    assert_eq!(world.volume.stats().parked_requests, 2);
    let read = world.submit(IoOp::Read { offset: EXTENT + 4 * 4096, length: 8192 }, 0);
    while world.perform_one_of(read.queue.get()) {}
    let has_ended = |world: &World, id| world.done.iter().any(|(done, _)| *done == id);
    assert!(has_ended(&world, read));
    assert!(!has_ended(&world, discarded) && !has_ended(&world, zeroed));
    world.settle();
    assert!(has_ended(&world, discarded) && has_ended(&world, zeroed));
    read_all(&mut world);
}

/// A detached volume writes no more: what a copy writes could land over the next holder's blocks.
#[test]
fn a_volume_with_a_copy_under_way_is_not_clean() {
    let mut world = world_of_lists();
    world.submit(write(EXTENT, 4096), 50);
    world.settle();
    for _ in 0..20 {
        world.volume.request_checkpoint(&mut Vec::new());
        world.control(Answer::Prompt);
        world.settle();
    }
    assert!(world.volume.is_clean(), "all is committed");
    assert_eq!(world.claim(), Ok(()));
    assert!(!world.volume.is_clean(), "a copy may begin");
    assert!(world.go_on_with_claim());
    assert!(world.volume.is_copying());
    assert!(!world.volume.is_clean(), "a copy is under way");
}

/// Attack 11: what was copied before a freeze belongs to the head that is sealed, and nothing is
/// copied at the cut.
#[test]
fn a_freeze_waits_for_the_copy_under_way() {
    let mut world = world_of_lists();
    assert_eq!(world.claim(), Ok(()));
    assert!(world.go_on_with_claim());
    assert!(world.volume.is_copying());
    world.volume.freeze().expect("the first");
    for _ in 0..10 {
        world.control(Answer::Prompt);
        assert!(!world.volume.is_settled(), "a copy is under way");
    }
    while world.perform_one_of(QUEUES) {}
    assert!(!world.volume.is_copying());
    assert_eq!(world.claim(), Err(NoClaim::Frozen));
    for _ in 0..100 {
        if world.volume.is_settled() {
            break;
        }
        world.control(Answer::Prompt);
        while world.perform_one_of(QUEUES) {}
    }
    assert!(world.volume.is_settled());
    assert_eq!(consolidated(&world), 1);
    world.volume.switch(LayerId::new(3), &mut Vec::new());
    read_all(&mut world);
}

/// Attack 44: what a guest's flush has captured is committed at a freeze, and not only when the
/// next checkpoint is due anyway.
#[test]
fn a_freeze_is_settled_soon_also_when_a_flush_has_captured_all_that_is_dirty() {
    let mut options = Options::new(LogicalBlockSize::B4096, false);
    options.tuning.checkpoint_interval = Duration::from_secs(1000);
    let mut world = World::with(options, 1);
    world.submit(write(0, 4096), 7);
    world.settle();
    world.submit(IoOp::Flush, 0);
    world.volume.freeze().expect("the first");
    for _ in 0..3 {
        world.control(Answer::Prompt);
        assert!(!world.volume.is_settled(), "the flush is under way");
    }
    for _ in 0..10 {
        while world.progress() {}
        world.control(Answer::Prompt);
    }
    assert!(world.volume.is_settled());
    world.volume.switch(LayerId::new(3), &mut Vec::new());
    read_all(&mut world);
}

/// A claim whose copy has not begun does not hold up a freeze, and what waits for it waits on.
#[test]
fn a_freeze_ends_a_claim_that_waits() {
    let mut world = world_of_lists();
    let early = world.submit(write(EXTENT, 4096), 50);
    assert_eq!(world.claim(), Ok(()));
    let late = world.submit(write(EXTENT + 4096, 4096), 51);
    world.volume.freeze().expect("the first");
    assert!(world.go_on_with_claim(), "the claim has ended");
    assert!(world.perform_one_of(early.queue.get()));
    assert!(!world.volume.is_copying());
    let mut out = Vec::new();
    world.volume.thaw(&mut out);
    world.act(out);
    world.settle();
    let ended: Vec<_> = world.done.iter().map(|(id, result)| (*id, *result)).collect();
    assert!(ended.contains(&(late, Ok(()))), "{ended:?}");
    read_all(&mut world);
}

/// Attack 30: `opaque` stays as it is, so a replay finds the slot in the place that it knows.
#[test]
fn the_copy_of_an_opaque_slot_survives_a_loss_of_power() {
    let mut world = world_of_lists();
    world.submit(discard(0, EXTENT), 0);
    world.settle();
    world.submit(write(4096, 4096), 9);
    world.submit(write(3 * 4096, 4096), 10);
    world.settle();
    world.submit(IoOp::Flush, 0);
    world.settle();
    consolidate_all(&mut world);
    assert_eq!(consolidated(&world), 3);
    read_all(&mut world);
    world.submit(IoOp::Flush, 0);
    world.settle();
    world.lose_node();
    read_all(&mut world);
}

/// What nothing can be lost by is not done when it could be in the way.
#[test]
fn nothing_is_claimed_when_it_would_be_in_the_way() {
    let mut world = world_of_lists();
    world.volume.pool_is_high(true);
    assert_eq!(world.claim(), Err(NoClaim::PoolHigh));
    assert_eq!(world.volume.check_claim(world.now()), Ok(()), "were it not for that");
    world.volume.pool_is_high(false);

    let reserve = world.volume.take_reserve(usize::MAX);
    assert_eq!(world.claim(), Err(NoClaim::ReserveLow));
    let runs: Vec<_> = reserve.iter().map(|at| lunar_types::ExtentRun::new(*at, 1)).collect();
    world.volume.give_reserve(&runs, &mut Vec::new());

    world.volume.freeze().expect("the first");
    assert_eq!(world.claim(), Err(NoClaim::Frozen));
    world.volume.thaw(&mut Vec::new());

    assert_eq!(world.claim(), Ok(()));
    assert_eq!(world.claim(), Err(NoClaim::Claimed));
    let (now, mut out) = (Duration::from_secs(1), Vec::new());
    world.submit(write(EXTENT, 4096), 5);
    world.volume.work_done(WorkDone::Rejected("another owner".into()), now, &mut out);
    world.act(out);
    world.settle();
    let ended: Vec<_> = world.done.iter().map(|(_, result)| *result).collect();
    assert_eq!(ended, [Err(IoError::Poisoned)], "it does not wait for a claim that is no more");
    assert!(world.go_on_with_claim() && !world.volume.is_copying());
    assert_eq!(world.claim(), Err(NoClaim::Poisoned));
}

/// A pool that is full has nothing to give to copies.
#[test]
fn nothing_is_claimed_in_a_full_pool() {
    let mut world = world_of_lists();
    world.metadata.free.clear();
    world.volume.take_reserve(usize::MAX);
    assert!(world.control(Answer::Prompt), "the reserve is asked for, and the pool is full");
    assert_eq!(world.claim(), Err(NoClaim::PoolHigh));
}

/// The last entries of the dirty table are for the guest.
#[test]
fn nothing_is_claimed_when_the_dirty_table_is_nearly_full() {
    let options = Options { capacity: 4, ..Options::new(LogicalBlockSize::B4096, true) };
    let mut world = World::with(options, 1);
    world.control(Answer::Prompt);
    for extent in 0..3 {
        world.submit(write(extent * EXTENT, 4096), 5);
        while world.perform_one_of(0) || world.perform_one_of(1) {}
        world.fill_reserve();
    }
    assert_eq!(world.volume.stats().dirty_extents, 3);
    assert_eq!(world.claim(), Err(NoClaim::TableFull));
}

/// A LUN that fails a copy loses nothing: the extent stays as it was, and is left alone.
#[test]
fn a_copy_that_fails_changes_nothing() {
    let mut world = world_of_lists();
    assert_eq!(world.claim(), Ok(()));
    assert!(world.go_on_with_claim());
    let parked = world.submit(write(EXTENT, 4096), 5);
    world.fail_one_of(QUEUES);
    while world.perform_one_of(QUEUES) {}
    assert!(!world.volume.is_copying());
    assert_eq!((world.volume.stats().failed_copies, consolidated(&world)), (1, 0));
    world.settle();
    assert!(world.done.contains(&(parked, Ok(()))));
    read_all(&mut world);
    for _ in 0..100 {
        world.consolidate();
        world.settle();
        world.control(Answer::Prompt);
    }
    assert_eq!(consolidated(&world), 1, "the other one");
    world.pass(600);
    consolidate_all(&mut world);
    assert_eq!(consolidated(&world), 2);
}
