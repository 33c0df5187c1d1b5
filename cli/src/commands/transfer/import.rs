//! `lunar snapshot import`.
//!
//! - A new volume is written under a name of the command; it gets the name that was asked for, by a
//!   clone, when the export was read to its end and was right.
//! - A volume that is brought up to date has to be what the base was. A snapshot is cut first: it
//!   proves that, and the volume goes back to it if the import fails. A second one, when the device
//!   is open for this command alone, proves that nobody has written in between.
//! - What was imported is marked by a snapshot `import-<uuid of the snapshot>-<some characters>`:
//!   the next export of differences finds its base by that name.

use lunar_metadata_client::{ErrorKind, ErrorReason, fresh_request_id};
use lunar_proto::domain::{
    CloneVolume, CreateVolume, DeleteSnapshot, Fsfreeze, GrowVolume, NewCut, NewMember,
    RollbackVolume, Selector, Snapshot, SnapshotState, Volume,
};
use lunar_types::{Name, SnapshotId, VolumeId};

use super::super::{Context, cut::cut, unless};
use super::opened::Opened;
use super::own::{Here, Purpose, after_removal};
use super::{Stop, on_thread, usage};
use crate::args::{ImportArgs, PoolArg};
use crate::block_device::{Access, BlockDevice};
use crate::error::{CliError, Exit};
use crate::export::transfer::Zeros;
use crate::progress::{Moving, Waiting};
use crate::views::transfer::{ExportFacts, ImportView};
use crate::views::volume::VolumeView;

const NO_VOLUME: ErrorKind = ErrorKind::Refused(ErrorReason::VolumeNotFound);
const UNRELATED: ErrorKind = ErrorKind::Refused(ErrorReason::SnapshotsUnrelated);
const SNAPSHOT_GONE: ErrorKind = ErrorKind::Refused(ErrorReason::SnapshotNotFound);

pub(in super::super) async fn run(
    args: &ImportArgs,
    context: &Context<'_>,
) -> Result<Exit, CliError> {
    let step = format!("import {}", args.file);
    let stop = Stop::on_signals();
    let (opening, file, unverified) = (step.clone(), args.file.clone(), args.unverified);
    let opened = on_thread(move || Opened::open(&opening, &file, unverified)).await?;
    let (here, over_watermark) = (Here::start(context).await?, args.over_watermark);
    let import = Import { step, stop, here, context, over_watermark };
    match (&args.name, &args.pool, &args.onto) {
        (Some(name), Some(pool), None) => import.new_volume(opened, name, pool).await,
        (None, None, Some(volume)) => import.onto(opened, &volume.0).await,
        _ => Err(usage(&import.step, "no volume is named", "give NAME and --pool, or --onto")),
    }
}

struct Import<'a> {
    step: String,
    stop: Stop,
    here: Here,
    context: &'a Context<'a>,
    /// What is new is asked for although the pool is above its critical watermark. What only marks
    /// or ends what was begun always is.
    over_watermark: bool,
}

/// How the names of snapshots begin that mark this one as imported.
fn marker_prefix(snapshot: SnapshotId) -> String {
    format!("import-{snapshot}-")
}

/// A few characters that no other name ends with.
fn some_characters() -> String {
    fresh_request_id().to_string().chars().take(8).collect()
}

fn name_of(text: &str) -> Name {
    text.parse().expect("words, a UUID and hexadecimal digits are a name")
}

impl Import<'_> {
    fn refuse(&self, reason: &str, why: String) -> CliError {
        CliError::new(Exit::Refused, reason, format!("{}: {why}", self.step))
    }

    fn device_failed(&self, what: &str, error: &std::io::Error) -> CliError {
        let message = format!("{}: {what}: {error}", self.step);
        CliError::new(Exit::Failed, "DEVICE", message)
            .advise("see what fs-core logs, and what uses the device")
    }

    /// Attaches a volume and opens its device for this command alone.
    async fn attach(&self, volume: &Volume) -> Result<BlockDevice, CliError> {
        let path = self.here.attach(volume).await?;
        BlockDevice::open(&path, Access::Write)
            .map_err(|error| self.device_failed(&format!("open {}", path.display()), &error))
    }

    /// Writes all of an export to a volume and makes it durable.
    async fn write(
        &self,
        opened: Opened,
        mut device: BlockDevice,
        zeros: Zeros,
    ) -> Result<ExportFacts, CliError> {
        let (step, stop) = (self.step.clone(), self.stop.clone());
        let output = self.context.global.output;
        let moving = Moving::of(&step, opened.data_bytes(), output);
        let counter = moving.counter();
        let written = on_thread(move || {
            let facts = opened.read(&step, Some((&mut device, zeros)), &stop, &counter)?;
            Ok((facts, device.sync()))
        });
        let written = written.await;
        drop(moving);
        let (facts, synced) = written?;
        let what = "make durable what was written to the device";
        synced.map_err(|error| self.device_failed(what, &error))?;
        Ok(facts)
    }

    async fn show(
        &self,
        volume: &Selector<VolumeId>,
        marker: Option<&Snapshot>,
        from: ExportFacts,
    ) -> Result<Exit, CliError> {
        let volume = self.here.service.volume(volume).await?;
        let pool = self.here.service.pool(&Selector::Id(volume.pool)).await?;
        let marker = marker.map(|marker| marker.name.to_string());
        let volume = VolumeView::new(&volume, &pool);
        self.context.show(&ImportView { volume, marker, from })
    }

    async fn snapshot_of(&self, volume: &Volume, name: String) -> Result<Snapshot, CliError> {
        let cut_as = NewCut::Snapshot(name_of(&name));
        let members = vec![NewMember { volume: Selector::Id(volume.id), cut: cut_as }];
        let set = cut(&self.here.service, members, Fsfreeze::Never, true, None).await?;
        set.snapshots.into_iter().next().ok_or_else(|| {
            let message = format!("{}: set {} was cut, and has no snapshot", self.step, set.id);
            CliError::new(Exit::Failed, "MALFORMED_ANSWER", message)
                .advise("see that lunar and the metadata service are of the same version")
        })
    }

    async fn delete_snapshot(&self, snapshot: &Snapshot) -> Result<(), CliError> {
        let (request, snapshot) = (fresh_request_id(), Selector::Id(snapshot.id));
        let delete = DeleteSnapshot { request, snapshot };
        let deleted = self.here.service.delete_snapshot(&delete).await;
        unless(SNAPSHOT_GONE, deleted).map(drop)
    }

    async fn new_volume(
        &self,
        opened: Opened,
        name: &Name,
        pool: &PoolArg,
    ) -> Result<Exit, CliError> {
        if let Some(base) = opened.of.base {
            let why = format!("it has only what changed since snapshot {base}");
            let error = self.refuse("IMPORT_BASE_MISMATCH", why);
            return Err(error.advise("name the volume that is as the base was as --onto"));
        }
        let service = &self.here.service;
        let taken = service.volume(&Selector::Name(name.clone())).await;
        if unless(NO_VOLUME, taken)?.is_some() {
            let why = format!("volume '{name}' is there already");
            return Err(self.refuse(ErrorReason::VolumeExists.as_str(), why));
        }
        let create = CreateVolume {
            request: fresh_request_id(),
            name: self.here.name(Purpose::Import),
            pool: pool.0.clone(),
            size: opened.of.size,
            logical_block_size: opened.of.logical_block,
            over_watermark: self.over_watermark,
        };
        let volume = service.create_volume(&create).await?;
        let filled = self.fill(opened, &volume, name).await;
        let removed = self.here.remove(&volume).await;
        let (marker, facts) = after_removal(filled, &volume, removed)?;
        self.show(&Selector::Name(name.clone()), marker.as_ref(), facts).await
    }

    /// Writes a volume of the command, and makes the one that was asked for of it.
    async fn fill(
        &self,
        opened: Opened,
        volume: &Volume,
        name: &Name,
    ) -> Result<(Option<Snapshot>, ExportFacts), CliError> {
        let (of, unverified) = (opened.of, opened.unverified);
        self.stop.check(&self.step)?;
        let device = self.attach(volume).await?;
        let facts = self.write(opened, device, Zeros::Skipped).await?;
        self.here.detach(volume.id).await?;
        self.stop.check(&self.step)?;
        let service = &self.here.service;
        if unverified {
            let cut_as = NewCut::Clone(name.clone());
            let members = vec![NewMember { volume: Selector::Id(volume.id), cut: cut_as }];
            cut(service, members, Fsfreeze::Never, true, None).await?;
            return Ok((None, facts));
        }
        let marker = format!("{}{}", marker_prefix(of.snapshot), some_characters());
        let marker = self.snapshot_of(volume, marker).await?;
        let (request, snapshot) = (fresh_request_id(), Selector::Id(marker.id));
        let (name, over_watermark) = (name.clone(), true);
        let clone = CloneVolume { request, snapshot, name, size: None, over_watermark };
        match service.clone_volume(&clone).await {
            Ok(_) => Ok((Some(marker), facts)),
            Err(error) => {
                // Without its volume the marker would only hold space.
                self.delete_snapshot(&marker).await?;
                Err(error.into())
            }
        }
    }

    async fn onto(&self, opened: Opened, selector: &Selector<VolumeId>) -> Result<Exit, CliError> {
        let Some(base) = opened.of.base else {
            let error = self.refuse("IMPORT_BASE_MISMATCH", "it is whole, and has no base".into());
            return Err(error.advise("import it into a new volume: NAME --pool POOL"));
        };
        let volume = self.here.service.volume(selector).await?;
        self.check_volume(&opened, &volume)?;
        let undo = self.snapshot_of(&volume, format!("import-undo-{}", some_characters())).await?;
        let device = match self.prepare(&opened, base, &volume, &undo).await {
            Ok(device) => device,
            Err(error) => {
                // Nothing was written. What is left of the snapshot is nobody's loss.
                let _ = self.delete_snapshot(&undo).await;
                return Err(error);
            }
        };
        match self.bring_up_to_date(opened, device, &volume).await {
            Ok((marker, facts)) => {
                let left = |error: CliError| {
                    let undo = &undo.name;
                    let message = format!(
                        "all is done, but snapshot '{undo}' could not be deleted: {}",
                        error.message
                    );
                    let advice = format!("'lunar snapshot delete {undo}'");
                    CliError { message, advice, ..error }
                };
                self.delete_snapshot(&undo).await.map_err(left)?;
                self.show(&Selector::Id(volume.id), Some(&marker), facts).await
            }
            Err(error) => Err(self.undo(&volume, &undo, error).await),
        }
    }

    fn check_volume(&self, opened: &Opened, volume: &Volume) -> Result<(), CliError> {
        let name = &volume.name;
        if let Some(holder) = &volume.holder {
            let why = format!("volume '{name}' is attached to node '{}'", holder.node_name);
            let error = self.refuse(ErrorReason::VolumeAttached.as_str(), why);
            return Err(error.advise(format!("'lunar volume detach {name}' there first")));
        }
        let (has, wants) = (volume.size.bytes(), opened.of.size.bytes());
        if has > wants || volume.logical_block_size != opened.of.logical_block {
            let why = format!(
                "volume '{name}' has {has} B in blocks of {} B, the export {wants} B in blocks of \
                 {} B",
                volume.logical_block_size.bytes(),
                opened.of.logical_block.bytes()
            );
            return Err(self.refuse("IMPORT_BASE_MISMATCH", why));
        }
        Ok(())
    }

    /// Makes sure that the volume is as its base, attaches it, and makes sure again that nobody
    /// has written to it before this command had it alone.
    async fn prepare(
        &self,
        opened: &Opened,
        base: SnapshotId,
        volume: &Volume,
        undo: &Snapshot,
    ) -> Result<BlockDevice, CliError> {
        self.check_base(base, volume, undo).await?;
        let (by_id, size) = (Selector::Id(volume.id), opened.of.size);
        if volume.size < size {
            let (request, volume) = (fresh_request_id(), by_id.clone());
            let over_watermark = self.over_watermark;
            let grow = GrowVolume { request, volume, size, over_watermark };
            self.here.service.grow_volume(&grow).await?;
        }
        self.stop.check(&self.step)?;
        let untouched = async {
            let device = self.attach(volume).await?;
            self.check_untouched(volume, undo).await?;
            Ok(device)
        };
        match untouched.await {
            Ok(device) => Ok(device),
            Err(error) => {
                // Where somebody else uses it, it stays attached.
                let _ = self.here.daemon.detach(&by_id, false).await;
                Err(error)
            }
        }
    }

    async fn bring_up_to_date(
        &self,
        opened: Opened,
        device: BlockDevice,
        volume: &Volume,
    ) -> Result<(Snapshot, ExportFacts), CliError> {
        let of = opened.of;
        let facts = self.write(opened, device, Zeros::Written).await?;
        self.here.detach(volume.id).await?;
        let marker = format!("{}{}", marker_prefix(of.snapshot), some_characters());
        Ok((self.snapshot_of(volume, marker).await?, facts))
    }

    /// Whether what the volume has now is what the base had: the base itself or a marker of it,
    /// from which nothing differs.
    async fn check_base(
        &self,
        base: SnapshotId,
        volume: &Volume,
        now: &Snapshot,
    ) -> Result<(), CliError> {
        let _waiting = Waiting::on(&format!("comparing volume '{}' with its base", volume.name));
        let prefix = marker_prefix(base);
        let is_base = |it: &Snapshot| it.id == base || it.name.as_str().starts_with(&prefix);
        let mut written = None;
        for known in self.here.service.snapshots(None).await? {
            if !is_base(&known) || known.state != SnapshotState::Ready {
                continue;
            }
            let (from, to) = (Some(Selector::Id(known.id)), Selector::Id(now.id));
            match self.here.service.diff_snapshots(from, to, 0).next().await {
                None => return Ok(()),
                Some(Ok(run)) => written = Some((known, run)),
                Some(Err(error)) if error.kind() == UNRELATED => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
        let name = &volume.name;
        Err(match written {
            None => {
                let why = format!("volume '{name}' does not stand on snapshot {base}, its base");
                let error = self.refuse("IMPORT_BASE_MISMATCH", why);
                error.advise("import the exports before this one first, the whole one to begin")
            }
            Some((known, run)) => {
                let (known, at) = (known.name, run.offset);
                let why = format!(
                    "volume '{name}' was written since snapshot '{known}', its base, first at \
                     offset {at}"
                );
                let error = self.refuse("IMPORT_BASE_MISMATCH", why);
                error.advise(format!(
                    "if what was written may be lost: 'lunar volume rollback {name} {known}' or, \
                     where that is refused, import onto a clone of '{known}'"
                ))
            }
        })
    }

    /// Whether nobody wrote to the volume between the check of its base and now, when this command
    /// has its device alone.
    async fn check_untouched(&self, volume: &Volume, undo: &Snapshot) -> Result<(), CliError> {
        let now = self.snapshot_of(volume, format!("import-check-{}", some_characters())).await?;
        let (from, to) = (Some(Selector::Id(undo.id)), Selector::Id(now.id));
        let first = self.here.service.diff_snapshots(from, to, 0).next().await;
        self.delete_snapshot(&now).await?;
        match first {
            None => Ok(()),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(_)) => {
                let why = format!("volume '{}' was used by somebody else meanwhile", volume.name);
                Err(self.refuse("IMPORT_BASE_MISMATCH", why).advise("try again"))
            }
        }
    }

    /// Brings a volume back to what it was before an import that failed.
    async fn undo(&self, volume: &Volume, undo: &Snapshot, error: CliError) -> CliError {
        let back = async {
            self.here.detach(volume.id).await?;
            let (request, id) = (fresh_request_id(), Selector::Id(volume.id));
            let snapshot = Selector::Id(undo.id);
            let rollback = RollbackVolume { request, volume: id, snapshot };
            self.here.service.rollback_volume(&rollback).await?;
            self.delete_snapshot(undo).await
        };
        let (name, undo) = (&volume.name, &undo.name);
        match back.await {
            Ok(()) => {
                let message = format!("{}; volume '{name}' is what it was before", error.message);
                CliError { message, ..error }
            }
            Err(second) => {
                let message = format!(
                    "{}; volume '{name}' could not be brought back: {}",
                    error.message, second.message
                );
                let advice = format!(
                    "see to that, then 'lunar volume detach {name}', 'lunar volume rollback {name} \
                     {undo}' and 'lunar snapshot delete {undo}'"
                );
                CliError { message, advice, ..error }
            }
        }
    }
}
