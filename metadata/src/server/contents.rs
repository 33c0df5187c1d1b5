//! Handlers of contents.

use lunar_proto::domain::{ContentOf, FormatContent};
use lunar_proto::v1;
use lunar_proto::v1::contents_server::Contents;
use tonic::{Request, Response, Status};
use tracing::info;

use super::Handlers;
use crate::seams::block_on;
use crate::store::MetaStore;

type Answer = Result<Response<v1::ContentResponse>, Status>;

impl<S: MetaStore> Handlers<S> {
    /// What a request asks of, if its connection speaks for who asks.
    async fn content_of(&self, request: Request<v1::ContentRequest>) -> Result<ContentOf, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        Ok(ContentOf::try_from(request.into_inner())?)
    }

    /// The same of an attempt to format.
    async fn format_of(
        &self,
        request: Request<v1::FormatContentRequest>,
    ) -> Result<FormatContent, Status> {
        let caller = request.get_ref().content.as_ref().and_then(|of| of.caller.as_ref());
        self.require_caller(&request, caller).await?;
        Ok(FormatContent::try_from(request.into_inner())?)
    }
}

#[tonic::async_trait]
impl<S: MetaStore> Contents for Handlers<S> {
    async fn get_content(&self, request: Request<v1::ContentRequest>) -> Answer {
        let of = self.content_of(request).await?;
        let state = self.call(move |service| block_on(service.content(of))).await?;
        Ok(Response::new(state.into()))
    }

    async fn begin_format(&self, request: Request<v1::FormatContentRequest>) -> Answer {
        let request = self.format_of(request).await?;
        let state = self.call(move |service| block_on(service.begin_format(request))).await?;
        info!(volume = %request.of.volume, token = %request.token, "a file system is made");
        Ok(Response::new(state.into()))
    }

    async fn end_format(&self, request: Request<v1::FormatContentRequest>) -> Answer {
        let request = self.format_of(request).await?;
        let state = self.call(move |service| block_on(service.end_format(request))).await?;
        info!(volume = %request.of.volume, token = %request.token, "the file system is made");
        Ok(Response::new(state.into()))
    }

    async fn use_content(&self, request: Request<v1::ContentRequest>) -> Answer {
        let of = self.content_of(request).await?;
        let state = self.call(move |service| block_on(service.use_content(of))).await?;
        Ok(Response::new(state.into()))
    }
}
