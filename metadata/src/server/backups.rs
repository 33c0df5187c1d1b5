//! The stream of a backup.
//!
//! Invariants:
//! - the backup is begun, in a transaction of its own, before its snapshot of the store is taken;
//! - one snapshot is read from the first key to the last, and every key of it is sent;
//! - no thread is held while a client takes its time. The snapshot is, and with it space of the
//!   store that could be used again: a client that takes nothing for [`PATIENCE`] is given up;
//! - the trailer is the last message: a stream that ends otherwise is not a backup.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lunar_backup::{BackupEncoder, BackupHeader};
use lunar_proto::v1;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use tracing::{info, warn};

use super::{Handlers, status};
use crate::error::ServiceError;
use crate::seams::block_on;
use crate::store::{KeyRange, KeyValue, MetaStore, RangeRead, Txn as _};

/// Chunks that wait for a slow client: a MiB each.
const CHUNKS_WAITING: usize = 4;
/// Keys of one read.
const READ_KEYS: usize = 1000;
/// How long a client may take nothing.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) type BackupStream = ReceiverStream<Result<v1::BackupChunk, Status>>;
type Chunks = mpsc::Sender<Result<v1::BackupChunk, Status>>;

/// The time of this host, in Unix seconds.
#[allow(clippy::disallowed_methods, reason = "a backup tells people when it was made")]
pub(super) fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Why nothing more is sent.
enum Ended {
    /// The client has gone.
    Gone,
    /// It is told why.
    Failed(Status),
}

async fn send(chunks: &Chunks, data: Vec<u8>) -> Result<(), Ended> {
    match timeout(PATIENCE, chunks.send(Ok(v1::BackupChunk { data }))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ended::Gone),
        Err(_) => {
            warn!(seconds = PATIENCE.as_secs(), "a backup was given up: its client takes nothing");
            Err(Ended::Gone)
        }
    }
}

impl<S: MetaStore> Handlers<S> {
    /// Begins a backup and opens its stream.
    pub(super) async fn open_backup(&self) -> Result<Response<BackupStream>, Status> {
        let begun = unix_seconds();
        let number = self.call(move |service| block_on(service.begin_backup(begun))).await?;
        let begin = move |service: &crate::service::Service<S>| {
            block_on(service.store().begin()).map_err(ServiceError::from)
        };
        let snapshot = Arc::new(self.call(begin).await?);
        let cluster = self.service.cluster();
        let header = BackupHeader {
            keyspace_version: cluster.keyspace_version,
            cluster: cluster.id,
            number: number.get(),
            begun,
        };
        info!(%number, "backup begun");
        let (chunks, waiting) = mpsc::channel(CHUNKS_WAITING);
        let handlers = self.clone();
        tokio::spawn(async move {
            let mut stopping = handlers.stopping.subscribe();
            let stopped = async { drop(stopping.wait_for(|stopping| *stopping).await) };
            let ended = tokio::select! {
                ended = handlers.send_snapshot(&header, snapshot, &chunks) => ended,
                () = stopped => Err(Ended::Failed(Status::unavailable("the service stops"))),
            };
            if let Err(Ended::Failed(status)) = ended {
                warn!(number = header.number, %status, "a backup has failed");
                // A client that has gone does not want the error either.
                drop(timeout(PATIENCE, chunks.send(Err(status))).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(waiting)))
    }

    async fn send_snapshot(
        &self,
        header: &BackupHeader,
        snapshot: Arc<S::Txn>,
        chunks: &Chunks,
    ) -> Result<(), Ended> {
        let (mut encoder, head) = BackupEncoder::begin(header);
        send(chunks, head).await?;
        let mut range = KeyRange::new(Vec::new(), vec![0xFF]);
        loop {
            let entries = self.read_some(&snapshot, &range).await.map_err(Ended::Failed)?;
            for (key, value) in &entries {
                let full = encoder.push(key, value);
                let full = full.map_err(|error| Ended::Failed(Status::internal(error.to_string())));
                if let Some(block) = full? {
                    send(chunks, block).await?;
                }
            }
            let Some((last, _)) = entries.last() else { break };
            range.begin = KeyRange::point(last).end;
        }
        let (rest, end) = encoder.finish();
        for part in rest.chunks(1 << 20) {
            send(chunks, part.to_vec()).await?;
        }
        info!(number = header.number, entries = end.entries, bytes = end.bytes, "backup sent");
        Ok(())
    }

    async fn read_some(
        &self,
        snapshot: &Arc<S::Txn>,
        range: &KeyRange,
    ) -> Result<Vec<KeyValue>, Status> {
        let read = RangeRead::first(range.clone(), READ_KEYS).as_snapshot();
        let snapshot = Arc::clone(snapshot);
        let read = tokio::task::spawn_blocking(move || block_on(snapshot.get_range(&read)));
        let read = read.await.map_err(|_| Status::internal("the read of the store panicked"))?;
        read.map_err(|error| status(&ServiceError::from(error)))
    }
}
