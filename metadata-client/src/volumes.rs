//! Calls about volumes.

use lunar_proto::domain::{
    CreateVolume, DeleteVolume, GrowVolume, Page, PageRequest, PageToken, Selector, Volume,
};
use lunar_proto::v1;
use lunar_proto::v1::volumes_client::VolumesClient;
use lunar_proto::wire;
use lunar_types::VolumeId;

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient, every};

impl MetadataClient {
    /// Makes a volume.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_volume(&self, request: &CreateVolume) -> Result<Volume, ClientError> {
        let request = v1::CreateVolumeRequest::from(request.clone());
        self.call("create the volume", request, async |channel, request| {
            on_channel!(VolumesClient, channel).create_volume(request).await
        })
        .await
    }

    /// Starts the deletion of a volume and gives it in state Deleting. It is gone when
    /// [`MetadataClient::volume`] by its id is refused with VOLUME_NOT_FOUND; the space of its head
    /// comes back after that, in steps.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_volume(&self, request: &DeleteVolume) -> Result<Volume, ClientError> {
        let request = v1::DeleteVolumeRequest::from(request.clone());
        self.call("delete the volume", request, async |channel, request| {
            on_channel!(VolumesClient, channel).delete_volume(request).await
        })
        .await
    }

    /// Makes a volume larger. A device of it grows when its holder has heard of it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn grow_volume(&self, request: &GrowVolume) -> Result<Volume, ClientError> {
        let request = v1::GrowVolumeRequest::from(request.clone());
        self.call("grow the volume", request, async |channel, request| {
            on_channel!(VolumesClient, channel).grow_volume(request).await
        })
        .await
    }

    /// A volume and who holds it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn volume(&self, volume: &Selector<VolumeId>) -> Result<Volume, ClientError> {
        let request = v1::GetVolumeRequest { volume: Some(volume.clone().into()) };
        self.call("look up the volume", request, async |channel, request| {
            on_channel!(VolumesClient, channel).get_volume(request).await
        })
        .await
    }

    /// A page of the volumes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn volumes_page(&self, page: PageRequest) -> Result<Page<Volume>, ClientError> {
        const WHAT: &str = "list the volumes";
        let request = v1::ListVolumesRequest { page: Some(page.into()) };
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(VolumesClient, channel).list_volumes(request).await
        });
        let answer = answer.await?;
        let items = wire::list("volumes", answer.volumes);
        let items = items.map_err(|source| ClientError::Malformed { what: WHAT, source })?;
        Ok(Page { items, next: PageToken::from_bytes(answer.next) })
    }

    /// Every volume.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn volumes(&self) -> Result<Vec<Volume>, ClientError> {
        every(|page| self.volumes_page(page)).await
    }
}
