//! Snapshots of volumes that are served: the holder's side, and the operator who asks for them.
//!
//! What a member shows is settled at its freeze: later writes wait until it is over. Whether the
//! set came about is asked of the service, after a crash too: it is sealed or aborted, never both.

use lunar_metadata::domain::{
    CreateSnapshots, Fsfreeze, MemberFailed, MemberPaused, MemberReady, NewCut, NewMember,
    SealLayer, SealedHead, Selector, SetState, Vote,
};
use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_types::{JournalSeq, Name, RequestId, SnapshotSetId};

use crate::calls::{Answer, Call};
use crate::oracle::Moment;
use crate::planted::Planted;
use crate::snapshots::{OpenMember, OpenSet};
use crate::world::{Flow, Stop, World, failed};

fn group_name(request: RequestId) -> Name {
    format!("group-{request}").parse().expect("letters, digits and dashes")
}

/// Steps that a settle may take before the holder gives up.
const PATIENCE: u64 = 3000;

impl World {
    /// Asks for a snapshot of volumes that are served, and of others now and then, at one moment.
    pub(crate) fn cut_set(&mut self, guests: &[usize]) -> Flow {
        let group = self.moment;
        if self.planted == Some(Planted::MembersCutOneByOne) {
            for guest in guests {
                self.cut_members(&[*guest], group)?;
                self.meanwhile()?;
            }
        } else {
            self.cut_members(guests, group)?;
        }
        self.learn_sets()?;
        self.audit("a set")
    }

    fn cut_members(&mut self, guests: &[usize], group: u64) -> Flow {
        let members: Vec<OpenMember> = guests.iter().map(|guest| self.new_member(*guest)).collect();
        let request = self.meta.fresh_request();
        let create = CreateSnapshots {
            request,
            members: members.iter().map(|member| self.asked_for(member)).collect(),
            created_unix_seconds: self.moment,
            fsfreeze: Fsfreeze::Never,
            over_watermark: true,
            group: self.moment.is_multiple_of(2).then(|| group_name(request)),
        };
        let set = match self.until_answered(|s| block_on(s.create_snapshots(&create))) {
            Ok(set) => set,
            Err(ServiceError::VolumeNotAtRest { .. } | ServiceError::ChainTooDeep { .. }) => {
                return Ok(());
            }
            Err(error) => return failed(format!("a set of {guests:?} was refused: {error}")),
        };
        self.note_line(&format!("{guests:?} are to be cut: {:?}", set.state));
        self.open_sets.push(OpenSet { id: set.id, group, members });
        if set.state.is_open() {
            let held: Vec<usize> =
                guests.iter().copied().filter(|guest| self.served[*guest].is_some()).collect();
            self.hold_set(set.id, &held)?;
        }
        Ok(())
    }

    fn new_member(&mut self, guest: usize) -> OpenMember {
        self.end_dead_device(guest);
        let number = self.next_number;
        self.next_number += 1;
        let name: Name = format!("snap-{number}").parse().expect("a valid name");
        let cut_at = self.moment;
        let cut = self.guests[guest].cut(cut_at);
        OpenMember { guest, name, cut, cut_at, is_live: self.served[guest].is_some() }
    }

    fn asked_for(&self, member: &OpenMember) -> NewMember {
        let volume = Selector::Id(self.guests[member.guest].id);
        NewMember { volume, cut: NewCut::Snapshot(member.name.clone()) }
    }

    /// The daemon's part: all members that it holds are ready, then paused, then voted for.
    fn hold_set(&mut self, set: SnapshotSetId, held: &[usize]) -> Flow {
        for guest in held {
            let ready = MemberReady {
                caller: self.holder(*guest),
                set,
                volume: self.guests[*guest].id,
                epoch: self.serving(*guest).epoch,
            };
            match self.make_call(Call::Ready(ready))? {
                Ok(Answer::Progress(state)) if state.is_open() => {}
                Ok(_) | Err(ServiceError::SetNotFound { .. }) => return Ok(()),
                Err(error) => return failed(format!("a member of {set}: {error}")),
            }
            self.meanwhile()?;
        }
        let mut paused = Vec::new();
        for guest in held {
            if self.pause_member(set, *guest)? {
                paused.push(*guest);
            }
        }
        if paused.len() < held.len() {
            // One that cannot be cut has ended the set for all.
            for guest in paused {
                self.thaw(guest)?;
            }
            return Ok(());
        }
        // Whoever has voted waits, while the others vote.
        for _ in 0..self.dice.between(1, 2) {
            for guest in held {
                if self.serving(*guest).voting {
                    self.vote(set, *guest)?;
                }
            }
        }
        for guest in held {
            if self.serving(*guest).voting {
                self.go_on_undecided(*guest)?;
            }
        }
        Ok(())
    }

    /// Freezes a member and waits until it has settled; says whether it has.
    fn pause_member(&mut self, set: SnapshotSetId, guest: usize) -> Flow<bool> {
        self.tick()?;
        let moment = self.moment;
        let cut = self.guests[guest].cut(moment);
        let open = self.open_sets.iter_mut().find(|open| open.id == set);
        let members = &mut open.expect("it was stored").members;
        let member = members.iter_mut().find(|member| member.guest == guest);
        let member = member.expect("it is a member");
        (member.cut, member.cut_at) = (cut, moment);
        let served = self.serving(guest);
        if served.volume.poison().is_some() || served.volume.freeze().is_err() {
            self.fail_member(set, guest)?;
            return Ok(false);
        }
        served.is_paused = true;
        let early = self.vote_early(set, guest);
        let patience = if self.dice.chance(100) { self.dice.below(60) } else { PATIENCE };
        for _ in 0..patience {
            let served = self.serving(guest);
            if served.pending_seal.is_none() && served.call.is_none() && served.volume.is_settled()
            {
                served.voting = early.is_none();
                if early.is_some() {
                    self.switch(guest, early)?;
                }
                return Ok(true);
            }
            if served.volume.poison().is_some() {
                break;
            }
            self.step()?;
        }
        self.thaw(guest)?;
        self.fail_member(set, guest)?;
        Ok(false)
    }

    /// The planted bug: the vote of a member that has not settled.
    fn vote_early(&mut self, set: SnapshotSetId, guest: usize) -> Option<SealedHead> {
        if self.planted != Some(Planted::SealBeforeDrain) {
            return None;
        }
        let ballot = self.ballot(set, guest);
        match self.meta.carry_out(&Call::Paused(ballot)) {
            Ok(Answer::Voted(Vote::Sealed(now))) => Some(now),
            _ => None,
        }
    }

    fn fail_member(&mut self, set: SnapshotSetId, guest: usize) -> Flow {
        let fails = MemberFailed {
            caller: self.holder(guest),
            set,
            volume: self.guests[guest].id,
            epoch: self.serving(guest).epoch,
            why: "no-patience".parse().expect("a name"),
        };
        match self.make_call(Call::Failed(fails))? {
            Ok(Answer::Progress(SetState::Aborted)) | Err(ServiceError::SetNotFound { .. }) => {
                Ok(())
            }
            other => failed(format!("a member of {set} cannot be cut, answered {other:?}")),
        }
    }

    fn ballot(&mut self, set: SnapshotSetId, guest: usize) -> MemberPaused {
        let (caller, volume) = (self.holder(guest), self.guests[guest].id);
        let served = self.serving(guest);
        MemberPaused {
            caller,
            set,
            volume,
            epoch: served.epoch,
            last_commit: served.commits,
            checkpoint: JournalSeq::new(served.volume.last_seq()),
            next_head: served.next_layer,
        }
    }

    /// Sends a vote once: it may be lost, be late, be carried out without an answer.
    fn vote(&mut self, set: SnapshotSetId, guest: usize) -> Flow {
        self.tick()?;
        let ballot = self.ballot(set, guest);
        let is_held_up = !self.is_quiet && self.dice.chance(120);
        if is_held_up || !self.meta.is_up {
            if self.dice.chance(700) {
                let due = self.moment + self.dice.below(400);
                self.meta.hold(Call::Paused(ballot), false, due);
            }
            return self.network_step();
        }
        let answer = self.meta.carry_out(&Call::Paused(ballot));
        if self.is_answer_lost() {
            return Ok(());
        }
        match answer {
            Ok(Answer::Voted(Vote::Waiting)) | Err(ServiceError::Store(_)) => Ok(()),
            Ok(Answer::Voted(Vote::Sealed(now))) => self.switch(guest, Some(now)),
            Ok(Answer::Voted(Vote::Aborted(_))) => self.thaw(guest),
            other => failed(format!("a vote of v{guest} was answered {other:?}")),
        }
    }

    /// Nobody has answered in time: on in the next head.
    fn go_on_undecided(&mut self, guest: usize) -> Flow {
        self.note_line(&format!("v{guest} goes on without an answer"));
        self.counters.undecided += 1;
        self.outage_now_and_then();
        if self.planted == Some(Planted::WritesInOldHead) {
            return self.thaw(guest);
        }
        let request = self.meta.fresh_request();
        let (caller, volume) = (self.holder(guest), self.guests[guest].id);
        let served = self.serving(guest);
        served.pending_seal = Some(SealLayer {
            request,
            volume,
            epoch: served.epoch,
            caller,
            number: served.commits.next(),
            checkpoint: JournalSeq::new(served.volume.last_seq()),
            next_head: served.next_layer,
            replay_of: None,
        });
        self.switch(guest, None)
    }

    /// Why no answer came: the service has gone away, and the power goes soon after.
    fn outage_now_and_then(&mut self) {
        if self.is_quiet || !self.dice.chance(500) {
            return;
        }
        self.meta.is_up = false;
        if self.luns.fuse.is_lit() && !self.is_crash_fixed && self.dice.chance(500) {
            self.luns.fuse.light(self.dice.below(400));
        }
    }

    /// A crash elsewhere ended the cut that these were in: who has settled may have voted.
    pub(crate) fn survivors_go_on(&mut self) -> Flow {
        for guest in 0..self.served.len() {
            let Some(served) = &self.served[guest] else { continue };
            if served.voting {
                self.go_on_undecided(guest)?;
            } else if served.is_paused {
                self.thaw(guest)?;
            }
        }
        Ok(())
    }

    /// The engine goes on in its next head; `now` is what the service has said.
    fn switch(&mut self, guest: usize, now: Option<SealedHead>) -> Flow {
        let (mut out, planted) = (Vec::new(), self.planted);
        let served = self.serving(guest);
        (served.voting, served.is_paused) = (false, false);
        served.layer = served.next_layer;
        served.volume.switch(served.layer, &mut out);
        if planted == Some(Planted::ThresholdNotRaised) {
            served.volume.merged_down_to(served.layer, served.below, &mut out);
        }
        if let Some(now) = now {
            self.seal_is_known(guest, now)?;
        }
        let control = self.serving(guest).queues.len() - 1;
        self.run_actions(guest, control, out)
    }

    fn thaw(&mut self, guest: usize) -> Flow {
        let mut out = Vec::new();
        let served = self.serving(guest);
        (served.voting, served.is_paused) = (false, false);
        served.volume.thaw(&mut out);
        let control = served.queues.len() - 1;
        self.run_actions(guest, control, out)
    }

    /// The service has said which layer is the head.
    pub(crate) fn seal_is_known(&mut self, guest: usize, now: SealedHead) -> Flow {
        let served = self.serving(guest);
        if now.head != served.layer {
            let (head, layer) = (now.head, served.layer);
            return failed(format!("the head of v{guest} is {head}, and its engine is in {layer}"));
        }
        served.next_layer = now.next_head;
        served.commits = now.last_commit;
        served.pending_seal = None;
        Ok(())
    }

    /// Learns what became of open sets. One that nobody goes on with is aborted in the end.
    pub(crate) fn learn_sets(&mut self) -> Flow {
        let mut left = Vec::new();
        for open in std::mem::take(&mut self.open_sets) {
            let id = open.id;
            let set = self.until_answered(|s| block_on(s.snapshot_set(id)));
            let set = set.map_err(|error| Stop::Failed(format!("set {id}: {error}")))?;
            match set.state {
                SetState::Gathering | SetState::Pausing => left.push(open),
                SetState::Aborted => self.counters.aborted_sets += 1,
                SetState::Sealed => {
                    self.counters.groups += u64::from(open.members.len() > 1);
                    for (member, snapshot) in open.members.into_iter().zip(&set.snapshots) {
                        if snapshot.name != member.name {
                            return failed(format!(
                                "set {id} has {} in a wrong place",
                                member.name
                            ));
                        }
                        self.joins(open.group, member.guest, member.cut_at)?;
                        self.snapshot_was_cut(member, snapshot);
                    }
                }
            }
        }
        self.open_sets = left;
        Ok(())
    }

    /// A member was cut: with the others of its group it shows what one moment could show.
    fn joins(&mut self, group: u64, guest: usize, cut_at: Moment) -> Flow {
        let others = self.groups.entry(group).or_default();
        others.push((guest, cut_at));
        let others = others.clone();
        for other in others {
            self.shows_one_moment((guest, cut_at), other)?;
            self.shows_one_moment(other, (guest, cut_at))?;
        }
        Ok(())
    }

    /// What a cut does not show must not have ended before something began that the later cut of
    /// another volume shows: who wrote that may have seen the end.
    fn shows_one_moment(&self, (one, at): (usize, Moment), other: (usize, Moment)) -> Flow {
        let (other, later) = other;
        let Some(ended) = self.guests[one].changed_between(at, later) else { return Ok(()) };
        if self.guests[other].changed_between(ended, later).is_none() {
            return Ok(());
        }
        failed(format!(
            "the cut of v{one} at {at} misses what had ended at {ended}, and that of v{other} in \
             the same set shows what began later: no moment had both"
        ))
    }

    /// Has every open set end: nobody is in the middle of one.
    pub(crate) fn end_sets(&mut self) -> Flow {
        for open in &self.open_sets {
            let id = open.id;
            let ended = self.until_answered(|s| block_on(s.abort_snapshots(id)));
            match ended {
                Ok(_) | Err(ServiceError::SetDecided { .. }) => {}
                Err(error) => return failed(format!("set {id} was not aborted: {error}")),
            }
        }
        self.learn_sets()?;
        match self.open_sets.first() {
            None => Ok(()),
            Some(open) => failed(format!("set {} is still open", open.id)),
        }
    }
}
