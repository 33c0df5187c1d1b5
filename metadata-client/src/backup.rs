//! Backups of the metadata.

use std::time::Duration;

use lunar_proto::domain::{BackupNumber, Backups};
use lunar_proto::v1;
use lunar_proto::v1::admin_client::AdminClient;
use tokio::time::timeout;
use tonic::Streaming;

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient};

const WHAT: &str = "back the metadata up";
/// How long the service may take for the next part.
const SILENCE: Duration = Duration::from_secs(120);

/// The bytes of a backup as they come, from [`MetadataClient::backup`].
#[derive(Debug)]
pub struct BackupBytes {
    client: MetadataClient,
    stream: Streaming<v1::BackupChunk>,
}

impl BackupBytes {
    /// The next bytes; nothing at the end of the stream, which need not be that of the backup.
    ///
    /// # Errors
    /// See [`ClientError`]; a stream that broke off is not gone on with.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        let message = timeout(SILENCE, self.stream.message()).await;
        let message = message.map_err(|_| ClientError::TimedOut {
            what: WHAT,
            endpoints: self.client.endpoints(),
            waited: SILENCE,
        })?;
        let message = message.map_err(|status| self.client.stream_error(WHAT, status))?;
        Ok(message.map(|chunk| chunk.data))
    }
}

impl MetadataClient {
    /// Begins a backup. From then on what is freed is held back until a later one is complete.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn backup(&self) -> Result<BackupBytes, ClientError> {
        let request = v1::BackupRequest {};
        let stream = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(AdminClient, channel).backup(request).await
        });
        Ok(BackupBytes { client: self.clone(), stream: stream.await? })
    }

    /// Says that the file of a backup is whole and on stable storage.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn backup_done(&self, number: BackupNumber) -> Result<Backups, ClientError> {
        let request = v1::BackupDoneRequest { number: number.get() };
        self.call("complete the backup", request, async |channel, request| {
            on_channel!(AdminClient, channel).backup_done(request).await
        })
        .await
    }

    /// What the service knows of backups.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn backups(&self) -> Result<Backups, ClientError> {
        let request = v1::ListBackupsRequest {};
        self.call("list the backups", request, async |channel, request| {
            on_channel!(AdminClient, channel).list_backups(request).await
        })
        .await
    }

    /// Says whether what is freed is held back for backups.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_backup_horizon(&self, on: bool) -> Result<Backups, ClientError> {
        let request = v1::SetBackupHorizonRequest { on };
        self.call("set the backup horizon", request, async |channel, request| {
            on_channel!(AdminClient, channel).set_backup_horizon(request).await
        })
        .await
    }
}
