//! Backups of the metadata, as an operator makes them, and what they are promised.
//!
//! The promise: an extent that a backup names is not given away while that backup is, or may
//! become, the newest complete one. It may lose its slot; then no map names it any more, so what is
//! written there is written by nobody who would be shown it after a restore.

use std::collections::BTreeSet;

use lunar_metadata::domain::{BackupNumber, ReleaseExtents};
use lunar_metadata::keyspace::{
    Bitmap, GroupKey, KeyedTxn as _, PartKey, SlotKey, SlotValue, TypedRange, UnmappedKey, runs_of,
};
use lunar_metadata::seams::block_on;
use lunar_metadata::store::MetaStore as _;
use lunar_types::{ExtentAddress, ExtentRun};

use crate::service::MetaLink;
use crate::world::{Flow, Stop, World, failed};

/// A backup that was begun.
pub(crate) struct BackedUp {
    number: BackupNumber,
    /// The extents that its map names.
    named: BTreeSet<ExtentAddress>,
    /// Those of them that no map named any more at some look since.
    gone: BTreeSet<ExtentAddress>,
}

impl MetaLink {
    /// Every entry of a table.
    fn table<K: lunar_metadata::keyspace::Key>(&self) -> Flow<Vec<(K, K::Value)>> {
        let read = async {
            let txn = self.service().store().begin().await.map_err(|error| error.to_string())?;
            let entries = txn.scan(&TypedRange::<K>::table(), usize::MAX).await;
            entries.map_err(|error| error.to_string())
        };
        block_on(read).map_err(Stop::Failed)
    }

    /// The extents that slots and parts name.
    fn mapped(&self) -> Flow<BTreeSet<ExtentAddress>> {
        let slots = self.table::<SlotKey>()?.into_iter().map(|(_, slot)| slot);
        let parts = self.table::<PartKey>()?.into_iter().map(|(_, slot)| slot);
        Ok(slots.chain(parts).filter_map(|SlotValue(slot)| slot.extent()).collect())
    }

    fn allocated(&self) -> Flow<BTreeSet<ExtentAddress>> {
        let mut runs = Vec::new();
        for (key, bits) in self.table::<GroupKey>()? {
            let bits: Bitmap = bits;
            runs_of(key.lun, key.group, &bits, &mut runs);
        }
        Ok(runs.iter().flat_map(|run| run.iter()).collect())
    }
}

impl World {
    /// Begins a backup, or says that the one begun last is complete.
    pub(crate) fn backup_step(&mut self) -> Flow {
        if !self.meta.is_up {
            return Ok(());
        }
        match self.open_backup.take() {
            // Somebody has lost the file of the other ones.
            Some(open) if self.dice.chance(700) => self.complete(open),
            _ => self.begin_backup(),
        }
    }

    fn begin_backup(&mut self) -> Flow {
        let number = self.insist("a backup", |service| block_on(service.begin_backup(1)))?;
        let named = self.meta.mapped()?;
        self.note_line(&format!("backup {number} names {} extents", named.len()));
        self.open_backup = Some(BackedUp { number, named, gone: BTreeSet::new() });
        Ok(())
    }

    fn complete(&mut self, open: BackedUp) -> Flow {
        let number = open.number;
        self.note_line(&format!("backup {number} is complete"));
        self.insist("the end of a backup", |service| block_on(service.backup_done(number, 1)))?;
        self.newest_backup = Some(open);
        self.counters.backups += 1;
        self.audit("a backup")
    }

    /// With nothing in any map, no backup keeps anything back.
    pub(crate) fn back_up_the_end(&mut self) -> Flow {
        if self.open_backup.is_none() && self.newest_backup.is_none() {
            return Ok(());
        }
        self.begin_backup()?;
        let open = self.open_backup.take().expect("it was just begun");
        self.complete(open)
    }

    /// Releases those of a host's extents that the map has named since a backup was begun; gives
    /// the others. What cannot be released now stays in the host's quarantine.
    pub(crate) fn keep_for_backups(
        &mut self,
        host: usize,
        extents: BTreeSet<ExtentAddress>,
    ) -> Flow<Vec<ExtentAddress>> {
        let caller = self.caller(host);
        let mut unmapped = Vec::new();
        for (key, bits) in self.meta.table::<UnmappedKey>()? {
            if (key.node, key.incarnation) == (caller.node.node, caller.node.incarnation) {
                runs_of(key.lun, key.group, &bits, &mut unmapped);
            }
        }
        let unmapped: BTreeSet<_> = unmapped.iter().flat_map(|run| run.iter()).collect();
        let (held, free): (BTreeSet<_>, BTreeSet<_>) =
            extents.into_iter().partition(|extent| unmapped.contains(extent));
        if !self.meta.is_up {
            self.hosts[host].quarantine = held;
        } else if !held.is_empty() {
            self.counters.returned += held.len() as u64;
            let runs = held.iter().map(|at| ExtentRun::new(*at, 1)).collect();
            let (request, pool) = (self.meta.fresh_request(), self.meta.pool);
            let release = ReleaseExtents { request, caller, pool, runs };
            self.insist("a release", |service| block_on(service.release_extents(&release)))?;
        }
        Ok(free.into_iter().collect())
    }

    /// Nothing that a backup names was given away.
    pub(crate) fn audit_backups(&mut self, after: &str) -> Flow {
        if self.open_backup.is_none() && self.newest_backup.is_none() {
            return Ok(());
        }
        let (mapped, allocated) = (self.meta.mapped()?, self.meta.allocated()?);
        for backup in [&mut self.newest_backup, &mut self.open_backup].into_iter().flatten() {
            let number = backup.number;
            for extent in &backup.named {
                if !allocated.contains(extent) {
                    let what = format!("extent {extent} is free, and backup {number} names it");
                    return failed(format!("after {after}: {what}"));
                }
                if !mapped.contains(extent) {
                    backup.gone.insert(*extent);
                } else if backup.gone.contains(extent) {
                    let what = format!(
                        "extent {extent} of backup {number} was unmapped, and is used again"
                    );
                    return failed(format!("after {after}: {what}"));
                }
            }
        }
        Ok(())
    }
}
