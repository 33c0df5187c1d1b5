//! Groups of snapshots: records that outlive the set that cut them.
//!
//! Invariants:
//! - a group lists exactly the snapshots that name it, and its name is its own;
//! - it is made with its set and goes with it, if that is aborted;
//! - a snapshot that is being deleted is in no group.

use std::sync::Arc;

use lunar_proto::domain::{DeleteGroup, Page, PageRequest, Selector, SnapshotGroup};
use lunar_types::{SnapshotGroupId, SnapshotId};

use super::Service;
use super::paging::page;
use super::snapshots::{begin_deletion, snapshot_view};
use crate::error::{GroupError, ServiceError};
use crate::keyspace::{
    KeyedTxn, SnapshotGroupKey, SnapshotGroupNameKey, SnapshotGroupNameRecord, SnapshotGroupRecord,
    SnapshotKey, TypedRange,
};
use crate::store::{MetaStore, Txn};

/// Groups of a page: each has as many snapshots as a set, and an answer has to stay small.
const PAGE_MAX: usize = 100;

async fn find_group<T: Txn>(
    txn: &T,
    selector: &Selector<SnapshotGroupId>,
) -> Result<(SnapshotGroupId, SnapshotGroupRecord), ServiceError> {
    let not_found = || GroupError::NotFound { group: selector.to_string() };
    let group = match selector {
        Selector::Id(id) => *id,
        Selector::Name(name) => {
            let found = txn.load(&SnapshotGroupNameKey { name: name.clone() }).await?;
            found.ok_or_else(not_found)?.group
        }
    };
    let record = txn.load(&SnapshotGroupKey { group }).await?.ok_or_else(not_found)?;
    Ok((group, record))
}

/// Writes a group; its name is taken.
pub(super) async fn put_group<T: Txn>(
    txn: &T,
    group: SnapshotGroupId,
    record: &SnapshotGroupRecord,
) -> Result<(), ServiceError> {
    let key = SnapshotGroupNameKey { name: record.name.clone() };
    if let Some(other) = txn.load(&key).await? {
        let (name, group) = (record.name.clone(), other.group);
        return Err(GroupError::Exists { name, group }.into());
    }
    txn.put(&key, &SnapshotGroupNameRecord { group });
    txn.put(&SnapshotGroupKey { group }, record);
    Ok(())
}

/// Takes a group away, whose snapshots do not name it any more.
pub(super) async fn forget_group<T: Txn>(
    txn: &T,
    group: SnapshotGroupId,
) -> Result<(), ServiceError> {
    let key = SnapshotGroupKey { group };
    let record = txn.load_known(&key).await?;
    txn.remove(&SnapshotGroupNameKey { name: record.name });
    txn.remove(&key);
    Ok(())
}

/// Takes a snapshot off the list of its group.
pub(super) async fn leave_group<T: Txn>(
    txn: &T,
    group: SnapshotGroupId,
    snapshot: SnapshotId,
) -> Result<(), ServiceError> {
    let key = SnapshotGroupKey { group };
    let mut record = txn.load_known(&key).await?;
    record.members.retain(|member| *member != snapshot);
    txn.put(&key, &record);
    Ok(())
}

async fn delete_group<T: Txn>(txn: &T, request: &DeleteGroup) -> Result<(), ServiceError> {
    let (group, record) = find_group(txn, &request.group).await?;
    for snapshot in record.members {
        let mut member = txn.load_known(&SnapshotKey { snapshot }).await?;
        begin_deletion(txn, snapshot, &mut member).await?;
    }
    forget_group(txn, group).await
}

async fn group_view<T: Txn>(
    txn: &T,
    (id, record): (SnapshotGroupId, SnapshotGroupRecord),
) -> Result<SnapshotGroup, ServiceError> {
    let SnapshotGroupRecord { name, set, created_unix_seconds, members } = record;
    let mut snapshots = Vec::new();
    for snapshot in members {
        let member = txn.load_known(&SnapshotKey { snapshot }).await?;
        snapshots.push(snapshot_view(txn, snapshot, member).await?);
    }
    Ok(SnapshotGroup { id, name, created_unix_seconds, snapshots, set })
}

impl<S: MetaStore> Service<S> {
    /// A group.
    ///
    /// # Errors
    /// There is no such group.
    pub async fn group(
        &self,
        selector: &Selector<SnapshotGroupId>,
    ) -> Result<SnapshotGroup, ServiceError> {
        self.read(|txn| async move { group_view(&*txn, find_group(&*txn, selector).await?).await })
            .await
    }

    /// The groups by id.
    ///
    /// # Errors
    /// The page token is not of this list.
    pub async fn groups(&self, request: &PageRequest) -> Result<Page<SnapshotGroup>, ServiceError> {
        let request = &PageRequest { limit: request.limit.min(PAGE_MAX), ..request.clone() };
        self.read(|txn| async move {
            let all = TypedRange::<SnapshotGroupKey>::table();
            let (entries, next) = page(&*txn, all, request).await?;
            let mut items = Vec::new();
            for (key, record) in entries {
                items.push(group_view(&*txn, (key.group, record)).await?);
            }
            Ok(Page { items, next })
        })
        .await
    }

    /// Starts the deletion of every snapshot of a group; the group is gone at once.
    ///
    /// # Errors
    /// There is no such group, or a snapshot of it is still being cut.
    pub async fn delete_group(&self, request: &DeleteGroup) -> Result<(), ServiceError> {
        let what = ("delete group", request);
        let delete = |txn: Arc<S::Txn>| async move { delete_group(&*txn, request).await };
        self.once_done(request.request, &what, delete).await
    }
}
