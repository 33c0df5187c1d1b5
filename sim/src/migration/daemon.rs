//! What the daemon of a node does by itself, and what its successor makes of the record.
//!
//! - A record is written before the first step that it allows.
//! - From the first release that was sent until its answer nothing else is done.
//! - Requests that were not answered stay in the driver, whoever dies.
//! - Who has asked for the volume asks until it is answered: nobody else would know of the grant.

use super::promises;
use super::protocol::{Fault, Listener, Moves, Protocol, Step, be_late, granted};
use super::world::{
    Admission, Answer, Call, Line, Mode, Phase, Record, Turns, World, Write, bit, writes_of,
};

/// All that a node may do now.
pub(super) fn steps(protocol: &Protocol, moves: &mut Moves<'_>, node: usize) {
    let world = moves.world;
    let of = &world.nodes[node];
    match of.phase {
        Phase::Dark | Phase::Stranger | Phase::Asking | Phase::Waiting => {}
        Phase::Releasing { .. } => {}
        Phase::Killed => {
            if !world.is_followed(node) || protocol.has(Fault::SuccessorDoesNotLook) {
                moves.add(Step::Succeed { node }, |next| succeed(protocol, next, node));
            }
        }
        Phase::Taking { epoch, has_replayed } => {
            steps_of_taker(protocol, moves, (node, epoch), has_replayed);
        }
        Phase::Live { epoch, admission } => {
            steps_of_requests(moves, (node, epoch), admission);
            steps_of_release(protocol, moves, (node, epoch), admission);
        }
    }
    match of.line {
        Line::Idle => {
            if let Some(call) = next_call(protocol, world, node) {
                moves.add(Step::Call { node }, |next| {
                    next.nodes[node].line = Line::Sent(call);
                    next.nodes[node].insists |= call == Call::Request;
                });
            }
        }
        Line::Sent(_) => {}
        Line::Answered(answer) => moves.add(Step::Hear { node }, |next| {
            next.nodes[node].line = Line::Idle;
            hear(protocol, next, node, answer);
        }),
    }
}

fn next_call(protocol: &Protocol, world: &World, node: usize) -> Option<Call> {
    let of = &world.nodes[node];
    match of.phase {
        Phase::Asking => Some(Call::Resume {
            epoch: match of.record {
                Record::Waiting => 0,
                Record::Taking(epoch) | Record::Live(epoch) | Record::Releasing(epoch) => epoch,
            },
        }),
        Phase::Waiting => {
            let is_told = protocol.listener == Listener::AnyOwner
                && world.wishes[1 - node] != 0
                && world.is_owner(node, world.epoch);
            (of.insists || is_told || world.in_driver(node) != 0).then_some(Call::Request)
        }
        Phase::Releasing { epoch, mode } => Some(Call::Release { epoch, mode }),
        Phase::Dark | Phase::Stranger | Phase::Killed => None,
        Phase::Taking { .. } | Phase::Live { .. } => None,
    }
}

/// An answer counts for the phase that has asked: no call outlives its phase.
fn hear(protocol: &Protocol, world: &mut World, node: usize, answer: Answer) {
    world.nodes[node].insists = false;
    let of = &mut world.nodes[node];
    match (of.phase, of.record, granted(answer)) {
        (Phase::Asking, Record::Live(_) | Record::Releasing(_), Some(epoch)) => {
            serve(world, node, epoch);
            // What the driver issues again may have been begun: no other epoch may have it.
            let owes = !protocol.has(Fault::ReissueAfterTurn);
            world.nodes[node].owed = if owes { world.in_driver(node) } else { 0 };
        }
        (Phase::Asking | Phase::Waiting, _, Some(epoch)) => {
            of.record = Record::Taking(epoch);
            of.phase = Phase::Taking { epoch, has_replayed: false };
        }
        (Phase::Asking, Record::Live(_) | Record::Releasing(_), None)
            if protocol.has(Fault::RemoveWhenNotOwner) =>
        {
            of.has_device = false;
            of.phase = Phase::Stranger;
        }
        (Phase::Asking | Phase::Releasing { .. }, _, None) => wait(world, node),
        (Phase::Waiting, _, None) => {}
        (phase, record, _) => unreachable!("{phase:?} of {record:?} has asked nothing"),
    }
}

fn wait(world: &mut World, node: usize) {
    world.nodes[node].record = Record::Waiting;
    world.nodes[node].phase = Phase::Waiting;
}

/// The record says so first; the driver issues what it has.
pub(super) fn serve(world: &mut World, node: usize, epoch: u8) {
    world.nodes[node].record = Record::Live(epoch);
    world.nodes[node].phase = Phase::Live { epoch, admission: Admission::Open };
}

/// The queues end. I/O of them may be under way, and the driver has what was not answered.
pub(super) fn end_queues(world: &mut World, node: usize) {
    if let Phase::Live { epoch, .. } = world.nodes[node].phase {
        for write in world.writes_at(node, Write::OnItsWay) {
            world.left_behind[write] = epoch;
        }
    }
    for write in writes_of(node) {
        if matches!(world.writes[write], Write::OnItsWay | Write::Landed) {
            world.writes[write] = Write::InDriver;
        }
    }
    world.nodes[node].owed = 0;
}

/// The process ends, at any moment.
pub(super) fn end(world: &mut World, node: usize) {
    end_queues(world, node);
    let of = &mut world.nodes[node];
    if let Line::Sent(call) = of.line {
        be_late(of, call);
    }
    of.line = Line::Idle;
    of.insists = false;
}

/// A successor joins, which ends the session of the killed daemon, and its wish.
fn succeed(protocol: &Protocol, world: &mut World, node: usize) {
    if !protocol.has(Fault::SessionNotEnded) {
        world.nodes[node].late.clear();
    }
    world.end_wish(node);
    let of = &mut world.nodes[node];
    of.phase = match of.record {
        Record::Waiting if protocol.has(Fault::ForgetGrant) => Phase::Waiting,
        Record::Taking(_) if protocol.has(Fault::TakingForgotten) => Phase::Waiting,
        Record::Taking(epoch) => Phase::Releasing { epoch, mode: Mode::KeepJournal },
        Record::Live(epoch) if protocol.has(Fault::LiveGivenBack) => {
            Phase::Releasing { epoch, mode: Mode::KeepJournal }
        }
        Record::Releasing(epoch) if protocol.has(Fault::ServeUnasked) => {
            return serve(world, node, epoch);
        }
        Record::Waiting | Record::Live(_) | Record::Releasing(_) => Phase::Asking,
    };
}

fn steps_of_taker(
    protocol: &Protocol,
    moves: &mut Moves<'_>,
    (node, epoch): (usize, u8),
    has_replayed: bool,
) {
    if !has_replayed {
        moves.attempt(Step::Replay { node }, |next| {
            promises::only_the_owner(next, node, epoch, "the replay")?;
            next.nodes[node].phase = Phase::Taking { epoch, has_replayed: true };
            if !protocol.has(Fault::ReplaySkipped) {
                next.map |= next.stale;
                next.stale = 0;
            }
            Ok(())
        });
    } else {
        moves.attempt(Step::Load { node }, |next| {
            promises::only_the_owner(next, node, epoch, "the format of the journal")?;
            promises::loads_everything(next, epoch, next.map)?;
            serve(next, node, epoch);
            if next.turns == Turns::Whole {
                next.nodes[node].owed = next.in_driver(node);
            }
            Ok(())
        });
    }
    if moves.world.budget.failures > 0 {
        moves.add(Step::FailToTake { node }, |next| {
            next.budget.failures -= 1;
            next.nodes[node].phase = Phase::Releasing { epoch, mode: Mode::KeepJournal };
        });
    }
}

fn steps_of_requests(moves: &mut Moves<'_>, (node, epoch): (usize, u8), admission: Admission) {
    let world = moves.world;
    if admission == Admission::Open {
        for write in world.writes_at(node, Write::InDriver) {
            moves.attempt(Step::Begin { write }, |next| {
                promises::begins_in_one_epoch(next, write, epoch)?;
                next.began[write] = epoch;
                next.writes[write] = Write::OnItsWay;
                Ok(())
            });
        }
    }
    for write in world.writes_at(node, Write::OnItsWay) {
        moves.attempt(Step::Land { write }, |next| {
            promises::only_the_owner(next, node, epoch, "a write")?;
            next.writes[write] = Write::Landed;
            next.journal |= bit(write);
            next.block = Some(write);
            Ok(())
        });
    }
    for write in world.writes_at(node, Write::Landed) {
        moves.add(Step::Answer { write }, |next| {
            next.writes[write] = Write::Answered;
            next.nodes[node].owed &= !bit(write);
        });
    }
}

/// Steps 3 to 6 of a move.
fn steps_of_release(
    protocol: &Protocol,
    moves: &mut Moves<'_>,
    (node, epoch): (usize, u8),
    admission: Admission,
) {
    let world = moves.world;
    let at = |admission| Phase::Live { epoch, admission };
    let is_quiet = match protocol.has(Fault::ReleaseWithWritesUnderWay) {
        true => world.writes_at(node, Write::Landed).next().is_none(),
        false => world.is_drained(node),
    };
    match admission {
        Admission::Open if world.wishes[1 - node] != 0 && world.nodes[node].owed == 0 => {
            moves.add(Step::StopAdmission { node }, |next| {
                next.nodes[node].phase = at(Admission::Stopped);
            });
        }
        Admission::Stopped if is_quiet => moves.add(Step::Flush { node }, |next| {
            next.nodes[node].phase = at(Admission::Flushed);
            if !protocol.has(Fault::ReleaseWithoutFlush) {
                next.map |= next.journal;
            }
        }),
        Admission::Flushed => moves.add(Step::EndQueues { node }, |next| {
            end_queues(next, node);
            next.nodes[node].record = Record::Releasing(epoch);
            next.nodes[node].phase = Phase::Releasing { epoch, mode: Mode::Clean };
        }),
        Admission::Open | Admission::Stopped => {}
    }
    if admission != Admission::Open {
        moves.add(Step::ServeAgain { node }, |next| next.nodes[node].phase = at(Admission::Open));
    }
}
