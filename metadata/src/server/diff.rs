//! The stream of differences between two snapshots.
//!
//! Invariants:
//! - no transaction and no thread is held while a client takes its time: every window is a call of
//!   its own, made when there is room for its messages;
//! - both snapshots are looked up by name once, at the beginning;
//! - the last message says that it is the last; a stream that ends otherwise is not the whole.

use lunar_proto::domain::{DiffPage, DiffSnapshots, Selector};
use lunar_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::Handlers;
use crate::seams::block_on;
use crate::service::Service;
use crate::store::MetaStore;

/// Messages that wait for a slow client.
const MESSAGES_WAITING: usize = 4;
/// Runs of one message: below 128 KiB.
const RUNS_PER_MESSAGE: usize = 4096;

pub(super) type DiffStream = ReceiverStream<Result<v1::DiffSnapshotsResponse, Status>>;
type Messages = mpsc::Sender<Result<v1::DiffSnapshotsResponse, Status>>;

/// A window in messages of a bounded size.
fn messages(page: DiffPage) -> Vec<v1::DiffSnapshotsResponse> {
    let DiffPage { mut runs, next } = page;
    let mut messages = Vec::new();
    while runs.len() > RUNS_PER_MESSAGE {
        let rest = runs.split_off(RUNS_PER_MESSAGE);
        let said_before = rest.first().map(|run| run.offset);
        messages.push(DiffPage { runs, next: said_before }.into());
        runs = rest;
    }
    messages.push(DiffPage { runs, next }.into());
    messages
}

impl<S: MetaStore> Handlers<S> {
    async fn diff_window(&self, request: &DiffSnapshots) -> Result<DiffPage, Status> {
        let request = request.clone();
        self.call(move |service| block_on(service.diff_snapshots(&request))).await
    }

    /// Opens the stream; what refuses its first window refuses the call.
    pub(super) async fn open_diff(
        &self,
        request: DiffSnapshots,
    ) -> Result<Response<DiffStream>, Status> {
        let DiffSnapshots { from, to, start } = request;
        let by_id = move |service: &Service<S>| {
            let id = |selector| block_on(service.snapshot(&selector)).map(|snapshot| snapshot.id);
            let from = from.map(id).transpose()?.map(Selector::Id);
            Ok(DiffSnapshots { from, to: Selector::Id(id(to)?), start })
        };
        let request = self.call(by_id).await?;
        let first = self.diff_window(&request).await?;
        let (sender, waiting) = mpsc::channel(MESSAGES_WAITING);
        let handlers = self.clone();
        tokio::spawn(async move {
            if let Err(status) = handlers.send_windows(request, first, &sender).await {
                // A client that has gone does not want the error either.
                drop(sender.send(Err(status)).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(waiting)))
    }

    /// Sends window after window, until the last one, or until the client has gone.
    async fn send_windows(
        &self,
        mut request: DiffSnapshots,
        mut page: DiffPage,
        sender: &Messages,
    ) -> Result<(), Status> {
        let mut stopping = self.stopping.subscribe();
        loop {
            let next = page.next;
            for message in messages(page) {
                tokio::select! {
                    sent = sender.send(Ok(message)) => if sent.is_err() { return Ok(()) },
                    _ = stopping.wait_for(|stopping| *stopping) => {
                        return Err(Status::unavailable("the service stops: go on elsewhere"));
                    }
                }
            }
            let Some(start) = next else { return Ok(()) };
            request.start = start;
            page = self.diff_window(&request).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use lunar_proto::domain::{DiffKind, DiffRun};

    use super::*;

    #[test]
    fn a_large_window_is_sent_in_parts_that_say_how_far_they_go() {
        let run = |at: u64| DiffRun { offset: at * 8192, length: 4096, kind: DiffKind::Data };
        let runs: Vec<_> = (0..RUNS_PER_MESSAGE as u64 * 2 + 1).map(run).collect();
        let sent = messages(DiffPage { runs: runs.clone(), next: Some(1 << 40) });
        let pages: Vec<DiffPage> =
            sent.into_iter().map(|wire| wire.try_into().expect("a page")).collect();
        let next: Vec<_> = pages.iter().map(|page| page.next).collect();
        assert_eq!(next, [Some(4096 * 8192), Some(2 * 4096 * 8192), Some(1 << 40)]);
        assert_eq!(pages.into_iter().flat_map(|page| page.runs).collect::<Vec<_>>(), runs);
        assert_eq!(messages(DiffPage { runs: vec![], next: None }).len(), 1, "the last one");
    }
}
