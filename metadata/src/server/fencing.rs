//! Handlers of registrations and fences.

use lunar_proto::domain::{
    Activate, BeginFenceLun, CertifyPoweredOff, ConfirmRegistration, DrainNode, EndFenceLun,
    FenceNode, IntendRegistrations, JudgeKeys, Page, UnfenceNode,
};
use lunar_proto::v1;
use lunar_proto::v1::fencing_server::Fencing;
use lunar_proto::wire::{page_request, to_list, token_bytes};
use tonic::{Request, Response, Status};
use tracing::info;

use super::backups::unix_seconds;
use super::{Handlers, Identity};
use crate::seams::block_on;
use crate::service::Actor;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Fencing for Handlers<S> {
    async fn intend_registrations(
        &self,
        request: Request<v1::IntendRegistrationsRequest>,
    ) -> Result<Response<v1::IntendRegistrationsResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = IntendRegistrations::try_from(request.into_inner())?;
        self.call(move |service| block_on(service.intend_registrations(&request))).await?;
        Ok(Response::new(v1::IntendRegistrationsResponse {}))
    }

    async fn confirm_registration(
        &self,
        request: Request<v1::ConfirmRegistrationRequest>,
    ) -> Result<Response<v1::ConfirmRegistrationResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = ConfirmRegistration::try_from(request.into_inner())?;
        self.call(move |service| block_on(service.confirm_registration(request))).await?;
        let (node, lun, paths) = (request.caller.node, request.lun, request.paths);
        info!(%node, %lun, paths, "registered at a LUN");
        Ok(Response::new(v1::ConfirmRegistrationResponse {}))
    }

    async fn activate(
        &self,
        request: Request<v1::ActivateRequest>,
    ) -> Result<Response<v1::ActivateResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = Activate::try_from(request.into_inner())?;
        let (node, unseen) = (request.caller.node, request.unseen.len());
        let state = self.call(move |service| block_on(service.activate(&request))).await?;
        info!(%node, unseen, %state, "node registered");
        self.work.notify_one();
        Ok(Response::new(v1::ActivateResponse { state: v1::NodeState::from(state).into() }))
    }

    async fn judge_keys(
        &self,
        request: Request<v1::JudgeKeysRequest>,
    ) -> Result<Response<v1::JudgeKeysResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = JudgeKeys::try_from(request.into_inner())?;
        let gone = self.call(move |service| block_on(service.judge_keys(&request))).await?;
        Ok(Response::new(v1::JudgeKeysResponse { gone: to_list(gone) }))
    }

    async fn begin_fence_lun(
        &self,
        request: Request<v1::BeginFenceLunRequest>,
    ) -> Result<Response<v1::BeginFenceLunResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = BeginFenceLun::try_from(request.into_inner())?;
        let attempt = self.call(move |service| block_on(service.begin_fence_lun(request))).await?;
        let (fencer, order) = (request.caller.node, request.order);
        let number = attempt.number;
        info!(%fencer, victim = %order.victim, lun = %order.lun, attempt = number, "fencing");
        Ok(Response::new(attempt.into()))
    }

    async fn end_fence_lun(
        &self,
        request: Request<v1::EndFenceLunRequest>,
    ) -> Result<Response<v1::EndFenceLunResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = EndFenceLun::try_from(request.into_inner())?;
        let state = self.call(move |service| block_on(service.end_fence_lun(request))).await?;
        let EndFenceLun { caller, order, attempt, proof } = request;
        let fencer = caller.node;
        info!(%fencer, victim = %order.victim, lun = %order.lun, attempt, %proof, "cut off");
        self.work.notify_one();
        Ok(Response::new(v1::EndFenceLunResponse { state: v1::NodeState::from(state).into() }))
    }

    async fn fence_node(
        &self,
        request: Request<v1::FenceNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let name = Identity::require_admin(&request)?.actor.clone();
        let request = FenceNode::try_from(request.into_inner())?;
        let node = self.call(move |service| {
            block_on(service.fence_node(&request, Actor { name: &name, at: unix_seconds() }))
        });
        let node = node.await?;
        self.work.notify_one();
        Ok(Response::new(node.into()))
    }

    async fn unfence_node(
        &self,
        request: Request<v1::UnfenceNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let name = Identity::require_admin(&request)?.actor.clone();
        let request = UnfenceNode::try_from(request.into_inner())?;
        let node = self.call(move |service| {
            block_on(service.unfence_node(&request, Actor { name: &name, at: unix_seconds() }))
        });
        Ok(Response::new(node.await?.into()))
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let name = Identity::require_admin(&request)?.actor.clone();
        let request = DrainNode::try_from(request.into_inner())?;
        let node = self.call(move |service| {
            block_on(service.drain_node(&request, Actor { name: &name, at: unix_seconds() }))
        });
        Ok(Response::new(node.await?.into()))
    }

    async fn certify_powered_off(
        &self,
        request: Request<v1::CertifyPoweredOffRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let name = Identity::require_admin(&request)?.actor.clone();
        let request = CertifyPoweredOff::try_from(request.into_inner())?;
        let node = self.call(move |service| {
            let actor = Actor { name: &name, at: unix_seconds() };
            block_on(service.certify_powered_off(&request, actor))
        });
        let node = node.await?;
        self.work.notify_one();
        Ok(Response::new(node.into()))
    }

    async fn list_fences(
        &self,
        request: Request<v1::ListFencesRequest>,
    ) -> Result<Response<v1::ListFencesResponse>, Status> {
        Identity::of(&request)?;
        let page = page_request(request.into_inner().page)?;
        let Page { items, next } =
            self.call(move |service| block_on(service.fences(&page))).await?;
        let (fences, next) = (to_list(items), token_bytes(next));
        Ok(Response::new(v1::ListFencesResponse { fences, next }))
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        Identity::require_admin(&request)?;
        let page = page_request(request.into_inner().page)?;
        let Page { items, next } = self.call(move |service| block_on(service.audit(&page))).await?;
        let (entries, next) = (to_list(items), token_bytes(next));
        Ok(Response::new(v1::ListAuditResponse { entries, next }))
    }
}
