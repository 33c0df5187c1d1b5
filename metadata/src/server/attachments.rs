//! Handlers of attachments.

use lunar_proto::domain::{Attach, Detach, Page, ResumeAttachment, RetireJournal, SealLayer};
use lunar_proto::v1;
use lunar_proto::v1::attachments_server::Attachments;
use lunar_proto::wire::{page_request, to_list, token_bytes};
use tonic::{Request, Response, Status};

use super::Handlers;
use crate::seams::block_on;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Attachments for Handlers<S> {
    async fn attach(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::Attachment>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = Attach::try_from(request.into_inner())?;
        let held = self.call(move |service| block_on(service.attach(&request))).await?;
        Ok(Response::new(held.into()))
    }

    async fn resume_attachment(
        &self,
        request: Request<v1::ResumeAttachmentRequest>,
    ) -> Result<Response<v1::Attachment>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = ResumeAttachment::try_from(request.into_inner())?;
        let held = self.call(move |service| block_on(service.resume_attachment(request))).await?;
        Ok(Response::new(held.into()))
    }

    async fn detach(
        &self,
        request: Request<v1::DetachRequest>,
    ) -> Result<Response<v1::DetachResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = Detach::try_from(request.into_inner())?;
        self.call(move |service| block_on(service.detach(&request))).await?;
        Ok(Response::new(v1::DetachResponse {}))
    }

    async fn seal_layer(
        &self,
        request: Request<v1::SealLayerRequest>,
    ) -> Result<Response<v1::SealLayerResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = SealLayer::try_from(request.into_inner())?;
        let sealed = self.call(move |service| block_on(service.seal_layer(&request))).await?;
        self.work.notify_one();
        Ok(Response::new(sealed.into()))
    }

    async fn retire_journal(
        &self,
        request: Request<v1::RetireJournalRequest>,
    ) -> Result<Response<v1::RetireJournalResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = RetireJournal::try_from(request.into_inner())?;
        self.call(move |service| block_on(service.retire_journal(&request))).await?;
        self.work.notify_one();
        Ok(Response::new(v1::RetireJournalResponse {}))
    }

    async fn list_attachments(
        &self,
        request: Request<v1::ListAttachmentsRequest>,
    ) -> Result<Response<v1::ListAttachmentsResponse>, Status> {
        let node = self.require_node(&request, request.get_ref().node.as_ref()).await?;
        let page = page_request(request.into_inner().page)?;
        let Page { items, next } =
            self.call(move |service| block_on(service.attachments(node, &page))).await?;
        let (attachments, next) = (to_list(items), token_bytes(next));
        Ok(Response::new(v1::ListAttachmentsResponse { attachments, next }))
    }
}
