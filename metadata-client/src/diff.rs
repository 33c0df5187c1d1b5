//! What differs between two snapshots, run after run, over connections that break.
//!
//! Invariants:
//! - names are looked up once: every attempt speaks of the same two snapshots, whose content never
//!   changes, so it goes on where the last message that has come ends;
//! - a run is given once, and no run touches the next one of its kind;
//! - the end is given only when the service has said that all is said.

use std::collections::VecDeque;
use std::time::Duration;

use lunar_proto::domain::{DiffPage, DiffRun, DiffSnapshots, Selector};
use lunar_proto::error::FieldError;
use lunar_proto::v1;
use lunar_proto::v1::snapshots_client::SnapshotsClient;
use lunar_types::SnapshotId;
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use tracing::debug;

use crate::transport::{is_broken, on_channel};
use crate::{ClientError, MetadataClient};

const WHAT: &str = "compare the snapshots";

/// The two snapshots.
#[derive(Clone, Debug)]
enum Ends {
    /// As they were asked for.
    Asked(Option<Selector<SnapshotId>>, Selector<SnapshotId>),
    /// By their ids.
    Known(Option<SnapshotId>, SnapshotId),
}

/// Runs of differences, from [`MetadataClient::diff_snapshots`].
#[derive(Debug)]
pub struct DiffRuns {
    client: MetadataClient,
    ends: Ends,
    /// All before this offset has come. Nothing: all has come.
    next: Option<u64>,
    stream: Option<Streaming<v1::DiffSnapshotsResponse>>,
    /// Runs that have come; the last one may go on in the next message.
    runs: VecDeque<DiffRun>,
}

impl MetadataClient {
    /// What has to be written over one snapshot to make it the other; with no first one, what the
    /// other has allocated. Runs come in order from `start` (in bytes) on, as they are asked for,
    /// and a connection that breaks is made again. Nothing is sent before the first one is asked
    /// for.
    #[must_use]
    pub fn diff_snapshots(
        &self,
        from: Option<Selector<SnapshotId>>,
        to: Selector<SnapshotId>,
        start: u64,
    ) -> DiffRuns {
        let (client, ends) = (self.clone(), Ends::Asked(from, to));
        DiffRuns { client, ends, next: Some(start), stream: None, runs: VecDeque::new() }
    }
}

impl DiffRuns {
    /// The next run; nothing at the end. After an error it may be asked again, and goes on where
    /// it was.
    ///
    /// # Errors
    /// See [`ClientError`]: a snapshot that is not there or not Ready any more, two that are not
    /// related, or a service that stays away for the time of the policy.
    pub async fn next(&mut self) -> Option<Result<DiffRun, ClientError>> {
        // The last one may grow until all is said.
        while self.runs.len() < 2
            && let Some(start) = self.next
        {
            match self.page(start).await {
                Ok(page) => self.take(page),
                Err(error) => return Some(Err(error)),
            }
        }
        self.runs.pop_front().map(Ok)
    }

    fn take(&mut self, page: DiffPage) {
        for run in page.runs {
            if !self.runs.back_mut().is_some_and(|last| last.join(run)) {
                self.runs.push_back(run);
            }
        }
        self.next = page.next;
        if page.next.is_none() {
            self.stream = None;
        }
    }

    /// The next message, over as many connections as it takes within the time of the policy.
    async fn page(&mut self, start: u64) -> Result<DiffPage, ClientError> {
        let total = self.client.policy().total;
        let page = match timeout(total, self.attempts(start)).await {
            Ok(page) => page?,
            Err(_) => {
                self.stream = None;
                let endpoints = self.client.endpoints();
                return Err(ClientError::TimedOut { what: WHAT, endpoints, waited: total });
            }
        };
        let malformed = |source| ClientError::Malformed { what: WHAT, source };
        let page = DiffPage::try_from(page).map_err(malformed)?;
        let first = page.runs.first().map(|run| run.offset).into_iter();
        if let Some(early) = first.chain(page.next).find(|offset| *offset < start) {
            let problem = format_args!("{early} was asked for from {start} on");
            return Err(malformed(FieldError::new("runs", problem)));
        }
        Ok(page)
    }

    async fn attempts(&mut self, start: u64) -> Result<v1::DiffSnapshotsResponse, ClientError> {
        let policy = self.client.policy();
        let mut wait = policy.first_wait;
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                none => none.insert(open(&self.client, &mut self.ends, start).await?),
            };
            match timeout(policy.attempt, stream.message()).await {
                Ok(Ok(Some(page))) => return Ok(page),
                Ok(Err(status)) if !is_broken(&status) => {
                    self.stream = None;
                    return Err(self.client.stream_error(WHAT, status));
                }
                Ok(Err(status)) => debug!(%status, start, "the stream broke, it is opened again"),
                Ok(Ok(None)) => debug!(start, "the stream ended too early, it is opened again"),
                Err(_) => debug!(start, "the stream is silent, it is opened again"),
            }
            self.stream = None;
            rest(&mut wait, policy.longest_wait).await;
        }
    }
}

async fn rest(wait: &mut Duration, longest: Duration) {
    sleep(wait.mul_f64(rand::random_range(0.5..=1.0))).await;
    *wait = (*wait * 2).min(longest);
}

/// Opens the stream of two snapshots, whose ids are looked up if they are not known.
async fn open(
    client: &MetadataClient,
    ends: &mut Ends,
    start: u64,
) -> Result<Streaming<v1::DiffSnapshotsResponse>, ClientError> {
    let (from, to) = match ends {
        Ends::Known(from, to) => (*from, *to),
        Ends::Asked(from, to) => {
            let from = match from {
                Some(from) => Some(client.snapshot(from).await?.id),
                None => None,
            };
            (from, client.snapshot(to).await?.id)
        }
    };
    *ends = Ends::Known(from, to);
    let (from, to) = (from.map(Selector::Id), Selector::Id(to));
    let request = v1::DiffSnapshotsRequest::from(DiffSnapshots { from, to, start });
    client
        .call_raw(WHAT, request, async |channel, request| {
            on_channel!(SnapshotsClient, channel).diff_snapshots(request).await
        })
        .await
}
