//! Pools: their LUNs and how full they are.

use lunar_proto::domain::{Lun, LunStatus, Pool, PoolFencing, PoolStatus, SpaceUsage, Watermarks};
use serde::Serialize;

use super::{count, size};
use crate::output::{Report, facts, table};

/// A LUN of a pool.
#[derive(Serialize, Debug)]
pub struct PoolLunView {
    lun_id: String,
    index: u16,
    size_bytes: u64,
    logical_block_size_bytes: u32,
    data_extents: u64,
}

impl From<&Lun> for PoolLunView {
    fn from(lun: &Lun) -> Self {
        Self {
            lun_id: lun.id.to_string(),
            index: lun.index.get(),
            size_bytes: lun.size.get(),
            logical_block_size_bytes: lun.logical_block_size.bytes(),
            data_extents: lun.data_extents,
        }
    }
}

/// What fences a pool, and what a person has to know of it.
fn fencing_text(fencing: &str) -> String {
    let warning = fencing.parse::<PoolFencing>().ok().and_then(PoolFencing::warning);
    warning.map_or_else(|| fencing.to_owned(), |warning| format!("{fencing} - WARNING: {warning}"))
}

/// A pool.
#[derive(Serialize, Debug)]
pub struct PoolView {
    pool_id: String,
    name: String,
    extent_size_bytes: u64,
    logical_block_size_bytes: u32,
    fencing: &'static str,
    luns: Vec<PoolLunView>,
}

impl From<&Pool> for PoolView {
    fn from(pool: &Pool) -> Self {
        Self {
            pool_id: pool.id.to_string(),
            name: pool.name.to_string(),
            extent_size_bytes: pool.extent_size.bytes(),
            logical_block_size_bytes: pool.logical_block_size.bytes(),
            fencing: pool.fencing.as_str(),
            luns: pool.luns.iter().map(PoolLunView::from).collect(),
        }
    }
}

impl Report for PoolView {
    fn to_text(&self) -> String {
        let head = facts(&[
            ("name", self.name.clone()),
            ("id", self.pool_id.clone()),
            ("extent size", size(self.extent_size_bytes)),
            ("logical blocks", size(self.logical_block_size_bytes.into())),
            ("fencing", fencing_text(self.fencing)),
        ]);
        let row =
            |lun: &PoolLunView| [lun.index.to_string(), size(lun.size_bytes), lun.lun_id.clone()];
        let luns = self.luns.iter().map(row).collect();
        format!("{head}\n{}", table(["LUN", "SIZE", "ID"], luns, "no LUNs"))
    }
}

/// `lunar pool list`.
#[derive(Serialize, Debug)]
pub struct PoolList {
    pools: Vec<PoolView>,
}

impl PoolList {
    /// The list of these pools.
    #[must_use]
    pub fn new(pools: &[Pool]) -> Self {
        Self { pools: pools.iter().map(PoolView::from).collect() }
    }
}

impl Report for PoolList {
    fn to_text(&self) -> String {
        let row = |pool: &PoolView| {
            let bytes = pool.luns.iter().map(|lun| lun.size_bytes).sum();
            [
                pool.name.clone(),
                pool.luns.len().to_string(),
                size(bytes),
                size(pool.extent_size_bytes),
                pool.fencing.to_owned(),
                pool.pool_id.clone(),
            ]
        };
        let rows = self.pools.iter().map(row).collect();
        table(["NAME", "LUNS", "LUN BYTES", "EXTENT", "FENCING", "ID"], rows, "no pools")
    }
}

/// Space by what holds it.
#[derive(Serialize, Clone, Copy, Debug)]
pub struct UsageView {
    total_bytes: u64,
    allocated_bytes: u64,
    mapped_bytes: u64,
    reserved_bytes: u64,
    journal_bytes: u64,
    free_bytes: u64,
    held_back_bytes: u64,
    quarantined_bytes: u64,
}

impl UsageView {
    fn new(usage: &SpaceUsage, extent_bytes: u64) -> Self {
        let bytes = |extents: u64| extents.saturating_mul(extent_bytes);
        let SpaceUsage { reserved_extents, journal_extents, quarantined_extents, .. } = *usage;
        let held = reserved_extents + journal_extents + quarantined_extents;
        Self {
            total_bytes: bytes(usage.total_extents),
            allocated_bytes: bytes(usage.allocated_extents),
            mapped_bytes: bytes(usage.allocated_extents.saturating_sub(held)),
            reserved_bytes: bytes(reserved_extents),
            journal_bytes: bytes(journal_extents),
            free_bytes: bytes(usage.free_extents()),
            held_back_bytes: bytes(usage.held_back_extents),
            quarantined_bytes: bytes(quarantined_extents),
        }
    }

    fn percent_free(&self) -> String {
        match self.total_bytes {
            0 => "0%".to_owned(),
            total => format!("{}%", u128::from(self.free_bytes) * 100 / u128::from(total)),
        }
    }
}

/// Where the levels of a pool begin.
#[derive(Serialize, Clone, Copy, Debug)]
pub struct MarksView {
    warning_percent: u8,
    high_percent: u8,
    critical_percent: u8,
}

impl From<Watermarks> for MarksView {
    fn from(marks: Watermarks) -> Self {
        Self {
            warning_percent: marks.warning(),
            high_percent: marks.high(),
            critical_percent: marks.critical(),
        }
    }
}

/// `lunar pool watermarks`.
#[derive(Serialize, Debug)]
pub struct WatermarksView {
    pool_id: String,
    name: String,
    watermarks: MarksView,
}

impl From<&Pool> for WatermarksView {
    fn from(pool: &Pool) -> Self {
        Self {
            pool_id: pool.id.to_string(),
            name: pool.name.to_string(),
            watermarks: pool.watermarks.into(),
        }
    }
}

impl Report for WatermarksView {
    fn to_text(&self) -> String {
        let percent = |mark: u8| format!("{mark}%");
        facts(&[
            ("pool", self.name.clone()),
            ("warning", percent(self.watermarks.warning_percent)),
            ("high", percent(self.watermarks.high_percent)),
            ("critical", percent(self.watermarks.critical_percent)),
        ])
    }
}

/// How full a LUN of a pool is.
#[derive(Serialize, Debug)]
pub struct LunStatusView {
    #[serde(flatten)]
    lun: PoolLunView,
    usage: UsageView,
}

/// How full a pool is.
#[derive(Serialize, Debug)]
pub struct PoolStatusView {
    pool_id: String,
    name: String,
    extent_size_bytes: u64,
    logical_block_size_bytes: u32,
    volumes: u64,
    provisioned_bytes: u64,
    usage: UsageView,
    used_percent: u8,
    level: &'static str,
    watermarks: MarksView,
    fencing: &'static str,
    luns: Vec<LunStatusView>,
}

impl From<&PoolStatus> for PoolStatusView {
    fn from(status: &PoolStatus) -> Self {
        let extent_bytes = status.pool.extent_size.bytes();
        let lun = |lun: &LunStatus| LunStatusView {
            lun: PoolLunView::from(&lun.lun),
            usage: UsageView::new(&lun.usage, extent_bytes),
        };
        Self {
            pool_id: status.pool.id.to_string(),
            name: status.pool.name.to_string(),
            extent_size_bytes: extent_bytes,
            logical_block_size_bytes: status.pool.logical_block_size.bytes(),
            volumes: status.volumes,
            provisioned_bytes: status.provisioned.get(),
            usage: UsageView::new(&status.usage, extent_bytes),
            used_percent: status.fill.percent(),
            level: status.level().as_str(),
            watermarks: status.pool.watermarks.into(),
            fencing: status.pool.fencing.as_str(),
            luns: status.luns.iter().map(lun).collect(),
        }
    }
}

impl PoolStatusView {
    fn to_text(&self) -> String {
        let usage = &self.usage;
        let head = facts(&[
            ("pool", self.name.clone()),
            ("id", self.pool_id.clone()),
            ("extent size", size(self.extent_size_bytes)),
            ("fencing", fencing_text(self.fencing)),
            ("total", size(usage.total_bytes)),
            ("mapped", size(usage.mapped_bytes)),
            ("reserved", format!("{} by nodes, ahead of need", size(usage.reserved_bytes))),
            ("journals", size(usage.journal_bytes)),
            ("quarantined", size(usage.quarantined_bytes)),
            ("free", format!("{} ({})", size(usage.free_bytes), usage.percent_free())),
            ("used", self.used()),
            ("held back", format!("{} of the free space, for journals", self.held_back())),
            ("provisioned", format!("{} in {}", self.provisioned(), count(self.volumes, "volume"))),
        ]);
        let rows = self.luns.iter().map(LunStatusView::row).collect();
        let header = ["LUN", "SIZE", "MAPPED", "RESERVED", "JOURNALS", "FREE", "ID"];
        format!("{head}\n{}", table(header, rows, "no LUNs"))
    }

    fn used(&self) -> String {
        let (used, level, marks) = (self.used_percent, self.level, &self.watermarks);
        let MarksView { warning_percent, high_percent, critical_percent } = marks;
        let marks = format!("{warning_percent}/{high_percent}/{critical_percent}%");
        format!("{used}% of what is not held back: {level} (watermarks {marks})")
    }

    fn held_back(&self) -> String {
        size(self.usage.held_back_bytes)
    }

    fn provisioned(&self) -> String {
        size(self.provisioned_bytes)
    }
}

impl LunStatusView {
    fn row(&self) -> [String; 7] {
        [
            self.lun.index.to_string(),
            size(self.lun.size_bytes),
            size(self.usage.mapped_bytes),
            size(self.usage.reserved_bytes),
            size(self.usage.journal_bytes),
            size(self.usage.free_bytes),
            self.lun.lun_id.clone(),
        ]
    }
}

/// `lunar pool release-quarantine`.
#[derive(Serialize, Debug)]
pub struct ReleasedView {
    pool: String,
    extents: u64,
}

impl ReleasedView {
    /// So many extents of a pool were freed.
    #[must_use]
    pub fn new(pool: &str, extents: u64) -> Self {
        Self { pool: pool.to_owned(), extents }
    }
}

impl Report for ReleasedView {
    fn to_text(&self) -> String {
        format!("{} of pool '{}' freed\n", count(self.extents, "extent"), self.pool)
    }
}

/// `lunar pool status`.
#[derive(Serialize, Debug)]
pub struct PoolStatusList {
    pools: Vec<PoolStatusView>,
}

impl PoolStatusList {
    /// The status of these pools.
    #[must_use]
    pub fn new(pools: &[PoolStatus]) -> Self {
        Self { pools: pools.iter().map(PoolStatusView::from).collect() }
    }
}

impl Report for PoolStatusList {
    fn to_text(&self) -> String {
        if self.pools.is_empty() {
            return "no pools\n".to_owned();
        }
        self.pools.iter().map(PoolStatusView::to_text).collect::<Vec<_>>().join("\n")
    }
}
