//! Fences under way, and the audit.

use lunar_proto::domain::{AuditEntry, Fence, FenceLun, FenceLunState};
use serde::Serialize;

use super::NONE;
use super::time::utc;
use crate::output::{Report, table};

/// A LUN of a fence.
#[derive(Serialize, Debug)]
pub struct FenceLunView {
    lun_id: String,
    state: &'static str,
    /// Who is at it.
    fencer: Option<String>,
    /// How it is known that nothing of the victim reaches it any more.
    proof: Option<String>,
}

impl From<&FenceLun> for FenceLunView {
    fn from(lun: &FenceLun) -> Self {
        let view = Self { lun_id: lun.lun.to_string(), state: "open", fencer: None, proof: None };
        match lun.state {
            FenceLunState::Open => view,
            FenceLunState::Begun { fencer, .. } => {
                Self { state: "begun", fencer: Some(fencer.to_string()), ..view }
            }
            FenceLunState::Done(proof) => {
                Self { state: "done", proof: Some(proof.to_string()), ..view }
            }
        }
    }
}

/// A fence under way.
#[derive(Serialize, Debug)]
pub struct FenceView {
    node_name: String,
    node_id: u16,
    incarnation: u32,
    reason: String,
    waits_for: String,
    luns: Vec<FenceLunView>,
}

impl From<&Fence> for FenceView {
    fn from(fence: &Fence) -> Self {
        Self {
            node_name: fence.node_name.to_string(),
            node_id: fence.victim.node.get(),
            incarnation: fence.victim.incarnation.get(),
            reason: fence.reason.clone(),
            waits_for: fence.waits_for.clone(),
            luns: fence.luns.iter().map(FenceLunView::from).collect(),
        }
    }
}

impl FenceView {
    fn row(&self) -> [String; 5] {
        let done = self.luns.iter().filter(|lun| lun.state == "done").count();
        let waits = if self.waits_for.is_empty() { NONE } else { &self.waits_for };
        [
            self.node_name.clone(),
            self.incarnation.to_string(),
            format!("{done} of {}", self.luns.len()),
            self.reason.clone(),
            waits.to_owned(),
        ]
    }
}

/// `lunar node fences`.
#[derive(Serialize, Debug)]
pub struct FenceList {
    fences: Vec<FenceView>,
}

impl FenceList {
    /// The list of these fences.
    #[must_use]
    pub fn new(fences: &[Fence]) -> Self {
        Self { fences: fences.iter().map(FenceView::from).collect() }
    }
}

impl Report for FenceList {
    fn to_text(&self) -> String {
        let rows = self.fences.iter().map(FenceView::row).collect();
        table(["NODE", "INCARNATION", "LUNS DONE", "WHY", "WAITS FOR"], rows, "no fences")
    }
}

/// An entry of the audit.
#[derive(Serialize, Debug)]
pub struct AuditView {
    number: u64,
    unix_seconds: u64,
    actor: String,
    action: String,
    object: String,
    reason: String,
}

impl From<&AuditEntry> for AuditView {
    fn from(entry: &AuditEntry) -> Self {
        Self {
            number: entry.number,
            unix_seconds: entry.unix_seconds,
            actor: entry.actor.clone(),
            action: entry.action.to_string(),
            object: entry.object.clone(),
            reason: entry.reason.clone(),
        }
    }
}

/// `lunar node audit`.
#[derive(Serialize, Debug)]
pub struct AuditList {
    entries: Vec<AuditView>,
}

impl AuditList {
    /// The list of these entries.
    #[must_use]
    pub fn new(entries: &[AuditEntry]) -> Self {
        Self { entries: entries.iter().map(AuditView::from).collect() }
    }
}

impl Report for AuditList {
    fn to_text(&self) -> String {
        let row = |entry: &AuditView| {
            [
                entry.number.to_string(),
                utc(entry.unix_seconds),
                entry.actor.clone(),
                entry.action.clone(),
                entry.object.clone(),
                entry.reason.clone(),
            ]
        };
        let rows = self.entries.iter().map(row).collect();
        table(["NUMBER", "WHEN", "WHO", "DID", "TO", "WHY"], rows, "nothing was overridden")
    }
}
