//! Grants that this incarnation holds and no slot knows of: nobody heard the answer to an
//! attachment, or a kill came before its record.
//!
//! Invariants:
//! - where such a grant may be, it is looked for until it has been given back, however long the
//!   service is away: it keeps the volume from every other node;
//! - a grant is given back only under [`Node::granting`], so that it is none whose slot is still to
//!   come.

use std::sync::Mutex;
use std::time::Duration;

use lunar_proto::domain::Selector;
use tokio::time::Instant;
use tracing::warn;

use super::attach::GivenBack;
use super::{Membership, Node, UNPOISONED};
use crate::metadata::Grant;

/// How long after it was sent the service may carry out an attachment that nobody waits for.
const LATE: Duration = Duration::from_secs(60);

/// Whether grants may turn up that no slot knows of, and until when.
#[derive(Debug, Default)]
pub(super) struct Strays(Mutex<Option<Instant>>);

impl Strays {
    /// One may turn up from now on.
    pub(super) fn expect(&self, now: Instant) {
        *self.0.lock().expect(UNPOISONED) = Some(now + LATE);
    }

    pub(super) fn are_expected(&self) -> bool {
        self.0.lock().expect(UNPOISONED).is_some()
    }

    /// A look that began then has left none.
    pub(super) fn none_since(&self, began: Instant) {
        self.0.lock().expect(UNPOISONED).take_if(|until| *until <= began);
    }
}

impl Node {
    /// Gives back what an attachment or a predecessor may have left, unless there is nothing to
    /// expect.
    pub(super) async fn look_for_strays(&self) {
        let Ok(member) = self.member() else { return };
        if self.strays.are_expected() {
            // An attachment that has its grant and no slot yet is no stray.
            let _granting = self.granting.lock().await;
            self.give_back_strays(&member).await;
        }
    }

    /// Gives grants back that this incarnation holds and no slot knows of. What their journals
    /// hold, if anything, is for the next attachment to replay. The caller holds the right to get
    /// grants.
    pub(super) async fn give_back_strays(&self, member: &Membership) -> usize {
        let began = Instant::now();
        let Ok(held) = self.metadata.list_attachments(member.node).await else {
            self.strays.expect(began);
            return 0;
        };
        let (mut count, mut is_any_left) = (0, false);
        for held in held {
            if self.slot(&Selector::Id(held.volume)).is_some() {
                continue;
            }
            warn!(volume = %held.volume, epoch = %held.epoch, "giving back an unknown grant");
            let grant = Grant { volume: held.volume, epoch: held.epoch, node: member.node };
            match self.leave_journal(grant).await {
                GivenBack::Done => count += 1,
                GivenBack::Pending => is_any_left = true,
            }
        }
        if is_any_left {
            self.strays.expect(began);
        } else {
            self.strays.none_since(began);
        }
        count
    }
}

#[cfg(test)]
mod tests;
