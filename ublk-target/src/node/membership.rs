//! Membership of the cluster: joining, resuming an incarnation, renewing the lease.
//!
//! Invariants:
//! - an incarnation is resumed only with the state of the same boot;
//! - the incarnation is kept before anything is done under it;
//! - a daemon whose incarnation the service has ended begins no I/O any more, fails what waits,
//!   removes its devices and joins anew;
//! - a daemon whose session was given to a later process exits, and leaves its devices to it.

use std::collections::BTreeSet;
use std::time::Duration;

use lunar_proto::domain::LeaseTimers;
use lunar_proto::error::ErrorReason;
use lunar_types::{BootId, ClusterId, Epoch, NodeIncarnation, VolumeId};
use tracing::{error, info, warn};

use super::{Node, NodeError, UNPOISONED};
use crate::metadata::{Former, Grant};
use crate::state::StateError;
use crate::state::node::NodeState;

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);
/// Between renewals that are asked for at once.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// Who this node is, once it has joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// The incarnation.
    pub node: NodeIncarnation,
    /// The cluster.
    pub cluster: ClusterId,
    /// When to renew.
    pub timers: LeaseTimers,
    /// Whether the incarnation is a predecessor's.
    pub resumed: bool,
    /// Whether it has to be made ACTIVE first.
    pub is_joining: bool,
}

/// What is kept of the node, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct KeptNode {
    pub(super) node: Option<NodeState>,
}

/// How the renewing of the lease ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseLost {
    /// The incarnation is fenced, or being fenced: the node joins again as another one.
    Over(String),
    /// A later process speaks for the node, or the metadata was restored: this one ends.
    Superseded(String),
}

impl Node {
    pub(super) fn not_joined(&self) -> NodeError {
        let problem = self.link_problem().unwrap_or_else(|| "it is about to".to_owned());
        NodeError::NotJoined { problem }
    }

    /// Who this node is.
    ///
    /// # Errors
    /// Before the metadata service was reached.
    pub fn member(&self) -> Result<Membership, NodeError> {
        (*self.membership.borrow()).ok_or_else(|| self.not_joined())
    }

    /// Who this node is, once requests are let in.
    pub(super) async fn joined(&self) -> Membership {
        let mut membership = self.membership.subscribe();
        let member = membership.wait_for(Option::is_some).await.map(|member| *member);
        member.ok().flatten().expect("the node outlives who asks it, and waits for a member")
    }

    /// The cluster, as far as it is known.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        let kept = self.kept.lock().expect(UNPOISONED).node.as_ref().map(|node| node.cluster);
        self.membership.borrow().map(|member| member.cluster).or(kept)
    }

    /// Joins, trying until the service answers.
    ///
    /// # Errors
    /// When the state directory fails.
    pub async fn join(&self, boot: BootId) -> Result<Membership, StateError> {
        let kept = self.state.load_node()?.filter(|kept| kept.boot == boot);
        self.kept.lock().expect(UNPOISONED).node.clone_from(&kept);
        let resume = kept.as_ref().map(|kept| kept.node.incarnation);
        let mut former = Former { resume, is_drained: false };
        let mut pause = RETRY_MIN;
        let joined = loop {
            let name = self.config.node_name.clone();
            let renewal = self.authority.begin_renewal();
            let answer = self.metadata.join(name, boot, former).await;
            self.note_link(&answer);
            match answer {
                Ok(joined) => {
                    self.authority.renewed(renewal, joined.timers.hold);
                    break joined;
                }
                Err(problem) if problem.reason() == Some(ErrorReason::NodeUndrained) => {
                    former.is_drained = self.is_former_drained().await;
                    self.warn("join", format!("cannot join the cluster: {problem}"));
                }
                Err(problem) => {
                    warn!(node = %self.config.node_name, %problem, "cannot join the cluster yet");
                    self.warn("join", format!("cannot join the cluster: {problem}"));
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        };
        self.unwarn("join");
        let next_device = kept.as_ref().map_or(0, |kept| kept.next_device);
        let left_journals = kept.filter(|_| joined.resumed).map(|kept| kept.left_journals);
        let node = NodeState {
            boot,
            cluster: joined.cluster,
            node: joined.session.node,
            left_journals: left_journals.unwrap_or_default(),
            next_device,
        };
        self.state.save_node(&node)?;
        self.kept.lock().expect(UNPOISONED).node = Some(node);
        let member = Membership {
            node: joined.session.node,
            cluster: joined.cluster,
            timers: joined.timers,
            resumed: joined.resumed,
            is_joining: joined.state == lunar_proto::domain::NodeState::Joining,
        };
        let (session, resumed) = (joined.session, joined.resumed);
        info!(node = %session, cluster = %member.cluster, resumed, "joined");
        Ok(member)
    }

    /// Lets requests in: what has to be done first has been done.
    pub fn open_to_requests(&self, member: Membership) {
        self.membership.send_replace(Some(member));
        info!(node = %member.node, "requests are let in");
    }

    /// Remembers that a journal of this incarnation is left to be replayed.
    pub(super) fn note_journal_left(&self, grant: Grant) -> Result<(), StateError> {
        self.change_left_journals(|left| {
            if !left.contains(&(grant.volume, grant.epoch)) {
                left.push((grant.volume, grant.epoch));
            }
        })
    }

    /// Forgets the journals of a volume that is attached here anew: the attachment has replayed
    /// those of `replayed`, and any other is gone already.
    ///
    /// One that is gone was replayed elsewhere, or by an attempt that failed: what it named has
    /// been mapped, may have been freed since, and may be in use at this node again. Then nothing
    /// of the quarantine is ever released.
    pub(super) fn note_replayed(
        &self,
        volume: VolumeId,
        replayed: &BTreeSet<Epoch>,
    ) -> Result<(), StateError> {
        self.change_left_journals(|left| {
            let is_gone =
                |(of, epoch): &(VolumeId, Epoch)| *of == volume && !replayed.contains(epoch);
            if left.iter().any(is_gone) {
                // Before the journals are forgotten: nothing else keeps the quarantine.
                self.desk.forget_quarantine("a journal that was left here was replayed elsewhere");
            }
            left.retain(|(of, _)| *of != volume);
        })
    }

    fn change_left_journals(
        &self,
        change: impl FnOnce(&mut Vec<(VolumeId, Epoch)>),
    ) -> Result<(), StateError> {
        let mut kept = self.kept.lock().expect(UNPOISONED);
        let Some(node) = kept.node.as_mut() else { return Ok(()) };
        change(&mut node.left_journals);
        // Also when nothing has changed: an earlier change may not have been written.
        self.state.save_node(node)
    }

    pub(super) fn has_left_journals(&self) -> bool {
        let kept = self.kept.lock().expect(UNPOISONED);
        kept.node.as_ref().is_some_and(|node| !node.left_journals.is_empty())
    }

    /// Renews the lease until the service has ended the incarnation, or a later process has joined.
    pub async fn renew_lease(&self, member: Membership) -> LeaseLost {
        let (mut timers, mut generation) = (member.timers, 0);
        loop {
            let renewal = self.authority.begin_renewal();
            let answer = self.metadata.heartbeat(member.node).await;
            self.note_link(&answer);
            match answer {
                Ok(renewed) if may_act(renewed.state) => {
                    timers = renewed.timers;
                    self.authority.renewed(renewal, timers.hold);
                    if std::mem::replace(&mut generation, renewed.lun_generation)
                        != renewed.lun_generation
                    {
                        self.luns_joined.notify_one();
                    }
                }
                Ok(renewed) => {
                    error!(node = %member.node, state = %renewed.state, "the incarnation is over");
                    return LeaseLost::Over(format!("{} is {}", member.node, renewed.state));
                }
                Err(problem) if problem.reason() == Some(ErrorReason::NodeFenced) => {
                    error!(node = %member.node, %problem, "the incarnation is over");
                    return LeaseLost::Over(problem.to_string());
                }
                Err(problem) if problem.is_lease_lost() => {
                    error!(node = %member.node, %problem, "the lease is lost");
                    return LeaseLost::Superseded(problem.to_string());
                }
                Err(problem) => warn!(%problem, "the lease was not renewed"),
            }
            tokio::select! {
                () = tokio::time::sleep(timers.renew) => {}
                () = self.authority.ask.notified() => tokio::time::sleep(ASK_PAUSE).await,
            }
        }
    }
}

const fn may_act(state: lunar_proto::domain::NodeState) -> bool {
    use lunar_proto::domain::NodeState::{Active, Fenced, Fencing, Joining, Left, Suspect};
    match state {
        Joining | Active | Suspect => true,
        Fencing | Fenced | Left => false,
    }
}
