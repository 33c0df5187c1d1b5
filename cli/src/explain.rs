//! Why a volume or a node is where it is: facts of the services in, words for people out.
//!
//! - Nothing is asked here and nothing is decided: every line follows from what the services said.
//! - Each wait names what would end it.

pub mod claim;

use lunar_proto::domain::{Fence, FenceLunState, Node, NodeState, Pool, PoolFencing, Volume};
use serde::Serialize;

use crate::output::{Report, facts};
use crate::views::time::utc;

/// What is known of one object, what it waits for, and what would help.
#[derive(Serialize, PartialEq, Eq, Debug, Default)]
pub struct Explanation {
    facts: Vec<(&'static str, String)>,
    waits_for: Vec<String>,
    would_help: Vec<String>,
}

impl Explanation {
    fn fact(&mut self, name: &'static str, value: impl Into<String>) {
        self.facts.push((name, value.into()));
    }

    /// What is known of another object goes with this one.
    pub fn append(&mut self, other: Self) {
        let Self { facts, waits_for, would_help } = other;
        self.facts.extend(facts);
        self.waits_for.extend(waits_for);
        self.would_help.extend(would_help);
    }

    fn waits(&mut self, what: impl Into<String>, help: impl Into<String>) {
        self.waits_for.push(what.into());
        self.would_help.push(help.into());
    }
}

impl Report for Explanation {
    fn to_text(&self) -> String {
        let mut text = facts(&self.facts);
        let mut section = |title: &str, lines: &[String]| {
            if !lines.is_empty() {
                text += &format!("\n{title}:\n");
                text.extend(lines.iter().map(|line| format!("  {line}\n")));
            }
        };
        section("waits for", &self.waits_for);
        section("would help", &self.would_help);
        if self.waits_for.is_empty() {
            text += "\nwaits for nothing\n";
        }
        text
    }
}

/// What the service says of a volume and of who holds it.
pub struct VolumeFacts {
    /// The volume.
    pub volume: Volume,
    /// Its pool.
    pub pool: Pool,
    /// The node that holds it, if one does.
    pub node: Option<Node>,
    /// Fences that are under way.
    pub fences: Vec<Fence>,
}

/// Explains a volume.
#[must_use]
pub fn of_volume(known: &VolumeFacts) -> Explanation {
    let VolumeFacts { volume, pool, node, fences } = known;
    let mut told = Explanation::default();
    told.fact("volume", volume.name.to_string());
    told.fact("epoch", volume.epoch.to_string());
    told.fact("fencing", fencing_text(pool));
    if volume.restored {
        told.waits(
            "somebody who accepts it: it came back with a backup and may be a mixture",
            format!("lunar volume attach {} --accept-restored", volume.name),
        );
    }
    shared_lines(&mut told, volume);
    published_lines(&mut told, volume);
    let (Some(holder), Some(node)) = (&volume.holder, node) else {
        told.fact("held by", "nobody");
        return told;
    };
    let name = &holder.node_name;
    told.fact("held by", format!("{name} (incarnation {})", holder.node.incarnation));
    let since = match holder.granted_at {
        0 => "not known".to_owned(),
        at => utc(at),
    };
    told.fact("since", since);
    told.fact("holder is", state_text(node));
    let fence = fences.iter().find(|fence| fence.victim == holder.node);
    match (holder.live, node.state) {
        (false, _) => told.fact("can be attached", "yes: its holder is gone, by proof"),
        (true, NodeState::Active | NodeState::Joining) => {}
        (true, NodeState::Suspect) => silent_holder(&mut told, pool, node),
        (true, NodeState::Fencing | NodeState::Fenced | NodeState::Left) => match fence {
            Some(fence) => fence_lines(&mut told, fence),
            None => told.waits(
                format!("a proof that the machine of '{name}' is off: the pool has no fencing"),
                off_text(node),
            ),
        },
    }
    told
}

/// Of a volume that nodes have together.
fn shared_lines(told: &mut Explanation, volume: &Volume) {
    let owner = volume.holder.as_ref();
    for peer in &volume.peers {
        let name = &peer.node_name;
        let is_owner = owner.is_some_and(|owner| owner.node == peer.node);
        let how = match (is_owner, peer.live) {
            (true, _) => "owns it",
            (false, true) => "has a device that waits",
            (false, false) => "is gone, and is no peer any more when that is in the way",
        };
        told.fact("shared by", format!("{name}, which {how}, since {}", utc(peer.since)));
        if is_owner || !peer.wishes || !peer.live {
            continue;
        }
        match owner {
            Some(owner) if owner.live => told.waits(
                format!("'{}' to give it to '{name}', where requests wait", owner.node_name),
                format!(
                    "nothing, if it passes in some seconds; otherwise 'lunar doctor' on '{}' says \
                     what keeps it there: its device is mounted or used by another one, it takes \
                     no more writes, or a LUN does not answer",
                    owner.node_name
                ),
            ),
            _ => told.waits(
                format!("'{name}', which has asked for it, to take it"),
                format!("the log of fs-core on '{name}' says why it cannot serve it"),
            ),
        }
    }
    if !volume.peers.is_empty() {
        told.fact("changed hands", format!("{} times", volume.moves));
    }
}

/// Of a volume that only nodes with leave may attach.
fn published_lines(told: &mut Explanation, volume: &Volume) {
    for publication in &volume.publications {
        let name = &publication.node_name;
        let since = utc(publication.since);
        if !publication.recalled {
            told.fact("published to", format!("{name}, {}, since {since}", publication.mode));
            continue;
        }
        told.fact("published to", format!("{name}, and recalled"));
        let has_it = volume
            .holder
            .as_ref()
            .is_some_and(|holder| holder.live && holder.node.node == publication.node)
            || volume.peers.iter().any(|peer| peer.live && peer.node.node == publication.node);
        match has_it {
            true => told.waits(
                format!("'{name}' to detach it, which was told to"),
                format!(
                    "nothing, if it passes in some seconds; otherwise the log of fs-core on \
                     '{name}' says what keeps it there, and 'lunar node fence {name}' takes \
                     everything from that node"
                ),
            ),
            false => told.waits(
                format!("whoever unpublishes it of '{name}', which has nothing of it any more"),
                format!("lunar volume unpublish {} --node {name}", volume.name),
            ),
        }
    }
}

fn silent_holder(told: &mut Explanation, pool: &Pool, node: &Node) {
    let name = &node.name;
    match pool.fencing {
        PoolFencing::Reservations | PoolFencing::Lease => told.waits(
            format!("'{name}' to be heard from again, or to be fenced: that begins by itself"),
            format!("lunar node fence {name} begins it now"),
        ),
        PoolFencing::None => told.waits(
            format!("'{name}' to be heard from again: nobody takes over in a pool without fencing"),
            off_text(node),
        ),
    }
}

fn off_text(node: &Node) -> String {
    let name = &node.name;
    format!(
        "start the machine again, or make sure that it is off and run 'lunar node fence {name} \
         --certified-powered-off --confirm {name} --reason TEXT'"
    )
}

fn fencing_text(pool: &Pool) -> String {
    match pool.fencing.warning() {
        None => format!("{}: a lost node is cut off by the array", pool.fencing),
        Some(warning) => format!("{}: {warning}", pool.fencing),
    }
}

fn state_text(node: &Node) -> String {
    let heard = match node.heard_ago {
        Some(ago) => format!("heard from {}.{} s ago", ago.as_secs(), ago.subsec_millis() / 100),
        None => "not heard from since the metadata service started".to_owned(),
    };
    format!("{}, {heard}", node.state)
}

fn fence_lines(told: &mut Explanation, fence: &Fence) {
    told.fact("fenced because", fence.reason.clone());
    for lun in &fence.luns {
        let how = match lun.state {
            FenceLunState::Open => "nobody is at it yet".to_owned(),
            FenceLunState::Begun { fencer, attempt } => format!("{fencer}, attempt {attempt}"),
            FenceLunState::Done(proof) => format!("done: {proof}"),
        };
        told.fact("LUN", format!("{}: {how}", lun.lun));
    }
    let name = &fence.node_name;
    match fence.waits_for.as_str() {
        "" => told.waits(
            format!("the other nodes to cut '{name}' off, and its lease to run out"),
            "nothing: it goes on by itself, and takes up to 40 s",
        ),
        waits_for => told.waits(
            waits_for,
            format!(
                "or 'lunar node fence {name} --certified-powered-off --confirm {name} --reason \
                 TEXT', if the machine is off"
            ),
        ),
    }
}

/// What the service says of a node.
pub struct NodeFacts {
    /// The node.
    pub node: Node,
    /// What it holds.
    pub volumes: Vec<Volume>,
    /// Fences that are under way.
    pub fences: Vec<Fence>,
}

/// Explains a node.
#[must_use]
pub fn of_node(known: &NodeFacts) -> Explanation {
    let NodeFacts { node, volumes, fences } = known;
    let mut told = Explanation::default();
    let name = &node.name;
    told.fact("node", format!("{name} (incarnation {})", node.incarnation));
    told.fact("state", state_text(node));
    for volume in volumes {
        told.fact("holds", format!("{} under epoch {}", volume.name, volume.epoch));
    }
    if node.is_draining {
        told.fact("draining", "yes: it gets no volume");
        told.would_help.push(format!("lunar node undrain {name} ends that"));
    }
    if node.is_barred {
        told.waits(
            "an operator: it was fenced by hand and does not join",
            format!("lunar node unfence {name}"),
        );
    }
    match node.state {
        NodeState::Joining => told.waits(
            "its registration at the LUNs with reservations",
            format!("lunar doctor on '{name}' says which LUN or path is missing"),
        ),
        NodeState::Fenced if !volumes.is_empty() => {
            told.waits("a proof for what it holds in pools without fencing", off_text(node));
        }
        NodeState::Fenced => told.waits("its fs-core to join again", format!("start '{name}'")),
        NodeState::Active | NodeState::Suspect | NodeState::Fencing | NodeState::Left => {}
    }
    for fence in fences.iter().filter(|fence| fence.victim.node == node.id) {
        fence_lines(&mut told, fence);
    }
    told
}

#[cfg(test)]
mod tests;
