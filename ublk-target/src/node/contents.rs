//! What the content of a volume that is served here may be: asked and told under its grant, for who
//! makes file systems (docs/csi.md, *Format once*).
//!
//! Invariant: an attachment that was not asked for as one of a file system is of a volume that is
//! used, by the word of the service; also where an attachment for a file system was there before.
//! Deliberately absent: what is on the device.

use std::sync::Arc;

use lunar_proto::domain::{ContentState, Selector};
use lunar_types::{FormatToken, VolumeId};

use super::attach::grant_of_record;
use super::slot::Serving;
use super::{Node, NodeError, Slot, Stage};
use crate::metadata::{Grant, MetadataError};
use crate::state::record::Record;

impl Node {
    /// What the content of a volume may be.
    ///
    /// # Errors
    /// It is not served here, or the service refuses or does not answer.
    pub async fn content(&self, volume: &Selector<VolumeId>) -> Result<ContentState, NodeError> {
        let grant = self.served_grant(volume).await?;
        let answer = self.metadata.content(grant).await;
        self.answered(volume, "look up the content of", answer)
    }

    /// Begins an attempt to make a file system.
    ///
    /// # Errors
    /// As [`Node::content`]; the volume was used.
    pub async fn begin_format(
        &self,
        volume: &Selector<VolumeId>,
        token: FormatToken,
    ) -> Result<(), NodeError> {
        let grant = self.served_grant(volume).await?;
        let answer = self.metadata.begin_format(grant, token).await;
        self.answered(volume, "begin to make a file system on", answer)
    }

    /// Ends an attempt to make a file system: everything of it is durable.
    ///
    /// # Errors
    /// As [`Node::content`]; another attempt has begun since.
    pub async fn end_format(
        &self,
        volume: &Selector<VolumeId>,
        token: FormatToken,
    ) -> Result<(), NodeError> {
        let grant = self.served_grant(volume).await?;
        let answer = self.metadata.end_format(grant, token).await;
        self.answered(volume, "say that a file system is made on", answer)
    }

    /// Says that a volume is used that was attached for a file system, because it is asked for
    /// otherwise by now. The record follows the service: who is killed between says it again.
    pub(super) async fn use_content(
        &self,
        slot: &Slot,
        serving: &mut Serving,
    ) -> Result<(), NodeError> {
        if !serving.record.for_file_system {
            return Ok(());
        }
        let answer = self.metadata.use_content(grant_of_record(&serving.record)).await;
        self.answered(&Selector::Id(slot.volume), "say that somebody uses", answer)?;
        let record = Record { for_file_system: false, ..serving.record.clone() };
        self.state.save_record(&record)?;
        serving.record = record.clone();
        slot.show(|view| view.record = record);
        Ok(())
    }

    async fn served_grant(&self, volume: &Selector<VolumeId>) -> Result<Grant, NodeError> {
        let absent = || NodeError::NotAttachedHere { volume: volume.to_string() };
        let slot = self.slot(volume).ok_or_else(absent)?;
        let stage = Arc::clone(&slot.gate).lock_owned().await;
        match &*stage {
            Stage::Serving(serving) => Ok(grant_of_record(&serving.record)),
            _ => Err(absent()),
        }
    }

    fn answered<T>(
        &self,
        volume: &Selector<VolumeId>,
        what: &str,
        answer: Result<T, MetadataError>,
    ) -> Result<T, NodeError> {
        self.note_link(&answer);
        let what = || format!("{what} volume {volume}");
        answer.map_err(|source| NodeError::Metadata { what: what(), source })
    }
}
