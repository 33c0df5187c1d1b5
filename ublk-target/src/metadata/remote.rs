//! The metadata service over gRPC, through the typed client.
//!
//! Invariant: calls carry the session that the join of this very process was answered with, never
//! one that was read from somewhere else: so the service can tell them from those of a later one.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lunar_metadata_client::{
    ClientError, ClientTls, EndpointError, MetadataClient, Policy, fresh_request_id,
};
use lunar_proto::domain::{
    Activate, AddPeer, Attach, Attachment, AttachmentSummary, BeginFenceLun, CommitMap,
    ConfirmRegistration, ContentOf, ContentState, Detach, DetachMode, EndFenceLun, FENCE_LIST_MAX,
    FenceAttempt, FenceOrder, FenceProof, FormatContent, IntendRegistrations, Join, Joined,
    JudgeKeys, LayerPage, LayerSealed, LeavePeers, MemberFailed, MemberPaused, MemberReady,
    NodeNews, NodeState, Ownership, OwnershipWish, Pool, PoolReservation, PruneLayer, PrunedParts,
    READ_LAYER_MAX, RELEASE_EXTENTS_MAX, RELEASE_RUNS_MAX, ReadLayer, ReleaseExtents,
    ReleaseOwnership, Renewed, RequestOwnership, ReserveExtents, ResumeAttachment, RetireJournal,
    SealLayer, Selector, SetProgress, Volume, Vote, WatchNode, WatermarkLevel,
};
use lunar_types::{
    BootId, Epoch, ExtentRun, FormatToken, Freed, LayerId, LogicalExtent, LunId, Name,
    NodeIncarnation, NodeSession, PoolId, SessionNumber, SnapshotSetId, VolumeId,
};

use super::{
    Ballot, Former, Grant, Known, MapCommit, Metadata, MetadataError, Prune, Release, Reply, Seal,
    Terms,
};
use crate::reserve::extent_count;

/// How long a call goes on trying. What runs in the background tries again after that anyway, and
/// a person does not want to wait longer.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long a renewal of the lease may take; a late one is of no use.
const RENEWAL_LIMIT: Duration = Duration::from_secs(2);

/// How long a look for something to do waits at the service.
const WATCH_WAIT: Duration = Duration::from_secs(20);
/// How long one call waits there for the other members of a set.
const READY_WAIT: Duration = Duration::from_secs(10);

/// The metadata service behind an endpoint.
#[derive(Debug, Clone)]
pub struct Remote {
    client: MetadataClient,
    /// Given by the join; a process joins once.
    session: Arc<OnceLock<SessionNumber>>,
}

impl Remote {
    /// A client that connects when it is used, over TLS where it is given.
    ///
    /// # Errors
    /// When the endpoint is none.
    pub fn new(endpoint: &str, tls: Option<&Arc<ClientTls>>) -> Result<Self, EndpointError> {
        let policy = Policy { total: CALL_LIMIT, ..Policy::default() };
        let client = MetadataClient::over(&[endpoint], policy, tls)?;
        Ok(Self { client, session: Arc::default() })
    }

    fn content_of(&self, grant: Grant) -> Result<ContentOf, MetadataError> {
        let Grant { volume, epoch, node } = grant;
        Ok(ContentOf { volume, epoch, caller: self.caller(node)? })
    }

    /// This process, speaking for an incarnation.
    fn caller(&self, node: NodeIncarnation) -> Result<NodeSession, MetadataError> {
        match self.session.get() {
            Some(number) => Ok(NodeSession { node, number: *number }),
            None => Err(MetadataError::Malformed(format!("{node} has not joined yet"))),
        }
    }

    async fn join_as(
        &self,
        name: Name,
        boot: BootId,
        former: Former,
    ) -> Result<Joined, MetadataError> {
        let last_session = self.client.last_session(&name).await?;
        let Former { resume, is_drained } = former;
        let request = fresh_request_id();
        let request = Join { request, name, boot, resume, is_drained, last_session };
        let joined = self.client.join(&request).await?;
        let number = joined.session.number;
        if *self.session.get_or_init(|| number) != number {
            return Err(MetadataError::Malformed("this process has joined twice".to_owned()));
        }
        Ok(joined)
    }
}

impl From<ClientError> for MetadataError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused { report, .. } => Self::Refused(report),
            ClientError::Unreachable { endpoints, problem, .. } => {
                Self::Unavailable { endpoint: endpoints, problem }
            }
            ClientError::TimedOut { endpoints, waited, .. } => {
                let problem = format!("no answer within {} ms", waited.as_millis());
                Self::Unavailable { endpoint: endpoints, problem }
            }
            other => Self::Malformed(other.to_string()),
        }
    }
}

/// Cuts a list of runs into parts that one call takes.
fn release_parts(runs: Vec<ExtentRun>) -> Vec<Vec<ExtentRun>> {
    let mut parts: Vec<Vec<ExtentRun>> = Vec::new();
    for run in runs.into_iter().flat_map(|run| pieces_of(run, RELEASE_EXTENTS_MAX)) {
        let has_room = |part: &&mut Vec<ExtentRun>| {
            part.len() < RELEASE_RUNS_MAX
                && extent_count(part) + u64::from(run.count()) <= RELEASE_EXTENTS_MAX
        };
        match parts.last_mut().filter(has_room) {
            Some(part) => part.push(run),
            None => parts.push(vec![run]),
        }
    }
    parts
}

/// A run as runs of at most `most` extents.
fn pieces_of(run: ExtentRun, most: u64) -> impl Iterator<Item = ExtentRun> {
    let first = run.first();
    (0..u64::from(run.count())).step_by(most as usize).map(move |at| {
        let count = (u64::from(run.count()) - at).min(most);
        let extent = lunar_types::PhysicalExtent::new(first.extent.get() + at);
        ExtentRun::new(lunar_types::ExtentAddress { extent, ..first }, count as u32)
    })
}

impl Metadata for Remote {
    fn join(&self, name: Name, boot: BootId, former: Former) -> Reply<'_, Joined> {
        Box::pin(self.join_as(name, boot, former))
    }

    fn heartbeat(&self, node: NodeIncarnation) -> Reply<'_, Renewed> {
        let client = self.client.with_policy(Policy::once(RENEWAL_LIMIT));
        Box::pin(async move { Ok(client.heartbeat(self.caller(node)?).await?) })
    }

    fn list_pools(&self) -> Reply<'_, Vec<Pool>> {
        Box::pin(async move { Ok(self.client.pools().await?) })
    }

    fn intend_registrations(&self, node: NodeIncarnation, luns: Vec<LunId>) -> Reply<'_, ()> {
        Box::pin(async move {
            let caller = self.caller(node)?;
            for luns in luns.chunks(FENCE_LIST_MAX) {
                let request = IntendRegistrations { caller, luns: luns.to_vec() };
                self.client.intend_registrations(&request).await?;
            }
            Ok(())
        })
    }

    fn confirm_registration(&self, node: NodeIncarnation, lun: LunId, paths: u32) -> Reply<'_, ()> {
        Box::pin(async move {
            let request = ConfirmRegistration { caller: self.caller(node)?, lun, paths };
            Ok(self.client.confirm_registration(request).await?)
        })
    }

    fn activate(&self, node: NodeIncarnation, unseen: Vec<LunId>) -> Reply<'_, NodeState> {
        Box::pin(async move {
            let request = Activate { caller: self.caller(node)?, unseen };
            Ok(self.client.activate(&request).await?)
        })
    }

    fn judge_keys(
        &self,
        node: NodeIncarnation,
        seen: Vec<NodeIncarnation>,
    ) -> Reply<'_, Vec<NodeIncarnation>> {
        Box::pin(async move {
            let request = JudgeKeys { caller: self.caller(node)?, seen };
            Ok(self.client.judge_keys(&request).await?)
        })
    }

    fn begin_fence_lun(&self, node: NodeIncarnation, order: FenceOrder) -> Reply<'_, FenceAttempt> {
        Box::pin(async move {
            let request = BeginFenceLun { caller: self.caller(node)?, order };
            Ok(self.client.begin_fence_lun(request).await?)
        })
    }

    fn end_fence_lun(
        &self,
        node: NodeIncarnation,
        order: FenceOrder,
        (attempt, proof): (u32, FenceProof),
    ) -> Reply<'_, NodeState> {
        Box::pin(async move {
            let request = EndFenceLun { caller: self.caller(node)?, order, attempt, proof };
            Ok(self.client.end_fence_lun(request).await?)
        })
    }

    fn attach(
        &self,
        volume: Selector<VolumeId>,
        node: NodeIncarnation,
        terms: Terms,
    ) -> Reply<'_, Attachment> {
        Box::pin(async move {
            let caller = self.caller(node)?;
            let Terms { accept_restored, publication, for_file_system } = terms;
            let request = Attach {
                request: fresh_request_id(),
                volume,
                caller,
                understands_layers: true,
                accept_restored,
                publication,
                for_file_system,
            };
            Ok(self.client.attach(&request).await?)
        })
    }

    fn resume_attachment(&self, grant: Grant) -> Reply<'_, Attachment> {
        let Grant { volume, epoch, node } = grant;
        Box::pin(async move {
            let request = ResumeAttachment { volume, epoch, caller: self.caller(node)? };
            Ok(self.client.resume_attachment(request).await?)
        })
    }

    fn detach(&self, grant: Grant, mode: DetachMode) -> Reply<'_, ()> {
        let Grant { volume, epoch, node } = grant;
        Box::pin(async move {
            let (request, caller) = (fresh_request_id(), self.caller(node)?);
            let request = Detach { request, volume, epoch, caller, mode };
            Ok(self.client.detach(&request).await?)
        })
    }

    fn add_peer(
        &self,
        volume: Selector<VolumeId>,
        node: NodeIncarnation,
        terms: Terms,
    ) -> Reply<'_, Volume> {
        Box::pin(async move {
            let caller = self.caller(node)?;
            let understands_layers = true;
            let Terms { accept_restored, publication, .. } = terms;
            let request =
                AddPeer { volume, caller, understands_layers, accept_restored, publication };
            Ok(self.client.add_peer(&request).await?)
        })
    }

    fn request_ownership(
        &self,
        volume: VolumeId,
        node: NodeIncarnation,
        wish: OwnershipWish,
        wait: Duration,
    ) -> Reply<'_, Ownership> {
        Box::pin(async move {
            let request = RequestOwnership { volume, caller: self.caller(node)?, wish };
            Ok(self.client.request_ownership(request, wait).await?)
        })
    }

    fn release_ownership(&self, release: Release) -> Reply<'_, ()> {
        Box::pin(async move {
            let Release { request, grant, mode, last_commit } = release;
            let Grant { volume, epoch, node } = grant;
            let caller = self.caller(node)?;
            let request = ReleaseOwnership { request, volume, epoch, caller, mode, last_commit };
            Ok(self.client.release_ownership(&request).await?)
        })
    }

    fn leave_peers(&self, volume: VolumeId, node: NodeIncarnation) -> Reply<'_, ()> {
        Box::pin(async move {
            let request = LeavePeers { volume, caller: self.caller(node)? };
            Ok(self.client.leave_peers(request).await?)
        })
    }

    fn content(&self, grant: Grant) -> Reply<'_, ContentState> {
        Box::pin(async move { Ok(self.client.content(self.content_of(grant)?).await?) })
    }

    fn begin_format(&self, grant: Grant, token: FormatToken) -> Reply<'_, ()> {
        Box::pin(async move {
            let request = FormatContent { of: self.content_of(grant)?, token };
            Ok(self.client.begin_format(request).await.map(|_| ())?)
        })
    }

    fn end_format(&self, grant: Grant, token: FormatToken) -> Reply<'_, ()> {
        Box::pin(async move {
            let request = FormatContent { of: self.content_of(grant)?, token };
            Ok(self.client.end_format(request).await.map(|_| ())?)
        })
    }

    fn use_content(&self, grant: Grant) -> Reply<'_, ()> {
        Box::pin(
            async move { Ok(self.client.use_content(self.content_of(grant)?).await.map(|_| ())?) },
        )
    }

    fn retire_journal(&self, grant: Grant, stale: Epoch) -> Reply<'_, ()> {
        let Grant { volume, epoch, node } = grant;
        Box::pin(async move {
            let (request, caller) = (fresh_request_id(), self.caller(node)?);
            let request = RetireJournal { request, volume, epoch, caller, stale_epoch: stale };
            Ok(self.client.retire_journal(&request).await?)
        })
    }

    fn pool_level(&self, pool: PoolId) -> Reply<'_, WatermarkLevel> {
        Box::pin(async move { Ok(self.client.pool_status(&Selector::Id(pool)).await?.level()) })
    }

    fn list_attachments(&self, node: NodeIncarnation) -> Reply<'_, Vec<AttachmentSummary>> {
        Box::pin(async move { Ok(self.client.attachments(node).await?) })
    }

    fn commit_map(&self, commit: MapCommit) -> Reply<'_, Freed> {
        Box::pin(async move {
            let request = CommitMap {
                request: commit.request,
                caller: self.caller(commit.grant.node)?,
                volume: commit.grant.volume,
                epoch: commit.grant.epoch,
                number: commit.number,
                layer: commit.layer,
                extent_size: commit.extent_size,
                updates: commit.updates,
                checkpoint: commit.checkpoint,
                replay_of: commit.replay_of,
            };
            Ok(self.client.commit_map(&request).await?)
        })
    }

    fn read_layer(&self, layer: LayerId, from: LogicalExtent) -> Reply<'_, LayerPage> {
        Box::pin(async move {
            let request = ReadLayer { layer, from, limit: READ_LAYER_MAX };
            Ok(self.client.read_layer(request).await?)
        })
    }

    fn reserve(
        &self,
        node: NodeIncarnation,
        pool: PoolId,
        count: u32,
    ) -> Reply<'_, Vec<ExtentRun>> {
        Box::pin(async move {
            let (request, caller) = (fresh_request_id(), self.caller(node)?);
            let request = ReserveExtents { request, caller, pool, count };
            Ok(self.client.reserve_extents(&request).await?)
        })
    }

    fn release(&self, node: NodeIncarnation, pool: PoolId, runs: Vec<ExtentRun>) -> Reply<'_, ()> {
        Box::pin(async move {
            let caller = self.caller(node)?;
            for runs in release_parts(runs) {
                let request = ReleaseExtents { request: fresh_request_id(), caller, pool, runs };
                self.client.release_extents(&request).await?;
            }
            Ok(())
        })
    }

    fn list_reservations(&self, node: NodeIncarnation) -> Reply<'_, Vec<PoolReservation>> {
        Box::pin(async move { Ok(self.client.reservations(node).await?) })
    }

    fn watch(&self, node: NodeIncarnation, known: Known) -> Reply<'_, NodeNews> {
        let client = self.client.with_policy(Policy::once(CALL_LIMIT));
        Box::pin(async move {
            let Known { members, structures, fences, peers, recalls } = known;
            let caller = self.caller(node)?;
            let request = WatchNode { caller, structures, members, fences, peers, recalls };
            Ok(client.watch_node(&request, WATCH_WAIT).await?)
        })
    }

    fn member_ready(&self, grant: Grant, set: SnapshotSetId) -> Reply<'_, SetProgress> {
        Box::pin(async move {
            let Grant { volume, epoch, node } = grant;
            let request = MemberReady { caller: self.caller(node)?, set, volume, epoch };
            Ok(self.client.member_ready(request, READY_WAIT).await?)
        })
    }

    fn member_failed(
        &self,
        grant: Grant,
        set: SnapshotSetId,
        why: &'static str,
    ) -> Reply<'_, SetProgress> {
        Box::pin(async move {
            let Grant { volume, epoch, node } = grant;
            let why = why.parse().expect("reasons are names");
            let request = MemberFailed { caller: self.caller(node)?, set, volume, epoch, why };
            Ok(self.client.member_failed(&request).await?)
        })
    }

    /// One attempt: a refusal of a second one says nothing of what became of the first.
    fn vote(&self, grant: Grant, ballot: Ballot, wait: Duration) -> Reply<'_, Vote> {
        let client = self.client.with_policy(Policy::once(RENEWAL_LIMIT));
        Box::pin(async move {
            let Grant { volume, epoch, node } = grant;
            let Ballot { set, last_commit, checkpoint, next_head } = ballot;
            let caller = self.caller(node)?;
            let request =
                MemberPaused { caller, set, volume, epoch, last_commit, checkpoint, next_head };
            Ok(client.member_paused(&request, wait).await?)
        })
    }

    fn seal_layer(&self, seal: Seal) -> Reply<'_, LayerSealed> {
        Box::pin(async move {
            let Grant { volume, epoch, node } = seal.grant;
            let request = SealLayer {
                request: seal.request,
                volume,
                epoch,
                caller: self.caller(node)?,
                number: seal.number,
                checkpoint: seal.checkpoint,
                next_head: seal.next_head,
                replay_of: seal.replay_of,
            };
            Ok(self.client.seal_layer(&request).await?)
        })
    }

    fn prune(&self, prune: Prune) -> Reply<'_, PrunedParts> {
        Box::pin(async move {
            let Prune { request, grant, layer, from } = prune;
            let (volume, epoch, caller) = (grant.volume, grant.epoch, self.caller(grant.node)?);
            let prune = PruneLayer { request, caller, volume, epoch, layer, from };
            Ok(self.client.prune_layer(prune).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use lunar_types::ExtentAddress;

    use super::*;

    #[test]
    fn a_release_keeps_to_the_limits_of_a_call_and_loses_nothing() {
        let scattered = (0..2500).map(|at| ExtentRun::new(ExtentAddress::new(0, at * 2), 1));
        let long = ExtentRun::new(ExtentAddress::new(1, 5), 200_000);
        let runs: Vec<_> = scattered.chain([long]).collect();
        let parts = release_parts(runs.clone());
        for part in &parts {
            assert!(part.len() <= RELEASE_RUNS_MAX && extent_count(part) <= RELEASE_EXTENTS_MAX);
        }
        let extents = |runs: &[ExtentRun]| -> Vec<ExtentAddress> {
            runs.iter().flat_map(|run| run.iter()).collect()
        };
        assert_eq!(extents(&parts.concat()), extents(&runs));
        assert!(release_parts(Vec::new()).is_empty());
    }

    #[tokio::test]
    async fn a_service_that_is_away_is_unavailable_and_named() {
        let policy = Policy::once(Duration::from_millis(500));
        let client = MetadataClient::new(&["127.0.0.1:9"], policy).expect("an endpoint");
        let remote = Remote { client, session: Arc::default() };
        let layer = LayerId::new(1);
        let answer = remote.read_layer(layer, LogicalExtent::new(0)).await;
        let error = answer.expect_err("nobody listens there");
        assert!(error.is_unavailable(), "{error}");
        assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
    }
}
