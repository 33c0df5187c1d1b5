//! An export that is there: found out what it is, and read to its end.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lunar_types::{LogicalBlockSize, SnapshotId, VolumeSize};

use super::{Stop, transfer_failed, usage};
use crate::args::FileArg;
use crate::block_device::AlignedBuffer;
use crate::error::{CliError, Exit};
use crate::export::image::ImageReader;
use crate::export::manifest::{ImageFormat, Manifest, ManifestHeader, Sum};
use crate::export::place::Place;
use crate::export::qcow2::Qcow2Reader;
use crate::export::raw::RawReader;
use crate::export::stream::{StreamHeader, StreamReader};
use crate::export::transfer::{Finished, Zeros, read_file, read_stream};
use crate::export::window::{WINDOW_BYTES, Window};
use crate::export::{Sink, TransferError};
use crate::views::transfer::ExportFacts;

/// What has the bytes.
enum Content {
    Stream(Box<StreamReader<Box<dyn Read + Send>>>),
    File { reader: Box<dyn ImageReader + Send>, manifest: Box<Manifest> },
}

/// An open export.
pub(super) struct Opened {
    /// What it is of; the snapshot means nothing where it is `unverified`.
    pub(super) of: StreamHeader,
    /// Whether nobody says what it is of.
    pub(super) unverified: bool,
    arg: FileArg,
    content: Content,
}

fn unreadable(step: &str, path: &Path, error: &io::Error) -> CliError {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::Failed,
    };
    let message = format!("{step}: read {}: {error}", path.display());
    CliError::new(exit, "SOURCE_READ", message).advise("name an export that can be read")
}

/// The manifest of a file, which has to be whole; nothing where there is none.
fn manifest_of(step: &str, path: &Path) -> Result<Option<Manifest>, CliError> {
    let place = Place::new(path).manifest();
    let file = match File::open(&place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(step, &place, &error)),
        Ok(file) => file,
    };
    let damaged = |why: String| {
        let message = format!("{step}: the manifest {}: {why}", place.display());
        CliError::new(Exit::Failed, "EXPORT_DAMAGED", message).advise(
            "complete the export by --resume, take another copy, or export the snapshot again",
        )
    };
    let manifest = Manifest::read(io::BufReader::new(file));
    let manifest = manifest.map_err(|error| damaged(error.to_string()))?;
    match manifest.whole {
        true => Ok(Some(manifest)),
        false => {
            let windows = manifest.sums.len();
            Err(damaged(format!("it ends or is damaged behind its first {windows} windows")))
        }
    }
}

/// Opens the finished raw or qcow2 export at `path`, of which there is a manifest.
pub(super) fn open_image(step: &str, path: &Path) -> Result<Option<Finished>, CliError> {
    let Some(manifest) = manifest_of(step, path)? else { return Ok(None) };
    let size = manifest.header.of.size;
    let file = File::open(path).map_err(|error| unreadable(step, path, &error))?;
    let reader: io::Result<Box<dyn ImageReader + Send>> = match manifest.header.format {
        ImageFormat::Raw => RawReader::new(file, size).map(|it| Box::new(it) as _),
        ImageFormat::Qcow2 => Qcow2Reader::open(file, size).map(|it| Box::new(it) as _),
    };
    let step = format!("{step}: {}", path.display());
    let reader = reader.map_err(|error| transfer_failed(&step, &TransferError::ReadFile(error)))?;
    Ok(Some(Finished { reader, manifest }))
}

impl Opened {
    /// Finds out what is there.
    pub(super) fn open(step: &str, arg: &FileArg, unverified: bool) -> Result<Self, CliError> {
        let Some(path) = arg.path() else {
            if unverified {
                return Err(usage(step, "a stream is always verified", "leave --unverified out"));
            }
            return Self::stream(step, arg, Box::new(io::stdin()));
        };
        let file = File::open(path).map_err(|error| unreadable(step, path, &error))?;
        let mut magic = [0; 8];
        let length = file.read_at(&mut magic, 0).map_err(|error| unreadable(step, path, &error))?;
        if magic == *b"LUNXPORT" {
            return Self::stream(step, arg, Box::new(io::BufReader::with_capacity(1 << 20, file)));
        }
        if let Some(Finished { reader, manifest }) = open_image(step, path)? {
            let (of, manifest) = (manifest.header.of, Box::new(manifest));
            let content = Content::File { reader, manifest };
            return Ok(Self { of, unverified: false, arg: arg.clone(), content });
        }
        let path_text = path.display();
        if length >= 4 && magic[..4] == *b"QFI\xfb" {
            let message = format!(
                "{step}: {path_text} is an image of which there is no manifest {path_text}.lunar: \
                 only images that lunar has exported are read"
            );
            return Err(CliError::new(Exit::Refused, "IMAGE_NOT_OURS", message).advise(format!(
                "'qemu-img convert -O raw {path_text} FILE', then import FILE with --unverified"
            )));
        }
        if !unverified {
            let message = format!(
                "{step}: {path_text} is no stream, and there is no manifest {path_text}.lunar"
            );
            return Err(CliError::new(Exit::Refused, "NO_MANIFEST", message).advise(
                "bring the manifest too; raw bytes of another program are imported with \
                 --unverified",
            ));
        }
        Self::raw(step, arg, file)
    }

    fn stream(step: &str, arg: &FileArg, input: Box<dyn Read + Send>) -> Result<Self, CliError> {
        let reader = StreamReader::open(input);
        let reader =
            reader.map_err(|error| transfer_failed(step, &TransferError::Stream(error)))?;
        let of = *reader.header();
        let content = Content::Stream(Box::new(reader));
        Ok(Self { of, unverified: false, arg: arg.clone(), content })
    }

    /// Raw bytes of somebody else: read once for what they are, so that what is imported later is
    /// what was there then.
    fn raw(step: &str, arg: &FileArg, file: File) -> Result<Self, CliError> {
        let refuse = |why: String| usage(step, &why, "give it a length of whole blocks of 4 KiB");
        let failed = |error| transfer_failed(step, &TransferError::ReadFile(error));
        let length = file.metadata().map_err(failed)?.len();
        let size = VolumeSize::from_bytes(length);
        let size = size.map_err(|error| refuse(format!("{arg}: {error}")))?;
        let mut reader = RawReader::new(file, size).map_err(failed)?;
        let mut buffer = AlignedBuffer::new(WINDOW_BYTES as usize);
        let mut sums = Vec::new();
        for window in reader.windows().map_err(failed)? {
            reader.read(&window, &mut buffer).map_err(failed)?;
            let window: Window = window.without_zeros(size, &buffer);
            sums.push(Sum { window, crc: window.crc(size, &buffer) });
        }
        let (snapshot, logical_block) = (SnapshotId::from_u128(0), LogicalBlockSize::B4096);
        let of = StreamHeader { snapshot, base: None, size, logical_block };
        let header = ManifestHeader { of, format: ImageFormat::Raw };
        let manifest = Box::new(Manifest { header, sums, whole: true });
        let content = Content::File { reader: Box::new(reader), manifest };
        Ok(Self { of, unverified: true, arg: arg.clone(), content })
    }

    /// How many bytes of data it has, where that is known before it was read.
    pub(super) fn data_bytes(&self) -> u64 {
        match &self.content {
            Content::Stream(_) => self.of.size.bytes(),
            Content::File { manifest, .. } => manifest.data_bytes(),
        }
    }

    /// Reads all of it, and writes it to `sink`; without one, it is only checked.
    pub(super) fn read(
        self,
        step: &str,
        sink: Option<(&mut dyn Sink, Zeros)>,
        stop: &Stop,
        counter: &Arc<AtomicU64>,
    ) -> Result<ExportFacts, CliError> {
        let step = format!("{step}: {}", self.arg);
        let failed = |error| transfer_failed(&step, &error);
        let mut observer = stop.observer(Arc::clone(counter));
        let path = self.arg.path();
        match self.content {
            Content::Stream(mut reader) => {
                let sink = sink.map(|(sink, _)| sink);
                read_stream(&mut reader, sink, &mut observer).map_err(failed)?;
                let moved = counter.load(std::sync::atomic::Ordering::Relaxed);
                Ok(ExportFacts::new(path, "stream", &self.of, moved, reader.crc()))
            }
            Content::File { mut reader, manifest } => {
                let mut buffer = AlignedBuffer::new(WINDOW_BYTES as usize);
                let reader = reader.as_mut();
                read_file(reader, &manifest, sink, &mut buffer, &mut observer).map_err(failed)?;
                let (size, data) = (self.of.size, manifest.data_bytes());
                Ok(match self.unverified {
                    true => ExportFacts::unverified(path, size.bytes(), data),
                    false => {
                        let format = manifest.header.format.name();
                        ExportFacts::new(path, format, &self.of, data, manifest.crc())
                    }
                })
            }
        }
    }
}
