//! Calls of the holder of a volume about its content.
//!
//! Each states a fact or moves the state forward, so it is repeated with the same content.

use lunar_proto::domain::{ContentOf, ContentState, FormatContent};
use lunar_proto::v1;
use lunar_proto::v1::contents_client::ContentsClient;

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient};

impl MetadataClient {
    /// What the content of a volume may be.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn content(&self, of: ContentOf) -> Result<ContentState, ClientError> {
        let request = v1::ContentRequest::from(of);
        self.call("look up the content of the volume", request, async |channel, request| {
            on_channel!(ContentsClient, channel).get_content(request).await
        })
        .await
    }

    /// Begins an attempt to make a file system.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn begin_format(&self, request: FormatContent) -> Result<ContentState, ClientError> {
        let request = v1::FormatContentRequest::from(request);
        self.call("begin to make a file system", request, async |channel, request| {
            on_channel!(ContentsClient, channel).begin_format(request).await
        })
        .await
    }

    /// Ends an attempt to make a file system.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn end_format(&self, request: FormatContent) -> Result<ContentState, ClientError> {
        let request = v1::FormatContentRequest::from(request);
        self.call("say that the file system is made", request, async |channel, request| {
            on_channel!(ContentsClient, channel).end_format(request).await
        })
        .await
    }

    /// Says that a volume is used from now on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn use_content(&self, of: ContentOf) -> Result<ContentState, ClientError> {
        let request = v1::ContentRequest::from(of);
        self.call("say that the volume is used", request, async |channel, request| {
            on_channel!(ContentsClient, channel).use_content(request).await
        })
        .await
    }
}
