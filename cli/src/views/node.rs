//! Nodes and their incarnations.

use std::time::Duration;

use lunar_proto::domain::{Node, NodeState};
use serde::Serialize;

use super::NONE;
use crate::output::{Report, table};

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
    fn row(&self) -> [String; 7] {
        let heard = self.heard_ago_ms.map(|ms| format!("{}.{} s ago", ms / 1000, ms % 1000 / 100));
        [
            self.name.clone(),
            self.node_id.to_string(),
            self.incarnation.to_string(),
            self.state.to_owned(),
            heard.unwrap_or_else(|| NONE.to_owned()),
            self.attachments.to_string(),
            self.boot_id.clone(),
        ]
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
        let header = ["NAME", "ID", "INCARNATION", "STATE", "HEARD", "VOLUMES", "BOOT"];
        table(header, rows, "no nodes")
    }
}
