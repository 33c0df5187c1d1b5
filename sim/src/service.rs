//! The metadata service and the way to it: the real service on a store in memory, and a network
//! that is away for stretches, loses answers, and delivers requests of the dead late.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lunar_engine::volume::LayerSlots;
use lunar_metadata::domain::{
    AddLuns, CreatePool, FsckEvent, Join, LayerPage, NewLun, Page, PageRequest, Pool, PoolFencing,
    ReadLayer, ReleaseExtents, ReserveExtents, Selector, SpaceUsage,
};
use lunar_metadata::error::ServiceError;
use lunar_metadata::fsck::Flow as FsckFlow;
use lunar_metadata::seams::{Clock, RandomIds, block_on};
use lunar_metadata::service::{Seams, Service, Settings, StartError};
use lunar_metadata::store::{Fault, FaultPlan, FaultyStore, RedbStore};
use lunar_types::{
    BootId, ByteCount, ExtentAddress, ExtentRun, LayerId, LogicalExtent, LunId, Name,
    NodeIncarnation, NodeSession, PoolId, RequestId, SessionNumber,
};

use crate::calls::LateCalls;
use crate::dice::Dice;
use crate::scenario::Scenario;

/// The real service on a store that fails by plan.
pub(crate) type SimService = Service<FaultyStore<RedbStore>>;

/// The time of the world, in microseconds.
#[derive(Default)]
pub(crate) struct WorldClock(AtomicU64);

impl WorldClock {
    /// Lets time pass.
    pub(crate) fn advance(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).expect("a run lasts less than an age");
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for WorldClock {
    fn now(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// Ids that a seed repeats: unique in the run, spread over the keyspace.
pub(crate) struct SeedIds(AtomicU64);

impl From<u64> for SeedIds {
    /// Ids after so many others.
    fn from(given: u64) -> Self {
        Self(given.into())
    }
}

impl RandomIds for SeedIds {
    fn next(&self) -> u128 {
        let n = u128::from(self.0.fetch_add(1, Ordering::Relaxed) + 1);
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }
}

/// The service, and the state of the network.
pub(crate) struct MetaLink {
    service: SimService,
    store: FaultyStore<RedbStore>,
    faults: FaultPlan,
    seams: Seams,
    /// Whether it can be reached.
    pub(crate) is_up: bool,
    /// Calls that the network still carries.
    pub(crate) late: LateCalls,
    settings: Settings,
    last_request: u128,
    /// The pool of the run.
    pub(crate) pool: PoolId,
    /// Another node, which takes what is free now and then.
    rival: NodeSession,
    taken: Vec<ExtentRun>,
}

/// What an empty cluster is not expected to refuse.
const FRESH: &str = "a fresh cluster takes a pool and a node";

impl MetaLink {
    /// A fresh cluster with the pool of this scenario.
    pub(crate) fn new(scenario: &Scenario, clock: &Arc<WorldClock>) -> Self {
        let faults = FaultPlan::default();
        let store = FaultyStore::new(RedbStore::in_memory(), faults.clone());
        let seams =
            Seams { clock: Arc::<WorldClock>::clone(clock), ids: Arc::new(SeedIds::from(0)) };
        let settings = Settings::default();
        let opened = block_on(SimService::open(store.clone(), seams.clone(), settings));
        let service = opened.expect("an empty store becomes a cluster");
        let luns = (0..scenario.luns).map(|index| new_lun(scenario, index)).collect();
        let request = RequestId::from_u128(1);
        let name: Name = "pool".parse().expect("a valid name");
        let pool = CreatePool {
            request,
            name,
            extent_size: scenario.extent_size,
            luns,
            fencing: PoolFencing::None,
        };
        let pool = block_on(service.create_pool(&pool)).expect(FRESH).id;
        let rival = Join {
            is_drained: true,
            request: RequestId::from_u128(2),
            name: "rival".parse().expect("a valid name"),
            boot: BootId::from_u128(1),
            resume: None,
            last_session: SessionNumber::default(),
        };
        let rival = block_on(service.join(&rival)).expect(FRESH).session;
        let (late, taken) = (LateCalls::default(), Vec::new());
        let is_up = true;
        let last_request = 2;
        Self {
            service,
            store,
            faults,
            seams,
            is_up,
            late,
            settings,
            last_request,
            pool,
            rival,
            taken,
        }
    }

    /// The service starts anew on its store: what it had in memory is gone.
    ///
    /// # Errors
    /// When it refuses its own store.
    pub(crate) fn restart(&mut self) -> Result<(), StartError> {
        let (store, seams) = (self.store.clone(), self.seams.clone());
        self.service = block_on(SimService::open(store, seams, self.settings))?;
        Ok(())
    }

    /// An idempotency key that was not used before.
    pub(crate) fn fresh_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId::from_u128(self.last_request)
    }

    /// The service, whether it can be reached or not: for the rare events and the checks.
    pub(crate) const fn service(&self) -> &SimService {
        &self.service
    }

    /// Time since the start of the run.
    pub(crate) fn now(&self) -> Duration {
        self.seams.clock.now()
    }

    /// Has the commits to come fail as a distributed store's may.
    pub(crate) fn plan_store_faults(&self, dice: &mut Dice) {
        if self.faults.remaining() > 0 || !dice.chance(150) {
            return;
        }
        let faults = [Fault::None, Fault::Conflict, Fault::CommittedUnknown, Fault::LostUnknown];
        for _ in 0..dice.between(1, 3) {
            self.faults.push(dice.one_of(&faults));
        }
    }

    /// How long a request is remembered at least.
    pub(crate) const fn retention(&self) -> Duration {
        self.settings.request_retention
    }

    /// How full the pool is, for the trace.
    pub(crate) fn usage(&self) -> Option<SpaceUsage> {
        let status = block_on(self.service.pool_status(&Selector::Id(self.pool)));
        status.ok().map(|status| status.usage)
    }

    /// Has the rival take all that is free, or give it back.
    ///
    /// # Errors
    /// When the service refuses what it must not refuse.
    pub(crate) fn squeeze(&mut self, takes: bool) -> Result<(), ServiceError> {
        let (caller, pool) = (self.rival, self.pool);
        if takes {
            loop {
                let request = self.fresh_request();
                let count = 1024;
                let reserve = ReserveExtents { request, caller, pool, count };
                match block_on(self.service.reserve_extents(&reserve)) {
                    Ok(runs) => self.taken.extend(runs),
                    Err(ServiceError::PoolFull { .. }) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }
        let runs = std::mem::take(&mut self.taken);
        if runs.is_empty() {
            return Ok(());
        }
        let request = self.fresh_request();
        block_on(self.service.release_extents(&ReleaseExtents { request, caller, pool, runs }))
    }

    /// Adds a LUN to the pool.
    ///
    /// # Errors
    /// When the service refuses what it must not refuse.
    pub(crate) fn add_lun(
        &mut self,
        scenario: &Scenario,
        index: u16,
    ) -> Result<Pool, ServiceError> {
        let request = self.fresh_request();
        let luns = vec![new_lun(scenario, index)];
        let pool = Selector::Id(self.pool);
        block_on(self.service.add_luns(&AddLuns { request, pool, luns }))
    }

    /// What a layer has from a logical extent on, as far as a page of this limit goes.
    ///
    /// # Errors
    /// As the service answers.
    pub(crate) fn read_layer(
        &self,
        layer: LayerId,
        from: LogicalExtent,
        limit: usize,
    ) -> Result<LayerPage, ServiceError> {
        block_on(self.service.read_layer(ReadLayer { layer, from, limit }))
    }

    /// The slots that were written into a layer itself, read in pages of this limit.
    ///
    /// # Errors
    /// As the service answers.
    pub(crate) fn own_slots(
        &self,
        layer: LayerId,
        limit: usize,
    ) -> Result<LayerSlots, ServiceError> {
        let (mut own, mut from) = (LayerSlots::new(), Some(LogicalExtent::new(0)));
        while let Some(first) = from {
            let page = self.read_layer(layer, first, limit)?;
            let slots = page.entries.into_iter();
            own.extend(slots.filter_map(|entry| entry.own.map(|slot| (entry.at, slot))));
            from = page.next;
        }
        Ok(own)
    }

    /// What an incarnation has reserved.
    ///
    /// # Errors
    /// As the service answers.
    pub(crate) fn reserved_by(
        &self,
        node: NodeIncarnation,
    ) -> Result<BTreeSet<ExtentAddress>, ServiceError> {
        let page = |request: &PageRequest| block_on(self.service.reservations(node, request));
        let reservations = all_pages(page)?;
        let runs = reservations.iter().flat_map(|reservation| &reservation.runs);
        Ok(runs.flat_map(|run| run.iter()).collect())
    }

    /// What the service's own check finds.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn fsck(&self) -> Result<Vec<String>, ServiceError> {
        let mut findings = Vec::new();
        let mut sink = |event| {
            if let FsckEvent::Finding(finding) = event {
                findings.push(format!("{}: {}", finding.kind, finding.message));
            }
            FsckFlow::Continue
        };
        block_on(self.service.fsck(&mut sink))?;
        Ok(findings)
    }
}

/// The items of all pages of a list.
///
/// # Errors
/// Those of the pages.
pub(crate) fn all_pages<T>(
    page: impl Fn(&PageRequest) -> Result<Page<T>, ServiceError>,
) -> Result<Vec<T>, ServiceError> {
    let mut items = Vec::new();
    let mut request = PageRequest::first();
    loop {
        let found = page(&request)?;
        items.extend(found.items);
        match found.next {
            None => return Ok(items),
            next => request.token = next,
        }
    }
}

/// The size of a LUN with this many extents.
#[must_use]
pub(crate) fn lun_bytes(scenario: &Scenario) -> u64 {
    let margins = lunar_types::LUN_DATA_START_BYTES + lunar_types::LUN_DATA_TAIL_BYTES;
    margins + scenario.lun_extents * scenario.extent_size.bytes()
}

fn new_lun(scenario: &Scenario, index: u16) -> NewLun {
    NewLun {
        id: LunId::from_u128(u128::from(index) + 1),
        size: ByteCount::new(lun_bytes(scenario)),
        logical_block_size: scenario.lun_block,
    }
}
