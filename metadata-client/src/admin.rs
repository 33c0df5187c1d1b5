//! Calls about the service itself.

use std::time::Duration;

use lunar_proto::domain::{
    Cluster, FsckEvent, FsckFinding, FsckSummary, Operation, Page, PageRequest, PageToken,
};
use lunar_proto::error::FieldError;
use lunar_proto::v1;
use lunar_proto::v1::admin_client::AdminClient;
use lunar_proto::wire;
use tokio::time::timeout;

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
        let malformed = |source| ClientError::Malformed { what: WHAT, source };
        let request = v1::FsckRequest {};
        let events = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(AdminClient, channel).fsck(request).await
        });
        let mut events = events.await?;
        loop {
            let event = timeout(FSCK_SILENCE, events.message()).await;
            let event = event.map_err(|_| self.silent(WHAT))?;
            let event = event.map_err(|status| self.stream_error(WHAT, status))?;
            let Some(event) = event else {
                return Err(malformed(FieldError::missing("summary")));
            };
            match FsckEvent::try_from(event).map_err(malformed)? {
                FsckEvent::Finding(finding) => on_finding(finding),
                FsckEvent::Summary(summary) => return Ok(summary),
            }
        }
    }

    fn silent(&self, what: &'static str) -> ClientError {
        ClientError::TimedOut { what, endpoints: self.endpoints(), waited: FSCK_SILENCE }
    }
}
