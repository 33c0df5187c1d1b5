//! Calls about nodes.

use lunar_proto::domain::{
    Join, Joined, Leave, Node, Page, PageRequest, PageToken, Renewed, Selector,
};
use lunar_proto::v1;
use lunar_proto::v1::nodes_client::NodesClient;
use lunar_proto::wire;
use lunar_types::{Name, NodeId, NodeSession, SessionNumber};

use crate::transport::on_channel;
use crate::{ClientError, ErrorKind, ErrorReason, MetadataClient, every};

impl MetadataClient {
    /// Makes a node known, or starts or resumes an incarnation. Refused with `STALE_SESSION` when
    /// another process of the node has joined since [`Self::last_session`] was asked.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn join(&self, request: &Join) -> Result<Joined, ClientError> {
        let request = v1::JoinRequest::from(request.clone());
        self.call("join the cluster", request, async |channel, request| {
            on_channel!(NodesClient, channel).join(request).await
        })
        .await
    }

    /// The last session of a node, as a join has to name it; 0 for a node that is not known.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn last_session(&self, node: &Name) -> Result<SessionNumber, ClientError> {
        match self.node(&Selector::Name(node.clone())).await {
            Ok(node) => Ok(node.session),
            Err(error) if error.kind() == ErrorKind::Refused(ErrorReason::NodeNotFound) => {
                Ok(SessionNumber::default())
            }
            Err(error) => Err(error),
        }
    }

    /// Renews the lease of an incarnation. The time that counts is the one before this call: who
    /// keeps a lease sends each renewal once, with [`crate::Policy::once`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn heartbeat(&self, caller: NodeSession) -> Result<Renewed, ClientError> {
        let request = v1::HeartbeatRequest { caller: Some(caller.into()) };
        self.call("renew the lease", request, async |channel, request| {
            on_channel!(NodesClient, channel).heartbeat(request).await
        })
        .await
    }

    /// Ends an incarnation gracefully.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn leave(&self, request: &Leave) -> Result<(), ClientError> {
        let request = v1::LeaveRequest::from(*request);
        let answer = self.call_raw("leave the cluster", request, async |channel, request| {
            on_channel!(NodesClient, channel).leave(request).await
        });
        answer.await.map(|v1::LeaveResponse {}| ())
    }

    /// A node and its newest incarnation.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn node(&self, node: &Selector<NodeId>) -> Result<Node, ClientError> {
        let request = v1::GetNodeRequest { node: Some(node.clone().into()) };
        self.call("look up the node", request, async |channel, request| {
            on_channel!(NodesClient, channel).get_node(request).await
        })
        .await
    }

    /// A page of the nodes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn nodes_page(&self, page: PageRequest) -> Result<Page<Node>, ClientError> {
        const WHAT: &str = "list the nodes";
        let request = v1::ListNodesRequest { page: Some(page.into()) };
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(NodesClient, channel).list_nodes(request).await
        });
        let answer = answer.await?;
        let items = wire::list("nodes", answer.nodes);
        let items = items.map_err(|source| ClientError::Malformed { what: WHAT, source })?;
        Ok(Page { items, next: PageToken::from_bytes(answer.next) })
    }

    /// Every node.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn nodes(&self) -> Result<Vec<Node>, ClientError> {
        every(|page| self.nodes_page(page)).await
    }
}
