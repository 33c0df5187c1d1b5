//! What a check of the metadata has found.

use lunar_proto::domain::{FsckFinding, FsckRemedy, FsckRepaired, FsckSummary};
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
    repairable: bool,
    remedy: String,
}

impl From<FsckFinding> for FindingView {
    fn from(finding: FsckFinding) -> Self {
        let FsckFinding { kind, message, facts, remedy } = finding;
        let (repairable, remedy) = match remedy {
            FsckRemedy::Repair(remedy) => (true, remedy),
            FsckRemedy::Refused(remedy) => (false, remedy),
        };
        Self { kind, message, facts, repairable, remedy }
    }
}

/// One repair.
#[derive(Serialize, Debug)]
pub struct RepairedView {
    repair: String,
    changed: bool,
}

/// What was looked at.
#[derive(Serialize, Debug)]
pub struct SummaryView {
    findings: u64,
    repairable: u64,
    digest: String,
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
            repairable: summary.repairable,
            digest: summary.digest.to_string(),
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
    repaired: Vec<RepairedView>,
    #[serde(skip)]
    detail: Detail,
}

/// How much the text says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// What was found.
    Findings,
    /// Also what can be done about it, and how to go on.
    Plan,
}

impl FsckView {
    /// The result of a check that came to its end.
    #[must_use]
    pub fn new(
        findings: Vec<FsckFinding>,
        summary: &FsckSummary,
        repaired: Vec<FsckRepaired>,
        detail: Detail,
    ) -> Self {
        let findings = findings.into_iter().map(FindingView::from).collect();
        let done = |FsckRepaired { repair, changed }| RepairedView { repair, changed };
        let repaired = repaired.into_iter().map(done).collect();
        Self { findings, summary: SummaryView::from(summary), repaired, detail }
    }

    fn finding_text(&self, found: &FindingView) -> String {
        let FindingView { kind, message, remedy, .. } = found;
        match (self.detail, found.repairable) {
            (Detail::Findings, _) => format!("{kind}: {message}\n"),
            (Detail::Plan, true) => format!("{kind}: {message}\n  repair: {remedy}\n"),
            (Detail::Plan, false) => format!("{kind}: {message}\n  no repair: {remedy}\n"),
        }
    }

    /// What a dry run ends with.
    fn plan_text(&self) -> String {
        let SummaryView { findings, repairable, digest, .. } = &self.summary;
        match (self.detail, findings, repairable) {
            (Detail::Findings, ..) | (_, 0, _) => String::new(),
            (Detail::Plan, _, 0) => "no finding can be repaired safely\n".to_owned(),
            (Detail::Plan, ..) => {
                let safe = format!("{repairable} of {findings} can be repaired safely");
                let next = format!("lunar fsck --repair --findings {digest}");
                format!("{safe}, nothing was changed; to do it:\n  {next}\n")
            }
        }
    }
}

fn repaired_text(repaired: &RepairedView) -> String {
    match repaired.changed {
        true => format!("repaired: {}\n", repaired.repair),
        false => format!("not needed any more: {}\n", repaired.repair),
    }
}

impl Report for FsckView {
    fn to_text(&self) -> String {
        let repaired = self.repaired.iter().map(repaired_text);
        let lines = repaired.chain(self.findings.iter().map(|found| self.finding_text(found)));
        let lines: String = lines.collect();
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
        lines + &format!("{verdict}: {looked_at}\n") + &self.plan_text()
    }
}
