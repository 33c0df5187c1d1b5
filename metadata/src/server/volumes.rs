//! Handlers of volumes.

use lunar_proto::domain::{
    CloneVolume, CreateVolume, DeleteVolume, GrowVolume, Page, RollbackVolume,
};
use lunar_proto::v1;
use lunar_proto::v1::volumes_server::Volumes;
use lunar_proto::wire::{page_request, selector, to_list, token_bytes};
use tonic::{Request, Response, Status};

use super::{Handlers, Identity};
use crate::seams::block_on;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Volumes for Handlers<S> {
    async fn create_volume(
        &self,
        request: Request<v1::CreateVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        Identity::require_admin(&request)?;
        let request = CreateVolume::try_from(request.into_inner())?;
        let volume = self.call(move |service| block_on(service.create_volume(&request))).await?;
        Ok(Response::new(volume.into()))
    }

    async fn get_volume(
        &self,
        request: Request<v1::GetVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        Identity::of(&request)?;
        let volume = selector("volume", request.into_inner().volume)?;
        let volume = self.call(move |service| block_on(service.volume(&volume))).await?;
        Ok(Response::new(volume.into()))
    }

    async fn list_volumes(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<v1::ListVolumesResponse>, Status> {
        Identity::of(&request)?;
        let page = page_request(request.into_inner().page)?;
        let Page { items, next } =
            self.call(move |service| block_on(service.volumes(&page))).await?;
        let (volumes, next) = (to_list(items), token_bytes(next));
        Ok(Response::new(v1::ListVolumesResponse { volumes, next }))
    }

    async fn delete_volume(
        &self,
        request: Request<v1::DeleteVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        Identity::require_admin(&request)?;
        let request = DeleteVolume::try_from(request.into_inner())?;
        let volume = self.call(move |service| block_on(service.delete_volume(&request))).await?;
        self.work.notify_one();
        Ok(Response::new(volume.into()))
    }

    async fn clone_volume(
        &self,
        request: Request<v1::CloneVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        Identity::require_admin(&request)?;
        let request = CloneVolume::try_from(request.into_inner())?;
        let volume = self.call(move |service| block_on(service.clone_volume(&request))).await?;
        Ok(Response::new(volume.into()))
    }

    async fn rollback_volume(
        &self,
        request: Request<v1::RollbackVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        Identity::require_admin(&request)?;
        let request = RollbackVolume::try_from(request.into_inner())?;
        let volume = self.call(move |service| block_on(service.rollback_volume(&request))).await?;
        self.work.notify_one();
        Ok(Response::new(volume.into()))
    }
    async fn grow_volume(
        &self,
        request: Request<v1::GrowVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        Identity::require_admin(&request)?;
        let request = GrowVolume::try_from(request.into_inner())?;
        let volume = self.call(move |service| block_on(service.grow_volume(&request))).await?;
        Ok(Response::new(volume.into()))
    }
}
