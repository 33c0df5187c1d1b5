//! Publications: the leave for a node to attach a volume.

use lunar_proto::domain::{Publication, Selector};
use lunar_types::{Name, VolumeId};
use serde::Serialize;

use crate::output::{Report, facts};

/// `lunar volume publish`, and what a volume shows of it.
#[derive(Serialize, Debug)]
pub struct PublicationView {
    publication_id: String,
    node_id: u16,
    node_name: String,
    mode: String,
    reads_only: bool,
    /// It grants nothing any more, and goes when its node holds nothing of the volume.
    recalled: bool,
}

impl PublicationView {
    /// A publication.
    #[must_use]
    pub fn new(publication: &Publication) -> Self {
        Self {
            publication_id: publication.id.to_string(),
            node_id: publication.node.get(),
            node_name: publication.node_name.to_string(),
            mode: publication.mode.to_string(),
            reads_only: publication.reads_only,
            recalled: publication.recalled,
        }
    }

    /// In a list of nodes.
    pub(super) fn node_text(&self) -> String {
        let marks = [("for reading", self.reads_only), ("recalled", self.recalled)];
        let marks: Vec<_> =
            marks.iter().filter(|(_, is_so)| *is_so).map(|(mark, _)| *mark).collect();
        match marks.is_empty() {
            true => self.node_name.clone(),
            false => format!("{} ({})", self.node_name, marks.join(", ")),
        }
    }
}

impl Report for PublicationView {
    fn to_text(&self) -> String {
        facts(&[
            ("publication", self.publication_id.clone()),
            ("node", self.node_text()),
            ("mode", self.mode.clone()),
        ])
    }
}

/// `lunar volume unpublish`.
#[derive(Serialize, Debug)]
pub struct UnpublishView {
    volume: String,
    /// Absent: every node.
    node_name: Option<String>,
}

impl UnpublishView {
    /// A volume that is published to the node, or to any, no more.
    #[must_use]
    pub fn new(volume: &Selector<VolumeId>, node: Option<&Name>) -> Self {
        let volume = match volume {
            Selector::Id(id) => id.to_string(),
            Selector::Name(name) => name.to_string(),
        };
        Self { volume, node_name: node.map(Name::to_string) }
    }
}

impl Report for UnpublishView {
    fn to_text(&self) -> String {
        match &self.node_name {
            Some(node) => format!("volume '{}' is not published to node '{node}'", self.volume),
            None => format!("volume '{}' is published to no node", self.volume),
        }
    }
}
