//! M1 to M6 of `docs/migration.md`. M4 is what M5 needs, and has no check of its own: a grant that
//! nobody knows of leaves the other one waiting for ever, which the search finds.

use super::world::{Mode, NODES, Phase, World, bit};

type Kept = Result<(), String>;

/// M1: I/O takes effect.
pub(super) fn only_the_owner(world: &World, node: usize, epoch: u8, what: &str) -> Kept {
    let is_own = world.is_owner(node, epoch);
    let owner = world.owner;
    is_own.then_some(()).ok_or_else(|| {
        format!("M1: {what} of node {node} in epoch {epoch}, and the owner is {owner:?}")
    })
}

/// M3: an engine begins a request.
pub(super) fn begins_in_one_epoch(world: &World, write: usize, epoch: u8) -> Kept {
    let began = world.began[write];
    (began == 0 || began == epoch).then_some(()).ok_or_else(|| {
        format!("M3: write {write}, begun in epoch {began}, begins again in epoch {epoch}")
    })
}

/// An engine has loaded what it will serve: nothing acknowledged is missing.
pub(super) fn loads_everything(world: &World, epoch: u8, loaded: u8) -> Kept {
    let missing = world.answered() & !loaded;
    (missing == 0).then_some(()).ok_or_else(|| {
        format!("M2: what epoch {epoch} loads lacks the acknowledged writes {missing:#b}")
    })
}

/// M2: the service takes an epoch back.
pub(super) fn nothing_is_under_way(world: &World, node: usize, epoch: u8, mode: Mode) -> Kept {
    let serves =
        matches!(world.nodes[node].phase, Phase::Live { epoch: served, .. } if served == epoch);
    let is_followed = world.left_behind.contains(&epoch);
    if serves || is_followed || !world.is_drained(node) {
        return Err(format!("M2: epoch {epoch} is released, and node {node} has I/O of it"));
    }
    let known = match mode {
        Mode::Clean => world.map,
        Mode::KeepJournal => world.map | world.journal | world.stale,
    };
    let missing = world.answered() & !known;
    (missing == 0).then_some(()).ok_or_else(|| {
        format!("M2: epoch {epoch} is released without the acknowledged writes {missing:#b}")
    })
}

/// What holds at any moment.
pub(super) fn judge(world: &World) -> Kept {
    let serves = |node: &usize| matches!(world.nodes[*node].phase, Phase::Live { .. });
    if (0..NODES).filter(serves).count() > 1 {
        return Err("M1: two nodes serve at once".to_owned());
    }
    for (node, of) in world.nodes.iter().enumerate() {
        let has_power = of.phase != Phase::Dark;
        if world.is_peer[node] && has_power && !of.has_device {
            return Err(format!("M6: node {node} is a peer, and its device is gone"));
        }
    }
    let answered = world.answered();
    let lost = answered & !(world.map | world.journal | world.stale);
    if lost != 0 {
        return Err(format!("M2: nothing has the acknowledged writes {lost:#b}"));
    }
    let shown = world.block.map_or(0, |write| world.began[write]);
    let is_hidden = |write: &usize| answered & bit(*write) != 0 && world.began[*write] > shown;
    match (0..world.writes.len()).find(is_hidden) {
        Some(write) => Err(format!("M3: an older write lies over the acknowledged write {write}")),
        None => Ok(()),
    }
}
