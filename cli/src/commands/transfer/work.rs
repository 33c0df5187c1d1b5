//! Moves the bytes of an export on a thread of its own, into each kind of target.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lunar_proto::domain::{DiffKind, DiffRun};
use lunar_types::VolumeSize;

use super::target::Under;
use super::{Stop, transfer_failed, usage};
use crate::block_device::{Access, AlignedBuffer, BlockDevice};
use crate::error::{CliError, Exit};
use crate::export::image::{ImageWriter, sync, take_back};
use crate::export::manifest::{ImageFormat, Manifest, ManifestHeader, ManifestWriter, Sum};
use crate::export::place::{Files, Place};
use crate::export::qcow2::{Backing, Image, Qcow2File};
use crate::export::raw::RawWriter;
use crate::export::stream::{Found, StreamHeader, StreamWriter, cut, scan};
use crate::export::transfer::{FileExport, write_device, write_stream};
use crate::export::window::{WINDOW_BYTES, Window};
use crate::export::{Source, TransferError};
use crate::views::transfer::ExportFacts;

pub(super) fn cannot_open(step: &str, device: &Path, error: &io::Error) -> CliError {
    let message = format!("{step}: open {}: {error}", device.display());
    CliError::new(Exit::Failed, "DEVICE", message)
        .advise("run this as root on the node of fs-core, and see what uses the device")
}

/// What the thread that moves the data has.
pub(super) struct Work<'a> {
    pub(super) step: &'a str,
    pub(super) of: StreamHeader,
    pub(super) source: &'a mut dyn Source,
    pub(super) stop: &'a Stop,
    pub(super) counter: &'a Arc<AtomicU64>,
    /// Data that an earlier run had written.
    pub(super) resumed: u64,
}

impl Work<'_> {
    pub(super) fn failed(&self, error: TransferError) -> CliError {
        transfer_failed(self.step, &error)
    }

    /// Makes a stream durable; one that cannot be is emptied, so that it is never gone on with.
    pub(super) fn sync(&self, file: &File) -> Result<(), CliError> {
        sync(file).map_err(|error| {
            // If this fails too, the error says that nothing can be relied on.
            let _ = file.set_len(0);
            self.failed(TransferError::WriteFile(error))
        })
    }

    fn moved(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    fn keep(&mut self, bytes: u64) {
        self.resumed = bytes;
        self.counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Writes over a block device.
    pub(super) fn device(
        &mut self,
        path: &Path,
        windows: &[Window],
    ) -> Result<ExportFacts, CliError> {
        let (step, size) = (self.step, self.of.size);
        let opened = BlockDevice::open(path, Access::Write);
        let mut device = opened.map_err(|error| cannot_open(step, path, &error))?;
        let has = device.size_bytes().map_err(|error| cannot_open(step, path, &error))?;
        if has < size.bytes() {
            let path = path.display();
            let message = format!("{step}: {path} has {has} B, the snapshot {} B", size.bytes());
            let error = CliError::new(Exit::Refused, "TARGET_TOO_SMALL", message);
            return Err(error.advise("name a device that is as large as the snapshot"));
        }
        let mut buffer = AlignedBuffer::new(WINDOW_BYTES as usize);
        let mut observer = self.stop.observer(Arc::clone(self.counter));
        let source = &mut *self.source;
        let (sink, watch) = (&mut device, &mut observer);
        let written = write_device(source, sink, windows, size, &mut buffer, watch);
        let synced = written.and_then(|()| device.sync().map_err(TransferError::WriteFile));
        synced.map_err(|error| self.failed(error))?;
        let of = &self.of;
        Ok(ExportFacts::new(Some(path), "raw", of, self.moved(), 0).without_checksum())
    }

    /// Writes a stream into a pipe, or into a file that may have a part of it.
    pub(super) fn stream(
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
    pub(super) fn image(
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
        let crc = export.run(windows, from, &mut observer).map_err(|error| {
            if error.is_not_durable() {
                // As for a stream: without records nothing is gone on with.
                let _ = File::create(place.manifest());
            }
            self.failed(error)
        })?;
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
    ) -> Result<Vec<Sum>, CliError> {
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
