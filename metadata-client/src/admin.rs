//! Calls about the service itself.

use std::time::Duration;

use lunar_proto::domain::{
    Cluster, FindingsDigest, FsckEvent, FsckFinding, FsckSummary, Operation, Page, PageRequest,
    PageToken, ReleaseQuarantine,
};
use lunar_proto::error::FieldError;
use lunar_proto::v1;
use lunar_proto::v1::admin_client::AdminClient;
use lunar_proto::wire;
use tokio::time::timeout;
use tonic::Streaming;

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient, every};

/// How long a check may go without saying anything: a large store without a finding.
const FSCK_SILENCE: Duration = Duration::from_secs(3600);

impl MetadataClient {
    /// Who the service is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn cluster(&self) -> Result<Cluster, ClientError> {
        let request = v1::GetClusterRequest {};
        self.call("ask who the service is", request, async |channel, request| {
            on_channel!(AdminClient, channel).get_cluster(request).await
        })
        .await
    }

    /// A page of the operations that are not finished.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn operations_page(&self, page: PageRequest) -> Result<Page<Operation>, ClientError> {
        const WHAT: &str = "list the operations";
        let request = v1::ListOperationsRequest { page: Some(page.into()) };
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(AdminClient, channel).list_operations(request).await
        });
        let answer = answer.await?;
        let items = wire::list("operations", answer.operations);
        let items = items.map_err(|source| ClientError::Malformed { what: WHAT, source })?;
        Ok(Page { items, next: PageToken::from_bytes(answer.next) })
    }

    /// Every operation that is not finished.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn operations(&self) -> Result<Vec<Operation>, ClientError> {
        every(|page| self.operations_page(page)).await
    }

    /// Checks the store while it serves: `on_finding` is told of each finding as it comes.
    ///
    /// # Errors
    /// See [`ClientError`]; a check that broke off is not begun again.
    pub async fn fsck(
        &self,
        mut on_finding: impl FnMut(FsckFinding),
    ) -> Result<FsckSummary, ClientError> {
        const WHAT: &str = "check the store";
        let request = v1::FsckRequest {};
        let events = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(AdminClient, channel).fsck(request).await
        });
        let told = |event| match event {
            FsckEvent::Finding(finding) => on_finding(finding),
            FsckEvent::Repaired(_) | FsckEvent::Summary(_) => {}
        };
        self.follow_check(WHAT, events.await?, told).await
    }

    /// Repairs what can be repaired safely of the findings of a check, told by their digest, and
    /// checks again: `on_event` is told of each repair, and of each finding that is left.
    ///
    /// # Errors
    /// See [`ClientError`]; `FINDINGS_CHANGED` when a check finds something else by now. A repair
    /// that broke off is not begun again: check again to see what it has done.
    pub async fn repair(
        &self,
        findings: FindingsDigest,
        on_event: impl FnMut(FsckEvent),
    ) -> Result<FsckSummary, ClientError> {
        const WHAT: &str = "repair the store";
        let request = v1::RepairRequest { findings_digest: findings.get() };
        let events = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(AdminClient, channel).repair(request).await
        });
        self.follow_check(WHAT, events.await?, on_event).await
    }

    /// Frees what an operator has to release of the quarantine of a pool; gives how many extents.
    ///
    /// # Errors
    /// See [`ClientError`]; after one, some may be free already, and asking again frees the rest.
    pub async fn release_quarantine(
        &self,
        request: &ReleaseQuarantine,
    ) -> Result<u64, ClientError> {
        let request = v1::ReleaseQuarantineRequest::from(request.clone());
        let answer = self.call_raw("release the quarantine", request, async |channel, request| {
            on_channel!(AdminClient, channel).release_quarantine(request).await
        });
        Ok(answer.await?.extents)
    }

    /// Hands on what a check tells until its summary.
    async fn follow_check(
        &self,
        what: &'static str,
        mut events: Streaming<v1::FsckEvent>,
        mut on_event: impl FnMut(FsckEvent),
    ) -> Result<FsckSummary, ClientError> {
        let malformed = |source| ClientError::Malformed { what, source };
        loop {
            let event = timeout(FSCK_SILENCE, events.message()).await;
            let event = event.map_err(|_| self.silent(what))?;
            let event = event.map_err(|status| self.stream_error(what, status))?;
            let Some(event) = event else {
                return Err(malformed(FieldError::missing("summary")));
            };
            match FsckEvent::try_from(event).map_err(malformed)? {
                FsckEvent::Summary(summary) => return Ok(summary),
                event => on_event(event),
            }
        }
    }

    fn silent(&self, what: &'static str) -> ClientError {
        ClientError::TimedOut { what, endpoints: self.endpoints(), waited: FSCK_SILENCE }
    }
}
