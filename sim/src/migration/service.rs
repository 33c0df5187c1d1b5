//! What the metadata service does with a call, in one transaction.
//!
//! - An epoch is granted to who asks, and to nobody else.
//! - A volume changes hands unowned, or over the proof that its owner is gone.

use super::promises;
use super::protocol::{Fault, Protocol};
use super::world::{Answer, Call, Mode, Owner, World};

/// What becomes of a peer with an older wish for a volume that nobody owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Other {
    /// It is waited for.
    Comes,
    /// It has not come for it in time.
    StaysAway,
}

/// Whether it matters if the other one comes.
pub(super) fn is_contested(protocol: &Protocol, world: &World, node: usize, call: Call) -> bool {
    call == Call::Request && is_free(protocol, world) && world.wishes_first(1 - node)
}

/// Carries a call out.
pub(super) fn carry_out(
    protocol: &Protocol,
    world: &mut World,
    (node, call): (usize, Call),
    other: Other,
) -> Result<Answer, String> {
    match call {
        Call::Request => Ok(request(protocol, world, node, other)),
        Call::Resume { epoch } => Ok(resume(world, node, epoch)),
        Call::Release { epoch, mode } => release(protocol, world, (node, epoch), mode),
    }
}

fn is_free(protocol: &Protocol, world: &World) -> bool {
    world.owner.is_none_or(|owner| owner.is_gone) || protocol.has(Fault::GrantWhileOwned)
}

fn request(protocol: &Protocol, world: &mut World, node: usize, other: Other) -> Answer {
    let is_own = |owner: &Owner| {
        owner.node == node && (!owner.is_gone || protocol.has(Fault::GrantByNodeName))
    };
    if let Some(owner) = world.owner.filter(is_own) {
        world.end_wish(node);
        return Answer::Granted(owner.epoch);
    }
    let has_to_wait = world.wishes_first(1 - node) && other == Other::Comes;
    if !is_free(protocol, world) || has_to_wait || world.epoch == world.epochs {
        world.note_wish(node);
        return Answer::Wait;
    }
    // A journal that a gone owner has left is stale; that of the new epoch is empty.
    world.stale |= world.journal;
    world.journal = 0;
    world.epoch += 1;
    world.owner = Some(Owner { node, epoch: world.epoch, is_gone: false });
    world.end_wish(node);
    Answer::Granted(world.epoch)
}

fn resume(world: &World, node: usize, epoch: u8) -> Answer {
    let is_own = |owner: &Owner| {
        owner.node == node && !owner.is_gone && (epoch == 0 || owner.epoch == epoch)
    };
    world.owner.filter(is_own).map_or(Answer::Wait, |owner| Answer::Granted(owner.epoch))
}

/// That the epoch is not the owner's means, as an answer, that it was released.
fn release(
    protocol: &Protocol,
    world: &mut World,
    (node, epoch): (usize, u8),
    mode: Mode,
) -> Result<Answer, String> {
    let is_remembered = protocol.has(Fault::RequestIdReused) && world.has_released[node];
    if is_remembered || !world.is_owner(node, epoch) {
        return Ok(Answer::Released);
    }
    promises::nothing_is_under_way(world, node, epoch, mode)?;
    if mode == Mode::KeepJournal {
        world.stale |= world.journal;
    }
    world.journal = 0;
    world.owner = None;
    world.has_released[node] = protocol.has(Fault::RequestIdReused);
    Ok(Answer::Released)
}
