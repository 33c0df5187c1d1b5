//! Everything that may happen: guests and operators ask, nodes and the service act, calls are slow,
//! daemons are killed, a node loses its power and comes back.

use super::daemon;
use super::promises;
use super::service::{self, Other};
use super::world::{
    Answer, Call, Line, NODES, Node, Owner, Phase, Record, WRITES, World, Write, node_of, writes_of,
};
use crate::search::{Model, Steps};

/// A mistake that is planted, to prove that the search finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An owner whose release is not answered serves again.
    ServeAfterReleaseSent,
    /// An owner ends its queues while writes are on their way to the LUN.
    ReleaseWithWritesUnderWay,
    /// An owner releases what only its journal has.
    ReleaseWithoutFlush,
    /// The service grants the volume although its owner lives.
    GrantWhileOwned,
    /// The service knows an owner by its node, not by its incarnation.
    GrantByNodeName,
    /// A successor gives the volume away before it has answered what was issued again.
    ReissueAfterTurn,
    /// A successor of one that served waits, as one of a taker does.
    LiveGivenBack,
    /// A successor that waits does not ask whether it owns the volume.
    ForgetGrant,
    /// A successor of a taker waits, and does not release.
    TakingForgotten,
    /// A successor of one that was releasing serves, and does not ask.
    ServeUnasked,
    /// A successor begins while I/O of the killed daemon is under way.
    SuccessorDoesNotLook,
    /// A successor removes the device of a grant that is not its own any more.
    RemoveWhenNotOwner,
    /// A new owner does not replay stale journals.
    ReplaySkipped,
    /// Calls of a killed daemon count after its successor has joined.
    SessionNotEnded,
    /// A call counts although a later one of its session was carried out.
    LateCallCounts,
    /// Who has asked for the volume, without an answer and without a request, asks no more.
    RequestGivenUp,
    /// Every release of a node has the same request id.
    RequestIdReused,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields are node, write, call")]
pub enum Step {
    /// The guest asks for its next write.
    Ask {
        node: usize,
    },
    /// An operator moves the volume to a node that waits.
    Move {
        node: usize,
    },
    Begin {
        write: usize,
    },
    Land {
        write: usize,
    },
    Answer {
        write: usize,
    },
    /// I/O of a daemon that is gone lands.
    LandLate {
        write: usize,
    },
    /// A daemon sends the call that its phase asks for.
    Call {
        node: usize,
    },
    CarryOut {
        node: usize,
        other: Other,
    },
    CarryOutLate {
        node: usize,
        call: Call,
        other: Other,
    },
    Hear {
        node: usize,
    },
    LoseAnswer {
        node: usize,
    },
    /// A daemon waits no longer; its call may be carried out all the same.
    TimeOut {
        node: usize,
    },
    Replay {
        node: usize,
    },
    Load {
        node: usize,
    },
    FailToTake {
        node: usize,
    },
    StopAdmission {
        node: usize,
    },
    Flush {
        node: usize,
    },
    /// The release is called off.
    ServeAgain {
        node: usize,
    },
    EndQueues {
        node: usize,
    },
    Kill {
        node: usize,
    },
    Succeed {
        node: usize,
    },
    ExpireWish {
        node: usize,
    },
    LosePower {
        node: usize,
    },
    Fence {
        node: usize,
    },
    /// With a new incarnation, which replaces the old one.
    ComeBack {
        node: usize,
    },
    AddPeer {
        node: usize,
    },
}

/// Who minds the other one's wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listener {
    /// An owner that serves.
    Serving,
    /// Also an owner that waits, for it does not know of its grant: it asks.
    AnyOwner,
}

/// The protocol, perhaps with a mistake.
pub struct Protocol {
    /// The mistake.
    pub fault: Option<Fault>,
    /// Who minds wishes.
    pub listener: Listener,
    /// Where it begins.
    pub start: World,
}

impl Model for Protocol {
    type State = World;
    type Step = Step;

    fn start(&self) -> World {
        self.start.clone()
    }

    fn steps(&self, world: &World) -> Steps<Step, World> {
        let mut moves = Moves { world, found: Vec::new() };
        for node in 0..NODES {
            steps_of_users(&mut moves, node);
            daemon::steps(self, &mut moves, node);
            self.steps_of_calls(&mut moves, node);
            self.steps_of_failures(&mut moves, node);
            steps_of_power(&mut moves, node);
        }
        steps_of_lun(&mut moves);
        moves.found
    }

    /// Every request was answered, or its guest has no power. Beyond the last grant nothing is
    /// promised.
    fn is_settled(&self, world: &World) -> bool {
        let waits = |write| matches!(write, Write::InDriver | Write::OnItsWay | Write::Landed);
        world.epoch == world.epochs || !world.writes.iter().any(|write| waits(*write))
    }

    /// Nobody may count on another request, on an operator, on a failure, on a late call, or on a
    /// wish that comes to nothing.
    fn helps(&self, step: &Step) -> bool {
        !matches!(
            step,
            Step::Ask { .. }
                | Step::Move { .. }
                | Step::ExpireWish { .. }
                | Step::ServeAgain { .. }
                | Step::CarryOutLate { .. }
                | Step::LoseAnswer { .. }
                | Step::TimeOut { .. }
                | Step::FailToTake { .. }
                | Step::Kill { .. }
                | Step::LosePower { .. }
                | Step::ComeBack { .. }
                | Step::AddPeer { .. }
        )
    }
}

/// The steps out of one state.
pub(super) struct Moves<'a> {
    /// The state.
    pub world: &'a World,
    found: Steps<Step, World>,
}

impl Moves<'_> {
    /// A step that keeps its own promise.
    pub(super) fn add(&mut self, step: Step, change: impl FnOnce(&mut World)) {
        self.attempt(step, |next| {
            change(next);
            Ok(())
        });
    }

    /// A step, and what it promises.
    pub(super) fn attempt(
        &mut self,
        step: Step,
        change: impl FnOnce(&mut World) -> Result<(), String>,
    ) {
        let mut next = self.world.clone();
        let kept = change(&mut next).and_then(|()| promises::judge(&next));
        self.found.push((step, kept.map(|()| next)));
    }
}

impl Protocol {
    pub(super) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn steps_of_calls(&self, moves: &mut Moves<'_>, node: usize) {
        let world = moves.world;
        let outcomes = |call| match service::is_contested(self, world, node, call) {
            true => [Other::Comes, Other::StaysAway].as_slice(),
            false => [Other::Comes].as_slice(),
        };
        if let Line::Sent(call) = world.nodes[node].line {
            for other in outcomes(call).iter().copied() {
                moves.attempt(Step::CarryOut { node, other }, |next| {
                    if !self.has(Fault::LateCallCounts) && !self.has(Fault::SessionNotEnded) {
                        next.nodes[node].late.clear();
                    }
                    let answer = service::carry_out(self, next, (node, call), other)?;
                    next.nodes[node].line = Line::Answered(answer);
                    Ok(())
                });
            }
        }
        for call in world.nodes[node].late.iter().copied() {
            for other in outcomes(call).iter().copied() {
                moves.attempt(Step::CarryOutLate { node, call, other }, |next| {
                    next.nodes[node].late.retain(|kept| *kept != call);
                    service::carry_out(self, next, (node, call), other).map(|_| ())
                });
            }
        }
        if world.wishes[node] != 0 {
            moves.add(Step::ExpireWish { node }, |next| next.end_wish(node));
        }
    }

    fn steps_of_failures(&self, moves: &mut Moves<'_>, node: usize) {
        let of = &moves.world.nodes[node];
        let budget = moves.world.budget;
        if let Line::Answered(_) = of.line {
            moves.add(Step::LoseAnswer { node }, |next| self.hear_nothing(next, node));
        }
        if let (Line::Sent(call), true) = (of.line, budget.late > 0) {
            moves.add(Step::TimeOut { node }, |next| {
                next.budget.late -= 1;
                be_late(&mut next.nodes[node], call);
                self.hear_nothing(next, node);
            });
        }
        let runs = !matches!(of.phase, Phase::Dark | Phase::Stranger | Phase::Killed);
        if runs && budget.kills > 0 {
            moves.add(Step::Kill { node }, |next| {
                next.budget.kills -= 1;
                daemon::end(next, node);
                next.nodes[node].phase = Phase::Killed;
            });
        }
    }

    /// A call is not answered: it is made again.
    fn hear_nothing(&self, world: &mut World, node: usize) {
        world.nodes[node].line = Line::Idle;
        if self.has(Fault::RequestGivenUp) {
            world.nodes[node].insists = false;
        }
        if let (Phase::Releasing { epoch, .. }, true) =
            (world.nodes[node].phase, self.has(Fault::ServeAfterReleaseSent))
        {
            daemon::serve(world, node, epoch);
        }
    }
}

/// A call that its sender does not wait for any more.
pub(super) fn be_late(node: &mut Node, call: Call) {
    if !node.late.contains(&call) {
        node.late.push(call);
        node.late.sort_unstable();
    }
}

fn steps_of_users(moves: &mut Moves<'_>, node: usize) {
    let world = moves.world;
    let next_write =
        writes_of(node).take(world.guests[node]).find(|at| world.writes[*at] == Write::Unasked);
    if let (Some(write), true) = (next_write, world.nodes[node].has_device) {
        moves.add(Step::Ask { node }, |next| next.writes[write] = Write::InDriver);
    }
    let of = &world.nodes[node];
    if of.phase == Phase::Waiting && !of.insists && world.budget.moves > 0 {
        moves.add(Step::Move { node }, |next| {
            next.budget.moves -= 1;
            next.nodes[node].insists = true;
        });
    }
}

/// A node loses its power for good, as its guest sees it; it may come back as another incarnation.
fn steps_of_power(moves: &mut Moves<'_>, node: usize) {
    let (world, phase) = (moves.world, moves.world.nodes[node].phase);
    if world.budget.cuts > 0 && !matches!(phase, Phase::Dark | Phase::Stranger) {
        moves.add(Step::LosePower { node }, |next| {
            next.budget.cuts -= 1;
            daemon::end(next, node);
            for write in next.writes_at(node, Write::InDriver) {
                next.writes[write] = Write::Lost;
            }
            let of = &mut next.nodes[node];
            of.phase = Phase::Dark;
            of.record = Record::Waiting;
            of.has_device = false;
        });
    }
    if phase == Phase::Dark {
        if world.is_peer[node] {
            moves.add(Step::Fence { node }, |next| prove_gone(next, node));
        }
        moves.add(Step::ComeBack { node }, |next| {
            prove_gone(next, node);
            next.nodes[node].phase = Phase::Stranger;
        });
    }
    if phase == Phase::Stranger {
        moves.add(Step::AddPeer { node }, |next| {
            next.is_peer[node] = true;
            next.nodes[node].phase = Phase::Waiting;
            next.nodes[node].has_device = true;
        });
    }
}

/// Nothing of the incarnation lands any more, no call of it counts, and it is no peer.
fn prove_gone(world: &mut World, node: usize) {
    for write in writes_of(node) {
        world.left_behind[write] = 0;
    }
    world.nodes[node].late.clear();
    world.end_wish(node);
    world.is_peer[node] = false;
    if let Some(owner) = world.owner.filter(|owner| owner.node == node) {
        world.owner = Some(Owner { is_gone: true, ..owner });
    }
}

/// What a daemon that is gone has sent lands some time, or never.
fn steps_of_lun(moves: &mut Moves<'_>) {
    for write in 0..WRITES {
        let epoch = moves.world.left_behind[write];
        if epoch == 0 {
            continue;
        }
        moves.attempt(Step::LandLate { write }, |next| {
            promises::only_the_owner(next, node_of(write), epoch, "a write")?;
            next.left_behind[write] = 0;
            next.block = Some(write);
            Ok(())
        });
    }
}

/// Whether an answer gives the asker the volume.
pub(super) const fn granted(answer: Answer) -> Option<u8> {
    match answer {
        Answer::Granted(epoch) => Some(epoch),
        Answer::Wait | Answer::Released => None,
    }
}
