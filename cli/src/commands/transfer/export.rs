//! `lunar snapshot export`.
//!
//! The snapshot is pinned by a clone that is attached to this node and read. What it has, or what
//! changed, is asked for before that: the list is complete while both snapshots are there, and from
//! then on they may be deleted. The clone is deleted however the export ends.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lunar_metadata_client::{ErrorReason, fresh_request_id};
use lunar_proto::domain::{
    CloneVolume, DiffKind, DiffRun, Selector, Snapshot, SnapshotState, Volume,
};
use lunar_types::ByteCount;

use super::super::Context;
use super::own::{Here, Purpose, after_removal};
use super::target::{Target, Under};
use super::work::{Work, cannot_open};
use super::{Stop, on_thread, place_failed, usage};
use crate::args::{ExportArgs, ExportFormat};
use crate::block_device::{Access, BlockDevice};
use crate::error::{CliError, Exit};
use crate::export::TransferError;
use crate::export::manifest::ManifestHeader;
use crate::export::place::{Place, Sums};
use crate::export::stream::StreamHeader;
use crate::export::window::windows_of;
use crate::output;
use crate::progress::{Moving, Waiting};
use crate::views::transfer::ExportView;

pub(in super::super) async fn run(
    args: &ExportArgs,
    context: &Context<'_>,
) -> Result<Exit, CliError> {
    let step = format!("export snapshot {}", args.snapshot.0);
    check_usage(&step, args)?;
    let (stop, here) = (Stop::on_signals(), Here::start(context).await?);
    let snapshot = ready(&here, &step, &args.snapshot.0).await?;
    let base = match &args.base {
        Some(base) => Some(ready(&here, &step, &base.0).await?),
        None => None,
    };
    if base.as_ref().is_some_and(|base| base.id == snapshot.id) {
        return Err(usage(&step, "it is its own base", "name an earlier snapshot as --base"));
    }
    let target = Target::open(&step, args, base.as_ref())?;
    let of = StreamHeader {
        snapshot: snapshot.id,
        // A raw file has all of it, whatever it was made from.
        base: base.as_ref().map(|base| base.id).filter(|_| args.format != ExportFormat::Raw),
        size: snapshot.size,
        logical_block: snapshot.logical_block_size,
    };
    let runs = runs_of(&here, &stop, &step, base.as_ref(), &snapshot).await?;
    let clone = clone_of(&here, &snapshot).await?;
    let copied = copy(&here, context, &step, &stop, &clone, Job { of, runs, target }).await;
    let removed = here.remove(&clone).await;
    let copied = copied.map_err(|error| resumable(args, error));
    let done = after_removal(copied, &clone, removed)?;
    let name = snapshot.name.to_string();
    show(context, args, ExportView { snapshot_name: name, ..done })
}

fn check_usage(step: &str, args: &ExportArgs) -> Result<(), CliError> {
    let is_stream = args.format == ExportFormat::Stream;
    if args.overwrite_device {
        let is_device =
            |path: &Path| path.metadata().is_ok_and(|it| it.file_type().is_block_device());
        return match args.format == ExportFormat::Raw && args.to.path().is_some_and(is_device) {
            true => Ok(()),
            false => {
                let why = format!(
                    "--overwrite-device writes raw bytes, and {} is no block device or \
                     the format is another",
                    args.to
                );
                Err(usage(step, &why, "choose --format raw and the path of a block device"))
            }
        };
    }
    if args.to.path().is_none() {
        if !is_stream {
            let why = format!("{} cannot be written to a pipe", args.format.name());
            return Err(usage(step, &why, "choose --format stream, or name a file"));
        }
        if args.resume {
            return Err(usage(step, "a pipe cannot be gone on with", "leave --resume out"));
        }
    }
    match (&args.base, &args.base_file) {
        (Some(_), None) if !is_stream => {
            let why = format!("{} needs the export of the base", args.format.name());
            Err(usage(step, &why, "name the finished export of the base as --base-file"))
        }
        (_, Some(_)) if is_stream => {
            Err(usage(step, "a stream needs no --base-file", "leave it out"))
        }
        _ => Ok(()),
    }
}

async fn ready(
    here: &Here,
    step: &str,
    snapshot: &Selector<lunar_types::SnapshotId>,
) -> Result<Snapshot, CliError> {
    let found = here.service.snapshot(snapshot).await?;
    match found.state {
        SnapshotState::Ready => Ok(found),
        state => {
            let message = format!("{step}: snapshot '{}' is {state}, not Ready", found.name);
            let reason = ErrorReason::SnapshotNotReady.as_str();
            Err(CliError::new(Exit::Refused, reason, message))
        }
    }
}

/// All that has to be read, in order.
async fn runs_of(
    here: &Here,
    stop: &Stop,
    step: &str,
    base: Option<&Snapshot>,
    snapshot: &Snapshot,
) -> Result<Vec<DiffRun>, CliError> {
    let what = format!("reading what snapshot '{}' has", snapshot.name);
    let waiting = Waiting::on(&what);
    let from = base.map(|base| Selector::Id(base.id));
    let mut diff = here.service.diff_snapshots(from, Selector::Id(snapshot.id), 0);
    let mut runs = Vec::new();
    while let Some(run) = diff.next().await {
        let run = run?;
        waiting.update(format!("{what}: {}", ByteCount::new(run.end())));
        // What a larger base had behind the end is nobody's any more.
        let end = run.end().min(snapshot.size.bytes());
        if run.offset < end {
            runs.push(DiffRun { length: end - run.offset, ..run });
        }
        stop.check(step)?;
    }
    Ok(runs)
}

/// The clone takes no space but its journal's, and goes again: no watermark keeps data from being
/// taken out of a pool that is full.
async fn clone_of(here: &Here, snapshot: &Snapshot) -> Result<Volume, CliError> {
    let (request, by_id) = (fresh_request_id(), Selector::Id(snapshot.id));
    let name = here.name(Purpose::Export);
    let over_watermark = true;
    let clone = CloneVolume { request, snapshot: by_id, name, size: None, over_watermark };
    Ok(here.service.clone_volume(&clone).await?)
}

/// What is to be written where.
struct Job {
    of: StreamHeader,
    runs: Vec<DiffRun>,
    target: Target,
}

async fn copy(
    here: &Here,
    context: &Context<'_>,
    step: &str,
    stop: &Stop,
    clone: &Volume,
    job: Job,
) -> Result<ExportView, CliError> {
    stop.check(step)?;
    let device = here.attach(clone).await?;
    stop.check(step)?;
    let total = job.total();
    let moving = Moving::of(step, total, context.global.output);
    let (counter, stop, step) = (moving.counter(), stop.clone(), step.to_owned());
    let done = on_thread(move || job.run(&step, &device, &stop, &counter)).await;
    drop(moving);
    done
}

/// Says that the same command may be given again, where that helps.
fn resumable(args: &ExportArgs, error: CliError) -> CliError {
    let helps = ["INTERRUPTED", "TARGET_FULL", "TARGET", "VOLUME_READ"];
    let partial = args.to.path().map(|path| Place::new(path).partial());
    if !helps.contains(&error.reason.as_str()) || !partial.is_some_and(|it| it.exists()) {
        return error;
    }
    let again = "what is written is kept: the same command with --resume goes on with it";
    let advice = match error.advice.as_str() {
        "" => again.to_owned(),
        advice => format!("{advice}; {again}"),
    };
    error.advise(advice)
}

fn show(context: &Context<'_>, args: &ExportArgs, view: ExportView) -> Result<Exit, CliError> {
    if args.to.path().is_some() {
        return context.show(&view);
    }
    // The standard output has the stream.
    let text = output::render(&view, context.global.output);
    let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
    Ok(Exit::Ok)
}

impl Job {
    /// How many bytes of the volume are read at most.
    fn total(&self) -> u64 {
        let data = |run: &&DiffRun| run.kind == DiffKind::Data;
        match &self.target {
            Target::Image { under, .. } => {
                let of = windows_of(&self.runs, self.of.size);
                let base = match under {
                    Under::Copied(base) => base.manifest.data_bytes(),
                    Under::Nothing | Under::Backing(_) => 0,
                };
                base + of.iter().map(|window| window.data_bytes(self.of.size)).sum::<u64>()
            }
            Target::Device { .. } => {
                let windows = windows_of(&self.runs, self.of.size);
                windows.iter().map(|window| window.data_bytes(self.of.size)).sum()
            }
            Target::Standard | Target::Stream { .. } => {
                self.runs.iter().filter(data).map(|run| run.length).sum()
            }
        }
    }

    fn run(
        self,
        step: &str,
        device: &Path,
        stop: &Stop,
        counter: &Arc<AtomicU64>,
    ) -> Result<ExportView, CliError> {
        let opened = BlockDevice::open(device, Access::Read);
        let mut device = opened.map_err(|error| cannot_open(step, device, &error))?;
        let Self { of, runs, target } = self;
        let mut work = Work { step, of, source: &mut device, stop, counter, resumed: 0 };
        let export = match target {
            Target::Standard => {
                let out = io::stdout().as_fd().try_clone_to_owned();
                let out =
                    File::from(out.map_err(|error| work.failed(TransferError::WriteFile(error)))?);
                let (_, export) = work.stream(None, out, &runs)?;
                export
            }
            Target::Device { path } => work.device(&path, &windows_of(&runs, of.size))?,
            Target::Stream { place, begin } => {
                let files = place.open(begin, Sums::Inside);
                let file = files.map_err(|error| place_failed(step, &error))?.partial;
                let (file, export) = work.stream(Some(&place), file, &runs)?;
                work.sync(&file)?;
                place.finish().map_err(|error| place_failed(step, &error))?;
                export
            }
            Target::Image { place, begin, format, under } => {
                let files = place.open(begin, Sums::Manifest);
                let files = files.map_err(|error| place_failed(step, &error))?;
                // The lock is held until the file has its name.
                let lock = files.partial.try_clone();
                let _lock = lock.map_err(|error| work.failed(TransferError::WriteFile(error)))?;
                let header = ManifestHeader { of, format };
                let windows = windows_of(&runs, of.size);
                let export = work.image(&place, files, header, under, &windows)?;
                place.finish().map_err(|error| place_failed(step, &error))?;
                export
            }
        };
        Ok(ExportView { export, snapshot_name: String::new(), resumed_bytes: work.resumed })
    }
}
