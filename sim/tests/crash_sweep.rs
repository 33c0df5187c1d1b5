//! The crash states that every change has to pass, and the proof that they can fail.

#![allow(clippy::print_stdout, reason = "a test says how many states it has seen")]

use lunar_sim::planted::Planted;
use lunar_sim::sweep::{Op, Scope, Sweep, replay};

#[test]
fn every_crash_state_of_short_sequences_is_recovered() {
    let report = Sweep::new(Scope::Short, None, 5).run(|_, _| {});
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!(
        "{} sequences, {} moments, {} states, {} of them different, {} after a kill, at most {} \
         writes not flushed",
        report.sequences,
        report.moments,
        report.states,
        report.distinct,
        report.kills,
        report.volatile_most
    );
    assert_eq!(report.sequences, 14 + 14 * 14 + 14 * 14 * 14);
    for (what, count, least) in [
        ("different states", report.distinct, 100_000),
        ("states after a kill", report.kills, 4_000),
        ("writes that are not flushed at once", report.volatile_most as u64, 9),
    ] {
        assert!(count >= least, "{what}: {count}, at least {least} are expected");
    }
}

/// Each is found, and the command that the failure prints finds it again.
#[test]
fn planted_bugs_are_found_and_found_again() {
    for (planted, sequence) in [
        (Planted::FuaNotDurable, vec![Op::Fua, Op::Fua]),
        (Planted::FlushMissesOtherQueue, vec![Op::Write, Op::Flush]),
        (Planted::CommitBeforeDataFlush, vec![Op::Write, Op::Checkpoint]),
        (Planted::CopyNotDurable, vec![Op::Consolidate, Op::Checkpoint]),
        (Planted::PresenceBitLost, vec![Op::Write, Op::Flush]),
        (Planted::StaleBytesReadable, vec![Op::Flush]),
        (Planted::WritesInOldHead, vec![Op::AnswerLost, Op::Fua]),
        (Planted::UndecidedJournalDropped, vec![Op::VoteLost, Op::Fua]),
    ] {
        let sweep = |planted| Sweep::new(Scope::Whole, planted, 1).over(vec![sequence.clone()]);
        let report = sweep(Some(planted)).run(|_, _| {});
        let failure = report.failures.first();
        let failure = failure.unwrap_or_else(|| panic!("{planted:?} passes {sequence:?}"));
        println!("{planted:?} is found after {} states: {failure}", report.states);
        let again = replay(&failure.state, Some(planted)).expect_err("the bug is still there");
        assert!(failure.what.ends_with(&again), "{again} is not {}", failure.what);
        let without = sweep(None).run(|_, _| {});
        assert!(without.failures.is_empty(), "without it: {:?}", without.failures);
    }
}
