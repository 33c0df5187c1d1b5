//! Calls about volumes that two nodes have together.

use std::time::Duration;

use lunar_proto::domain::{
    AddPeer, LeavePeers, Ownership, ReleaseOwnership, RemovePeer, RequestOwnership, Volume,
};
use lunar_proto::v1;
use lunar_proto::v1::peers_client::PeersClient;
use lunar_proto::wire::{nested, wait_ms};

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient};

impl MetadataClient {
    /// Makes a node a peer of a volume.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn add_peer(&self, request: &AddPeer) -> Result<Volume, ClientError> {
        const WHAT: &str = "share the volume";
        let request = v1::AddPeerRequest::from(request.clone());
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(PeersClient, channel).add_peer(request).await
        });
        let volume = nested("volume", answer.await?.volume);
        volume.map_err(|source| ClientError::Malformed { what: WHAT, source })
    }

    /// Asks for a volume, and waits for it up to [`lunar_proto::domain::WAIT_MAX`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn request_ownership(
        &self,
        request: RequestOwnership,
        wait: Duration,
    ) -> Result<Ownership, ClientError> {
        let request = v1::RequestOwnershipRequest::from(request);
        let request = v1::RequestOwnershipRequest { wait_ms: wait_ms(wait), ..request };
        self.waiting(wait)
            .call("ask for the volume", request, async |channel, request| {
                on_channel!(PeersClient, channel).request_ownership(request).await
            })
            .await
    }

    /// Gives a volume away; its owner stays a peer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn release_ownership(&self, request: &ReleaseOwnership) -> Result<(), ClientError> {
        let request = v1::ReleaseOwnershipRequest::from(*request);
        let answer = self.call_raw("give the volume away", request, async |channel, request| {
            on_channel!(PeersClient, channel).release_ownership(request).await
        });
        answer.await.map(|v1::ReleaseOwnershipResponse {}| ())
    }

    /// Ends that the caller is a peer of a volume.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn leave_peers(&self, request: LeavePeers) -> Result<(), ClientError> {
        let request = v1::LeavePeersRequest::from(request);
        let answer = self.call_raw("leave the volume", request, async |channel, request| {
            on_channel!(PeersClient, channel).leave_peers(request).await
        });
        answer.await.map(|v1::LeavePeersResponse {}| ())
    }

    /// Ends that another node is a peer of a volume.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove_peer(&self, request: &RemovePeer) -> Result<(), ClientError> {
        let request = v1::RemovePeerRequest::from(request.clone());
        let answer =
            self.call_raw("take the node off the volume", request, async |channel, request| {
                on_channel!(PeersClient, channel).remove_peer(request).await
            });
        answer.await.map(|v1::RemovePeerResponse {}| ())
    }
}
