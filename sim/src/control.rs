//! The control task of each volume: reserves, rounds of checkpoints, commits.
//!
//! A call to the metadata service takes two steps: it arrives there (or not), and the answer
//! comes back (or not). Without an answer the engine is told so, and when it asks for the same
//! again, the same request is sent under the same key.

use std::collections::VecDeque;

use lunar_engine::volume::{CommitBatch, ControlWork, WorkDone, blocking};
use lunar_metadata::domain::{CommitMap, ReleaseExtents, ReserveExtents, SlotUpdate};
use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_types::{ExtentRun, Freed, JournalSeq};

use crate::calls::{Answer, Call};
use crate::disk::{OpenLuns, Source};
use crate::planted::Planted;
use crate::world::{Flow, PendingCall, Served, World, failed};

impl World {
    /// The control task of a volume goes on.
    pub(crate) fn control_step(&mut self) -> Flow {
        let busy = self.pick_served(Served::wants_control);
        let any = self.pick_served(|_| true);
        let guest = if self.dice.chance(850) { busy.or(any) } else { any };
        let Some(guest) = guest else { return Ok(()) };
        if self.serving(guest).call.is_some() {
            return self.call_step(guest);
        }
        self.tick()?;
        if let Some(seal) = self.serving(guest).pending_seal {
            // Nothing is committed before it is known which layer is the head.
            self.serving(guest).call = Some(PendingCall { call: Call::Seal(seal), answer: None });
            return Ok(());
        }
        let now = self.now();
        let mut out = Vec::new();
        let served = self.serving(guest);
        served.is_control_woken = false;
        let control = served.queues.len() - 1;
        let work = served.volume.next_work(now, &mut out);
        // There may be more to do after this.
        served.is_control_woken |= work.is_some();
        self.run_actions(guest, control, out)?;
        self.forget_early(guest)?;
        match work {
            Some(work) => self.take_work(guest, work),
            None if self.release_returned(guest) => Ok(()),
            None => {
                self.hear_of_merges(guest)?;
                self.prune_now_and_then(guest);
                self.consolidate_now_and_then(guest)
            }
        }
    }

    /// Begins what the engine asks of its control task.
    pub(crate) fn take_work(&mut self, guest: usize, work: ControlWork) -> Flow {
        match work {
            ControlWork::Round => self.run_round(guest),
            ControlWork::Reserve { count } => {
                self.ask_for_extents(guest, count);
                Ok(())
            }
            ControlWork::Commit(batch) => self.send_commit(guest, batch),
        }
    }

    fn run_round(&mut self, guest: usize) -> Flow {
        let control = self.serving(guest).queues.len() - 1;
        let mut out = Vec::new();
        if self.dice.chance(500) && self.planted.is_none() {
            let source = Source { volume: guest as u32, queue: control as u16 };
            let luns = OpenLuns::new(&self.luns, source);
            self.acting.push(self.host_of(guest));
            let served = self.serving(guest);
            let queue = &mut served.queues[control];
            blocking::run_round(&served.volume, queue, &luns, &mut out);
            self.survived()?;
            self.acting.pop();
            if self.serving(guest).volume.poison().is_some() {
                let moment = self.moment;
                self.guests[guest].distrust(moment);
            }
        } else {
            let served = self.serving(guest);
            served.volume.start_round(&mut served.queues[control], &mut out);
        }
        self.run_actions(guest, control, out)
    }

    fn ask_for_extents(&mut self, guest: usize, count: u32) {
        let fresh = ReserveExtents {
            request: self.meta.fresh_request(),
            caller: self.holder(guest),
            pool: self.meta.pool,
            count,
        };
        let served = self.serving(guest);
        let reserve = *served.last_reserve.get_or_insert(fresh);
        served.call = Some(PendingCall { call: Call::Reserve(reserve), answer: None });
    }

    /// Sends a batch in as many commits as the scenario cuts it into, one after the other.
    fn send_commit(&mut self, guest: usize, batch: CommitBatch) -> Flow {
        let is_known =
            matches!(&self.serving(guest).last_commit, Some((sent, _)) if *sent == batch);
        if !is_known {
            let parts = self.commits_of(guest, &batch);
            self.serving(guest).last_commit = Some((batch, parts));
        }
        self.send_part(guest);
        if self.planted == Some(Planted::ExtentReusedEarly) {
            return self.reuse_early(guest);
        }
        Ok(())
    }

    fn commits_of(&mut self, guest: usize, batch: &CommitBatch) -> VecDeque<CommitMap> {
        let updates: Vec<SlotUpdate> = batch.updates.iter().map(to_domain).collect();
        let mut parts: Vec<_> = updates.chunks(self.scenario.commit_updates).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        let mut number = self.serving(guest).commits;
        let commit = |(index, updates): (usize, &[SlotUpdate])| {
            number = number.next();
            CommitMap {
                request: self.meta.fresh_request(),
                caller: self.holder(guest),
                volume: self.guests[guest].id,
                epoch: self.serving(guest).epoch,
                number,
                layer: self.serving(guest).layer,
                extent_size: self.scenario.extent_size,
                updates: updates.to_vec(),
                checkpoint: batch.checkpoint.filter(|_| index == last).map(JournalSeq::new),
                replay_of: None,
            }
        };
        parts.into_iter().enumerate().map(commit).collect()
    }

    /// The first commit that is left of a batch goes out.
    fn send_part(&mut self, guest: usize) {
        let served = self.serving(guest);
        let (_, parts) = served.last_commit.as_ref().expect("a batch is being sent");
        let commit = parts.front().expect("a batch ends with its last commit").clone();
        served.call = Some(PendingCall { call: Call::Commit(commit), answer: None });
    }

    /// A commit is done; gives whether its batch is.
    fn part_committed(&mut self, guest: usize) -> bool {
        let served = self.serving(guest);
        let (_, parts) = served.last_commit.as_mut().expect("a batch is being sent");
        served.commits = parts.pop_front().expect("it was just sent").number;
        let is_done = parts.is_empty();
        if is_done {
            served.last_commit = None;
        } else {
            self.send_part(guest);
        }
        is_done
    }

    /// A call arrives, or its answer does.
    fn call_step(&mut self, guest: usize) -> Flow {
        self.tick()?;
        let served = self.serving(guest);
        let pending = served.call.as_mut().expect("a call is under way");
        let Some(answer) = pending.answer.take() else { return self.call_arrives(guest) };
        let call = served.call.take().expect("a call is under way").call;
        let control = served.queues.len() - 1;
        let moment = self.moment;
        self.trace.line(moment, || format!("v{guest} {} answered: {answer:?}", call.name()));
        if answer != WorkDone::Unavailable {
            // What was refused is not remembered: a copy of it is a call of its own.
            if answer != WorkDone::PoolFull {
                self.copy_now_and_then(&call);
            }
            if matches!(call, Call::Commit(_)) && !self.part_committed(guest) {
                return Ok(());
            }
            if matches!(call, Call::Reserve(_)) {
                self.serving(guest).last_reserve = None;
            }
        }
        if matches!(call, Call::Seal(_) | Call::Prune(_) | Call::Release(_)) {
            self.serving(guest).is_control_woken = true;
            return Ok(());
        }
        let served = self.serving(guest);
        served.saw_full |= answer == WorkDone::PoolFull;
        let now = self.now();
        let mut out = Vec::new();
        let served = self.serving(guest);
        let before = served.volume.stats().checkpoints;
        served.volume.work_done(answer, now, &mut out);
        let after = served.volume.stats().checkpoints;
        served.is_control_woken = true;
        if after > before {
            served.holds_quarantine = false;
            self.counters.checkpoints += 1;
        }
        self.run_actions(guest, control, out)?;
        self.lift_quarantine()
    }

    fn call_arrives(&mut self, guest: usize) -> Flow {
        let call = self.serving(guest).call.as_ref().expect("a call is under way").call.clone();
        let is_lost = self.is_answer_lost();
        let answer = if !self.meta.is_up {
            WorkDone::Unavailable
        } else {
            match (self.meta.carry_out(&call), &call) {
                (Err(ServiceError::Store(_)), _) => WorkDone::Unavailable,
                _ if is_lost => WorkDone::Unavailable,
                (Ok(Answer::Extents(runs)), _) => self.usable(guest, runs)?,
                (Ok(Answer::Committed(freed)), _) => {
                    self.note_freed(guest, freed);
                    WorkDone::Committed
                }
                (Ok(Answer::Pruned(pruned)), _) => {
                    self.note_freed(guest, pruned.freed);
                    self.pruned(guest, &pruned)?;
                    WorkDone::Committed
                }
                // Its head was sealed since.
                (Err(ServiceError::LayerNotWritable { .. }), Call::Prune(_)) => {
                    self.serving(guest).last_prune = None;
                    WorkDone::Unavailable
                }
                (Ok(Answer::Sealed(now)), _) => {
                    self.seal_is_known(guest, now)?;
                    WorkDone::Committed
                }
                (Ok(_), _) => WorkDone::Committed,
                (Err(ServiceError::PoolFull { .. }), Call::Reserve(_)) => WorkDone::PoolFull,
                (Err(error), _) => {
                    let call = call.name();
                    return failed(format!("the {call} of v{guest} was refused: {error}"));
                }
            }
        };
        let moment = self.moment;
        self.trace.line(moment, || format!("v{guest} {} arrived: {answer:?}", detail_of(&call)));
        let pending = self.serving(guest).call.as_mut().expect("a call is under way");
        pending.answer = Some(answer);
        Ok(())
    }

    /// Before the engine hears that something was unmapped, it hears what becomes of that.
    fn note_freed(&mut self, guest: usize, freed: Freed) {
        if freed == Freed::GiveBack && self.planted != Some(Planted::FreedUsedAgain) {
            self.serving(guest).volume.give_back_freed();
        }
    }

    /// Gives back what is not to be used again. If no answer comes nothing is known of it: it stays
    /// reserved until the daemon starts anew.
    fn release_returned(&mut self, guest: usize) -> bool {
        let served = self.serving(guest);
        if served.call.is_some() {
            return false;
        }
        let returned = served.volume.take_returned();
        if returned.is_empty() {
            return false;
        }
        self.counters.returned += returned.len() as u64;
        let release = ReleaseExtents {
            request: self.meta.fresh_request(),
            caller: self.holder(guest),
            pool: self.meta.pool,
            runs: returned.iter().map(|at| ExtentRun::new(*at, 1)).collect(),
        };
        let call = Some(PendingCall { call: Call::Release(release), answer: None });
        self.serving(guest).call = call;
        true
    }

    /// Extents on LUNs that were added after the volume was attached are of no use to it.
    fn usable(&mut self, guest: usize, runs: Vec<ExtentRun>) -> Flow<WorkDone> {
        let table = &self.serving(guest).volume.spec().luns;
        let (known, unknown): (Vec<_>, Vec<_>) =
            runs.into_iter().partition(|run| run.iter().all(|at| table.contains(at)));
        if !unknown.is_empty() {
            let (request, pool) = (self.meta.fresh_request(), self.meta.pool);
            let release =
                ReleaseExtents { request, caller: self.holder(guest), pool, runs: unknown };
            self.insist("a release", |service| block_on(service.release_extents(&release)))?;
        }
        Ok(if known.is_empty() { WorkDone::PoolFull } else { WorkDone::Reserved(known) })
    }

    /// Drops the second giving of an extent that the planted bug gave early.
    fn forget_early(&mut self, guest: usize) -> Flow {
        let mut out = Vec::new();
        let served = self.serving(guest);
        if served.reused_early.is_empty() {
            return Ok(());
        }
        let mut reserve = served.volume.take_reserve(usize::MAX);
        served.reused_early.retain(|early| {
            let count = reserve.iter().filter(|at| *at == early).count();
            let second = reserve.iter().rposition(|at| at == early).filter(|_| count > 1);
            second.map(|index| reserve.remove(index)).is_none()
        });
        let runs: Vec<ExtentRun> = reserve.iter().map(|at| ExtentRun::new(*at, 1)).collect();
        served.volume.give_reserve(&runs, &mut out);
        let control = served.queues.len() - 1;
        self.run_actions(guest, control, out)
    }

    /// The planted bug: extents that the commit on its way unmaps go into the reserve now.
    fn reuse_early(&mut self, guest: usize) -> Flow {
        let served = self.serving(guest);
        let (batch, _) = served.last_commit.clone().expect("it was just set");
        let layer = served.layer;
        let map: std::collections::BTreeMap<_, _> = {
            let own = self.meta.own_slots(layer, 1000);
            own.map_err(|e| crate::world::Stop::Failed(e.to_string()))?.into_iter().collect()
        };
        let freed = batch.updates.iter().filter_map(|update| {
            let before = map.get(&update.logical)?.extent()?;
            let after = update.slot.as_ref().and_then(lunar_types::Slot::extent);
            (after != Some(before)).then(|| ExtentRun::new(before, 1))
        });
        let freed: Vec<ExtentRun> = freed.collect();
        let mut out = Vec::new();
        let served = self.serving(guest);
        served.reused_early.extend(freed.iter().map(|run| run.first()));
        served.volume.give_reserve(&freed, &mut out);
        let control = served.queues.len() - 1;
        self.run_actions(guest, control, out)
    }
}

/// The same update in the words of the metadata service.
pub(crate) fn to_domain(update: &lunar_engine::replay::SlotUpdate) -> SlotUpdate {
    SlotUpdate { at: update.logical, slot: update.slot.clone() }
}

fn detail_of(call: &Call) -> String {
    match call {
        Call::Commit(commit) => {
            let slots: Vec<String> = commit
                .updates
                .iter()
                .map(|update| match update.slot.as_ref().and_then(lunar_types::Slot::extent) {
                    Some(extent) => format!("{}→{extent}", update.at),
                    None => format!("{}→none", update.at),
                })
                .collect();
            format!("commit up to {:?} of {}", commit.checkpoint, slots.join(" "))
        }
        Call::Reserve(reserve) => format!("reservation of {}", reserve.count),
        other => other.name().to_owned(),
    }
}
