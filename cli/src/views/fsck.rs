//! What a check of the metadata has found.

use lunar_proto::domain::{FsckFinding, FsckSummary};
use lunar_proto::error::Facts;
use serde::Serialize;

use super::count;
use crate::output::Report;

/// One damage.
#[derive(Serialize, Debug)]
pub struct FindingView {
    kind: String,
    message: String,
    facts: Facts,
}

/// What was looked at.
#[derive(Serialize, Debug)]
pub struct SummaryView {
    findings: u64,
    pools: u64,
    luns: u64,
    volumes: u64,
    layers: u64,
    slots: u64,
    nodes: u64,
    attachments: u64,
    allocated_extents: u64,
}

impl From<&FsckSummary> for SummaryView {
    fn from(summary: &FsckSummary) -> Self {
        Self {
            findings: summary.findings,
            pools: summary.pools,
            luns: summary.luns,
            volumes: summary.volumes,
            layers: summary.layers,
            slots: summary.slots,
            nodes: summary.nodes,
            attachments: summary.attachments,
            allocated_extents: summary.allocated_extents,
        }
    }
}

/// `lunar fsck`.
#[derive(Serialize, Debug)]
pub struct FsckView {
    findings: Vec<FindingView>,
    summary: SummaryView,
}

impl FsckView {
    /// The result of a check that came to its end.
    #[must_use]
    pub fn new(findings: Vec<FsckFinding>, summary: &FsckSummary) -> Self {
        let finding = |FsckFinding { kind, message, facts }| FindingView { kind, message, facts };
        let findings = findings.into_iter().map(finding).collect();
        Self { findings, summary: SummaryView::from(summary) }
    }
}

impl Report for FsckView {
    fn to_text(&self) -> String {
        let findings =
            self.findings.iter().map(|found| format!("{}: {}\n", found.kind, found.message));
        let summary = &self.summary;
        let verdict = match summary.findings {
            0 => "clean".to_owned(),
            number => count(number, "finding"),
        };
        let looked_at = [
            (summary.pools, "pool"),
            (summary.luns, "LUN"),
            (summary.volumes, "volume"),
            (summary.layers, "layer"),
            (summary.slots, "slot"),
            (summary.nodes, "node"),
            (summary.attachments, "attachment"),
            (summary.allocated_extents, "allocated extent"),
        ];
        let looked_at = looked_at.map(|(number, thing)| count(number, thing)).join(", ");
        findings.collect::<String>() + &format!("{verdict}: {looked_at}\n")
    }
}
