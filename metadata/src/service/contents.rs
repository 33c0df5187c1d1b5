//! What the content of a volume may be, as its holder says: so that a file system is made once, and
//! on nothing that had content (docs/csi.md, *Format once*).
//!
//! Invariants:
//! - it only moves forward: blank, formatting, used; but a rollback brings the state of its
//!   content;
//! - only the holder moves it, under its grant, so nobody formats what another one has by now;
//! - of several attempts to format the last one that began counts.
//!
//! Deliberately absent: what is on the device. Who formats looks before.

use std::sync::Arc;

use lunar_proto::domain::{ContentOf, ContentState, FormatContent};

use super::Service;
use super::attachments::require_attachment;
use crate::error::{ContentError, ServiceError};
use crate::keyspace::{Content, KeyedTxn, VolumeKey, VolumeRecord};
use crate::store::{MetaStore, Txn};

/// The record of a volume that the caller holds.
async fn held<T: Txn>(txn: &T, of: ContentOf) -> Result<VolumeRecord, ServiceError> {
    let ContentOf { volume, epoch, caller } = of;
    Ok(require_attachment(txn, volume, epoch, caller).await?.0)
}

fn put_content<T: Txn>(txn: &T, of: ContentOf, record: VolumeRecord, content: Content) {
    txn.put(&VolumeKey { volume: of.volume }, &VolumeRecord { content, ..record });
}

async fn begin_format<T: Txn>(txn: &T, request: FormatContent) -> Result<(), ServiceError> {
    let FormatContent { of, token } = request;
    let record = held(txn, of).await?;
    match record.content {
        Content::Used => Err(ContentError::Used { volume: of.volume }.into()),
        Content::Formatting(other) if other == token => Ok(()),
        Content::Blank | Content::Formatting(_) => {
            put_content(txn, of, record, Content::Formatting(token));
            Ok(())
        }
    }
}

async fn end_format<T: Txn>(txn: &T, request: FormatContent) -> Result<(), ServiceError> {
    let FormatContent { of, token } = request;
    let record = held(txn, of).await?;
    let volume = of.volume;
    match record.content {
        Content::Used => Ok(()),
        Content::Formatting(own) if own == token => {
            put_content(txn, of, record, Content::Used);
            Ok(())
        }
        Content::Formatting(_) => Err(ContentError::OtherFormat { volume }.into()),
        Content::Blank => Err(ContentError::NotBegun { volume }.into()),
    }
}

async fn use_content<T: Txn>(txn: &T, of: ContentOf) -> Result<(), ServiceError> {
    let record = held(txn, of).await?;
    if record.content != Content::Used {
        put_content(txn, of, record, Content::Used);
    }
    Ok(())
}

impl<S: MetaStore> Service<S> {
    /// What the content of a volume may be that the caller holds.
    ///
    /// # Errors
    /// The caller does not hold the volume under this epoch.
    pub async fn content(&self, of: ContentOf) -> Result<ContentState, ServiceError> {
        self.read(|txn| async move { Ok(held(&*txn, of).await?.content.state()) }).await
    }

    /// Begins an attempt to make a file system: it is the one that counts from now on.
    ///
    /// # Errors
    /// The volume was used, or the caller does not hold it under this epoch.
    pub async fn begin_format(&self, request: FormatContent) -> Result<ContentState, ServiceError> {
        let begin = |txn: Arc<S::Txn>| async move { begin_format(&*txn, request).await };
        self.store.transact(begin).await?;
        Ok(ContentState::Formatting)
    }

    /// Ends an attempt to make a file system: the volume is used from now on. What is used already
    /// stays so.
    ///
    /// # Errors
    /// Another attempt has begun since, or none has; or the caller does not hold the volume under
    /// this epoch.
    pub async fn end_format(&self, request: FormatContent) -> Result<ContentState, ServiceError> {
        let end = |txn: Arc<S::Txn>| async move { end_format(&*txn, request).await };
        self.store.transact(end).await?;
        Ok(ContentState::Used)
    }

    /// Says that a volume is used from now on, whatever it was.
    ///
    /// # Errors
    /// The caller does not hold it under this epoch.
    pub async fn use_content(&self, of: ContentOf) -> Result<ContentState, ServiceError> {
        self.store.transact(|txn| async move { use_content(&*txn, of).await }).await?;
        Ok(ContentState::Used)
    }
}
