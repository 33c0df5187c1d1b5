//! Nodes and their incarnations.

use std::time::Duration;

use lunar_proto::domain::{Node, NodeState};
use serde::Serialize;

use super::NONE;
use crate::output::{Report, table};

const HEADER: [&str; 7] = ["NAME", "ID", "INCARNATION", "STATE", "HEARD", "VOLUMES", "BOOT"];

/// A node with its newest incarnation.
#[derive(Serialize, Debug)]
pub struct NodeView {
    node_id: u16,
    name: String,
    incarnation: u32,
    state: &'static str,
    /// Absent where the service has not heard from it since the service started.
    heard_ago_ms: Option<u64>,
    attachments: u32,
    boot_id: String,
    /// An operator has fenced it: it does not join.
    barred: bool,
    /// It gets no volume.
    draining: bool,
}

impl From<&Node> for NodeView {
    fn from(node: &Node) -> Self {
        let milliseconds = |ago: Duration| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        Self {
            node_id: node.id.get(),
            name: node.name.to_string(),
            incarnation: node.incarnation.get(),
            state: state_word(node.state),
            heard_ago_ms: node.heard_ago.map(milliseconds),
            attachments: node.attachments,
            boot_id: node.boot.to_string(),
            barred: node.is_barred,
            draining: node.is_draining,
        }
    }
}

const fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Joining => "joining",
        NodeState::Active => "active",
        NodeState::Suspect => "suspect",
        NodeState::Fencing => "fencing",
        NodeState::Fenced => "fenced",
        NodeState::Left => "left",
    }
}

impl NodeView {
    fn state_text(&self) -> String {
        let barred = if self.barred { ", barred" } else { "" };
        let draining = if self.draining { ", draining" } else { "" };
        format!("{}{barred}{draining}", self.state)
    }

    fn row(&self) -> [String; 7] {
        let heard = self.heard_ago_ms.map(|ms| format!("{}.{} s ago", ms / 1000, ms % 1000 / 100));
        [
            self.name.clone(),
            self.node_id.to_string(),
            self.incarnation.to_string(),
            self.state_text(),
            heard.unwrap_or_else(|| NONE.to_owned()),
            self.attachments.to_string(),
            self.boot_id.clone(),
        ]
    }
}

impl Report for NodeView {
    fn to_text(&self) -> String {
        table(HEADER, vec![self.row()], "")
    }
}

/// `lunar node list`.
#[derive(Serialize, Debug)]
pub struct NodeList {
    nodes: Vec<NodeView>,
}

impl NodeList {
    /// The list of these nodes.
    #[must_use]
    pub fn new(nodes: &[Node]) -> Self {
        Self { nodes: nodes.iter().map(NodeView::from).collect() }
    }
}

impl Report for NodeList {
    fn to_text(&self) -> String {
        let rows = self.nodes.iter().map(NodeView::row).collect();
        table(HEADER, rows, "no nodes")
    }
}
