//! The control task of the volume: its reserve, rounds, commits and seals.

use std::time::Duration;

use lunar_engine::volume::{CommitBatch, ControlWork, WorkDone};
use lunar_metadata::domain::{CommitMap, ReserveExtents, SealedHead};
use lunar_metadata::seams::block_on;
use lunar_types::JournalSeq;

use super::node::{Node, Outcome};
use super::shape;
use crate::control::to_domain;

/// No time passes in a sweep.
pub(super) const NOW: Duration = Duration::from_secs(1);

impl Node {
    /// Does what the engine asks of its control task, if it was woken.
    pub(super) fn run_control(&mut self) -> Outcome {
        for _ in 0..1000 {
            if !std::mem::take(&mut self.serving().is_control_woken) {
                return Ok(());
            }
            while self.control_step()? {}
        }
        Err("the control task does not come to rest".to_owned())
    }

    /// Does one thing, if there is one.
    pub(super) fn control_step(&mut self) -> Outcome<bool> {
        let control = usize::from(shape::QUEUES);
        let mut out = Vec::new();
        let work = self.serving().engine.next_work(NOW, &mut out);
        self.run(control, out)?;
        let done = match work {
            None => return Ok(false),
            Some(ControlWork::Round) => {
                let mut out = Vec::new();
                let serving = self.serving();
                serving.engine.start_round(&mut serving.queues[control], &mut out);
                self.run(control, out)?;
                return Ok(true);
            }
            Some(ControlWork::Reserve { count }) => self.reserve(count)?,
            Some(ControlWork::Commit(batch)) => {
                // Nothing is committed before it is known which layer is the head.
                self.seal_if_undecided()?;
                self.commit(&batch)?;
                WorkDone::Committed
            }
        };
        let mut out = Vec::new();
        self.serving().engine.work_done(done, NOW, &mut out);
        self.run(control, out)?;
        Ok(true)
    }

    fn reserve(&mut self, count: u32) -> Outcome<WorkDone> {
        let request = self.fresh_request();
        let (caller, pool) = (self.caller(), self.pool()?);
        let reserve = ReserveExtents { request, caller, pool, count };
        let runs =
            self.call("a reservation", |service| block_on(service.reserve_extents(&reserve)))?;
        Ok(WorkDone::Reserved(runs))
    }

    fn commit(&mut self, batch: &CommitBatch) -> Outcome {
        let (request, caller, volume) = (self.fresh_request(), self.caller(), self.volume_id()?);
        let serving = self.serving();
        let commit = CommitMap {
            request,
            caller,
            volume,
            epoch: serving.epoch,
            number: serving.commits.next(),
            layer: serving.layer,
            extent_size: shape::extent_size(),
            updates: batch.updates.iter().map(to_domain).collect(),
            checkpoint: batch.checkpoint.map(JournalSeq::new),
            replay_of: None,
        };
        self.call("a commit", |service| block_on(service.commit_map(&commit)))?;
        self.serving().commits = commit.number;
        Ok(())
    }

    /// Asks for the seal that the engine has gone on without.
    pub(super) fn seal_if_undecided(&mut self) -> Outcome {
        let Some(seal) = self.serving().pending_seal else { return Ok(()) };
        let sealed = self.call("a seal", |service| block_on(service.seal_layer(&seal)))?;
        self.seal_is_known(sealed.now)
    }

    /// The service has said which layer is the head.
    pub(super) fn seal_is_known(&mut self, now: SealedHead) -> Outcome {
        let serving = self.serving();
        if now.head != serving.layer {
            return Err(format!("the head is {}, the engine is in {}", now.head, serving.layer));
        }
        serving.next_layer = now.next_head;
        serving.commits = now.last_commit;
        serving.pending_seal = None;
        Ok(())
    }

    /// Runs checkpoints until everything is committed.
    pub(super) fn checkpoint(&mut self) -> Outcome {
        for _ in 0..10 {
            if self.serving().engine.is_clean() {
                return Ok(());
            }
            let mut out = Vec::new();
            self.serving().engine.request_checkpoint(&mut out);
            self.run(usize::from(shape::QUEUES), out)?;
            self.run_control()?;
        }
        Err("checkpoints leave something dirty".to_owned())
    }
}
