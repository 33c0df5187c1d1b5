//! Incarnations: joining, resuming, leaving, fencing.

use std::time::Duration;

use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::world::{World, kind, name};

const FENCING: Duration = Duration::from_secs(15);

fn leave(world: &World, caller: NodeSession) -> Result<(), ServiceError> {
    block_on(world.service.leave(&Leave { request: world.request(), caller }))
}

fn state(world: &World, node: &str) -> NodeState {
    block_on(world.service.node(&Selector::Name(name(node)))).expect("known").state
}

#[test]
fn nodes_get_ids_and_incarnations_that_rise() {
    let world = World::new();
    let a = world.node("a");
    let b = world.node("b");
    let again = world.node("a");
    let texts = [a, b, again].map(|session| session.to_string());
    assert_eq!(texts, ["1.1 in session 1", "2.1 in session 1", "1.2 in session 2"]);
    assert_eq!(kind(block_on(world.service.heartbeat(a))), ErrorReason::NodeFenced);
    let Renewed { state, timers, .. } = block_on(world.service.heartbeat(again)).expect("it lives");
    assert_eq!((state, timers), (NodeState::Active, LeaseTimers::DEFAULT));
    world.assert_clean();
}

#[test]
fn the_same_boot_resumes_what_it_asks_for() {
    let mut world = World::new();
    let first = world.join_as("a", 7, None).expect("joined");
    let resumed = world.join_as("a", 7, Some(1)).expect("resumed");
    assert_eq!((resumed.session.node, resumed.resumed), (first.session.node, true));
    world.restart();
    let resumed = world.join_as("a", 7, Some(1)).expect("resumed after a restart");
    assert!(resumed.resumed);
    assert_eq!(kind(world.join_as("a", 8, Some(1))), ErrorReason::NodeAlive, "heard from just now");
    world.clock.advance(LeaseTimers::DEFAULT.hold);
    let other_boot = world.join_as("a", 8, Some(1)).expect("a new boot");
    assert_eq!((other_boot.resumed, other_boot.session.node.incarnation.get()), (false, 2));
    let late = world.join_as("a", 8, Some(1));
    assert_eq!(kind(late), ErrorReason::NodeAlive, "incarnation 1 is no longer there to resume");
}

#[test]
fn a_second_daemon_on_a_live_boot_is_refused_until_the_first_is_silent() {
    let world = World::new();
    let first = world.join_as("a", 7, None).expect("joined").session;
    world.clock.advance(Duration::from_secs(10));
    block_on(world.service.heartbeat(first)).expect("it lives");
    world.clock.advance(Duration::from_secs(14));
    assert_eq!(kind(world.join_as("a", 7, None)), ErrorReason::NodeAlive);
    world.clock.advance(Duration::from_secs(1));
    let second = world.join_as("a", 7, None).expect("the first is silent");
    assert_eq!(second.session.node.incarnation.get(), 2);
}

#[test]
fn a_service_that_has_just_started_waits_before_it_calls_a_node_silent() {
    let mut world = World::new();
    world.join_as("a", 7, None).expect("joined");
    world.clock.advance(FENCING * 2);
    world.restart();
    assert_eq!(kind(world.join_as("a", 7, None)), ErrorReason::NodeAlive);
    assert_eq!(state(&world, "a"), NodeState::Active);
    world.clock.advance(FENCING);
    assert!(world.join_as("a", 7, None).is_ok());
}

#[test]
fn a_silent_node_is_called_suspect() {
    let world = World::new();
    let node = world.node("a");
    world.clock.advance(Duration::from_secs(11));
    assert_eq!(state(&world, "a"), NodeState::Suspect);
    block_on(world.service.heartbeat(node)).expect("still live");
    assert_eq!(state(&world, "a"), NodeState::Active);
}

#[test]
fn a_node_that_left_can_do_nothing_until_it_joins() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = world.volume("v");
    let node = world.node("a");
    let held = world.attach(volume.id, node).expect("granted");
    assert_eq!(kind(leave(&world, node)), ErrorReason::NodeHoldsAttachments);
    world.reserve(node, pool.id, 10).expect("reserved");
    world.detach(&held, DetachMode::Clean).expect("detached");
    leave(&world, node).expect("it goes");
    assert_eq!(state(&world, "a"), NodeState::Left);
    for refused in [
        kind(world.attach(volume.id, node)),
        kind(world.reserve(node, pool.id, 1)),
        kind(leave(&world, node)),
        kind(block_on(world.service.heartbeat(node))),
    ] {
        assert_eq!(refused, ErrorReason::NodeFenced);
    }
    world.assert_clean();
    world.settle();
    assert_eq!(world.status(pool.id).usage.allocated_extents, 0);
    world.assert_clean();
    let back = world.join_as("a", 99, None).expect("it comes back").session;
    assert_eq!(back.node.incarnation.get(), 2);
    world.attach(volume.id, back).expect("granted again");
}

#[test]
fn reservations_of_a_fenced_node_wait_for_its_journals() {
    let world = World::new();
    let pool = world.pool(6000);
    let volume = world.volume("v");
    let old = world.node("a");
    world.attach(volume.id, old).expect("granted");
    for _ in 0..5 {
        world.reserve(old, pool.id, 1024).expect("reserved");
    }
    block_on(world.service.declare_fenced(old.node)).expect("fenced");
    block_on(world.service.declare_fenced(old.node)).expect("fenced twice is fenced");
    world.settle();
    assert_eq!(world.status(pool.id).usage.reserved_extents, 5 * 1024);
    world.assert_clean();
    let new = world.node("b");
    let held = world.attach(volume.id, new).expect("taken over");
    world.settle();
    assert_eq!(world.status(pool.id).usage.reserved_extents, 5 * 1024);
    world.retire(&held, Epoch::new(1)).expect("retired");
    world.assert_clean();
    world.settle();
    let usage = world.status(pool.id).usage;
    assert_eq!((usage.reserved_extents, usage.allocated_extents), (0, 2));
    world.assert_clean();
}

#[test]
fn unknown_nodes_are_refused() {
    let world = World::new();
    world.pool(8);
    let volume = world.volume("v");
    let nobody = NodeIncarnation { node: NodeId::new(9), incarnation: Incarnation::new(1) };
    let nobody = NodeSession { node: nobody, number: SessionNumber::new(1) };
    assert_eq!(kind(world.attach(volume.id, nobody)), ErrorReason::NodeNotFound);
    assert_eq!(kind(block_on(world.service.heartbeat(nobody))), ErrorReason::NodeNotFound);
    let selector = Selector::Id(NodeId::new(9));
    assert_eq!(kind(block_on(world.service.node(&selector))), ErrorReason::NodeNotFound);
    let node = world.node("a");
    let future = NodeIncarnation { incarnation: Incarnation::new(2), ..node.node };
    let future = NodeSession { node: future, ..node };
    assert_eq!(kind(world.attach(volume.id, future)), ErrorReason::NodeFenced);
}

#[test]
fn nodes_are_listed_with_what_they_hold() {
    let world = World::new();
    world.pool(64);
    let (a, b) = (world.node("a"), world.node("b"));
    for volume in ["v", "w"] {
        world.attach(world.volume(volume).id, b).expect("granted");
    }
    let nodes = block_on(world.service.nodes(&PageRequest::first())).expect("a list").items;
    let held: Vec<_> = nodes.iter().map(|node| (node.id, node.attachments)).collect();
    assert_eq!(held, [(a.node.node, 0), (b.node.node, 2)]);
    let page = block_on(world.service.attachments(b.node, &PageRequest::first())).expect("a list");
    assert_eq!(page.items.len(), 2);
}
