//! `lunar snapshot export`.
//!
//! The snapshot is pinned by a clone that is attached to this node and read. What it has, or what
//! changed, is asked for before that: the list is complete while both snapshots are there, and from
//! then on they may be deleted. The clone is deleted however the export ends.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lunar_metadata_client::{ErrorReason, fresh_request_id};
use lunar_proto::domain::{
    CloneVolume, DiffKind, DiffRun, Selector, Snapshot, SnapshotState, Volume,
};
use lunar_types::{ByteCount, VolumeSize};

use super::super::Context;
use super::opened::open_image;
use super::own::{Here, Purpose, after_removal};
use super::{Stop, on_thread, place_failed, transfer_failed, usage};
use crate::args::{ExportArgs, ExportFormat};
use crate::block_device::{Access, AlignedBuffer, BlockDevice};
use crate::error::{CliError, Exit};
use crate::export::image::{ImageWriter, take_back};
use crate::export::manifest::{ImageFormat, Manifest, ManifestHeader, ManifestWriter};
use crate::export::place::{Begin, Files, Place, Sums};
use crate::export::qcow2::{Backing, BackingFormat, Image, Qcow2File};
use crate::export::raw::RawWriter;
use crate::export::stream::{Found, StreamHeader, StreamWriter, cut, scan};
use crate::export::transfer::{FileExport, Finished, write_stream};
use crate::export::window::{WINDOW_BYTES, Window, windows_of};
use crate::export::{Source, TransferError};
use crate::output;
use crate::progress::{Moving, Waiting};
use crate::views::transfer::{ExportFacts, ExportView};

/// Where the bytes go.
enum Target {
    Standard,
    Stream { place: Place, file: File },
    Image { place: Place, files: Files, format: ImageFormat, under: Under },
}

/// What is under what changed.
enum Under {
    Nothing,
    /// Copied from where nothing changed.
    Copied(Finished),
    /// Named by the image.
    Backing(Backing),
}

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

async fn clone_of(here: &Here, snapshot: &Snapshot) -> Result<Volume, CliError> {
    let (request, by_id) = (fresh_request_id(), Selector::Id(snapshot.id));
    let name = here.name(Purpose::Export);
    let clone = CloneVolume { request, snapshot: by_id, name, size: None };
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

/// Says that the same command may be given again.
fn resumable(args: &ExportArgs, error: CliError) -> CliError {
    if args.to.path().is_none() || error.exit == Exit::Usage {
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

impl Target {
    fn open(step: &str, args: &ExportArgs, base: Option<&Snapshot>) -> Result<Self, CliError> {
        let Some(path) = args.to.path() else { return Ok(Self::Standard) };
        let begin = if args.resume { Begin::OrResume } else { Begin::Anew };
        let format = match args.format {
            ExportFormat::Stream => {
                let place = Place::new(path);
                let files = place.open(begin, Sums::Inside);
                let file = files.map_err(|error| place_failed(step, &error))?.partial;
                return Ok(Self::Stream { place, file });
            }
            ExportFormat::Raw => ImageFormat::Raw,
            ExportFormat::Qcow2 => ImageFormat::Qcow2,
        };
        let under = match (base, &args.base_file) {
            (Some(base), Some(file)) => under(step, format, path, base, file)?,
            _ => Under::Nothing,
        };
        let place = Place::new(path);
        let files = place.open(begin, Sums::Manifest);
        let files = files.map_err(|error| place_failed(step, &error))?;
        Ok(Self::Image { place, files, format, under })
    }
}

/// The finished export of the base at `file`.
fn under(
    step: &str,
    format: ImageFormat,
    path: &Path,
    base: &Snapshot,
    file: &Path,
) -> Result<Under, CliError> {
    let refuse = |why: String| {
        let message = format!("{step}: --base-file {}: {why}", file.display());
        CliError::new(Exit::Refused, "BASE_FILE_MISMATCH", message).advise(format!(
            "name the finished raw or qcow2 export of snapshot '{}', with its manifest next to it",
            base.name
        ))
    };
    let Some(found) = open_image(step, file)? else {
        return Err(refuse("it has no manifest, so nobody knows what it is of".to_owned()));
    };
    let of = found.manifest.header.of;
    if of.snapshot != base.id {
        return Err(refuse(format!("it is of snapshot {}, not of {}", of.snapshot, base.id)));
    }
    match (format, found.manifest.header.format) {
        (ImageFormat::Raw, ImageFormat::Raw) => Ok(Under::Copied(found)),
        (ImageFormat::Raw, ImageFormat::Qcow2) => {
            Err(refuse("it is qcow2, and a raw export needs a raw one".to_owned()))
        }
        (ImageFormat::Qcow2, base) => {
            let format = match base {
                ImageFormat::Raw => BackingFormat::Raw,
                ImageFormat::Qcow2 => BackingFormat::Qcow2,
            };
            let path = backing_path(path, file).map_err(|error| refuse(error.to_string()))?;
            Ok(Under::Backing(Backing { path, format }))
        }
    }
}

/// The name of a backing file as the image has it: without folders where both are in one.
fn backing_path(image: &Path, file: &Path) -> io::Result<String> {
    let folder = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.canonicalize(),
        _ => Path::new(".").canonicalize(),
    };
    let same = folder(image)? == folder(file)?;
    let name = file.file_name().filter(|_| same).map(PathBuf::from);
    let path = match name {
        Some(name) => name,
        None => file.canonicalize()?,
    };
    let text = path.into_os_string().into_string();
    text.map_err(|_| io::Error::other("its path is not UTF-8, and qcow2 needs that"))
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
            _ => self.runs.iter().filter(data).map(|run| run.length).sum(),
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
            Target::Stream { place, file } => {
                let (file, export) = work.stream(Some(&place), file, &runs)?;
                let synced = file.sync_all();
                synced.map_err(|error| work.failed(TransferError::WriteFile(error)))?;
                place.finish().map_err(|error| place_failed(step, &error))?;
                export
            }
            Target::Image { place, files, format, under } => {
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

fn cannot_open(step: &str, device: &Path, error: &io::Error) -> CliError {
    let message = format!("{step}: open {}: {error}", device.display());
    CliError::new(Exit::Failed, "DEVICE", message)
        .advise("run this as root on the node of fs-core, and see what uses the device")
}

/// What the thread that moves the data has.
struct Work<'a> {
    step: &'a str,
    of: StreamHeader,
    source: &'a mut dyn Source,
    stop: &'a Stop,
    counter: &'a Arc<AtomicU64>,
    /// Data that an earlier run had written.
    resumed: u64,
}

impl Work<'_> {
    fn failed(&self, error: TransferError) -> CliError {
        transfer_failed(self.step, &error)
    }

    fn moved(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    fn keep(&mut self, bytes: u64) {
        self.resumed = bytes;
        self.counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Writes a stream into a pipe, or into a file that may have a part of it.
    fn stream(
        &mut self,
        place: Option<&Place>,
        mut file: File,
        runs: &[DiffRun],
    ) -> Result<(File, ExportFacts), CliError> {
        let found = match place {
            None => Found::Nothing,
            Some(place) => {
                let input = io::BufReader::with_capacity(1 << 20, &file);
                let step = format!("{}: {}", self.step, place.partial().display());
                let found = scan(input, &self.of);
                found.map_err(|error| transfer_failed(&step, &TransferError::Stream(error)))?
            }
        };
        let failed = |error| transfer_failed(self.step, &TransferError::WriteFile(error));
        let (writer, from) = match found {
            Found::Nothing => {
                if place.is_some() {
                    begin_anew(&mut file).map_err(failed)?;
                }
                (StreamWriter::create(file, self.of).map_err(failed)?, 0)
            }
            Found::Part(part) => {
                cut(&mut file, &part).map_err(failed)?;
                let from = part.next_offset();
                self.keep(data_before(runs, from));
                (StreamWriter::resume(file, part), from)
            }
            Found::Whole(crc) => {
                self.keep(data_before(runs, self.of.size.bytes()));
                return Ok((file, self.facts(place, "stream", crc)));
            }
        };
        let mut buffer = AlignedBuffer::new(WINDOW_BYTES as usize);
        let mut observer = self.stop.observer(Arc::clone(self.counter));
        let written = write_stream(self.source, runs, from, writer, &mut buffer, &mut observer);
        let (file, crc) = written.map_err(|error| self.failed(error))?;
        Ok((file, self.facts(place, "stream", crc)))
    }

    fn facts(&self, place: Option<&Place>, format: &'static str, crc: u32) -> ExportFacts {
        ExportFacts::new(place.map(Place::path), format, &self.of, self.moved(), crc)
    }

    /// Writes a file of bytes, of which there may be a part.
    fn image(
        &mut self,
        place: &Place,
        files: Files,
        header: ManifestHeader,
        under: Under,
        windows: &[Window],
    ) -> Result<ExportFacts, CliError> {
        let mut sums = files.manifest.expect("a file of bytes has a manifest");
        let (backing, base) = match under {
            Under::Nothing => (None, None),
            Under::Backing(backing) => (Some(backing), None),
            Under::Copied(base) => (None, Some(base)),
        };
        let size = self.of.size;
        let mut image = self.writer(header.format, files.partial, backing)?;
        let mut buffer = AlignedBuffer::new(WINDOW_BYTES as usize);
        let kept = self.kept(place, &mut sums, &header, image.as_mut(), &mut buffer)?;
        let from = kept.last().map_or(0, |last| last.window.index + 1);
        self.keep(kept.iter().map(|sum| sum.window.data_bytes(size)).sum());
        let manifest = match kept.is_empty() {
            true => ManifestWriter::create(sums, &header)
                .map_err(|error| self.failed(TransferError::WriteManifest(error)))?,
            false => ManifestWriter::resume(sums, &header, &kept),
        };
        let buffer = &mut buffer[..];
        let source = &mut *self.source;
        let export = FileExport { source, base, image, manifest, size, buffer };
        let mut observer = self.stop.observer(Arc::clone(self.counter));
        let crc = export.run(windows, from, &mut observer);
        let crc = crc.map_err(|error| self.failed(error))?;
        Ok(self.facts(Some(place), header.format.name(), crc))
    }

    fn writer(
        &self,
        format: ImageFormat,
        file: File,
        backing: Option<Backing>,
    ) -> Result<Box<dyn ImageWriter>, CliError> {
        let size: VolumeSize = self.of.size;
        match format {
            ImageFormat::Raw => match RawWriter::new(file, size) {
                Ok(writer) => Ok(Box::new(writer)),
                Err(error) => Err(self.failed(TransferError::WriteFile(error))),
            },
            ImageFormat::Qcow2 => match Image::new(size, backing) {
                Ok(image) => Ok(Box::new(Qcow2File::new(file, image))),
                Err(error) => Err(usage(self.step, &error.to_string(), "")),
            },
        }
    }

    /// The windows of an earlier run that hold; the manifest stands behind them.
    fn kept(
        &self,
        place: &Place,
        sums: &mut File,
        header: &ManifestHeader,
        image: &mut dyn ImageWriter,
        buffer: &mut [u8],
    ) -> Result<Vec<crate::export::manifest::Sum>, CliError> {
        let failed = |error| self.failed(TransferError::WriteManifest(error));
        let found = Manifest::read(io::BufReader::new(&*sums));
        let Ok(mut found) = found else {
            // Not even a header: a kill came before it. Only our own beginning is thrown away.
            let length = sums.metadata().map_err(failed)?.len();
            if length >= Manifest::bytes_of(0) {
                return Err(self.other_manifest(place, "it is no manifest of this version"));
            }
            image.cut().map_err(|error| self.failed(TransferError::WriteFile(error)))?;
            begin_anew(sums).map_err(failed)?;
            return Ok(Vec::new());
        };
        if found.header != *header {
            let of = found.header.of;
            let base = of.base.map_or("no base".to_owned(), |base| format!("base {base}"));
            let why = format!(
                "it is of snapshot {} with {base} as {}",
                of.snapshot,
                found.header.format.name()
            );
            return Err(self.other_manifest(place, &why));
        }
        let kept = take_back(image, &found, buffer);
        let kept = kept.map_err(|error| self.failed(TransferError::ReadFile(error)))?;
        found.sums.truncate(kept);
        let length = if kept == 0 { 0 } else { Manifest::bytes_of(kept) };
        sums.set_len(length).map_err(failed)?;
        sums.seek(SeekFrom::Start(length)).map_err(failed)?;
        Ok(found.sums)
    }

    fn other_manifest(&self, place: &Place, why: &str) -> CliError {
        let message = format!("{}: {}: {why}", self.step, place.manifest().display());
        CliError::new(Exit::Refused, "TARGET_OF_OTHER_EXPORT", message)
            .advise("name the file of this export, or another one without --resume")
    }
}

fn begin_anew(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0)).map(drop)
}

/// How much data there is before this offset.
fn data_before(runs: &[DiffRun], offset: u64) -> u64 {
    let before = |run: &DiffRun| run.end().min(offset).saturating_sub(run.offset);
    runs.iter().filter(|run| run.kind == DiffKind::Data).map(before).sum()
}
