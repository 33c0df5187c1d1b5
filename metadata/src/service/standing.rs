//! Whether anybody may write to a volume, and whether its map has everything that was written.

use lunar_types::{Epoch, VolumeId};

use super::attachments::oldest_stale;
use super::incarnations::is_free_of;
use crate::error::ServiceError;
use crate::keyspace::{AttachmentKey, AttachmentRecord, KeyedTxn, VolumeKey};
use crate::store::Txn;

/// How a volume stands.
pub(super) enum Standing {
    /// Nobody writes, and everything is in the map.
    AtRest,
    /// An incarnation that may write holds it.
    Held {
        /// Its grant.
        attachment: AttachmentRecord,
        /// The oldest journal that waits to be replayed.
        oldest_stale: Option<Epoch>,
    },
    /// Nobody writes, and the journal of this epoch may have what the map lacks.
    JournalLeft(Epoch),
}

pub(super) async fn standing<T: Txn>(txn: &T, volume: VolumeId) -> Result<Standing, ServiceError> {
    let oldest_stale = oldest_stale(txn, volume).await?.map(|(epoch, _)| epoch);
    let Some(attachment) = txn.load(&AttachmentKey { volume }).await? else {
        return Ok(oldest_stale.map_or(Standing::AtRest, Standing::JournalLeft));
    };
    let pool = txn.load_known(&VolumeKey { volume }).await?.pool;
    if !is_free_of(txn, pool, attachment.node).await? {
        return Ok(Standing::Held { attachment, oldest_stale });
    }
    Ok(Standing::JournalLeft(oldest_stale.unwrap_or(attachment.epoch)))
}
