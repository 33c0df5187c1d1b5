//! Registers this incarnation at the LUNs of all pools with reservations, and has it become ACTIVE.
//!
//! Invariants:
//! - the service knows of an intent before the first REGISTER is sent (F2);
//! - a LUN that the node does not see, or cannot register at, is used by nobody here: the gate of
//!   such a LUN stays closed, and the service gives no extent of it to this node;
//! - one such LUN keeps the node from no other: it is tried again for as long as the daemon runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{NodeState, Pool, PoolFencing};
use lunar_types::LunId;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{Membership, Node, UNPOISONED};
use crate::fencing::{Station, StationError, StationParts};
use crate::lun::inspect::with_causes;
use crate::lun::set::{LunSetError, Opened};
use crate::metadata::MetadataError;
use crate::reservation::device::DeviceArray;

/// Between two tries to become ACTIVE.
const RETRY: Duration = Duration::from_secs(1);
/// How long a LUN may take to register at.
const LIMIT: Duration = Duration::from_secs(10);
/// How often LUNs at which the node is not registered are tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// A LUN at which the node is not registered.
#[derive(Debug, thiserror::Error)]
enum Unregistered {
    #[error(transparent)]
    Open(#[from] LunSetError),
    #[error(transparent)]
    Station(#[from] StationError),
    #[error("it does not answer")]
    Silent,
}

impl Node {
    /// Registers at every LUN that needs it and can be seen, and becomes ACTIVE. Goes on with those
    /// that could not be, and with LUNs that are added, for as long as the daemon runs.
    pub async fn register(self: &Arc<Self>, member: Membership) {
        loop {
            let activated = match self.register_all(&member).await {
                Ok(unseen) if member.is_joining => {
                    self.metadata.activate(member.node, unseen).await
                }
                Ok(_) => Ok(NodeState::Active),
                Err(problem) => Err(problem),
            };
            self.note_link(&activated);
            match activated {
                Ok(state) => {
                    info!(node = %member.node, %state, "registered");
                    self.unwarn("activate");
                    break;
                }
                Err(problem) => self.warn("activate", format!("not active yet: {problem}")),
            }
            tokio::time::sleep(RETRY).await;
        }
        let node = Arc::clone(self);
        tokio::spawn(async move { node.stay_registered(member).await });
    }

    async fn stay_registered(self: Arc<Self>, member: Membership) {
        loop {
            let _added = tokio::time::timeout(AGAIN, self.luns_joined.notified()).await;
            if let Err(problem) = self.register_all(&member).await {
                warn!(%problem, "not known which LUNs there are to register at");
            }
        }
    }

    /// Registers at what it is not registered at yet; gives the LUNs at which it cannot be.
    pub(super) async fn register_all(
        self: &Arc<Self>,
        member: &Membership,
    ) -> Result<Vec<LunId>, MetadataError> {
        let _turn = self.registering.lock().await;
        let pools = self.metadata.list_pools().await?;
        let mut unseen = Vec::new();
        for pool in pools.iter().filter(|pool| pool.fencing == PoolFencing::Reservations) {
            unseen.extend(self.register_at_pool(pool, member).await?);
        }
        Ok(unseen)
    }

    async fn register_at_pool(
        self: &Arc<Self>,
        pool: &Pool,
        member: &Membership,
    ) -> Result<Vec<LunId>, MetadataError> {
        let wanted: BTreeSet<LunId> = pool.luns.iter().map(|lun| lun.id).collect();
        let known: BTreeSet<LunId> = {
            let stations = self.stations.lock().expect(UNPOISONED);
            wanted.iter().filter(|lun| stations.contains_key(lun)).copied().collect()
        };
        if known == wanted {
            return Ok(Vec::new());
        }
        let (opener, pool_there, cluster) = (Arc::clone(&self.luns), pool.clone(), member.cluster);
        let opening = tokio::task::spawn_blocking(move || opener.open_each(&pool_there, cluster));
        let opened = match opening.await.expect("opening LUNs neither panics nor is cancelled") {
            Ok(opened) => opened,
            Err(problem) => {
                self.warn("luns", with_causes(&problem));
                return Ok(wanted.difference(&known).copied().collect());
            }
        };
        self.unwarn("luns");
        let fresh: Vec<_> =
            opened.into_iter().filter(|opened| !known.contains(&opened.lun)).collect();
        // Of those alone that are there: a fence has to visit whatever was intended.
        let seen = fresh.iter().filter(|one| one.result.is_ok()).map(|one| one.lun).collect();
        self.metadata.intend_registrations(member.node, seen).await?;
        // Side by side: one that does not answer keeps the node from no other.
        let mut trials = JoinSet::new();
        for one in fresh {
            let (node, member) = (Arc::clone(self), *member);
            trials.spawn(async move { (one.lun, node.try_register(one, &member).await) });
        }
        let mut unseen = Vec::new();
        for (lun, tried) in trials.join_all().await {
            match tried {
                Ok(()) => self.unwarn(&about(lun)),
                Err(problem) => {
                    let (pool, why) = (&pool.name, with_causes(&problem));
                    let text = format!("LUN {lun} of pool '{pool}' is not used here: {why}");
                    self.warn(&about(lun), text);
                    unseen.push(lun);
                }
            }
        }
        Ok(unseen)
    }

    async fn try_register(
        self: &Arc<Self>,
        opened: Opened,
        member: &Membership,
    ) -> Result<(), Unregistered> {
        let trial = tokio::time::timeout(LIMIT, self.register_at(opened, member));
        trial.await.unwrap_or(Err(Unregistered::Silent))
    }

    async fn register_at(
        self: &Arc<Self>,
        opened: Opened,
        member: &Membership,
    ) -> Result<(), Unregistered> {
        let lun = opened.result?;
        let station = Station::new(StationParts {
            lun: opened.lun,
            guard: Arc::clone(lun.guard()),
            array: Arc::new(DeviceArray::new(lun)),
            metadata: Arc::clone(&self.metadata),
            authority: Arc::clone(&self.authority),
            node: member.node,
            cluster: member.cluster,
        });
        station.register().await?;
        let station = Arc::new(station);
        self.stations.lock().expect(UNPOISONED).insert(opened.lun, Arc::clone(&station));
        tokio::spawn(async move { station.watch().await });
        Ok(())
    }

    /// Where this incarnation is registered at a LUN, if it is.
    pub(super) fn station(&self, lun: LunId) -> Option<Arc<Station>> {
        self.stations.lock().expect(UNPOISONED).get(&lun).map(Arc::clone)
    }
}

fn about(lun: LunId) -> String {
    format!("lun {lun}")
}
