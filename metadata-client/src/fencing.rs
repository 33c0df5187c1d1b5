//! Calls about registrations and fences.

use lunar_proto::domain::{
    Activate, AuditEntry, BeginFenceLun, CertifyPoweredOff, ConfirmRegistration, DrainNode,
    EndFenceLun, Fence, FenceAttempt, FenceNode, IntendRegistrations, JudgeKeys, Node, NodeState,
    Page, PageRequest, PageToken, UnfenceNode,
};
use lunar_proto::error::FieldError;
use lunar_proto::v1;
use lunar_proto::v1::fencing_client::FencingClient;
use lunar_proto::wire;
use lunar_types::NodeIncarnation;

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient, every};

impl MetadataClient {
    /// Stores that an incarnation will register at LUNs. Only then may it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn intend_registrations(
        &self,
        request: &IntendRegistrations,
    ) -> Result<(), ClientError> {
        let request = v1::IntendRegistrationsRequest::from(request.clone());
        let answer =
            self.call_raw("announce the registration", request, async |channel, request| {
                on_channel!(FencingClient, channel).intend_registrations(request).await
            });
        answer.await.map(|v1::IntendRegistrationsResponse {}| ())
    }

    /// Says that an incarnation is registered at a LUN. Only then may it write there.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn confirm_registration(
        &self,
        request: ConfirmRegistration,
    ) -> Result<(), ClientError> {
        let request = v1::ConfirmRegistrationRequest::from(request);
        let answer =
            self.call_raw("confirm the registration", request, async |channel, request| {
                on_channel!(FencingClient, channel).confirm_registration(request).await
            });
        answer.await.map(|v1::ConfirmRegistrationResponse {}| ())
    }

    /// Makes an incarnation ACTIVE that is registered at every LUN it sees.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn activate(&self, request: &Activate) -> Result<NodeState, ClientError> {
        const WHAT: &str = "become active";
        let request = v1::ActivateRequest::from(request.clone());
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(FencingClient, channel).activate(request).await
        });
        state(WHAT, answer.await?.state())
    }

    /// Which of the incarnations whose keys were seen are gone for good.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn judge_keys(
        &self,
        request: &JudgeKeys,
    ) -> Result<Vec<NodeIncarnation>, ClientError> {
        const WHAT: &str = "ask whose keys these are";
        let request = v1::JudgeKeysRequest::from(request.clone());
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(FencingClient, channel).judge_keys(request).await
        });
        let gone = wire::list("gone", answer.await?.gone);
        gone.map_err(|source| ClientError::Malformed { what: WHAT, source })
    }

    /// Begins an attempt to cut a victim off from a LUN.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn begin_fence_lun(
        &self,
        request: BeginFenceLun,
    ) -> Result<FenceAttempt, ClientError> {
        let request = v1::BeginFenceLunRequest::from(request);
        self.call("begin to fence at the LUN", request, async |channel, request| {
            on_channel!(FencingClient, channel).begin_fence_lun(request).await
        })
        .await
    }

    /// Ends an attempt; says what becomes of the victim.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn end_fence_lun(&self, request: EndFenceLun) -> Result<NodeState, ClientError> {
        const WHAT: &str = "say that the LUN is fenced";
        let request = v1::EndFenceLunRequest::from(request);
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(FencingClient, channel).end_fence_lun(request).await
        });
        state(WHAT, answer.await?.state())
    }

    /// Fences a node by an operator's word, and keeps it from joining again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn fence_node(&self, request: &FenceNode) -> Result<Node, ClientError> {
        let request = v1::FenceNodeRequest::from(request.clone());
        self.call("fence the node", request, async |channel, request| {
            on_channel!(FencingClient, channel).fence_node(request).await
        })
        .await
    }

    /// Has a node get no volume any more, or again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn drain_node(&self, request: &DrainNode) -> Result<Node, ClientError> {
        let request = v1::DrainNodeRequest::from(request.clone());
        self.call("drain the node", request, async |channel, request| {
            on_channel!(FencingClient, channel).drain_node(request).await
        })
        .await
    }

    /// Lets a node join again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn unfence_node(&self, request: &UnfenceNode) -> Result<Node, ClientError> {
        let request = v1::UnfenceNodeRequest::from(request.clone());
        self.call("let the node join again", request, async |channel, request| {
            on_channel!(FencingClient, channel).unfence_node(request).await
        })
        .await
    }

    /// Gives an operator's word that a machine is off.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn certify_powered_off(
        &self,
        request: &CertifyPoweredOff,
    ) -> Result<Node, ClientError> {
        let request = v1::CertifyPoweredOffRequest::from(request.clone());
        self.call("certify that the node is off", request, async |channel, request| {
            on_channel!(FencingClient, channel).certify_powered_off(request).await
        })
        .await
    }

    /// A page of the fences under way.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn fences_page(&self, page: PageRequest) -> Result<Page<Fence>, ClientError> {
        const WHAT: &str = "list the fences";
        let request = v1::ListFencesRequest { page: Some(page.into()) };
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(FencingClient, channel).list_fences(request).await
        });
        let answer = answer.await?;
        let items = wire::list("fences", answer.fences);
        let items = items.map_err(|source| ClientError::Malformed { what: WHAT, source })?;
        Ok(Page { items, next: PageToken::from_bytes(answer.next) })
    }

    /// Every fence under way.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn fences(&self) -> Result<Vec<Fence>, ClientError> {
        every(|page| self.fences_page(page)).await
    }

    /// A page of what operators have overridden, the oldest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn audit_page(&self, page: PageRequest) -> Result<Page<AuditEntry>, ClientError> {
        const WHAT: &str = "list the audit log";
        let request = v1::ListAuditRequest { page: Some(page.into()) };
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(FencingClient, channel).list_audit(request).await
        });
        let answer = answer.await?;
        let items = wire::list("entries", answer.entries);
        let items = items.map_err(|source| ClientError::Malformed { what: WHAT, source })?;
        Ok(Page { items, next: PageToken::from_bytes(answer.next) })
    }

    /// Everything that operators have overridden, the oldest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn audit(&self) -> Result<Vec<AuditEntry>, ClientError> {
        every(|page| self.audit_page(page)).await
    }
}

fn state(what: &'static str, wire: v1::NodeState) -> Result<NodeState, ClientError> {
    NodeState::try_from(wire).map_err(|source: FieldError| ClientError::Malformed { what, source })
}
