//! A snapshot of a volume that is served: its holder's side. Design: `docs/layers.md`, "The cut".
//!
//! Order: warmed up → ready → all are ready → file systems frozen → writes wait → drained, flushed,
//! committed → vote → the set is sealed: on in the next head; or aborted: on as before.
//!
//! Invariants:
//! - between the vote and the answer nothing is written to the head: a vote that was sent may be
//!   carried out at any later time;
//! - writes wait [`CutLimits::pause`] at the most. Without an answer by then the volume goes on in
//!   its next head, and nothing is committed before `seal_pending` knows that this is the head.

use std::sync::Arc;
use std::time::Duration;

use lunar_metadata_client::fresh_request_id;
use lunar_proto::domain::{Attachment, OpenMember, SealedHead, SetState, Vote};
use lunar_types::{CommitNumber, JournalSeq, LayerId, RequestId};
use tokio::time::Instant;
use tracing::{info, warn};

use super::control::{Control, Progress};
use super::fsfreeze::{Freezer, FrozenMounts, FsfreezeError};
use crate::metadata::{Ballot, MetadataError, Seal};

/// How long a cut may keep others waiting.
#[derive(Debug, Clone, Copy)]
pub struct CutLimits {
    /// How long writes wait, and file systems are frozen, at the most.
    pub pause: Duration,
    /// How long of that is left for the vote to be answered.
    pub vote_room: Duration,
}

impl Default for CutLimits {
    fn default() -> Self {
        Self { pause: Duration::from_secs(5), vote_room: Duration::from_secs(1) }
    }
}

/// How long the other members of a set may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(40);
/// How long file systems may write what is dirty, before anything is frozen.
const SYNC_LIMIT: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(200);
/// Between two looks whether the volume has settled.
const SETTLE_STEP: Duration = Duration::from_micros(500);
/// With so few dirty slots the pause is short.
const WARM_SLOTS: u64 = 1000;
const WARM_UPS_MAX: usize = 3;

/// The layer that is written, and what comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// The layer that the engine writes.
    pub layer: LayerId,
    /// The one that the next seal makes the head.
    pub next: LayerId,
    /// The number of the last commit or seal under the grant that was answered.
    pub last_commit: CommitNumber,
    /// The engine is in a next head of which the metadata service has not told yet.
    pub pending: Option<PendingSeal>,
}

impl Heads {
    /// Those of an attachment.
    #[must_use]
    pub const fn of(attachment: &Attachment) -> Self {
        let (layer, next) = (attachment.volume.head, attachment.next_head);
        Self { layer, next, last_commit: attachment.last_commit, pending: None }
    }
}

/// A seal that is to be carried out, or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingSeal {
    request: RequestId,
    checkpoint: JournalSeq,
}

/// How a cut ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutEnd {
    /// The volume is in its next head.
    Sealed,
    /// It goes on as before.
    Aborted,
    /// It is in its next head, and the service is asked what became of the set.
    Undecided,
}

/// Why a member is not cut; a name, which becomes the reason of its set.
#[derive(Debug, thiserror::Error)]
enum CutError {
    #[error("the set was aborted")]
    Aborted,
    #[error("it has too much that is not committed, and could not commit it: {0}")]
    WarmUp(String),
    #[error("the metadata service did not answer: {0}")]
    Silent(MetadataError),
    #[error("the metadata service refused: {0}")]
    Refused(MetadataError),
    #[error("its file system cannot be frozen: {0}")]
    Fsfreeze(#[from] FsfreezeError),
    #[error("what was written could not be flushed and committed in time")]
    NotSettled,
    #[error("it takes no more writes")]
    Poisoned,
    #[error("it was sealed too often since it was attached: attach it anew")]
    UsedUp,
}

impl CutError {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::WarmUp(_) => "warm-up-failed",
            Self::Silent(_) | Self::Refused(_) => "no-answer",
            Self::Fsfreeze(_) => "fsfreeze-failed",
            Self::NotSettled => "not-settled-in-time",
            Self::Poisoned => "volume-poisoned",
            Self::UsedUp => "generations-used-up",
        }
    }
}

impl Control {
    /// Cuts the volume as a member of a set.
    pub async fn cut(&self, order: &OpenMember, freezer: &Freezer) -> CutEnd {
        match self.cut_steps(order, freezer).await {
            Ok(end) => {
                info!(volume = self.name(), set = %order.member.set, ?end, "cut");
                end
            }
            Err(problem) => {
                if !matches!(problem, CutError::Aborted) {
                    let (set, why) = (order.member.set, problem.reason());
                    warn!(volume = self.name(), %set, %problem, "not cut: the set is aborted");
                    let told = self.metadata.member_failed(self.served.facts.grant, set, why).await;
                    if let Err(error) = told {
                        warn!(volume = self.name(), %set, %error, "the set ends by itself");
                    }
                }
                CutEnd::Aborted
            }
        }
    }

    async fn cut_steps(&self, order: &OpenMember, freezer: &Freezer) -> Result<CutEnd, CutError> {
        self.warm_up().await?;
        freezer.sync(order.fsfreeze, SYNC_LIMIT).await?;
        self.wait_for_others(order).await?;
        let CutLimits { pause, vote_room } = self.limits;
        let limit = Instant::now() + pause;
        let frozen = freezer.freeze(order.fsfreeze, pause - vote_room).await?;
        let end = self.cut_frozen(order, limit, &frozen).await;
        frozen.thaw().await;
        end
    }

    /// Commits while I/O goes on, so that little is left for the pause, and has extents ready: what
    /// was written in place takes one at its first write after the seal.
    async fn warm_up(&self) -> Result<(), CutError> {
        let mut out = Vec::new();
        self.served.shared.volume.prepare_reserve(self.pace.recent(), &mut out);
        self.wake(&mut out);
        // A service that is away, or a full pool, is met again below, or by the vote.
        let _ = self.drive().await;
        for _ in 0..WARM_UPS_MAX {
            if self.served.stats().dirty_extents <= WARM_SLOTS {
                return Ok(());
            }
            let committed = self.checkpoint().await;
            committed.map_err(|error| CutError::WarmUp(error.to_string()))?;
        }
        Ok(())
    }

    async fn wait_for_others(&self, order: &OpenMember) -> Result<(), CutError> {
        let limit = Instant::now() + READY_LIMIT;
        loop {
            match self.metadata.member_ready(self.served.facts.grant, order.member.set).await {
                Ok(progress) => match progress.state {
                    SetState::Gathering => {}
                    SetState::Pausing => return Ok(()),
                    SetState::Sealed | SetState::Aborted => return Err(CutError::Aborted),
                },
                Err(error) if error.is_unavailable() && Instant::now() < limit => {
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(unanswered(error)),
            }
        }
    }

    /// Nobody else drives the engine from the freeze to its end.
    async fn cut_frozen(
        &self,
        order: &OpenMember,
        limit: Instant,
        mounts: &Arc<FrozenMounts>,
    ) -> Result<CutEnd, CutError> {
        let settle_limit = limit - self.limits.vote_room;
        let driver = tokio::time::timeout_at(settle_limit, self.driver.lock()).await;
        let _driver = driver.map_err(|_| CutError::NotSettled)?;
        let volume = &self.served.shared.volume;
        let begun = Instant::now();
        volume.freeze().map_err(|_| CutError::UsedUp)?;
        self.settle_frozen(settle_limit, mounts).await?;
        let settled_us = begun.elapsed().as_micros();
        let mut out = Vec::new();
        let end = match self.vote(order, limit - RETRY).await {
            Ok(Some(now)) => {
                volume.switch(now.head, &mut out);
                self.note_heads(now);
                Ok(CutEnd::Sealed)
            }
            Ok(None) => {
                let next = self.heads().next;
                self.note_pending(next, JournalSeq::new(volume.last_seq()));
                volume.switch(next, &mut out);
                warn!(volume = self.name(), "no answer to a vote: on in the next layer");
                Ok(CutEnd::Undecided)
            }
            Err(error) => {
                volume.thaw(&mut out);
                Err(error)
            }
        };
        self.wake(&mut out);
        let paused_us = begun.elapsed().as_micros();
        info!(volume = self.name(), set = %order.member.set, settled_us, paused_us, "writes go on");
        end
    }

    /// Works until everything that was written is flushed and committed; thaws if it cannot be.
    async fn settle_frozen(
        &self,
        limit: Instant,
        mounts: &Arc<FrozenMounts>,
    ) -> Result<(), CutError> {
        let volume = &self.served.shared.volume;
        loop {
            let progress = {
                // Work that was begun is never cut off: the engine waits for its end.
                let mut work = std::pin::pin!(self.drive_locked());
                match tokio::time::timeout_at(limit, &mut work).await {
                    Ok(progress) => progress,
                    Err(_) => {
                        self.thaw();
                        mounts.thaw().await;
                        work.await;
                        return Err(CutError::NotSettled);
                    }
                }
            };
            if self.heads().pending.is_none() && volume.is_settled() {
                return Ok(());
            }
            let is_poisoned = volume.poison().is_some();
            if is_poisoned || Instant::now() >= limit {
                self.thaw();
                return Err(if is_poisoned { CutError::Poisoned } else { CutError::NotSettled });
            }
            let is_away = matches!(progress, Progress::Unavailable(_));
            tokio::time::sleep(if is_away { RETRY } else { SETTLE_STEP }).await;
        }
    }

    fn thaw(&self) {
        let mut out = Vec::new();
        self.served.shared.volume.thaw(&mut out);
        self.wake(&mut out);
    }

    /// The head after the seal; nothing if it is not known whether there was one.
    async fn vote(
        &self,
        order: &OpenMember,
        limit: Instant,
    ) -> Result<Option<SealedHead>, CutError> {
        let Heads { last_commit, next, .. } = self.heads();
        let checkpoint = JournalSeq::new(self.served.shared.volume.last_seq());
        let ballot = Ballot { set: order.member.set, last_commit, checkpoint, next_head: next };
        let mut is_sent = false;
        while Instant::now() < limit {
            let room = limit - Instant::now();
            let asked = self.metadata.vote(self.served.facts.grant, ballot, room);
            match tokio::time::timeout_at(limit, asked).await {
                Ok(Ok(Vote::Sealed(now))) => return Ok(Some(now)),
                Ok(Ok(Vote::Aborted(_))) => return Err(CutError::Aborted),
                Ok(Ok(Vote::Waiting)) => is_sent = true,
                // A refusal after a vote whose answer was lost does not say that the first one
                // came to nothing.
                Ok(Err(error)) if !error.is_unavailable() && !is_sent => {
                    return Err(CutError::Refused(error));
                }
                Ok(Err(_)) => {
                    is_sent = true;
                    tokio::time::sleep(RETRY.min(limit - Instant::now())).await;
                }
                Err(_) => is_sent = true,
            }
        }
        self.last_word(order).await
    }

    /// The time is over: the set is aborted, unless it was sealed already.
    async fn last_word(&self, order: &OpenMember) -> Result<Option<SealedHead>, CutError> {
        let told =
            self.metadata.member_failed(self.served.facts.grant, order.member.set, "pause-timeout");
        match tokio::time::timeout(RETRY, told).await {
            Ok(Ok(progress)) if progress.state == SetState::Aborted => Err(CutError::Aborted),
            _ => Ok(None),
        }
    }

    /// Asks for the seal of a head that the engine has left already; nothing else is done before.
    ///
    /// # Errors
    /// When the service does not answer, or refuses.
    pub(super) async fn seal_pending(&self) -> Result<(), MetadataError> {
        let heads = self.heads();
        let Some(PendingSeal { request, checkpoint }) = heads.pending else { return Ok(()) };
        let number = heads.last_commit.next();
        let next_head = heads.layer;
        let seal = Seal {
            request,
            grant: self.served.facts.grant,
            number,
            checkpoint,
            next_head,
            replay_of: None,
        };
        let sealed = self.metadata.seal_layer(seal).await?;
        if sealed.now.head != heads.layer {
            let (head, layer) = (sealed.now.head, heads.layer);
            let problem = format!("the head is layer {head}, and layer {layer} was asked for");
            return Err(MetadataError::Malformed(problem));
        }
        let (head, before) = (sealed.now.head, sealed.before);
        info!(volume = self.name(), %head, before, "the former head is sealed");
        self.note_heads(sealed.now);
        Ok(())
    }

    pub(super) fn heads(&self) -> Heads {
        *self.served.heads.lock().expect("a panic ends the process")
    }

    fn note_heads(&self, now: SealedHead) {
        let SealedHead { head, next_head, last_commit } = now;
        let heads = Heads { layer: head, next: next_head, last_commit, pending: None };
        *self.served.heads.lock().expect("a panic ends the process") = heads;
    }

    fn note_pending(&self, layer: LayerId, checkpoint: JournalSeq) {
        let mut heads = self.served.heads.lock().expect("a panic ends the process");
        heads.layer = layer;
        heads.pending = Some(PendingSeal { request: fresh_request_id(), checkpoint });
    }
}

fn unanswered(error: MetadataError) -> CutError {
    if error.is_unavailable() { CutError::Silent(error) } else { CutError::Refused(error) }
}

#[cfg(test)]
mod tests;
