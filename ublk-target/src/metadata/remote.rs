//! The metadata service over gRPC (stand-in until the client crate is there).

use std::time::Duration;

use lunar_proto::domain::*;
use lunar_proto::error::{ErrorReport, FieldError};
use lunar_proto::v1;
use lunar_proto::v1::attachments_client::AttachmentsClient;
use lunar_proto::v1::map_client::MapClient;
use lunar_proto::v1::nodes_client::NodesClient;
use lunar_proto::v1::reservations_client::ReservationsClient;
use lunar_proto::wire;
use lunar_types::*;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Grant, MapCommit, Metadata, MetadataError, Reply};

/// The service behind an endpoint.
pub struct Remote {
    endpoint: String,
    channel: Channel,
}

impl Remote {
    /// Connects when it is used.
    pub fn new(endpoint: &str) -> Result<Self, String> {
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|e| e.to_string())?
            .timeout(Duration::from_secs(5))
            .connect_timeout(Duration::from_secs(2))
            .connect_lazy();
        Ok(Self { endpoint: endpoint.to_owned(), channel })
    }

    fn error(&self, status: Status) -> MetadataError {
        if let Some(report) = ErrorReport::from_status(&status) {
            return MetadataError::Refused(report);
        }
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                MetadataError::Unavailable {
                    endpoint: self.endpoint.clone(),
                    problem: status.message().to_owned(),
                }
            }
            _ => MetadataError::Malformed(status.to_string()),
        }
    }
}

fn malformed(e: FieldError) -> MetadataError {
    MetadataError::Malformed(e.to_string())
}

fn rid() -> RequestId {
    RequestId::from_u128(uuid::Uuid::new_v4().as_u128())
}

impl Metadata for Remote {
    fn join(&self, name: Name, boot: BootId, resume: Option<Incarnation>) -> Reply<'_, Joined> {
        Box::pin(async move {
            let r = Join { request: rid(), name, boot, resume };
            let a = NodesClient::new(self.channel.clone()).join(v1::JoinRequest::from(r)).await;
            a.map_err(|s| self.error(s))?.into_inner().try_into().map_err(malformed)
        })
    }

    fn heartbeat(&self, node: NodeIncarnation) -> Reply<'_, (NodeState, LeaseTimers)> {
        Box::pin(async move {
            let r = v1::HeartbeatRequest { node: Some(node.into()) };
            let a = NodesClient::new(self.channel.clone()).heartbeat(r).await;
            let a = a.map_err(|s| self.error(s))?.into_inner();
            let timers = wire::nested("timers", a.timers).map_err(malformed)?;
            Ok((a.state().try_into().map_err(malformed)?, timers))
        })
    }

    fn attach(&self, volume: Selector<VolumeId>, node: NodeIncarnation) -> Reply<'_, Attachment> {
        Box::pin(async move {
            let r = Attach { request: rid(), volume, node };
            let a = AttachmentsClient::new(self.channel.clone())
                .attach(v1::AttachRequest::from(r))
                .await;
            a.map_err(|s| self.error(s))?.into_inner().try_into().map_err(malformed)
        })
    }

    fn resume_attachment(&self, grant: Grant) -> Reply<'_, Attachment> {
        Box::pin(async move {
            let r = ResumeAttachment { volume: grant.volume, epoch: grant.epoch, node: grant.node };
            let r = v1::ResumeAttachmentRequest::from(r);
            let a = AttachmentsClient::new(self.channel.clone()).resume_attachment(r).await;
            a.map_err(|s| self.error(s))?.into_inner().try_into().map_err(malformed)
        })
    }

    fn detach(&self, grant: Grant, mode: DetachMode) -> Reply<'_, ()> {
        Box::pin(async move {
            let r = Detach {
                request: rid(),
                volume: grant.volume,
                epoch: grant.epoch,
                node: grant.node,
                mode,
            };
            let a = AttachmentsClient::new(self.channel.clone())
                .detach(v1::DetachRequest::from(r))
                .await;
            a.map(|_| ()).map_err(|s| self.error(s))
        })
    }

    fn retire_journal(&self, grant: Grant, stale_epoch: Epoch) -> Reply<'_, ()> {
        Box::pin(async move {
            let r = RetireJournal {
                request: rid(),
                volume: grant.volume,
                epoch: grant.epoch,
                node: grant.node,
                stale_epoch,
            };
            let r = v1::RetireJournalRequest::from(r);
            let a = AttachmentsClient::new(self.channel.clone()).retire_journal(r).await;
            a.map(|_| ()).map_err(|s| self.error(s))
        })
    }

    fn list_attachments(&self, node: NodeIncarnation) -> Reply<'_, Vec<AttachmentSummary>> {
        Box::pin(async move {
            let r = v1::ListAttachmentsRequest {
                node: Some(node.into()),
                page: Some(v1::PageRequest { limit: 1000, token: vec![] }),
            };
            let a = AttachmentsClient::new(self.channel.clone()).list_attachments(r).await;
            let a = a.map_err(|s| self.error(s))?.into_inner();
            wire::list("attachments", a.attachments).map_err(malformed)
        })
    }

    fn commit_map(&self, c: MapCommit) -> Reply<'_, ()> {
        Box::pin(async move {
            let r = CommitMap {
                request: rid(),
                node: c.grant.node,
                volume: c.grant.volume,
                epoch: c.grant.epoch,
                layer: c.layer,
                extent_size: c.extent_size,
                updates: c.updates,
                checkpoint: c.checkpoint,
                replay_of: c.replay_of,
            };
            let a = MapClient::new(self.channel.clone())
                .commit_map(v1::CommitMapRequest::from(r))
                .await;
            a.map(|_| ()).map_err(|s| self.error(s))
        })
    }

    fn read_map(&self, layer: LayerId) -> Reply<'_, Vec<(LogicalExtent, Slot)>> {
        Box::pin(async move {
            let mut all = Vec::new();
            let mut from = LogicalExtent::new(0);
            loop {
                let r = v1::ReadMapRequest::from(ReadMap { layer, from, limit: READ_MAP_MAX });
                let a = MapClient::new(self.channel.clone()).read_map(r).await;
                let page: MapPage =
                    a.map_err(|s| self.error(s))?.into_inner().try_into().map_err(malformed)?;
                all.extend(page.entries.into_iter().map(|e| (e.at, e.slot)));
                match page.next {
                    Some(n) => from = n,
                    None => return Ok(all),
                }
            }
        })
    }

    fn reserve(
        &self,
        node: NodeIncarnation,
        pool: PoolId,
        count: u32,
    ) -> Reply<'_, Vec<ExtentRun>> {
        Box::pin(async move {
            let r = ReserveExtents { request: rid(), node, pool, count };
            let a = ReservationsClient::new(self.channel.clone())
                .reserve_extents(v1::ReserveExtentsRequest::from(r))
                .await;
            wire::list("runs", a.map_err(|s| self.error(s))?.into_inner().runs).map_err(malformed)
        })
    }

    fn release(&self, node: NodeIncarnation, pool: PoolId, runs: Vec<ExtentRun>) -> Reply<'_, ()> {
        Box::pin(async move {
            for chunk in runs.chunks(64) {
                let r = ReleaseExtents { request: rid(), node, pool, runs: chunk.to_vec() };
                let a = ReservationsClient::new(self.channel.clone())
                    .release_extents(v1::ReleaseExtentsRequest::from(r))
                    .await;
                a.map_err(|s| self.error(s))?;
            }
            Ok(())
        })
    }

    fn list_reservations(&self, node: NodeIncarnation) -> Reply<'_, Vec<PoolReservation>> {
        Box::pin(async move {
            let mut all = Vec::new();
            let mut token = Vec::new();
            loop {
                let r = v1::ListReservationsRequest {
                    node: Some(node.into()),
                    page: Some(v1::PageRequest { limit: 1000, token }),
                };
                let a = ReservationsClient::new(self.channel.clone()).list_reservations(r).await;
                let a = a.map_err(|s| self.error(s))?.into_inner();
                all.extend(
                    wire::list::<_, PoolReservation>("reservations", a.reservations)
                        .map_err(malformed)?,
                );
                token = a.next;
                if token.is_empty() {
                    return Ok(all);
                }
            }
        })
    }
}
