//! Calls of the daemon that change something, and what the network makes of them: lost, carried
//! out without an answer, carried out late, carried out twice.
//!
//! Two kinds arrive late: calls that were under way when their process was killed, and copies of
//! calls that were answered. Neither may change a single key once the call was answered or a later
//! process of the node has joined; the whole store is compared.
//!
//! Not modelled: copies of attachments, reservations and releases that arrive after the memory of
//! requests has ended and before the next process of the node has joined (`docs/metadata.md`,
//! "Sessions and commit numbers").

use std::collections::BTreeMap;

use lunar_metadata::domain::{
    Attach, Attachment, CommitMap, Detach, Join, Joined, MemberFailed, MemberPaused, MemberReady,
    PruneLayer, PrunedParts, ReleaseExtents, ReserveExtents, ResumeAttachment, RetireJournal,
    SealLayer, SealedHead, Selector, SetState, Vote,
};
use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_metadata::store::{KeyRange, MetaStore as _, RangeRead, Txn as _};
use lunar_types::{ExtentRun, Freed, NodeSession, RequestId, SessionNumber};

use crate::oracle::Moment;
use crate::recovery::is_retryable;
use crate::service::MetaLink;
use crate::world::{Flow, Stop, World, failed};

/// Keys of one read of the store.
const KEYS_AT_ONCE: usize = 10_000;
/// The table of remembered requests, in the encoding of a key: the last of all tables.
const REQUESTS: &[u8] = &[0x15, 41];

/// A call that changes something.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    /// Of the start of the daemon.
    Join(Join),
    /// Of an attachment.
    Attach(Attach),
    /// Of its end.
    Detach(Detach),
    /// Of a replayed journal.
    Retire(RetireJournal),
    /// Of a checkpoint, a confirmation or a replay.
    Commit(CommitMap),
    /// Of the reserve.
    Reserve(ReserveExtents),
    /// Of the reserve.
    Release(ReleaseExtents),
    /// Of a member of a set that is warmed up.
    Ready(MemberReady),
    /// Of one that cannot be cut.
    Failed(MemberFailed),
    /// Of one that is paused: its vote.
    Paused(MemberPaused),
    /// Of a head that was left without an answer to a vote.
    Seal(SealLayer),
    /// Of what a head hides.
    Prune(PruneLayer),
}

impl Call {
    /// What it is called.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Join(_) => "join",
            Self::Attach(_) => "attachment",
            Self::Detach(_) => "detachment",
            Self::Retire(_) => "end of a journal",
            Self::Commit(_) => "commit",
            Self::Reserve(_) => "reservation",
            Self::Release(_) => "release",
            Self::Ready(_) => "readiness",
            Self::Failed(_) => "failure",
            Self::Paused(_) => "vote",
            Self::Seal(_) => "seal",
            Self::Prune(_) => "prune",
        }
    }

    /// Who makes it; a process that joins is nobody yet.
    const fn caller(&self) -> Option<NodeSession> {
        match self {
            Self::Join(_) => None,
            Self::Attach(call) => Some(call.caller),
            Self::Detach(call) => Some(call.caller),
            Self::Retire(call) => Some(call.caller),
            Self::Commit(call) => Some(call.caller),
            Self::Reserve(call) => Some(call.caller),
            Self::Release(call) => Some(call.caller),
            Self::Ready(call) => Some(call.caller),
            Self::Failed(call) => Some(call.caller),
            Self::Paused(call) => Some(call.caller),
            Self::Seal(call) => Some(call.caller),
            Self::Prune(call) => Some(call.caller),
        }
    }

    /// Whether only the memory of requests tells a second copy from another call.
    const fn needs_memory(&self) -> bool {
        matches!(self, Self::Attach(_) | Self::Reserve(_) | Self::Release(_) | Self::Prune(_))
    }
}

/// What a call that was carried out is answered with.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Nothing more.
    Done,
    /// Of a join.
    Joined(Joined),
    /// Of an attachment.
    Attached(Box<Attachment>),
    /// Of a commit: what becomes of what it has unmapped.
    Committed(Freed),
    /// Of a reservation.
    Extents(Vec<ExtentRun>),
    /// Of a member.
    Progress(SetState),
    /// Of a vote.
    Voted(Vote),
    /// Of a seal.
    Sealed(SealedHead),
    /// Of a prune.
    Pruned(PrunedParts),
}

/// A call that the network still carries.
struct Late {
    call: Call,
    /// Whether it was answered before.
    is_copy: bool,
    /// Not delivered before this moment.
    due: Moment,
}

/// Calls that are still to arrive, and what became of those that have.
#[derive(Default)]
pub(crate) struct LateCalls {
    waiting: Vec<Late>,
    /// For the planted bug: commits as they reached the service.
    forged: BTreeMap<RequestId, CommitMap>,
    /// Whether the planted bug is there.
    pub(crate) is_order_unchecked: bool,
    /// Delivered in all.
    pub(crate) delivered: u64,
    /// Refused because a later process has joined.
    pub(crate) refused: u64,
    /// Commits refused because they are not the next.
    pub(crate) out_of_order: u64,
}

impl MetaLink {
    /// Carries out a call.
    ///
    /// # Errors
    /// As the service answers.
    pub(crate) fn carry_out(&mut self, call: &Call) -> Result<Answer, ServiceError> {
        let service = self.service();
        match call {
            Call::Join(join) => block_on(service.join(join)).map(Answer::Joined),
            Call::Attach(attach) => {
                block_on(service.attach(attach)).map(|held| Answer::Attached(Box::new(held)))
            }
            Call::Detach(detach) => block_on(service.detach(detach)).map(|()| Answer::Done),
            Call::Retire(retire) => block_on(service.retire_journal(retire)).map(|()| Answer::Done),
            Call::Commit(commit) if self.late.is_order_unchecked => self.commit_unchecked(commit),
            Call::Commit(commit) => block_on(service.commit_map(commit)).map(Answer::Committed),
            Call::Reserve(reserve) => {
                block_on(service.reserve_extents(reserve)).map(Answer::Extents)
            }
            Call::Release(release) => {
                block_on(service.release_extents(release)).map(|()| Answer::Done)
            }
            Call::Ready(ready) => {
                block_on(service.member_ready(*ready)).map(|it| Answer::Progress(it.state))
            }
            Call::Failed(fails) => {
                block_on(service.member_failed(fails)).map(|it| Answer::Progress(it.state))
            }
            Call::Paused(vote) => block_on(service.member_paused(vote)).map(Answer::Voted),
            Call::Seal(seal) => {
                block_on(service.seal_layer(seal)).map(|sealed| Answer::Sealed(sealed.now))
            }
            Call::Prune(prune) => block_on(service.prune_layer(prune)).map(Answer::Pruned),
        }
    }

    /// The planted bug: whoever sends a commit and whenever it comes, it has the session and the
    /// number that the service expects.
    fn commit_unchecked(&mut self, commit: &CommitMap) -> Result<Answer, ServiceError> {
        if let Some(before) = self.late.forged.get(&commit.request) {
            match block_on(self.service().commit_map(before)) {
                // It was not carried out then, and others were since.
                Err(ServiceError::CommitOutOfOrder { .. } | ServiceError::StaleSession { .. }) => {}
                answer => return answer.map(Answer::Committed),
            }
        }
        let forged = self.forge(commit).unwrap_or_else(|| commit.clone());
        self.late.forged.insert(commit.request, forged.clone());
        block_on(self.service().commit_map(&forged)).map(Answer::Committed)
    }

    fn forge(&self, commit: &CommitMap) -> Option<CommitMap> {
        let number = self.session_of(commit.caller)?;
        let caller = NodeSession { number, ..commit.caller };
        let CommitMap { volume, epoch, .. } = *commit;
        let held = ResumeAttachment { volume, epoch, caller };
        let held = block_on(self.service().resume_attachment(held)).ok()?;
        Some(CommitMap { caller, number: held.last_commit.next(), ..commit.clone() })
    }

    /// The session of the process that has joined last for the node of a caller.
    fn session_of(&self, caller: NodeSession) -> Option<SessionNumber> {
        let node = Selector::Id(caller.node.node);
        block_on(self.service().node(&node)).ok().map(|node| node.session)
    }

    /// Whether the process that made a call is no longer the last of its node.
    fn is_stale(&self, call: &Call) -> bool {
        match call {
            Call::Join(join) => {
                let node = Selector::Name(join.name.clone());
                let node = block_on(self.service().node(&node)).ok();
                node.is_some_and(|node| node.session != join.last_session)
            }
            call => {
                let caller = call.caller().expect("only who joins is nobody");
                self.session_of(caller) != Some(caller.number)
            }
        }
    }

    /// Has the network hold a call until later.
    pub(crate) fn hold(&mut self, call: Call, is_copy: bool, due: Moment) {
        self.late.waiting.push(Late { call, is_copy, due });
    }

    /// Whether the network holds calls.
    pub(crate) fn holds_calls(&self) -> bool {
        !self.late.waiting.is_empty()
    }

    /// Drops what the network does not hold for as long as the memory of requests lasts.
    pub(crate) fn forget_short_lived(&mut self) {
        let mut waiting = std::mem::take(&mut self.late.waiting);
        waiting.retain(|late| !late.call.needs_memory() || self.is_stale(&late.call));
        self.late.waiting = waiting;
    }

    /// Has the network deliver one of the calls that are due; nobody hears the answer.
    ///
    /// # Errors
    /// When the call changed what it must not change any more.
    pub(crate) fn deliver_late(&mut self, now: Moment) -> Result<(), String> {
        let due = self.late.waiting.iter().position(|late| late.due <= now);
        let Some(index) = due else { return Ok(()) };
        let Late { call, is_copy, .. } = self.late.waiting.remove(index);
        let must_do_nothing = (is_copy || self.is_stale(&call)) && !self.late.is_order_unchecked;
        let before = must_do_nothing.then(|| self.content());
        self.late.delivered += 1;
        let answer = self.carry_out(&call);
        match &answer {
            Err(ServiceError::StaleSession { .. }) => self.late.refused += 1,
            Err(ServiceError::CommitOutOfOrder { .. }) => self.late.out_of_order += 1,
            _ => {}
        }
        match before {
            Some(before) if before != self.content() => Err(format!(
                "a late {} changed the store, answered {answer:?}: {call:?}",
                call.name()
            )),
            _ => Ok(()),
        }
    }

    /// Every key and value but remembered requests.
    fn content(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        const READ: &str = "a store in memory can be read";
        block_on(async {
            let txn = self.service().store().begin().await.expect(READ);
            let mut range = KeyRange::new(Vec::new(), REQUESTS.to_vec());
            let mut content = Vec::new();
            loop {
                let part = RangeRead::first(range.clone(), KEYS_AT_ONCE);
                let part = txn.get_range(&part).await.expect(READ);
                let is_last = part.len() < KEYS_AT_ONCE;
                content.extend(part);
                match content.last() {
                    Some((last, _)) if !is_last => range.begin = KeyRange::point(last).end,
                    _ => return content,
                }
            }
        })
    }
}

impl World {
    /// Sends a call until it is answered; the answer may be lost a few times first, and a crash
    /// may fall while it is under way.
    pub(crate) fn make_call(&mut self, call: Call) -> Flow<Result<Answer, ServiceError>> {
        let outer = self.sending.replace(call.clone());
        assert!(outer.is_none(), "{outer:?} is being sent, and so is {call:?}");
        let answer = loop {
            self.tick()?;
            if !self.meta.is_up {
                self.network_step()?;
                self.meanwhile()?;
                continue;
            }
            let answer = self.meta.carry_out(&call);
            match answer {
                Err(ServiceError::Store(error)) if !is_retryable(&error) => {
                    return failed(format!("the store failed: {error}"));
                }
                Err(ServiceError::Store(_)) => {}
                _ if self.is_answer_lost() => {}
                answer => break answer,
            }
            self.meanwhile()?;
        };
        self.sending = None;
        if answer.is_ok() {
            self.copy_now_and_then(&call);
        }
        Ok(answer)
    }

    /// Sends a call that the service must not refuse.
    pub(crate) fn must_call(&mut self, call: Call) -> Flow<Answer> {
        let name = call.name();
        match self.make_call(call)? {
            Ok(answer) => Ok(answer),
            Err(error) => failed(format!("a {name} was refused: {error}")),
        }
    }

    pub(crate) fn is_answer_lost(&mut self) -> bool {
        !self.is_quiet && self.dice.chance(self.scenario.answer_lost)
    }

    /// The network may hold a second copy of a call that was answered.
    pub(crate) fn copy_now_and_then(&mut self, call: &Call) {
        if !self.is_quiet && self.dice.chance(self.scenario.copied) {
            let due = self.moment + self.dice.below(4000);
            self.meta.hold(call.clone(), true, due);
        }
    }

    /// What becomes of calls that were under way when their process died.
    pub(crate) fn abandon(&mut self, calls: Vec<Call>) {
        for call in calls {
            match self.dice.below(4) {
                0 => {}
                1 => drop(self.meta.carry_out(&call)),
                _ => {
                    let due = self.moment + self.dice.below(3000);
                    self.meta.hold(call, false, due);
                }
            }
        }
    }

    /// So long a time without anything that the service forgets the requests that it remembers.
    pub(crate) fn quiet_hour(&mut self) -> Result<(), String> {
        for _ in 0..2 {
            self.step_until_idle()?;
            self.clock.advance(self.meta.retention());
            self.step_until_idle()?;
        }
        self.meta.forget_short_lived();
        Ok(())
    }

    /// The service does all that it can do by itself.
    pub(crate) fn step_until_idle(&self) -> Result<(), String> {
        use lunar_metadata::service::Step;
        for _ in 0..10_000 {
            match block_on(self.meta.service().step_operations()) {
                Ok(Step::Idle) => return Ok(()),
                Ok(Step::Worked) => {}
                Err(error) => return Err(format!("an operation of the service: {error}")),
            }
        }
        Err("the operations of the metadata service do not end".to_owned())
    }

    /// The network delivers a call that is late.
    pub(crate) fn deliver_late(&mut self) -> Flow {
        self.meta.deliver_late(self.moment).map_err(Stop::Failed)
    }
}
