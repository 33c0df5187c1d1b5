//! The node daemon's core: which volumes this node serves, and what it may do with each.
//!
//! - [`membership`]: joins the cluster, renews the lease;
//! - [`attach`], [`detach`]: volumes come and go;
//! - `cuts`: takes part in snapshots;
//! - `structures`: follows what becomes of the chains of its volumes;
//! - [`recover`]: takes over what a killed predecessor has left;
//! - [`slot`]: a volume on this node, one change at a time;
//! - [`migration`]: volumes that another node may have too, given away and taken;
//! - `register`: keeps the node registered at LUNs with reservations;
//! - `orders`: cuts others off;
//! - `recalls`: gives back what was published to it, when it is told to;
//! - `news`: hears from the metadata service what there is to do;
//! - `strays`: gives back grants that nobody knows of;
//! - `steps`: says which step of a change takes long.
//!
//! Invariants:
//! - a volume has one slot, and a slot makes one change at a time;
//! - a change that was begun is finished or undone, whether or not its caller still waits.

pub mod attach;
mod contents;
mod cuts;
pub mod detach;
pub mod error;
mod former;
mod grow;
pub mod membership;
pub mod migration;
mod news;
mod orders;
mod recalls;
pub mod recover;
mod register;
pub mod slot;
mod steps;
mod strays;
mod structures;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lunar_proto::domain::Selector;
use lunar_proto::v1;
use lunar_types::{LunId, PoolId, VolumeId};
use tokio::sync::watch;

use crate::config::Config;
use crate::fencing::Station;
use crate::guard::Authority;
use crate::lun::inventory::Search;
use crate::lun::set::LunOpener;
use crate::metadata::{Metadata, MetadataError};
use crate::process::ProcessFacts;
use crate::reserve::ReserveDesk;
use crate::state::StateDir;
use crate::ublk::DeviceId;
use crate::volume::consolidate::CopyDesk;
use crate::volume::load::Loader;

pub use error::NodeError;
pub use membership::Membership;
pub use slot::{Slot, Stage, View, ViewState};

use self::membership::KeptNode;
use self::migration::Wishes;
use self::orders::Orders;
use self::recalls::Recalls;
use self::strays::Strays;

/// The daemon's core.
pub struct Node {
    /// What it was told.
    pub config: Config,
    /// What the process got from the host.
    pub process: ProcessFacts,
    /// What survives a restart.
    pub state: Arc<StateDir>,
    /// The metadata service.
    pub metadata: Arc<dyn Metadata>,
    /// The right to do I/O.
    pub authority: Arc<Authority>,
    /// Opens LUNs.
    pub luns: Arc<LunOpener>,
    /// Where volumes get extents.
    pub desk: Arc<ReserveDesk>,
    /// How much of volumes is made solid.
    pub copies: Arc<CopyDesk>,
    /// One at a time registers.
    registering: tokio::sync::Mutex<()>,
    stations: Mutex<BTreeMap<LunId, Arc<Station>>>,
    /// Victims that this node is to cut off now.
    orders: Mutex<Orders>,
    /// What other nodes want of volumes that are owned here.
    wishes: Mutex<Wishes>,
    /// What this node is to give back.
    recalls: Mutex<Recalls>,
    /// LUNs have joined a pool.
    luns_joined: tokio::sync::Notify,
    membership: watch::Sender<Option<Membership>>,
    kept: Mutex<KeptNode>,
    slots: Mutex<BTreeMap<VolumeId, Arc<Slot>>>,
    granting: tokio::sync::Mutex<()>,
    strays: Strays,
    link: Mutex<Option<String>>,
    warnings: Mutex<BTreeMap<String, String>>,
}

const UNPOISONED: &str = "a panic ends the process";

impl Node {
    /// A node that has not joined yet.
    #[must_use]
    pub fn new(
        config: Config,
        process: ProcessFacts,
        state: StateDir,
        metadata: Arc<dyn Metadata>,
    ) -> Self {
        let authority = Arc::new(Authority::default());
        let search = Search { scan: config.scan_luns, paths: config.luns.clone() };
        let copy_rate = u64::from(config.consolidate_rate) << 20;
        Self {
            config,
            process,
            state: Arc::new(state),
            desk: Arc::new(ReserveDesk::new(Arc::clone(&metadata))),
            copies: Arc::new(CopyDesk::new(Arc::clone(&metadata), copy_rate)),
            metadata,
            luns: Arc::new(LunOpener::new(search, Arc::clone(&authority))),
            authority,
            registering: tokio::sync::Mutex::new(()),
            stations: Mutex::default(),
            orders: Mutex::default(),
            wishes: Mutex::default(),
            recalls: Mutex::default(),
            luns_joined: tokio::sync::Notify::new(),
            membership: watch::Sender::new(None),
            kept: Mutex::default(),
            slots: Mutex::default(),
            granting: tokio::sync::Mutex::new(()),
            strays: Strays::default(),
            link: Mutex::new(Some("it has not been reached yet".to_owned())),
            warnings: Mutex::default(),
        }
    }

    /// The slots of all volumes, in order of their ids.
    #[must_use]
    pub fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.lock().expect(UNPOISONED).values().map(Arc::clone).collect()
    }

    /// The slot of a volume.
    #[must_use]
    pub fn slot(&self, volume: &Selector<VolumeId>) -> Option<Arc<Slot>> {
        let slots = self.slots.lock().expect(UNPOISONED);
        match volume {
            Selector::Id(id) => slots.get(id).map(Arc::clone),
            Selector::Name(name) => {
                slots.values().find(|slot| slot.name == name.as_str()).map(Arc::clone)
            }
        }
    }

    fn add_slot(&self, slot: &Arc<Slot>) {
        let mut slots = self.slots.lock().expect(UNPOISONED);
        slots.insert(slot.volume, Arc::clone(slot));
    }

    fn remove_slot(&self, volume: VolumeId) {
        self.slots.lock().expect(UNPOISONED).remove(&volume);
    }

    fn loader(&self, member: &Membership) -> Loader {
        Loader {
            metadata: Arc::clone(&self.metadata),
            luns: Arc::clone(&self.luns),
            state: Arc::clone(&self.state),
            cluster: member.cluster,
        }
    }

    /// Why the metadata service cannot be reached, if it cannot.
    #[must_use]
    pub fn link_problem(&self) -> Option<String> {
        self.link.lock().expect(UNPOISONED).clone()
    }

    fn note_link<T>(&self, result: &Result<T, MetadataError>) {
        let problem = match result {
            Err(error) if error.is_unavailable() => Some(error.to_string()),
            _ => None,
        };
        *self.link.lock().expect(UNPOISONED) = problem;
    }

    /// What a person should look at.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().expect(UNPOISONED).values().cloned().collect()
    }

    fn warn(&self, about: &str, warning: String) {
        tracing::warn!(about, "{warning}");
        self.warnings.lock().expect(UNPOISONED).insert(about.to_owned(), warning);
    }

    fn unwarn(&self, about: &str) {
        self.warnings.lock().expect(UNPOISONED).remove(about);
    }

    /// Extents that the node holds ahead of need, by pool.
    #[must_use]
    pub fn reserves(&self) -> Vec<v1::NodeReserve> {
        let mut reserves: BTreeMap<PoolId, (u64, u64)> = BTreeMap::new();
        for (pool, extents) in self.desk.quarantined() {
            reserves.entry(pool).or_default().1 += extents;
        }
        for served in self.slots().iter().filter_map(|slot| slot.view().served) {
            reserves.entry(served.facts.pool).or_default().0 += served.stats().reserve_extents;
        }
        let reserves = reserves.into_iter().map(|(pool, (free, quarantined))| v1::NodeReserve {
            pool_id: pool.to_string(),
            free_extents: free,
            quarantined_extents: quarantined,
        });
        reserves.collect()
    }

    /// Has everything of a volume committed that was written before the call.
    ///
    /// # Errors
    /// When it is not served here, or cannot be committed.
    pub async fn checkpoint(&self, volume: &Selector<VolumeId>) -> Result<(), NodeError> {
        let absent = || NodeError::NotAttachedHere { volume: volume.to_string() };
        let slot = self.slot(volume).ok_or_else(absent)?;
        let control = match &*slot.gate.lock().await {
            Stage::Serving(serving) => Arc::clone(&serving.control),
            // All that was written here is in the map: it was given away.
            Stage::Waiting(_) => return Ok(()),
            _ => return Err(absent()),
        };
        Ok(control.checkpoint().await?)
    }

    /// Has everything of every volume committed; says for how many that did not work.
    pub async fn checkpoint_all(&self) -> usize {
        let mut failed = 0;
        for slot in self.slots() {
            match self.checkpoint(&Selector::Id(slot.volume)).await {
                Ok(()) | Err(NodeError::NotAttachedHere { .. }) => {}
                Err(error) => {
                    tracing::warn!(volume = slot.name, error = error.message(), "not committed");
                    failed += 1;
                }
            }
        }
        failed
    }

    /// A device number that was not used in this boot yet.
    fn next_device(&self) -> Result<DeviceId, NodeError> {
        let mut kept = self.kept.lock().expect(UNPOISONED);
        let node = kept.node.as_mut().ok_or_else(|| self.not_joined())?;
        let id = DeviceId::new(node.next_device);
        node.next_device += 1;
        self.state.save_node(node)?;
        Ok(id)
    }
}
