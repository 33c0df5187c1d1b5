//! Calls that wait for a change: asked again when this process has changed something, and every
//! second for what another process has.
//!
//! Invariants:
//! - no transaction and no thread is held while a call waits: every look is a call of its own;
//! - a wait ends: with the change, with its time, or when the service stops.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tonic::Status;

use super::Handlers;
use crate::error::ServiceError;
use crate::service::Service;
use crate::store::MetaStore;

/// How long a change by another process goes unseen.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl<S: MetaStore> Handlers<S> {
    /// Asks until the answer is what is waited for or the time is over; gives the last answer.
    pub(super) async fn ask_until<R, F>(
        &self,
        wait: Duration,
        ask: F,
        is_enough: impl Fn(&R) -> bool + Send,
    ) -> Result<R, Status>
    where
        R: Send + 'static,
        F: Fn(&Service<S>) -> Result<R, ServiceError> + Clone + Send + 'static,
    {
        let mut changes = self.service.set_changes();
        let mut stopping = self.stopping.subscribe();
        let mut over = pin!(sleep(wait));
        loop {
            let answer = self.call(ask.clone()).await?;
            // The answer may have changed sets itself: what counts is a change after it was asked,
            // so its own costs one look more, and nothing is missed.
            if is_enough(&answer) || over.is_elapsed() || *stopping.borrow() {
                return Ok(answer);
            }
            tokio::select! {
                () = &mut over => return Ok(answer),
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(answer),
                _ = timeout(LOOK_AGAIN, changes.changed()) => {}
            }
        }
    }

    /// Ends every wait, now and from now on.
    pub(super) fn stop_waiting(&self) {
        self.stopping.send_replace(true);
    }
}
