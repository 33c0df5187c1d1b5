//! The protocol of `docs/fencing.md`, searched wholly, and with mistakes that have to be found.

#![allow(clippy::print_stdout, reason = "what a search has found is its record")]

use std::cell::Cell;

use lunar_sim::fencing::{Fault, Life, Protocol, World};
use lunar_sim::search::search;

const MOST: usize = 10_000_000;

/// Also that the search comes to what it is about.
fn holds(start: World) {
    let (taken_over, rejoined) = (Cell::new(0_u64), Cell::new(0_u64));
    let found = search(&Protocol { fault: None, start }, MOST, |world| {
        let is_other = world.holder.is_some_and(|(node, _)| node != 0);
        taken_over.set(taken_over.get() + u64::from(is_other));
        let is_back = world.records[0].incarnation > 1 && world.records[0].life == Life::Active;
        rejoined.set(rejoined.get() + u64::from(is_back));
    });
    println!(
        "{} states, {} of them taken over, {} with the first node back",
        found.states,
        taken_over.get(),
        rejoined.get()
    );
    assert!(found.broken.is_none(), "{:#?}", found.broken);
    assert!(taken_over.get() > 0 && rejoined.get() > 0, "the search is about something");
}

#[test]
fn no_write_of_an_old_epoch_takes_effect() {
    holds(World::new(1, 0, 0));
    holds(World::new(1, 0, 0).with_new_lun(0, 1));
    holds(World::new(0, 0, 1).with_fenced_holder());
}

#[test]
fn neither_does_one_after_two_fences() {
    holds(World::new(2, 0, 0));
}

/// The fencer's daemon, the victim's, or the new owner's, at any moment.
#[test]
fn neither_does_one_when_a_daemon_dies() {
    holds(World::new(1, 1, 0).with_bystander());
}

#[test]
fn planted_mistakes_are_found() {
    let new_lun = World::new(1, 0, 0).with_new_lun(0, 1);
    for (fault, start) in [
        (Fault::SkipAbort, World::new(1, 0, 0)),
        (Fault::BlindReregistration, World::new(1, 0, 0)),
        (Fault::GrantBeforeComplete, World::new(1, 0, 0)),
        (Fault::VictimKeyZero, World::new(1, 0, 0)),
        (Fault::AbsentIsDone, World::new(1, 0, 0)),
        (Fault::LeaverUnregisters, World::new(0, 0, 2).with_fenced_holder()),
        (Fault::IntentWhileFencing, new_lun),
    ] {
        let found = search(&Protocol { fault: Some(fault), start }, MOST, |_| ());
        let Some((way, promise)) = found.broken else { panic!("{fault:?} is not found") };
        println!("{fault:?} after {} states: {promise}: {way:?}", found.states);
    }
}
