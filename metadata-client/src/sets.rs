//! Calls about sets of snapshots, of those who want them and of those who hold their members.
//!
//! Invariants:
//! - a call that waits for a change has its wait on top of every deadline, and no more;
//! - what a holder says of a member states a fact: it is repeated with the same content until it is
//!   answered or its time is over, and changes nothing when it was carried out already.

use std::time::Duration;

use lunar_proto::domain::{
    CreateSnapshots, MemberFailed, MemberPaused, MemberReady, NodeNews, SetProgress, SetState,
    SnapshotSet, Vote, WAIT_MAX, WatchNode,
};
use lunar_proto::v1;
use lunar_proto::v1::members_client::MembersClient;
use lunar_proto::v1::snapshots_client::SnapshotsClient;
use lunar_proto::wire::wait_ms;
use lunar_types::SnapshotSetId;

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient};

impl MetadataClient {
    /// The same client, with room for a wait in its deadlines.
    pub(crate) fn waiting(&self, wait: Duration) -> Self {
        let (policy, wait) = (self.policy(), wait.min(WAIT_MAX));
        let (attempt, total) = (policy.attempt + wait, policy.total + wait);
        self.with_policy(crate::Policy { attempt, total, ..policy })
    }

    /// Stores a set: Sealed at once if no volume of it is attached, Gathering otherwise.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_snapshots(
        &self,
        request: &CreateSnapshots,
    ) -> Result<SnapshotSet, ClientError> {
        let request = v1::CreateSnapshotsRequest::from(request.clone());
        self.call("create the snapshots", request, async |channel, request| {
            on_channel!(SnapshotsClient, channel).create_snapshots(request).await
        })
        .await
    }

    /// A set. Waits, up to [`WAIT_MAX`], until it is in another state than `known`; without one,
    /// until it is decided.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn snapshot_set(
        &self,
        set: SnapshotSetId,
        known: Option<SetState>,
        wait: Duration,
    ) -> Result<SnapshotSet, ClientError> {
        let known = known.map_or(v1::SetState::Unspecified, Into::into).into();
        let wait_ms = wait_ms(wait);
        let request = v1::GetSnapshotSetRequest { set_id: set.to_string(), wait_ms, known };
        self.waiting(wait)
            .call("look up the snapshot set", request, async |channel, request| {
                on_channel!(SnapshotsClient, channel).get_snapshot_set(request).await
            })
            .await
    }

    /// Decides that an open set is not cut.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn abort_snapshots(&self, set: SnapshotSetId) -> Result<SnapshotSet, ClientError> {
        let request = v1::AbortSnapshotsRequest { set_id: set.to_string() };
        self.call("abort the snapshots", request, async |channel, request| {
            on_channel!(SnapshotsClient, channel).abort_snapshots(request).await
        })
        .await
    }

    /// What there is for a node to do. Waits, up to [`WAIT_MAX`], until that differs from what the
    /// request says is known.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch_node(
        &self,
        request: &WatchNode,
        wait: Duration,
    ) -> Result<NodeNews, ClientError> {
        let request = v1::WatchNodeRequest::from(request.clone());
        let request = v1::WatchNodeRequest { wait_ms: wait_ms(wait), ..request };
        self.waiting(wait)
            .call("watch the node", request, async |channel, request| {
                on_channel!(MembersClient, channel).watch_node(request).await
            })
            .await
    }

    /// Says that a member is warmed up. Waits, up to [`WAIT_MAX`], until the set has left
    /// Gathering.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn member_ready(
        &self,
        request: MemberReady,
        wait: Duration,
    ) -> Result<SetProgress, ClientError> {
        let request = v1::MemberReadyRequest::from(request);
        let request = v1::MemberReadyRequest { wait_ms: wait_ms(wait), ..request };
        self.waiting(wait)
            .call("say that the member is ready", request, async |channel, request| {
                on_channel!(MembersClient, channel).member_ready(request).await
            })
            .await
    }

    /// Says that a member cannot be cut.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn member_failed(&self, request: &MemberFailed) -> Result<SetProgress, ClientError> {
        let request = v1::MemberFailedRequest::from(request.clone());
        self.call("say that the member cannot be cut", request, async |channel, request| {
            on_channel!(MembersClient, channel).member_failed(request).await
        })
        .await
    }

    /// Votes. Waits, up to [`WAIT_MAX`], until the set is decided. An error leaves it open whether
    /// the vote counts: see [`MetadataClient::seal_layer`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn member_paused(
        &self,
        request: &MemberPaused,
        wait: Duration,
    ) -> Result<Vote, ClientError> {
        let request = v1::MemberPausedRequest::from(*request);
        let request = v1::MemberPausedRequest { wait_ms: wait_ms(wait), ..request };
        self.waiting(wait)
            .call("vote for the snapshot set", request, async |channel, request| {
                on_channel!(MembersClient, channel).member_paused(request).await
            })
            .await
    }
}
