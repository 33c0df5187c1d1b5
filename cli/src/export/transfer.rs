//! Moves the bytes of a snapshot from a device into a file or a stream, and from there to a device.
//!
//! - What is handed to a device was under a checksum that holds.
//! - A file is gone on with from its last window, a stream from its last chunk, that holds.
//! - Whoever watches is told after every step and may end it; what was written stays.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;

use lunar_proto::domain::{DiffKind, DiffRun};
use lunar_types::VolumeSize;

use super::image::{ImageReader, ImageWriter, holds, is_not_durable, sync};
use super::manifest::{Manifest, ManifestWriter, Sum};
use super::stream::{CHUNK_BYTES_MAX, Chunk, StreamError, StreamReader, StreamWriter};
use super::window::{Clusters, Window};

/// Where bytes of a volume come from.
pub trait Source {
    /// Reads whole blocks.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
}

/// Where bytes of a volume go to.
pub trait Sink {
    /// Writes whole blocks.
    ///
    /// # Errors
    /// When they cannot be written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes whole blocks read as zeros.
    ///
    /// # Errors
    /// When that cannot be done.
    fn zero(&mut self, offset: u64, length: u64) -> io::Result<()>;
}

/// Who watches: is told how many bytes of data more were moved, and may end it.
pub type Observer<'a> = &'a mut (dyn FnMut(u64) -> ControlFlow<()> + Send);

/// Why bytes could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Who watches has ended it.
    #[error("it was interrupted")]
    Interrupted,
    /// The volume could not be read.
    #[error("read {length} B at offset {offset} of the volume: {problem}")]
    ReadVolume {
        /// Where.
        offset: u64,
        /// How much.
        length: u64,
        /// Why.
        problem: io::Error,
    },
    /// The volume could not be written.
    #[error("write {length} B at offset {offset} of the volume: {problem}")]
    WriteVolume {
        /// Where.
        offset: u64,
        /// How much.
        length: u64,
        /// Why.
        problem: io::Error,
    },
    /// The file could not be written.
    #[error("write the file: {0}")]
    WriteFile(io::Error),
    /// The manifest could not be written.
    #[error("write the manifest of the file: {0}")]
    WriteManifest(io::Error),
    /// The file could not be read, or is no image of its manifest.
    #[error("read the file: {0}")]
    ReadFile(io::Error),
    /// The data of a window is not what its checksum says.
    #[error(
        "the file is damaged: the 8 MiB from offset {offset} of the volume on have not the \
         checksum that the manifest says"
    )]
    WindowChecksum {
        /// Where the window begins in the volume.
        offset: u64,
    },
    /// The stream is damaged or cannot be read.
    #[error("{0}")]
    Stream(StreamError),
}

impl TransferError {
    /// Whether what was written to the file may be lost although it can still be read: then
    /// nothing of it may be gone on with.
    #[must_use]
    pub fn is_not_durable(&self) -> bool {
        match self {
            Self::WriteFile(error) | Self::WriteManifest(error) => is_not_durable(error),
            _ => false,
        }
    }
}

fn read_volume(
    source: &mut dyn Source,
    offset: u64,
    bytes: &mut [u8],
) -> Result<(), TransferError> {
    let length = bytes.len() as u64;
    let failed = |problem| TransferError::ReadVolume { offset, length, problem };
    source.read_at(offset, bytes).map_err(failed)
}

fn tell(observer: Observer<'_>, moved: u64) -> Result<(), TransferError> {
    match observer(moved) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TransferError::Interrupted),
    }
}

/// A finished file of bytes.
pub struct Finished {
    /// The file.
    pub reader: Box<dyn ImageReader + Send>,
    /// What it has.
    pub manifest: Manifest,
}

/// A file of bytes that is written.
pub struct FileExport<'a> {
    /// The volume.
    pub source: &'a mut dyn Source,
    /// The export of the base, copied where nothing changed; nothing where only changes are wanted.
    pub base: Option<Finished>,
    /// The file.
    pub image: Box<dyn ImageWriter>,
    /// What is said of it.
    pub manifest: ManifestWriter<File>,
    /// The size of the volume.
    pub size: VolumeSize,
    /// As large as a window.
    pub buffer: &'a mut [u8],
}

/// What is done at one window.
#[derive(Clone, Copy, Debug)]
struct Step {
    window: Window,
    /// What the base has there.
    base: Option<Sum>,
}

/// Windows that changed and windows of the base, in order.
fn steps(changed: &[Window], base: Option<&Manifest>) -> Vec<Step> {
    let mut steps: Vec<Step> =
        changed.iter().map(|window| Step { window: *window, base: None }).collect();
    for sum in base.map_or(&[][..], |base| &base.sums) {
        match changed.binary_search_by_key(&sum.window.index, |window| window.index) {
            Ok(at) => steps[at].base = Some(*sum),
            Err(_) => {
                let window = Window { clusters: Clusters::default(), ..sum.window };
                steps.push(Step { window, base: Some(*sum) });
            }
        }
    }
    steps.sort_by_key(|step| step.window.index);
    steps
}

impl FileExport<'_> {
    /// Writes all windows from number `from` on, the manifest's end, and makes both durable; the
    /// checksum over all.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub fn run(
        mut self,
        changed: &[Window],
        from: u64,
        observer: Observer<'_>,
    ) -> Result<u32, TransferError> {
        let steps = steps(changed, self.base.as_ref().map(|base| &base.manifest));
        for step in steps.iter().filter(|step| step.window.index >= from) {
            let sum = self.step(step)?;
            tell(observer, sum.window.data_bytes(self.size))?;
        }
        self.image.finish().map_err(TransferError::WriteFile)?;
        let (manifest, crc) = self.manifest.finish().map_err(TransferError::WriteManifest)?;
        sync(&manifest).map_err(TransferError::WriteManifest)?;
        Ok(crc)
    }

    fn step(&mut self, step: &Step) -> Result<Sum, TransferError> {
        let mut window = step.window;
        if let (Some(sum), Some(base)) = (step.base, &mut self.base) {
            let offset = sum.window.start();
            let size = base.manifest.header.of.size;
            // Behind the end of a base that was smaller there are zeros.
            self.buffer.fill(0);
            base.reader.read(&sum.window, self.buffer).map_err(TransferError::ReadFile)?;
            if !holds(&sum, size, self.buffer) {
                return Err(TransferError::WindowChecksum { offset });
            }
            let changed = window.clusters.data | window.clusters.zero;
            window.clusters.data |= sum.window.clusters.data & !changed;
            window.clusters.zero |= sum.window.clusters.zero & !changed;
        }
        for span in step.window.spans(DiffKind::Data, self.size) {
            read_volume(self.source, span.offset, &mut self.buffer[span.place()])?;
        }
        window = window.without_zeros(self.size, self.buffer);
        self.image.put(&window, self.buffer).map_err(TransferError::WriteFile)?;
        let sum = Sum { window, crc: window.crc(self.size, self.buffer) };
        self.manifest.window(sum).map_err(TransferError::WriteManifest)?;
        Ok(sum)
    }
}

/// Writes windows to a device, and zeros everywhere else up to the end of the volume.
///
/// # Errors
/// See [`TransferError`].
pub fn write_device(
    source: &mut dyn Source,
    device: &mut dyn Sink,
    windows: &[Window],
    size: VolumeSize,
    buffer: &mut [u8],
    observer: Observer<'_>,
) -> Result<(), TransferError> {
    let mut behind = 0;
    for window in windows {
        for span in window.spans(DiffKind::Data, size) {
            if behind < span.offset {
                device.zero(behind, span.offset - behind).map_err(TransferError::WriteFile)?;
            }
            let bytes = &mut buffer[span.place()];
            read_volume(source, span.offset, bytes)?;
            device.write_at(span.offset, bytes).map_err(TransferError::WriteFile)?;
            behind = span.offset + span.length;
        }
        tell(observer, window.data_bytes(size))?;
    }
    if behind < size.bytes() {
        device.zero(behind, size.bytes() - behind).map_err(TransferError::WriteFile)?;
    }
    Ok(())
}

/// Writes what is in `runs` from offset `from` on into a stream, and ends it; the output and the
/// checksum over all.
///
/// # Errors
/// See [`TransferError`].
pub fn write_stream<W: Write>(
    source: &mut dyn Source,
    runs: &[DiffRun],
    from: u64,
    mut writer: StreamWriter<W>,
    buffer: &mut [u8],
    observer: Observer<'_>,
) -> Result<(W, u32), TransferError> {
    for run in runs.iter().filter(|run| run.end() > from) {
        let mut at = run.offset.max(from);
        while at < run.end() {
            let length = CHUNK_BYTES_MAX.min(u32::try_from(run.end() - at).unwrap_or(u32::MAX));
            let written = match run.kind {
                DiffKind::Zero => writer.zero(at, length),
                DiffKind::Data => {
                    let bytes = &mut buffer[..length as usize];
                    read_volume(source, at, bytes)?;
                    writer.data(at, bytes)
                }
            };
            written.map_err(TransferError::WriteFile)?;
            tell(observer, if run.kind == DiffKind::Data { length.into() } else { 0 })?;
            at += u64::from(length);
        }
    }
    let crc = writer.crc();
    let output = writer.finish().map_err(TransferError::WriteFile)?;
    Ok((output, crc))
}

fn write_volume(sink: &mut dyn Sink, offset: u64, bytes: &[u8]) -> Result<(), TransferError> {
    let length = bytes.len() as u64;
    let failed = |problem| TransferError::WriteVolume { offset, length, problem };
    sink.write_at(offset, bytes).map_err(failed)
}

fn zero_volume(sink: &mut dyn Sink, offset: u64, length: u64) -> Result<(), TransferError> {
    let failed = |problem| TransferError::WriteVolume { offset, length, problem };
    sink.zero(offset, length).map_err(failed)
}

/// Reads a stream to its end and writes what it has to `sink`; without one, it is only checked.
///
/// # Errors
/// See [`TransferError`]. What came before a fault was written.
pub fn read_stream<R: Read>(
    reader: &mut StreamReader<R>,
    mut sink: Option<&mut dyn Sink>,
    observer: Observer<'_>,
) -> Result<(), TransferError> {
    loop {
        let moved = match (reader.next_chunk().map_err(TransferError::Stream)?, &mut sink) {
            (None, _) => return Ok(()),
            (Some(Chunk::Data { offset, bytes }), Some(sink)) => {
                write_volume(*sink, offset, bytes)?;
                bytes.len() as u64
            }
            (Some(Chunk::Zero { offset, length }), Some(sink)) => {
                zero_volume(*sink, offset, length.into())?;
                0
            }
            (Some(Chunk::Data { bytes, .. }), None) => bytes.len() as u64,
            (Some(Chunk::Zero { .. }), None) => 0,
        };
        tell(observer, moved)?;
    }
}

/// What of a file is written to a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zeros {
    /// They are there already: the volume is new.
    Skipped,
    /// They are written.
    Written,
}

/// Reads a file of bytes and writes what it has to `sink`; without one, it is only checked.
///
/// # Errors
/// See [`TransferError`]. What came before a fault was written.
pub fn read_file(
    reader: &mut dyn ImageReader,
    manifest: &Manifest,
    mut sink: Option<(&mut dyn Sink, Zeros)>,
    buffer: &mut [u8],
    observer: Observer<'_>,
) -> Result<(), TransferError> {
    let size = manifest.header.of.size;
    reader.check_rest(&manifest.sums, buffer).map_err(TransferError::ReadFile)?;
    for sum in &manifest.sums {
        reader.read(&sum.window, buffer).map_err(TransferError::ReadFile)?;
        if !holds(sum, size, buffer) {
            return Err(TransferError::WindowChecksum { offset: sum.window.start() });
        }
        if let Some((sink, zeros)) = &mut sink {
            for span in sum.window.all_spans(size) {
                match (span.kind, *zeros) {
                    (DiffKind::Data, _) => {
                        write_volume(*sink, span.offset, &buffer[span.place()])?;
                    }
                    (DiffKind::Zero, Zeros::Written) => {
                        zero_volume(*sink, span.offset, span.length)?;
                    }
                    (DiffKind::Zero, Zeros::Skipped) => {}
                }
            }
        }
        tell(observer, sum.window.data_bytes(size))?;
    }
    Ok(())
}
