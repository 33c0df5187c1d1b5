//! Long operations of the metadata service.

use lunar_proto::domain::{Operation, OperationWork};
use serde::Serialize;

use super::NONE;
use crate::output::{Report, table};

/// An operation that is not finished.
#[derive(Serialize, Debug)]
pub struct OperationView {
    operation_id: u64,
    /// `delete-volume`, `reclaim-reservations`, `drop-layer` or `free-quarantine`.
    kind: &'static str,
    /// Empty where it is about no volume.
    volume_id: String,
    node_id: Option<u16>,
    incarnation: Option<u32>,
    layer: Option<u64>,
    /// Frees what only backups before this one name.
    backup: Option<u64>,
    /// The layer that stands on the one to be dropped, and has no room for all of its slots yet.
    waits_for_layer: Option<u64>,
    /// Logical extents that wait for that room.
    waiting_extents: Option<u64>,
}

impl From<&Operation> for OperationView {
    fn from(operation: &Operation) -> Self {
        let view = Self {
            operation_id: operation.id.get(),
            kind: "",
            volume_id: String::new(),
            node_id: None,
            incarnation: None,
            layer: None,
            backup: None,
            waits_for_layer: operation.waits_for.map(|room| room.layer.get()),
            waiting_extents: operation.waits_for.map(|room| room.extents),
        };
        match operation.work {
            OperationWork::DeleteVolume(volume) => {
                Self { kind: "delete-volume", volume_id: volume.to_string(), ..view }
            }
            OperationWork::ReclaimReservations(gone) => Self {
                kind: "reclaim-reservations",
                node_id: Some(gone.node.get()),
                incarnation: Some(gone.incarnation.get()),
                ..view
            },
            OperationWork::DropLayer(layer) => {
                Self { kind: "drop-layer", layer: Some(layer.get()), ..view }
            }
            OperationWork::FreeQuarantine(backup) => {
                Self { kind: "free-quarantine", backup: Some(backup.get()), ..view }
            }
        }
    }
}

impl OperationView {
    fn object(&self) -> String {
        if !self.volume_id.is_empty() {
            return format!("volume {}", self.volume_id);
        }
        if let Some(layer) = self.layer {
            return format!("layer {layer}");
        }
        if let Some(backup) = self.backup {
            return format!("backups before {backup}");
        }
        let number =
            |number: Option<u64>| number.map_or_else(|| NONE.to_owned(), |n| n.to_string());
        let (node, incarnation) = (self.node_id.map(u64::from), self.incarnation.map(u64::from));
        format!("node {} incarnation {}", number(node), number(incarnation))
    }

    fn row(&self) -> [String; 4] {
        let waits = self.waits_for_layer.map(|layer| format!("layer {layer}"));
        [
            self.operation_id.to_string(),
            self.kind.to_owned(),
            self.object(),
            waits.unwrap_or_else(|| NONE.to_owned()),
        ]
    }
}

/// `lunar operation list`.
#[derive(Serialize, Debug)]
pub struct OperationList {
    operations: Vec<OperationView>,
}

impl OperationList {
    /// The list of these operations.
    #[must_use]
    pub fn new(operations: &[Operation]) -> Self {
        Self { operations: operations.iter().map(OperationView::from).collect() }
    }
}

impl Report for OperationList {
    fn to_text(&self) -> String {
        let rows = self.operations.iter().map(OperationView::row).collect();
        table(["ID", "KIND", "OBJECT", "WAITS FOR"], rows, "no operations")
    }
}
