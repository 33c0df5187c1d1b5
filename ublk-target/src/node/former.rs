//! Before another incarnation begins on the same boot: whether a process before this one has I/O
//! under way at LUNs that no array protects.
//!
//! The service gives the volumes of the former incarnation away when the next one joins, so what
//! that process had queued in this host's kernel must have ended by then. [`claims`] says how that
//! is found out. Where there are reservations the array sees to it.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use lunar_proto::domain::PoolFencing;
use lunar_types::LunId;
use tokio::sync::watch;
use tracing::{info, warn};

use super::Node;
use super::attach::blocking;
use crate::lun::claims::{Claims, claims};
use crate::lun::inventory::Search;

/// A device that does not answer for so long is named.
const SILENCE: Duration = Duration::from_secs(10);

impl Node {
    /// Whether nothing of a former process is under way any more. Not known is no.
    pub(super) async fn is_former_drained(&self) -> bool {
        let pools = match self.metadata.list_pools().await {
            Ok(pools) => pools,
            Err(problem) => {
                warn!(%problem, "not known which LUNs a former process may write to");
                return false;
            }
        };
        let exposed = pools.iter().filter(|pool| pool.fencing != PoolFencing::Reservations);
        let exposed: BTreeSet<LunId> =
            exposed.flat_map(|pool| pool.luns.iter().map(|lun| lun.id)).collect();
        match look(self.luns.search().clone(), exposed).await {
            Ok(found) => tell(&found),
            Err(problem) => {
                warn!(%problem, "the devices of this host cannot be listed");
                false
            }
        }
    }
}

/// Looks at the devices, however long one of them takes: nobody could say what is under way there
/// before it answers, and one look that waits is enough.
async fn look(search: Search, luns: BTreeSet<LunId>) -> std::io::Result<Claims> {
    let (at, device) = watch::channel(None);
    let looking_at = move |path: &std::path::Path| {
        at.send_replace(Some(path.to_owned()));
    };
    let mut looking = pin!(blocking(move || claims(&search, &luns, looking_at)));
    loop {
        match tokio::time::timeout(SILENCE, &mut looking).await {
            Ok(found) => return found,
            Err(_) => {
                let device = device.borrow().clone();
                warn!(?device, "not known what is under way: a device does not answer");
            }
        }
    }
}

/// Says what was found; gives whether nothing is under way.
fn tell(found: &Claims) -> bool {
    for obstacle in &found.obstacles {
        warn!(%obstacle, "waiting for I/O of a former process to end");
    }
    if !found.gone.is_empty() {
        info!(luns = ?found.gone, "this host has no device of these LUNs");
    }
    if found.obstacles.is_empty() {
        info!("nothing of a former process is under way");
    }
    found.obstacles.is_empty()
}
