//! What happens around the volumes: the daemon starts, volumes are made, attached, detached and
//! deleted, space comes and goes.

use std::collections::BTreeSet;

use lunar_engine::journal::SEQ_CONFIRMED;
use lunar_metadata::domain::{
    Attach, Attachment, CreateVolume, DeleteVolume, Detach, DetachMode, Join, ReleaseExtents,
    ResumeAttachment, Selector,
};
use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_types::{
    ExtentAddress, ExtentRun, Incarnation, LogicalBlockSize, Name, NodeIncarnation, NodeSession,
    SessionNumber, VolumeSize,
};

use crate::audit::table_extents;
use crate::calls::{Answer, Call};
use crate::guest::Guest;
use crate::planted::Planted;
use crate::recovery::LunTrouble;
use crate::service::{SimService, all_pages};
use crate::world::{Flow, Served, Stop, World, failed, new_disk};

/// Steps within which a request ends, with the metadata service there.
const BOUND: u64 = 40_000;
/// LUNs that a pool grows to.
const LUNS_MAX: usize = 24;

impl World {
    /// The daemon starts: it joins, and goes on with what a killed predecessor held.
    pub(crate) fn start_daemon(&mut self, host: usize) -> Flow {
        self.is_busy = true;
        if self.moment > 1 && self.dice.chance(self.scenario.quiet_hours) {
            self.rest()?;
        }
        self.acting.push(host);
        let resume = self.hosts[host].tmpfs.incarnation.map(|node| node.incarnation);
        let joined = loop {
            let join = self.new_join(host, resume)?;
            match self.make_call(Call::Join(join))? {
                Ok(Answer::Joined(joined)) => break joined,
                Ok(other) => unreachable!("a join is answered {other:?}"),
                // A late join of a predecessor came between.
                Err(ServiceError::StaleSession { .. }) => {}
                Err(ServiceError::NodeAlive { wait, .. }) => self.clock.advance(wait),
                Err(error) => return failed(format!("the join was refused: {error}")),
            }
        };
        if resume.is_some() && !joined.resumed {
            return failed("a daemon killed on this boot could not resume its incarnation");
        }
        self.hosts[host].node = Some(joined.session);
        self.hosts[host].tmpfs.incarnation = Some(joined.session.node);
        if joined.resumed {
            self.resume_attachments(host, joined.session)?;
        }
        self.acting.pop();
        self.is_busy = false;
        self.audit("the start of the daemon")
    }

    /// The join of a process that has just started: it looks first who was there last.
    fn new_join(&mut self, host: usize, resume: Option<Incarnation>) -> Flow<Join> {
        let name: Name = self.hosts[host].name.parse().expect("a valid name");
        let selector = Selector::Name(name.clone());
        let last_session = match self.ask(|service| block_on(service.node(&selector)))? {
            Ok(node) => node.session,
            Err(ServiceError::NodeNotFound { .. }) => SessionNumber::default(),
            Err(error) => return failed(format!("the node could not be looked up: {error}")),
        };
        let request = self.meta.fresh_request();
        Ok(Join {
            request,
            name,
            boot: self.hosts[host].boot,
            resume,
            is_drained: true,
            last_session,
        })
    }

    fn resume_attachments(&mut self, host: usize, caller: NodeSession) -> Flow {
        let node = caller.node;
        let held = self.must("the list of attachments", |service| {
            all_pages(|page| block_on(service.attachments(node, page)))
        })?;
        let mut attachments = Vec::new();
        for held in held {
            let request = ResumeAttachment { volume: held.volume, epoch: held.epoch, caller };
            attachments
                .push(self.must("a resumption", |s| block_on(s.resume_attachment(request)))?);
        }
        self.dice.shuffle(&mut attachments);
        // What no dirty table uses may still be named by a journal: it waits.
        let mut quarantine = self.reserved_now(node)?;
        for attachment in &attachments {
            let key = (attachment.volume.id, attachment.epoch);
            let Some(memory) = self.hosts[host].tmpfs.tables.get(&key) else { continue };
            for extent in table_extents(memory, self.table_identity(attachment))? {
                quarantine.remove(&extent);
            }
        }
        for attachment in &attachments {
            let guest = self.guests.iter().rposition(|guest| guest.id == attachment.volume.id);
            let guest = guest.expect("attachments are of volumes that were made");
            self.resume_or_bring_up(guest, attachment)?;
        }
        self.hosts[host].quarantine = quarantine;
        self.forget_mapped_quarantine()?;
        self.lift_quarantine()
    }

    /// What a replay has mapped has left the reservation: it is the volume's now.
    pub(crate) fn forget_mapped_quarantine(&mut self) -> Flow {
        for host in 0..self.hosts.len() {
            let Some(node) = self.hosts[host].node else { continue };
            if !self.hosts[host].quarantine.is_empty() {
                let reserved = self.reserved_now(node.node)?;
                self.hosts[host].quarantine.retain(|extent| reserved.contains(extent));
            }
        }
        Ok(())
    }

    /// No journal of this volume is left that was given back with it.
    pub(crate) fn journals_are_gone(&mut self, guest: usize) {
        let id = self.guests[guest].id;
        for host in &mut self.hosts {
            host.tmpfs.kept_journals.remove(&id);
        }
    }

    fn reserved_now(&self, node: NodeIncarnation) -> Flow<BTreeSet<ExtentAddress>> {
        self.meta.reserved_by(node).map_err(|error| Stop::Failed(error.to_string()))
    }

    /// A predecessor's attachment: never confirmed, it is brought up anew; else it is resumed.
    fn resume_or_bring_up(&mut self, guest: usize, attachment: &Attachment) -> Flow {
        loop {
            let is_confirmed = attachment.checkpoint.get() >= SEQ_CONFIRMED;
            let attempt = if is_confirmed {
                self.resume(guest, attachment)?
            } else {
                // Its stale journals may be fewer by now: ask again.
                let request = ResumeAttachment {
                    volume: attachment.volume.id,
                    epoch: attachment.epoch,
                    caller: self.caller(self.host_with(attachment)),
                };
                let fresh =
                    self.must("a resumption", |s| block_on(s.resume_attachment(request)))?;
                self.bring_up(guest, &fresh)?
            };
            match attempt {
                Ok(()) => break,
                Err(LunTrouble(what)) => self.note(guest, &what),
            }
        }
        self.journals_are_gone(guest);
        let forgot = self.serving(guest).volume.poison().is_none();
        if self.guests[guest].is_poisoned && forgot {
            return failed(format!("v{guest} took no more writes, and a kill made it forget that"));
        }
        if self.planted == Some(Planted::ReissueSkipped) {
            return self.drop_requests(guest);
        }
        self.reissue(guest)?;
        self.tick()?;
        self.device_follows(guest);
        if self.dice.chance(300) { self.sweep(guest) } else { Ok(()) }
    }

    /// Gives the requests that were under way to the successor, in any order.
    fn reissue(&mut self, guest: usize) -> Flow {
        let device = self.guests[guest].device.as_ref().expect("a served volume has a device");
        let mut busy: Vec<(usize, usize)> = device.busy().collect();
        self.dice.shuffle(&mut busy);
        for (queue, tag) in busy {
            self.tick()?;
            let device = self.guests[guest].device.as_mut().expect("it is there");
            let op = device.request(queue, tag as u16).op;
            self.issue(guest, (queue, tag), op)?;
        }
        Ok(())
    }

    /// The planted bug: they are answered as if they had been done.
    fn drop_requests(&mut self, guest: usize) -> Flow {
        let device = self.guests[guest].device.as_ref().expect("a served volume has a device");
        let busy: Vec<(usize, usize)> = device.busy().collect();
        for (queue, tag) in busy {
            let tag = tag as u16;
            self.run_action(
                guest,
                queue,
                lunar_engine::io::Action::Complete { tag, result: Ok(()) },
            )?;
        }
        Ok(())
    }

    pub(crate) fn give(&mut self, guest: usize, extents: &[ExtentAddress]) -> Flow {
        if extents.is_empty() {
            return Ok(());
        }
        let runs: Vec<ExtentRun> = extents.iter().map(|at| ExtentRun::new(*at, 1)).collect();
        let mut out = Vec::new();
        let served = self.serving(guest);
        let control = served.queues.len() - 1;
        served.volume.give_reserve(&runs, &mut out);
        self.run_actions(guest, control, out)
    }

    /// Gives quarantined extents that no backup may name to some volume, once every volume of the
    /// host has completed a checkpoint.
    pub(crate) fn lift_quarantine(&mut self) -> Flow {
        (0..self.hosts.len()).try_for_each(|host| self.lift_quarantine_of(host))
    }

    fn lift_quarantine_of(&mut self, host: usize) -> Flow {
        let here = |served: &Served| served.host == host;
        let is_needed = self.served().any(|(_, served)| here(served) && served.holds_quarantine)
            || !self.hosts[host].tmpfs.kept_journals.is_empty();
        let is_skipped = self.planted == Some(Planted::QuarantineSkipped);
        if self.hosts[host].quarantine.is_empty() || (is_needed && !is_skipped) {
            return Ok(());
        }
        let Some(guest) = self.pick_served(|served| here(served) && !served.is_draining) else {
            return Ok(());
        };
        let quarantine = std::mem::take(&mut self.hosts[host].quarantine);
        let extents = self.keep_for_backups(host, quarantine)?;
        self.give(guest, &extents)
    }

    fn note(&self, guest: usize, what: &str) {
        self.trace.line(self.moment, || format!("v{guest} {what}"));
    }

    /// The operator does something.
    pub(crate) fn operator_step(&mut self) -> Flow {
        self.tick()?;
        self.is_busy = true;
        self.operate()?;
        self.is_busy = false;
        Ok(())
    }

    fn operate(&mut self) -> Flow {
        if !self.open_sets.is_empty() {
            return if self.dice.chance(500) { self.end_sets() } else { self.learn_sets() };
        }
        if let Some(guest) = self.pick_served(|served| served.volume.poison().is_some()) {
            return self.detach_poisoned(guest);
        }
        let alive = self.guests.iter().filter(|guest| !guest.is_deleted).count();
        if alive < self.scenario.volumes && self.dice.chance(300) {
            return self.create();
        }
        if self.dice.chance(2) {
            return self.grow_pool();
        }
        if self.dice.chance(self.scenario.quiet_hours / 10) {
            return self.rest();
        }
        if self.dice.chance(self.scenario.squeeze * 10) {
            let takes = self.dice.chance(500);
            return self.squeeze(takes);
        }
        if self.dice.chance(self.scenario.layers) && self.layers_step()? {
            return Ok(());
        }
        if self.dice.chance(self.scenario.growth) {
            return self.growth_step();
        }
        if self.dice.chance(self.scenario.backups) {
            return self.backup_step();
        }
        let idle = self.idle_guests();
        if !idle.is_empty() && self.dice.chance(300) {
            let guest = self.dice.one_of(&idle);
            if self.dice.chance(self.scenario.turnover * 5) {
                return self.delete(guest);
            }
            return self.attach(guest);
        }
        if self.dice.chance(self.scenario.turnover * 2)
            && let Some(guest) = self.pick_served(|_| true)
        {
            return self.detach(guest);
        }
        Ok(())
    }

    /// A long time without anything passes, unless a call waits for its answer.
    fn rest(&mut self) -> Flow {
        let waits = |served: &Served| {
            served.call.is_some() || served.last_commit.is_some() || served.last_reserve.is_some()
        };
        if self.served().any(|(_, served)| waits(served)) {
            return Ok(());
        }
        self.end_sets()?;
        self.note(usize::MAX, "a quiet hour");
        self.counters.quiet_hours += 1;
        self.quiet_hour().map_err(Stop::Failed)
    }

    /// Volumes that are there and not attached.
    pub(crate) fn idle_guests(&self) -> Vec<usize> {
        let is_idle =
            |guest: &usize| !self.guests[*guest].is_deleted && self.served[*guest].is_none();
        (0..self.guests.len()).filter(is_idle).collect()
    }

    pub(crate) fn squeeze(&mut self, takes: bool) -> Flow {
        self.note(usize::MAX, if takes { "the rival takes all" } else { "the rival gives back" });
        self.meta.squeeze(takes).map_err(|error| Stop::Failed(format!("the rival: {error}")))
    }

    pub(crate) fn create(&mut self) -> Flow {
        let taken = |name: &Name| self.guests.iter().any(|g| !g.is_deleted && g.name == *name);
        let name = (0..).map(|n| format!("vol-{n}").parse().expect("a valid name"));
        let name: Name = name.into_iter().find(|name| !taken(name)).expect("names do not end");
        let extents = self.dice.between(1, self.scenario.volume_extents);
        let extent = self.scenario.extent_size.bytes();
        let bytes = extents * extent - self.dice.one_of(&[0, 0, 4096, 12288]);
        let size = VolumeSize::from_bytes(bytes).expect("whole blocks");
        let choices = [self.scenario.lun_block, LogicalBlockSize::B4096];
        let block = self.dice.one_of(&choices);
        let create = CreateVolume {
            request: self.meta.fresh_request(),
            name: name.clone(),
            pool: Selector::Id(self.meta.pool),
            size,
            logical_block_size: block,
            over_watermark: true,
        };
        let id = self.insist("a new volume", |s| block_on(s.create_volume(&create)))?.id;
        let uid = self.guests.len() as u32;
        self.guests.push(Guest::new(uid, name, id, size, block, self.scenario.lun_block));
        self.served.push(None);
        let moment = self.moment;
        self.trace.line(moment, || format!("v{uid} is made: {size}, blocks of {}", block.bytes()));
        Ok(())
    }

    /// A request that no crash falls into: sent until it is answered.
    pub(crate) fn insist<T>(
        &self,
        what: &str,
        call: impl Fn(&SimService) -> Result<T, ServiceError>,
    ) -> Flow<T> {
        loop {
            match call(self.meta.service()) {
                Ok(answer) => return Ok(answer),
                Err(ServiceError::Store(error)) if error.is_retryable() => {}
                Err(error) => return failed(format!("{what} was refused: {error}")),
            }
        }
    }

    pub(crate) fn delete(&mut self, guest: usize) -> Flow {
        let delete = DeleteVolume {
            request: self.meta.fresh_request(),
            volume: Selector::Id(self.guests[guest].id),
        };
        self.note(guest, "is deleted");
        self.insist("a deletion", |service| block_on(service.delete_volume(&delete)))?;
        self.guests[guest].is_deleted = true;
        self.journals_are_gone(guest);
        self.counters.deleted += 1;
        Ok(())
    }

    /// Attaches a volume; a full pool or a failing LUN leave it for later.
    pub(crate) fn attach(&mut self, guest: usize) -> Flow {
        let host = self.dice.index(self.hosts.len());
        self.acting.push(host);
        let is_there = self.attach_on(guest, host)?;
        self.acting.pop();
        if is_there {
            self.audit("an attachment")?;
            if self.dice.chance(500) {
                return self.sweep(guest);
            }
        }
        Ok(())
    }

    /// Attaches a volume on a host; says whether it is served.
    fn attach_on(&mut self, guest: usize, host: usize) -> Flow<bool> {
        let caller = self.caller(host);
        let attach = Attach {
            request: self.meta.fresh_request(),
            volume: Selector::Id(self.guests[guest].id),
            caller,
            understands_layers: true,
            accept_restored: false,
            publication: None,
            for_file_system: false,
        };
        if self.guests[guest].device.is_some() {
            // The daemon was killed after it had given the volume back.
            let moment = self.moment;
            self.guests[guest].detached_poisoned(moment);
        }
        let attachment = match self.make_call(Call::Attach(attach))? {
            Ok(Answer::Attached(attachment)) => attachment,
            Ok(other) => unreachable!("an attachment is answered {other:?}"),
            Err(ServiceError::PoolFull { .. }) => {
                let usage = self.meta.usage();
                self.note(guest, &format!("has no space for a journal: {usage:?}"));
                self.squeeze(false)?;
                self.step_operations()?;
                if self.dice.chance(100) {
                    self.grow_pool()?;
                }
                return Ok(false);
            }
            Err(error) => return failed(format!("the attachment of v{guest} failed: {error}")),
        };
        self.note(guest, &format!("is attached under epoch {}", attachment.epoch));
        match self.bring_up(guest, &attachment)? {
            Ok(()) => Ok(true),
            Err(LunTrouble(what)) => {
                self.note(guest, &what);
                self.give_back(guest, &attachment, DetachMode::KeepJournal)?;
                Ok(false)
            }
        }
    }

    fn give_back(&mut self, guest: usize, attachment: &Attachment, mode: DetachMode) -> Flow {
        let host = self.host_with(attachment);
        let detach = Detach {
            request: self.meta.fresh_request(),
            volume: attachment.volume.id,
            epoch: attachment.epoch,
            caller: self.caller(host),
            mode,
        };
        if mode == DetachMode::KeepJournal {
            self.hosts[host].tmpfs.kept_journals.insert(self.guests[guest].id);
        }
        self.must_call(Call::Detach(detach))?;
        self.hosts[host].tmpfs.tables.remove(&(self.guests[guest].id, attachment.epoch));
        Ok(())
    }

    /// Waits until a volume's users have their answers.
    pub(crate) fn drain(&mut self, guest: usize) -> Flow {
        self.serving(guest).is_draining = true;
        self.run_until(&format!("the end of all requests of v{guest}"), BOUND, |world| {
            let device = world.guests[guest].device.as_ref();
            device.is_none_or(|device| device.busy().next().is_none())
        })
    }

    /// Detaches a volume that serves.
    pub(crate) fn detach(&mut self, guest: usize) -> Flow {
        self.note(guest, "is to be detached");
        self.acting.push(self.host_of(guest));
        self.drain(guest)?;
        loop {
            if self.serving(guest).volume.poison().is_some() {
                self.acting.pop();
                return self.detach_poisoned(guest);
            }
            let served = self.serving(guest);
            if served.volume.is_clean() && served.call.is_none() {
                break;
            }
            let mut out = Vec::new();
            served.volume.request_checkpoint(&mut out);
            let control = served.queues.len() - 1;
            self.run_actions(guest, control, out)?;
            let before = self.serving(guest).volume.stats();
            self.run_until(&format!("a checkpoint of v{guest}"), BOUND, |world| {
                let served = world.served[guest].as_ref().expect("it is served");
                let stats = served.volume.stats();
                stats.checkpoints > before.checkpoints
                    || stats.rounds > before.rounds
                    || stats.is_poisoned
                    || (served.volume.is_clean() && served.call.is_none())
            })?;
        }
        let attachment = self.leave(guest)?;
        self.give_back(guest, &attachment, DetachMode::Clean)?;
        self.acting.pop();
        self.guests[guest].device = None;
        self.note(guest, "is detached");
        self.audit("a detachment")
    }

    /// The engine of a volume ends; its reserve goes back. Gives what is needed to detach it.
    fn leave(&mut self, guest: usize) -> Flow<Attachment> {
        let served = self.serving(guest);
        let epoch = served.epoch;
        let mut reserve = served.volume.take_reserve(usize::MAX);
        reserve.append(&mut served.volume.take_returned());
        let caller = self.holder(guest);
        let request = ResumeAttachment { volume: self.guests[guest].id, epoch, caller };
        let attachment = self.must("a look", |s| block_on(s.resume_attachment(request)))?;
        if !reserve.is_empty() {
            let release = ReleaseExtents {
                request: self.meta.fresh_request(),
                caller,
                pool: self.meta.pool,
                runs: reserve.iter().map(|at| ExtentRun::new(*at, 1)).collect(),
            };
            self.must_call(Call::Release(release))?;
        }
        self.served[guest] = None;
        Ok(attachment)
    }

    /// Detaches a volume that takes no more writes; its journal is kept for the next attachment.
    fn detach_poisoned(&mut self, guest: usize) -> Flow {
        self.counters.poisoned += 1;
        self.acting.push(self.host_of(guest));
        self.note(guest, "takes no more writes and is detached");
        self.drain(guest)?;
        let is_idle = |world: &Self| world.flights.values().all(|flight| flight.guest != guest);
        self.run_until(&format!("the end of all commands of v{guest}"), BOUND, is_idle)?;
        self.run_until("the end of a call", BOUND, |world| {
            world.served[guest].as_ref().is_none_or(|served| served.call.is_none())
        })?;
        let attachment = self.leave(guest)?;
        self.give_back(guest, &attachment, DetachMode::KeepJournal)?;
        self.acting.pop();
        let moment = self.moment;
        self.guests[guest].detached_poisoned(moment);
        self.audit("a detachment with the journal kept")
    }

    /// The pool gets another LUN, which volumes that are served already do not use.
    pub(crate) fn grow_pool(&mut self) -> Flow {
        let count = self.luns.disks.borrow().len();
        if count >= LUNS_MAX {
            return Ok(());
        }
        self.note(usize::MAX, "the pool grows");
        self.luns.disks.borrow_mut().push(new_disk(&self.scenario, count as u16));
        let added = self.meta.add_lun(&self.scenario, count as u16);
        added.map(drop).map_err(|error| Stop::Failed(format!("a new LUN was refused: {error}")))
    }
}
