//! Calls about snapshots, and about volumes that are made of them.

use std::time::Duration;

use lunar_proto::domain::{
    CloneVolume, DeleteSnapshot, Page, PageRequest, PageToken, RollbackVolume, Selector, Snapshot,
    Usage, UsageOf, Volume,
};
use lunar_proto::v1;
use lunar_proto::v1::snapshots_client::SnapshotsClient;
use lunar_proto::v1::volumes_client::VolumesClient;
use lunar_proto::wire;
use lunar_types::{SnapshotId, VolumeId};

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient, Policy, every};

/// How long the walk over a large map may take.
const USAGE_TIME: Duration = Duration::from_secs(120);

impl MetadataClient {
    /// Starts the deletion of a snapshot and gives it in state Deleting. It is gone when
    /// [`MetadataClient::snapshot`] by its id is refused with SNAPSHOT_NOT_FOUND.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_snapshot(&self, request: &DeleteSnapshot) -> Result<Snapshot, ClientError> {
        let request = v1::DeleteSnapshotRequest::from(request.clone());
        self.call("delete the snapshot", request, async |channel, request| {
            on_channel!(SnapshotsClient, channel).delete_snapshot(request).await
        })
        .await
    }

    /// A snapshot.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn snapshot(&self, snapshot: &Selector<SnapshotId>) -> Result<Snapshot, ClientError> {
        let request = v1::GetSnapshotRequest { snapshot: Some(snapshot.clone().into()) };
        self.call("look up the snapshot", request, async |channel, request| {
            on_channel!(SnapshotsClient, channel).get_snapshot(request).await
        })
        .await
    }

    /// Whose space a volume or a snapshot uses. The service reads the whole map for it, so one
    /// attempt has the time of all, and at least two minutes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn usage(&self, of: &UsageOf) -> Result<Usage, ClientError> {
        let policy = self.policy();
        let total = policy.total.max(USAGE_TIME);
        let patient = self.with_policy(Policy { attempt: total, total, ..policy });
        let request = v1::GetUsageRequest::from(of.clone());
        patient
            .call("look up the space in use", request, async |channel, request| {
                on_channel!(SnapshotsClient, channel).get_usage(request).await
            })
            .await
    }

    /// A page of the snapshots: all, or those of one volume.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn snapshots_page(
        &self,
        volume: Option<&Selector<VolumeId>>,
        page: PageRequest,
    ) -> Result<Page<Snapshot>, ClientError> {
        const WHAT: &str = "list the snapshots";
        let volume = volume.map(|volume| volume.clone().into());
        let request = v1::ListSnapshotsRequest { volume, page: Some(page.into()) };
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(SnapshotsClient, channel).list_snapshots(request).await
        });
        let answer = answer.await?;
        let items = wire::list("snapshots", answer.snapshots);
        let items = items.map_err(|source| ClientError::Malformed { what: WHAT, source })?;
        Ok(Page { items, next: PageToken::from_bytes(answer.next) })
    }

    /// Every snapshot: all, or those of one volume.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn snapshots(
        &self,
        volume: Option<&Selector<VolumeId>>,
    ) -> Result<Vec<Snapshot>, ClientError> {
        every(|page| self.snapshots_page(volume, page)).await
    }

    /// Makes a volume that begins as a snapshot.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn clone_volume(&self, request: &CloneVolume) -> Result<Volume, ClientError> {
        let request = v1::CloneVolumeRequest::from(request.clone());
        self.call("clone the volume", request, async |channel, request| {
            on_channel!(VolumesClient, channel).clone_volume(request).await
        })
        .await
    }

    /// Gives a detached volume the content of one of its snapshots.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn rollback_volume(&self, request: &RollbackVolume) -> Result<Volume, ClientError> {
        let request = v1::RollbackVolumeRequest::from(request.clone());
        self.call("roll the volume back", request, async |channel, request| {
            on_channel!(VolumesClient, channel).rollback_volume(request).await
        })
        .await
    }
}
