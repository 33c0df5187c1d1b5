//! The protocol of `docs/migration.md`, searched wholly, and with mistakes that have to be found.

#![allow(clippy::print_stdout, reason = "what a search has found is its record")]

use std::cell::Cell;

use lunar_sim::migration::{Budget, Fault, Listener, Protocol, World};
use lunar_sim::search::search;

const MOST: usize = 10_000_000;

const NOTHING: Budget = Budget { kills: 0, late: 0, failures: 0, moves: 0, cuts: 0 };

/// What the search says of a request that nobody will ever answer.
const STUCK: &str = "who waits here";

/// Also that the search comes to what it is about: there and back.
fn holds(start: World) {
    let (there, back, last) = (Cell::new(0_u64), Cell::new(0_u64), Cell::new(0));
    let (guests, budget, turns) = (start.guests, start.budget, start.turns);
    let protocol = Protocol { fault: None, listener: Listener::Serving, start };
    let found = search(&protocol, MOST, |world| {
        let is_at = |node| world.owner.is_some_and(|owner| owner.node == node);
        there.set(there.get() + u64::from(is_at(1)));
        back.set(back.get() + u64::from(is_at(0) && world.epoch > 2));
        last.set(last.get().max(world.epoch));
    });
    println!(
        "{guests:?} writes, {turns:?} turns, {budget:?}: {} states, {} of them moved there, \
         {} there and back, {} epochs",
        found.states,
        there.get(),
        back.get(),
        last.get()
    );
    assert!(found.broken.is_none(), "{:#?}", found.broken);
    assert!(there.get() > 0 && back.get() > 0, "the search is about something");
}

#[test]
fn promises_hold_when_nothing_fails() {
    holds(World::new([2, 2], NOTHING));
}

#[test]
fn promises_hold_when_daemons_are_killed() {
    holds(World::new([2, 2], Budget { kills: 2, ..NOTHING }));
    holds(World::new([2, 1], Budget { kills: 3, ..NOTHING }));
}

#[test]
fn promises_hold_when_calls_are_late() {
    holds(World::new([2, 2], Budget { kills: 1, late: 2, ..NOTHING }));
    holds(World::new([1, 1], Budget { kills: 2, late: 2, failures: 1, moves: 1, ..NOTHING }));
}

#[test]
fn promises_hold_when_a_node_loses_its_power() {
    holds(World::new([2, 2], Budget { kills: 1, cuts: 1, ..NOTHING }));
    holds(World::new([1, 1], Budget { kills: 1, late: 1, failures: 0, moves: 1, cuts: 2 }));
}

/// A grant may be given away before one request was answered by it.
#[test]
fn promises_hold_when_turns_are_short() {
    holds(World::new([2, 2], Budget { kills: 1, ..NOTHING }).with_any_turns(6));
}

/// Which mistake, where it is looked for, and how it shows.
#[test]
fn planted_mistakes_are_found() {
    let calm = || World::new([2, 2], NOTHING);
    let killed = || World::new([2, 2], Budget { kills: 1, ..NOTHING });
    let moved = || World::new([1, 1], Budget { kills: 1, moves: 1, ..NOTHING });
    let late = || World::new([1, 1], Budget { late: 1, ..NOTHING });
    let cut = || World::new([2, 1], Budget { cuts: 1, ..NOTHING });
    for (fault, start, promise) in [
        (Fault::ServeAfterReleaseSent, calm(), "M1"),
        (Fault::ReleaseWithWritesUnderWay, calm(), "M2"),
        (Fault::ReleaseWithoutFlush, calm(), "M2"),
        (Fault::GrantWhileOwned, calm(), "M1"),
        (Fault::GrantByNodeName, cut(), "M1"),
        (Fault::ReissueAfterTurn, killed(), "M3"),
        (Fault::LiveGivenBack, killed(), "M3"),
        (Fault::ForgetGrant, moved(), STUCK),
        (Fault::TakingForgotten, moved(), STUCK),
        (Fault::ServeUnasked, killed(), "M1"),
        (Fault::SuccessorDoesNotLook, killed(), "M2"),
        (Fault::RemoveWhenNotOwner, killed(), "M6"),
        (Fault::ReplaySkipped, cut(), "M2"),
        (Fault::SessionNotEnded, killed(), "M2"),
        (Fault::LateCallCounts, late(), STUCK),
        (Fault::RequestGivenUp, moved(), STUCK),
        (Fault::RequestIdReused, calm(), STUCK),
    ] {
        let protocol = Protocol { fault: Some(fault), listener: Listener::Serving, start };
        let found = search(&protocol, MOST, |_| ());
        let Some((way, broken)) = found.broken else { panic!("{fault:?} is not found") };
        println!("{fault:?} after {} states: {broken}: {way:?}", found.states);
        assert!(broken.starts_with(promise), "{fault:?} breaks {promise}");
    }
}

/// Every grant that its owner does not know of is mended when the other one asks for the volume.
#[test]
fn an_owner_that_hears_a_wish_finds_its_grant() {
    let budget = Budget { kills: 1, late: 1, moves: 1, ..NOTHING };
    for fault in
        [Fault::ForgetGrant, Fault::TakingForgotten, Fault::LateCallCounts, Fault::RequestGivenUp]
    {
        let start = World::new([1, 1], budget);
        let protocol = Protocol { fault: Some(fault), listener: Listener::AnyOwner, start };
        let found = search(&protocol, MOST, |_| ());
        println!("{fault:?}, mended, {} states", found.states);
        assert!(found.broken.is_none(), "{fault:?}: {:#?}", found.broken);
    }
}
