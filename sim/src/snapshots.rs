//! Snapshots, clones and rollbacks, as an operator asks for them.
//!
//! What a snapshot shows is settled when it is cut: a volume at rest has nothing under way, and
//! what was written is in the map. From then on nothing changes it, no crash and no other volume.

use lunar_metadata::domain::{self, CloneVolume, DeleteSnapshot, RollbackVolume, Selector};
use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_types::{LogicalBlockSize, Name, SnapshotId, SnapshotSetId, VolumeId, VolumeSize};

use crate::guest::{Cut, Guest};
use crate::oracle::Moment;
use crate::world::{Flow, Stop, World, failed};

/// Snapshots at a time.
const SNAPSHOTS_MAX: usize = 6;
/// Clones that are there at a time, on top of the volumes of the scenario.
const CLONES_MAX: usize = 2;

/// A snapshot as the operator knows it.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) id: SnapshotId,
    /// Of which volume.
    origin: VolumeId,
    pub(crate) size: VolumeSize,
    block: LogicalBlockSize,
    pub(crate) cut: Cut,
}

/// A set that was asked for.
pub(crate) struct OpenSet {
    pub(crate) id: SnapshotSetId,
    /// Sets of one group were asked for as one.
    pub(crate) group: u64,
    pub(crate) members: Vec<OpenMember>,
}

/// A member of it.
pub(crate) struct OpenMember {
    /// Of which volume.
    pub(crate) guest: usize,
    /// What the snapshot is to be called.
    pub(crate) name: Name,
    /// What it shows, if the set comes about.
    pub(crate) cut: Cut,
    /// When that was settled.
    pub(crate) cut_at: Moment,
    /// Whether the volume is served.
    pub(crate) is_live: bool,
}

impl World {
    /// Something with snapshots; says whether there was anything to do.
    pub(crate) fn layers_step(&mut self) -> Flow<bool> {
        let idle = self.idle_guests();
        let kind = self.dice.below(12);
        if kind < 4 && self.snapshots.len() < SNAPSHOTS_MAX {
            let guests = self.draw_members();
            if !guests.is_empty() {
                self.cut_set(&guests)?;
            }
            return Ok(true);
        }
        if self.snapshots.is_empty() {
            return Ok(false);
        }
        let index = self.dice.below(self.snapshots.len() as u64) as usize;
        match kind {
            5 if self.dice.chance(400) => self.look_at(index)?,
            4 | 5 => {
                let alive = self.guests.iter().filter(|guest| !guest.is_deleted).count();
                if alive < self.scenario.volumes + CLONES_MAX {
                    self.clone_of(index)?;
                }
            }
            6 | 7 => {
                let origin = self.snapshots[index].origin;
                let guest = idle.into_iter().find(|guest| self.guests[*guest].id == origin);
                if let Some(guest) = guest {
                    self.roll_back(guest, index)?;
                }
            }
            8 => self.delete_beneath(index)?,
            9 => {
                self.delete_snapshot(index)?;
                self.merge_meanwhile()?;
            }
            _ => self.compare_snapshots(index)?,
        }
        Ok(true)
    }

    /// The service merges what it can, at times, while the volumes are used.
    fn merge_meanwhile(&mut self) -> Flow {
        for _ in 0..self.dice.below(12) {
            self.meanwhile()?;
            if self.meta.is_up {
                self.step_operations()?;
            }
        }
        Ok(())
    }

    /// Deletes a snapshot, and attaches its volume at once: the service merges meanwhile.
    fn delete_beneath(&mut self, index: usize) -> Flow {
        let origin = self.snapshots[index].origin;
        let guest = self.guests.iter().position(|guest| guest.id == origin && !guest.is_deleted);
        if let Some(guest) = guest.filter(|guest| self.served[*guest].is_some()) {
            self.detach(guest)?;
        }
        self.delete_snapshot(index)?;
        match guest {
            Some(guest) if self.served[guest].is_none() => self.attach(guest),
            _ => Ok(()),
        }
    }

    /// A set was sealed with this member.
    pub(crate) fn snapshot_was_cut(&mut self, member: OpenMember, snapshot: &domain::Snapshot) {
        let OpenMember { guest, cut, is_live, .. } = member;
        let origin = &self.guests[guest];
        let (origin, size, block) = (origin.id, snapshot.size, origin.block);
        self.snapshots.push(Snapshot { id: snapshot.id, origin, size, block, cut });
        self.counters.snapshots += 1;
        self.counters.live_snapshots += u64::from(is_live);
    }

    /// Volumes for a set: some that are served, and some at rest.
    fn draw_members(&mut self) -> Vec<usize> {
        let is_there = |guest: &usize| {
            let served = self.served[*guest].as_ref();
            !self.guests[*guest].is_deleted
                && served.is_none_or(|served| {
                    !served.is_draining && served.volume.poison().is_none() && !served.voting
                })
        };
        let mut guests: Vec<usize> = (0..self.guests.len()).filter(is_there).collect();
        self.dice.shuffle(&mut guests);
        let count = if self.dice.chance(700) { 1 } else { self.dice.between(1, 3) };
        guests.truncate(count as usize);
        guests
    }

    /// Makes a volume of a snapshot; gives its place.
    pub(crate) fn clone_of(&mut self, index: usize) -> Flow<Option<usize>> {
        let snapshot = self.snapshots[index].clone();
        let uid = self.guests.len() as u32;
        let name: Name = format!("clone-{uid}").parse().expect("a valid name");
        let size = self.dice.chance(300).then(|| {
            let more = self.dice.between(1, 3) * self.scenario.extent_size.bytes();
            let bytes = (snapshot.size.bytes() + more).next_multiple_of(4096);
            VolumeSize::from_bytes(bytes).expect("whole blocks")
        });
        let clone = CloneVolume {
            request: self.meta.fresh_request(),
            snapshot: Selector::Id(snapshot.id),
            name: name.clone(),
            size,
            over_watermark: true,
        };
        let volume = match self.until_answered(|s| block_on(s.clone_volume(&clone))) {
            Ok(volume) => volume,
            Err(ServiceError::ChainTooDeep { .. }) => return Ok(None),
            Err(error) => return failed(format!("a clone was refused: {error}")),
        };
        let (id, block) = (volume.id, snapshot.block);
        let new = Guest::new(uid, name, id, volume.size, block, self.scenario.lun_block);
        self.guests.push(new.begun_as(&snapshot.cut));
        self.served.push(None);
        self.note_line(&format!("v{uid} is a clone of v{}'s", snapshot.cut.uid()));
        self.counters.clones += 1;
        Ok(Some(uid as usize))
    }

    fn roll_back(&mut self, guest: usize, index: usize) -> Flow {
        self.end_dead_device(guest);
        // Nobody has a device of it: the next one is as large as the volume.
        let granted = self.guests[guest].granted;
        self.guests[guest].device_has_grown(granted);
        let snapshot = self.snapshots[index].clone();
        let roll_back = RollbackVolume {
            request: self.meta.fresh_request(),
            volume: Selector::Id(self.guests[guest].id),
            snapshot: Selector::Id(snapshot.id),
        };
        match self.until_answered(|s| block_on(s.rollback_volume(&roll_back))) {
            Ok(_) => {}
            Err(ServiceError::StaleJournals { .. } | ServiceError::ChainTooDeep { .. }) => {
                return Ok(());
            }
            Err(error) => return failed(format!("a rollback was refused: {error}")),
        }
        self.note_line(&format!("v{guest} is rolled back"));
        self.guests[guest].roll_back(&snapshot.cut);
        self.counters.rollbacks += 1;
        self.audit("a rollback")
    }

    fn delete_snapshot(&mut self, index: usize) -> Flow {
        let snapshot = self.snapshots.swap_remove(index);
        let delete = DeleteSnapshot {
            request: self.meta.fresh_request(),
            snapshot: Selector::Id(snapshot.id),
        };
        self.note_line("a snapshot is deleted");
        self.insist("the deletion of a snapshot", |s| block_on(s.delete_snapshot(&delete)))?;
        self.audit("the deletion of a snapshot")
    }

    /// A daemon that was killed after it had given the volume back left a device without one.
    pub(crate) fn end_dead_device(&mut self, guest: usize) {
        if self.served[guest].is_none() && self.guests[guest].device.is_some() {
            let moment = self.moment;
            self.guests[guest].detached_poisoned(moment);
        }
    }

    /// Reads every snapshot that is left through a clone.
    pub(crate) fn sweep_snapshots(&mut self) -> Flow {
        for index in 0..self.snapshots.len() {
            self.compare_snapshots(index)?;
            self.look_at(index)?;
        }
        Ok(())
    }

    /// Reads a snapshot through a clone: what it shows now it shows for ever.
    fn look_at(&mut self, index: usize) -> Flow {
        let Some(clone) = self.clone_of(index)? else { return Ok(()) };
        self.guests[clone].is_read_only = true;
        if self.is_quiet {
            self.attach_all()?
        } else {
            self.attach(clone)?
        }
        if self.served[clone].is_some() {
            self.sweep(clone)?;
            self.detach(clone)?;
            let cut = self.guests[clone].cut(self.moment);
            self.snapshots[index].cut.is_seen_as(&cut);
            self.counters.looks += 1;
        }
        if self.served[clone].is_none() { self.delete(clone) } else { Ok(()) }
    }

    /// Deletes everything: no extent is left. Nothing is attached.
    pub(crate) fn delete_everything(&mut self) -> Flow {
        while !self.snapshots.is_empty() {
            let index = self.dice.below(self.snapshots.len() as u64) as usize;
            self.delete_snapshot(index)?;
            self.step_operations()?;
        }
        let mut idle = self.idle_guests();
        self.dice.shuffle(&mut idle);
        for guest in idle {
            self.delete(guest)?;
        }
        self.step_until_idle().map_err(Stop::Failed)?;
        self.back_up_the_end()?;
        self.step_until_idle().map_err(Stop::Failed)?;
        self.audit("the deletion of everything")?;
        match self.meta.usage() {
            Some(usage) if usage.allocated_extents == usage.reserved_extents => Ok(()),
            left => failed(format!("everything was deleted, and this is still used: {left:?}")),
        }
    }

    pub(crate) fn until_answered<T>(
        &self,
        call: impl Fn(&crate::service::SimService) -> Result<T, ServiceError>,
    ) -> Result<T, ServiceError> {
        loop {
            match call(self.meta.service()) {
                Err(ServiceError::Store(error)) if error.is_retryable() => {}
                answer => return answer,
            }
        }
    }
}
