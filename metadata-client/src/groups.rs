//! Calls about groups of snapshots. A group is made by [`MetadataClient::create_snapshots`].

use lunar_proto::domain::{DeleteGroup, Page, PageRequest, PageToken, Selector, SnapshotGroup};
use lunar_proto::v1;
use lunar_proto::v1::groups_client::GroupsClient;
use lunar_proto::wire;
use lunar_types::SnapshotGroupId;

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient, every};

impl MetadataClient {
    /// A group.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn group(
        &self,
        group: &Selector<SnapshotGroupId>,
    ) -> Result<SnapshotGroup, ClientError> {
        let request = v1::GetGroupRequest { group: Some(group.clone().into()) };
        self.call("look up the group of snapshots", request, async |channel, request| {
            on_channel!(GroupsClient, channel).get_group(request).await
        })
        .await
    }

    /// A page of the groups.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn groups_page(&self, page: PageRequest) -> Result<Page<SnapshotGroup>, ClientError> {
        const WHAT: &str = "list the groups of snapshots";
        let request = v1::ListGroupsRequest { page: Some(page.into()) };
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(GroupsClient, channel).list_groups(request).await
        });
        let answer = answer.await?;
        let items = wire::list("groups", answer.groups);
        let items = items.map_err(|source| ClientError::Malformed { what: WHAT, source })?;
        Ok(Page { items, next: PageToken::from_bytes(answer.next) })
    }

    /// Every group.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn groups(&self) -> Result<Vec<SnapshotGroup>, ClientError> {
        every(|page| self.groups_page(page)).await
    }

    /// Starts the deletion of every snapshot of a group; the group is gone at once.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_group(&self, request: &DeleteGroup) -> Result<(), ClientError> {
        let request = v1::DeleteGroupRequest::from(request.clone());
        let answer = self.call_raw("delete the group", request, async |channel, request| {
            on_channel!(GroupsClient, channel).delete_group(request).await
        });
        answer.await.map(|v1::DeleteGroupResponse {}| ())
    }
}
