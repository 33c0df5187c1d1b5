//! Before another incarnation begins on the same boot: whether a process before this one has I/O
//! under way at LUNs that no array protects.
//!
//! The service gives the volumes of the former incarnation away when the next one joins, so what
//! that process had queued in this host's kernel must have ended by then. The kernel says so: a
//! block device that was opened with O_EXCL is given to another who asks so only when the last I/O
//! of the file that had it has ended. Where there are reservations the array sees to it.

use std::collections::BTreeSet;

use lunar_proto::domain::PoolFencing;
use lunar_types::LunId;
use tracing::{info, warn};

use super::Node;
use super::attach::blocking;
use crate::lun::inventory::claimed_luns;

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
        let search = self.luns.search().clone();
        match blocking(move || claimed_luns(&search, &exposed)).await {
            Ok(claimed) if claimed.is_empty() => {
                info!("nothing of a former process is under way");
                true
            }
            Ok(claimed) => {
                warn!(luns = ?claimed, "waiting for I/O of a former process to end");
                false
            }
            Err(problem) => {
                warn!(%problem, "the devices of this host cannot be listed");
                false
            }
        }
    }
}
