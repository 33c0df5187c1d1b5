//! Reads what the layers of an attachment have, the lowest first, page by page.
//!
//! Invariant: slots move upwards only, so who reads from the bottom up misses nothing. A layer
//! below the head that is gone counts as empty: what it had is in those that are read later.

use std::sync::Arc;

use lunar_engine::lun::LunTable;
use lunar_engine::volume::{Chain, LayerSlots, LoadedMap, StartError};
use lunar_proto::domain::Attachment;
use lunar_proto::error::ErrorReason;
use lunar_types::{LayerId, LogicalExtent};

use crate::metadata::{Metadata, MetadataError};

/// A chain cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChainError {
    /// The metadata service did not give a page.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// What it gave makes no sense.
    #[error(transparent)]
    Map(#[from] StartError),
}

/// Reads the layers of an attachment.
pub(super) async fn read_chain(
    metadata: &Arc<dyn Metadata>,
    attachment: &Attachment,
    luns: &LunTable,
) -> Result<LoadedMap, ChainError> {
    let (size, extent_size) = (attachment.volume.size, attachment.pool.extent_size);
    let mut chain = Chain::new(size, extent_size, luns.clone())?;
    let mut own = LayerSlots::new();
    for layer in attachment.layers.iter().rev().map(|layer| layer.id) {
        chain.begin(layer)?;
        let head = (layer == attachment.volume.head).then_some(&mut own);
        read_layer(metadata, layer, head, &mut chain).await?;
    }
    Ok(LoadedMap::new(chain, own))
}

/// `own` takes the own slots of a head.
async fn read_layer(
    metadata: &Arc<dyn Metadata>,
    layer: LayerId,
    mut own: Option<&mut LayerSlots>,
    chain: &mut Chain,
) -> Result<(), ChainError> {
    let mut from = Some(LogicalExtent::new(0));
    while let Some(first) = from {
        let page = match metadata.read_layer(layer, first).await {
            Ok(page) => page,
            Err(error) if own.is_none() && error.reason() == Some(ErrorReason::LayerNotFound) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for entry in page.entries {
            for part in entry.parts {
                chain.put(entry.at, part.birth, part.slot)?;
            }
            match (entry.own, &mut own) {
                (Some(slot), Some(own)) => own.push((entry.at, slot)),
                (Some(slot), None) => chain.put(entry.at, layer, slot)?,
                (None, _) => {}
            }
        }
        from = page.next;
    }
    Ok(())
}
