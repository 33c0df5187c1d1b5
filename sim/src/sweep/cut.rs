//! A snapshot of the volume while it is served, with each way in which its vote may end.

use lunar_metadata::domain::{
    self, CreateSnapshots, Fsfreeze, MemberPaused, MemberReady, NewCut, NewMember, SealLayer,
    Selector, SetState,
};
use lunar_metadata::seams::block_on;
use lunar_types::{JournalSeq, SnapshotSetId};

use super::node::{Node, Outcome, told};
use super::ops::{Made, volume_name};
use crate::planted::Planted;

/// What becomes of a vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Vote {
    /// It is carried out and answered.
    Answered,
    /// It never reaches the service.
    Lost,
    /// It is carried out, and the answer is lost.
    AnswerLost,
}

impl Node {
    /// The whole cut: the set, the freeze, the settle, the vote, the switch.
    pub(super) fn cut(&mut self, vote: Vote) -> Outcome {
        self.seal_if_undecided()?;
        self.last_made += 1;
        let name = format!("s{}", self.last_made);
        let set = self.ready_set(&name)?;
        told("the freeze", self.serving().engine.freeze())?;
        self.settle()?;
        let ballot = self.ballot(set)?;
        let mut after = self.sure();
        after.promise_all();
        let content = after.now();
        after.add(&name, content);
        if vote == Vote::Lost {
            return self.go_on_undecided(&ballot);
        }
        let cast = self.changing_call("a vote", after, |s| block_on(s.member_paused(&ballot)))?;
        let domain::Vote::Sealed(now) = cast else {
            return Err(format!("the only vote of a set is answered {cast:?}"));
        };
        self.made.push(Made::Snapshot(name));
        if vote == Vote::AnswerLost {
            return self.go_on_undecided(&ballot);
        }
        self.switch(ballot)?;
        self.seal_is_known(now)
    }

    /// A set with this volume, up to the moment at which it may pause.
    fn ready_set(&mut self, name: &str) -> Outcome<SnapshotSetId> {
        let name = name.parse().expect("a valid name");
        let volume = Selector::Name(volume_name());
        let create = CreateSnapshots {
            request: self.fresh_request(),
            members: vec![NewMember { volume, cut: NewCut::Snapshot(name) }],
            created_unix_seconds: 1,
            fsfreeze: Fsfreeze::Never,
            over_watermark: true,
            group: None,
        };
        let set = self.call("a set", |service| block_on(service.create_snapshots(&create)))?.id;
        let (caller, volume) = (self.caller(), self.volume_id()?);
        let ready = MemberReady { caller, set, volume, epoch: self.serving().epoch };
        let ready = self.call("a member", |service| block_on(service.member_ready(ready)))?;
        match ready.state {
            SetState::Pausing => Ok(set),
            state => Err(format!("a set whose only member is ready is {state:?}")),
        }
    }

    /// Everything that was written is committed, and nobody sees the map of before.
    fn settle(&mut self) -> Outcome {
        for _ in 0..100 {
            if self.serving().engine.is_settled() {
                return Ok(());
            }
            while self.control_step()? {}
        }
        Err("a frozen volume does not settle".to_owned())
    }

    fn ballot(&mut self, set: SnapshotSetId) -> Outcome<MemberPaused> {
        let (caller, volume) = (self.caller(), self.volume_id()?);
        let serving = self.serving();
        Ok(MemberPaused {
            caller,
            set,
            volume,
            epoch: serving.epoch,
            last_commit: serving.commits,
            checkpoint: JournalSeq::new(serving.engine.last_seq()),
            next_head: serving.next_layer,
        })
    }

    /// Nobody has answered in time: on in the next head.
    fn go_on_undecided(&mut self, ballot: &MemberPaused) -> Outcome {
        if self.has(Planted::WritesInOldHead) {
            let mut out = Vec::new();
            self.serving().engine.thaw(&mut out);
            return self.run(0, out);
        }
        let request = self.fresh_request();
        let seal = SealLayer {
            request,
            volume: ballot.volume,
            epoch: ballot.epoch,
            caller: ballot.caller,
            number: ballot.last_commit.next(),
            checkpoint: ballot.checkpoint,
            next_head: ballot.next_head,
            replay_of: None,
        };
        self.serving().pending_seal = Some(seal);
        self.switch(*ballot)
    }

    /// The engine goes on in its next head.
    fn switch(&mut self, ballot: MemberPaused) -> Outcome {
        let mut out = Vec::new();
        let serving = self.serving();
        serving.layer = ballot.next_head;
        serving.engine.switch(ballot.next_head, &mut out);
        self.run(0, out)?;
        self.mark();
        Ok(())
    }
}
