//! Handlers of publications.

use lunar_proto::domain::{PublishVolume, UnpublishVolume};
use lunar_proto::v1;
use lunar_proto::v1::publications_server::Publications;
use lunar_proto::wire::wait;
use tonic::{Request, Response, Status};
use tracing::info;

use super::Handlers;
use crate::seams::block_on;
use crate::service::Service;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Publications for Handlers<S> {
    async fn publish_volume(
        &self,
        request: Request<v1::PublishVolumeRequest>,
    ) -> Result<Response<v1::Publication>, Status> {
        let request = PublishVolume::try_from(request.into_inner())?;
        let volume = request.volume.clone();
        let made = self.call(move |service| block_on(service.publish_volume(&request))).await?;
        info!(%volume, node_name = %made.node_name, mode = %made.mode, "the volume is published");
        Ok(Response::new(made.into()))
    }

    async fn unpublish_volume(
        &self,
        request: Request<v1::UnpublishVolumeRequest>,
    ) -> Result<Response<v1::UnpublishVolumeResponse>, Status> {
        let wait = wait(request.get_ref().wait_ms)?;
        let request = UnpublishVolume::try_from(request.into_inner())?;
        let volume = request.volume.clone();
        let first = request.clone();
        let left = self.call(move |service| block_on(service.unpublish_volume(&first))).await?;
        let left = match left.is_empty() || wait.is_zero() {
            true => left,
            false => {
                // What is published while this one waits is not meant.
                let only = left.iter().map(|left| left.publication.id).collect();
                let request = UnpublishVolume { only, ..request };
                let ask = move |service: &Service<S>| block_on(service.unpublish_volume(&request));
                self.ask_until(wait, ask, Vec::is_empty).await?
            }
        };
        match left.first() {
            None => info!(%volume, "the volume is unpublished"),
            Some(left) => info!(%volume, why = %left.why, "a publication is recalled"),
        }
        let left = left.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::UnpublishVolumeResponse { left }))
    }
}
