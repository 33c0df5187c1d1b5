//! LUNs as this node sees them.

use lunar_proto::domain::Pool;
use lunar_proto::v1;
use lunar_types::LunId;
use serde::Serialize;

use super::{NONE, or_none, size};
use crate::output::{Report, facts, table};

/// The label of a LUN.
#[derive(Serialize, Debug)]
pub struct LabelView {
    cluster_id: String,
    lun_id: String,
    size_bytes: u64,
    logical_block_size_bytes: u32,
}

/// Content that is not ours.
#[derive(Serialize, Debug)]
pub struct SignatureView {
    kind: String,
    uuid: String,
    usage: String,
    label: String,
}

/// Which pool a LUN is in.
#[derive(Serialize, Debug)]
pub struct MembershipView {
    pool_id: String,
    pool_name: String,
    index: u16,
}

/// A block device that is, or could become, a LUN.
#[derive(Serialize, Debug)]
pub struct LunView {
    path: String,
    other_paths: Vec<String>,
    size_bytes: u64,
    logical_block_size_bytes: u32,
    state: &'static str,
    label: Option<LabelView>,
    signatures: Vec<SignatureView>,
    /// Absent where it is in none, or where the metadata service could not be asked.
    pool: Option<MembershipView>,
    problem: String,
    model: String,
    wwid: String,
}

impl LunView {
    /// A device, with the pool of these that it is in.
    #[must_use]
    pub fn new(lun: &v1::LocalLun, pools: &[Pool]) -> Self {
        let label = |label: &v1::LunLabel| LabelView {
            cluster_id: label.cluster_id.clone(),
            lun_id: label.lun_id.clone(),
            size_bytes: label.size_bytes,
            logical_block_size_bytes: label.logical_block_size,
        };
        let signature = |signature: &v1::ForeignSignature| SignatureView {
            kind: signature.kind.clone(),
            uuid: signature.uuid.clone(),
            usage: signature.usage.clone(),
            label: signature.label.clone(),
        };
        Self {
            path: lun.path.clone(),
            other_paths: lun.other_paths.clone(),
            size_bytes: lun.size_bytes,
            logical_block_size_bytes: lun.logical_block_size,
            state: state_word(lun.state()),
            label: lun.label.as_ref().map(label),
            signatures: lun.signatures.iter().map(signature).collect(),
            pool: membership(lun, pools),
            problem: lun.problem.clone(),
            model: lun.model.clone(),
            wwid: lun.wwid.clone(),
        }
    }

    fn lun_id(&self) -> String {
        self.label.as_ref().map_or_else(|| NONE.to_owned(), |label| label.lun_id.clone())
    }

    fn pool_name(&self) -> String {
        self.pool.as_ref().map_or_else(|| NONE.to_owned(), |pool| pool.pool_name.clone())
    }

    fn detail(&self) -> String {
        let pool = |pool: &MembershipView| format!("{}, LUN {}", pool.pool_name, pool.index);
        let mut pairs = vec![
            ("path", self.path.clone()),
            ("other paths", or_none(&self.other_paths.join(", "))),
            ("size", size(self.size_bytes)),
            ("logical blocks", size(self.logical_block_size_bytes.into())),
            ("model", or_none(&self.model)),
            ("wwid", or_none(&self.wwid)),
            ("state", self.state.to_owned()),
            ("LUN id", self.lun_id()),
            ("pool", self.pool.as_ref().map_or_else(|| NONE.to_owned(), pool)),
        ];
        pairs.extend(self.label.as_ref().map(|label| ("cluster", label.cluster_id.clone())));
        pairs.extend(self.signatures.iter().map(|found| ("content", found.to_text())));
        if !self.problem.is_empty() {
            pairs.push(("problem", self.problem.clone()));
        }
        facts(&pairs)
    }
}

impl SignatureView {
    fn to_text(&self) -> String {
        let parts = [
            self.kind.clone(),
            if self.usage.is_empty() { String::new() } else { format!("({})", self.usage) },
            if self.uuid.is_empty() { String::new() } else { format!("UUID {}", self.uuid) },
            if self.label.is_empty() { String::new() } else { format!("label '{}'", self.label) },
        ];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

fn membership(lun: &v1::LocalLun, pools: &[Pool]) -> Option<MembershipView> {
    let id: LunId = lun.label.as_ref()?.lun_id.parse().ok()?;
    pools.iter().find_map(|pool| {
        let member = pool.luns.iter().find(|member| member.id == id)?;
        Some(MembershipView {
            pool_id: pool.id.to_string(),
            pool_name: pool.name.to_string(),
            index: member.index.get(),
        })
    })
}

const fn state_word(state: v1::LunState) -> &'static str {
    match state {
        v1::LunState::Unspecified => "unknown",
        v1::LunState::Unlabelled => "unlabelled",
        v1::LunState::Ours => "ours",
        v1::LunState::ForeignCluster => "foreign-cluster",
        v1::LunState::ForeignSignature => "foreign-content",
        v1::LunState::LabelCopyDamaged => "label-copy-damaged",
        v1::LunState::LabelDamaged => "label-damaged",
        v1::LunState::Shrank => "shrank",
        v1::LunState::TooSmall => "too-small",
        v1::LunState::NewerLabel => "newer-label",
        v1::LunState::Unreadable => "unreadable",
    }
}

impl Report for LunView {
    fn to_text(&self) -> String {
        self.detail()
    }
}

/// How a list of LUNs is written for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LunDetail {
    /// A row each.
    Rows,
    /// Everything that is known.
    Full,
}

/// `lunar lun list` and `lunar lun status`.
#[derive(Serialize, Debug)]
pub struct LunList {
    luns: Vec<LunView>,
    /// Why pools could not be looked up, or empty.
    pools_problem: String,
    #[serde(skip)]
    detail: LunDetail,
}

impl LunList {
    /// These devices with the pools that they are in, if those could be asked for.
    #[must_use]
    pub fn new(luns: &[v1::LocalLun], pools: Result<Vec<Pool>, String>, detail: LunDetail) -> Self {
        let (pools, pools_problem) = match pools {
            Ok(pools) => (pools, String::new()),
            Err(problem) => (Vec::new(), problem),
        };
        let luns = luns.iter().map(|lun| LunView::new(lun, &pools)).collect();
        Self { luns, pools_problem, detail }
    }

    fn rows(&self) -> String {
        let row = |lun: &LunView| {
            [
                lun.path.clone(),
                size(lun.size_bytes),
                lun.state.to_owned(),
                lun.pool_name(),
                lun.lun_id(),
            ]
        };
        let rows = self.luns.iter().map(row).collect();
        table(["PATH", "SIZE", "STATE", "POOL", "ID"], rows, NO_LUNS)
    }

    fn full(&self) -> String {
        match self.luns.as_slice() {
            [] => format!("{NO_LUNS}\n"),
            luns => luns.iter().map(LunView::detail).collect::<Vec<_>>().join("\n"),
        }
    }
}

const NO_LUNS: &str = "no LUNs: label a device with 'lunar lun label PATH'";

impl Report for LunList {
    fn to_text(&self) -> String {
        let mut text = match self.detail {
            LunDetail::Rows => self.rows(),
            LunDetail::Full => self.full(),
        };
        if !self.pools_problem.is_empty() {
            text += &format!("\npools are unknown: {}\n", self.pools_problem);
        }
        text
    }
}
