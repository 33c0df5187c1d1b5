//! Calls about attachments.

use lunar_proto::domain::{
    Attach, Attachment, AttachmentSummary, Detach, LayerSealed, Page, PageRequest, PageToken,
    ResumeAttachment, RetireJournal, SealLayer,
};
use lunar_proto::v1;
use lunar_proto::v1::attachments_client::AttachmentsClient;
use lunar_proto::wire;
use lunar_types::NodeIncarnation;

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient, every};

impl MetadataClient {
    /// Asks for a volume under a new epoch.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn attach(&self, request: &Attach) -> Result<Attachment, ClientError> {
        let request = v1::AttachRequest::from(request.clone());
        self.call("attach the volume", request, async |channel, request| {
            on_channel!(AttachmentsClient, channel).attach(request).await
        })
        .await
    }

    /// Asks again for the facts of an attachment that is held.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn resume_attachment(
        &self,
        request: ResumeAttachment,
    ) -> Result<Attachment, ClientError> {
        let request = v1::ResumeAttachmentRequest::from(request);
        self.call("resume the attachment", request, async |channel, request| {
            on_channel!(AttachmentsClient, channel).resume_attachment(request).await
        })
        .await
    }

    /// Gives a volume back.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn detach(&self, request: &Detach) -> Result<(), ClientError> {
        let request = v1::DetachRequest::from(*request);
        let answer = self.call_raw("detach the volume", request, async |channel, request| {
            on_channel!(AttachmentsClient, channel).detach(request).await
        });
        answer.await.map(|v1::DetachResponse {}| ())
    }

    /// Makes the next head of a grant, or of its oldest stale journal, the head.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn seal_layer(&self, request: &SealLayer) -> Result<LayerSealed, ClientError> {
        let request = v1::SealLayerRequest::from(*request);
        self.call("seal the head", request, async |channel, request| {
            on_channel!(AttachmentsClient, channel).seal_layer(request).await
        })
        .await
    }

    /// Frees the oldest stale journal of a volume.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn retire_journal(&self, request: &RetireJournal) -> Result<(), ClientError> {
        let request = v1::RetireJournalRequest::from(*request);
        let answer = self.call_raw("retire the journal", request, async |channel, request| {
            on_channel!(AttachmentsClient, channel).retire_journal(request).await
        });
        answer.await.map(|v1::RetireJournalResponse {}| ())
    }

    /// A page of what an incarnation holds.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn attachments_page(
        &self,
        node: NodeIncarnation,
        page: PageRequest,
    ) -> Result<Page<AttachmentSummary>, ClientError> {
        const WHAT: &str = "list the attachments";
        let request =
            v1::ListAttachmentsRequest { node: Some(node.into()), page: Some(page.into()) };
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(AttachmentsClient, channel).list_attachments(request).await
        });
        let answer = answer.await?;
        let items = wire::list("attachments", answer.attachments);
        let items = items.map_err(|source| ClientError::Malformed { what: WHAT, source })?;
        Ok(Page { items, next: PageToken::from_bytes(answer.next) })
    }

    /// Everything that an incarnation holds.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn attachments(
        &self,
        node: NodeIncarnation,
    ) -> Result<Vec<AttachmentSummary>, ClientError> {
        every(|page| self.attachments_page(node, page)).await
    }
}
