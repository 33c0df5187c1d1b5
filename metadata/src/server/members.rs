//! Handlers of the holders' side of snapshot sets.

use lunar_proto::domain::{
    MemberFailed, MemberPaused, MemberReady, NodeNews, SetProgress, SetState, Vote, WatchNode,
};
use lunar_proto::v1;
use lunar_proto::v1::members_server::Members;
use lunar_proto::wire::wait;
use tonic::{Request, Response, Status};

use super::Handlers;
use crate::seams::block_on;
use crate::service::Service;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Members for Handlers<S> {
    async fn watch_node(
        &self,
        request: Request<v1::WatchNodeRequest>,
    ) -> Result<Response<v1::WatchNodeResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let wait = wait(request.get_ref().wait_ms)?;
        let known = std::sync::Arc::new(WatchNode::try_from(request.into_inner())?);
        let asked = std::sync::Arc::clone(&known);
        let ask = move |service: &Service<S>| block_on(service.watch_node(&asked));
        let is_news = |news: &NodeNews| news.is_news_to(&known);
        let news = self.ask_until(wait, ask, is_news).await?;
        Ok(Response::new(news.into()))
    }

    async fn member_ready(
        &self,
        request: Request<v1::MemberReadyRequest>,
    ) -> Result<Response<v1::SetProgress>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let wait = wait(request.get_ref().wait_ms)?;
        let request = MemberReady::try_from(request.into_inner())?;
        let ask = move |service: &Service<S>| block_on(service.member_ready(request));
        let has_left = |progress: &SetProgress| progress.state != SetState::Gathering;
        let progress = self.ask_until(wait, ask, has_left).await?;
        Ok(Response::new(progress.into()))
    }

    async fn member_failed(
        &self,
        request: Request<v1::MemberFailedRequest>,
    ) -> Result<Response<v1::SetProgress>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = MemberFailed::try_from(request.into_inner())?;
        let progress = self.call(move |service| block_on(service.member_failed(&request))).await?;
        Ok(Response::new(progress.into()))
    }

    async fn member_paused(
        &self,
        request: Request<v1::MemberPausedRequest>,
    ) -> Result<Response<v1::MemberPausedResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let wait = wait(request.get_ref().wait_ms)?;
        let request = MemberPaused::try_from(request.into_inner())?;
        let ask = move |service: &Service<S>| block_on(service.member_paused(&request));
        let is_decided = |vote: &Vote| *vote != Vote::Waiting;
        let vote = self.ask_until(wait, ask, is_decided).await?;
        Ok(Response::new(vote.into()))
    }
}
