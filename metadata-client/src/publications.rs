//! Calls about publications.

use std::time::Duration;

use lunar_proto::domain::{LeftPublication, Publication, PublishVolume, UnpublishVolume};
use lunar_proto::v1;
use lunar_proto::v1::publications_client::PublicationsClient;
use lunar_proto::wire::{list, wait_ms};

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient};

impl MetadataClient {
    /// Gives a node the leave to attach a volume.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn publish_volume(
        &self,
        request: &PublishVolume,
    ) -> Result<Publication, ClientError> {
        let request = v1::PublishVolumeRequest::from(request.clone());
        self.call("publish the volume", request, async |channel, request| {
            on_channel!(PublicationsClient, channel).publish_volume(request).await
        })
        .await
    }

    /// Takes publications back; waits up to [`lunar_proto::domain::WAIT_MAX`], and gives those that
    /// are left then.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn unpublish_volume(
        &self,
        request: &UnpublishVolume,
        wait: Duration,
    ) -> Result<Vec<LeftPublication>, ClientError> {
        const WHAT: &str = "unpublish the volume";
        let request = v1::UnpublishVolumeRequest::from(request.clone());
        let request = v1::UnpublishVolumeRequest { wait_ms: wait_ms(wait), ..request };
        let client = self.waiting(wait);
        let answer = client.call_raw(WHAT, request, async |channel, request| {
            on_channel!(PublicationsClient, channel).unpublish_volume(request).await
        });
        let left = list("left", answer.await?.left);
        left.map_err(|source| ClientError::Malformed { what: WHAT, source })
    }
}
