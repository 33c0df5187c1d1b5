//! The bytes of a volume in a sparse file: what is zeros is a hole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use lunar_proto::domain::DiffKind;
use lunar_types::{BLOCK_BYTES, VolumeSize};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::image::{ImageReader, ImageWriter, invalid, sync};
use super::manifest::Sum;
use super::window::{Clusters, WINDOW_BYTES, Window, is_zero, windows_of};

/// A sparse file that is being written.
#[derive(Debug)]
pub struct RawWriter {
    file: File,
    size: VolumeSize,
    /// The first byte behind what was put.
    behind: u64,
}

impl RawWriter {
    /// Begins with an empty file, or one that an earlier run has left.
    ///
    /// # Errors
    /// When the file cannot be as large as the volume.
    pub fn new(file: File, size: VolumeSize) -> io::Result<Self> {
        file.set_len(size.bytes())?;
        Ok(Self { file, size, behind: 0 })
    }
}

/// Writes the blocks that are not zeros.
fn write_sparse(file: &File, mut offset: u64, bytes: &[u8]) -> io::Result<()> {
    let same = |left: &[u8], right: &[u8]| is_zero(left) == is_zero(right);
    let block = usize::try_from(BLOCK_BYTES).expect("4 KiB");
    let mut rest = bytes;
    while !rest.is_empty() {
        let first = &rest[..block.min(rest.len())];
        let alike = rest.chunks(block).take_while(|next| same(first, next));
        let (part, behind) = rest.split_at(alike.map(<[u8]>::len).sum());
        if !is_zero(part) {
            file.write_all_at(part, offset)?;
        }
        offset += part.len() as u64;
        rest = behind;
    }
    Ok(())
}

fn read_data(file: &File, window: &Window, size: VolumeSize, bytes: &mut [u8]) -> io::Result<()> {
    for span in window.spans(DiffKind::Data, size) {
        file.read_exact_at(&mut bytes[span.place()], span.offset)?;
    }
    Ok(())
}

impl ImageWriter for RawWriter {
    fn put(&mut self, window: &Window, bytes: &[u8]) -> io::Result<()> {
        assert!(window.start() >= self.behind, "windows are put in order");
        for span in window.spans(DiffKind::Data, self.size) {
            write_sparse(&self.file, span.offset, &bytes[span.place()])?;
        }
        self.accept(window);
        Ok(())
    }

    fn read_back(&mut self, window: &Window, bytes: &mut [u8]) -> io::Result<()> {
        read_data(&self.file, window, self.size, bytes)
    }

    fn accept(&mut self, window: &Window) {
        self.behind = (window.start() + WINDOW_BYTES).min(self.size.bytes());
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.behind)?;
        self.file.set_len(self.size.bytes())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        sync(&self.file)
    }
}

/// A sparse file that is read.
#[derive(Debug)]
pub struct RawReader {
    file: File,
    size: VolumeSize,
}

impl RawReader {
    /// Reads `file`.
    ///
    /// # Errors
    /// When its length is not the size.
    pub fn new(file: File, size: VolumeSize) -> io::Result<Self> {
        let (length, size_bytes) = (file.metadata()?.len(), size.bytes());
        if length != size_bytes {
            return Err(invalid(format!("it has {length} B, and should have {size_bytes} B")));
        }
        Ok(Self { file, size })
    }

    /// The next part of the file from `at` on that is no hole.
    fn next_data(&self, at: u64) -> io::Result<Option<(u64, u64)>> {
        let seek = |from: u64, whence| {
            let from = i64::try_from(from).map_err(io::Error::other)?;
            match lseek(&self.file, from, whence) {
                Ok(at) => Ok(u64::try_from(at).ok()),
                Err(Errno::ENXIO) => Ok(None),
                Err(error) => Err(io::Error::from(error)),
            }
        };
        let Some(begin) = seek(at, Whence::SeekData)? else { return Ok(None) };
        let end = seek(begin, Whence::SeekHole)?.unwrap_or(self.size.bytes());
        Ok(Some((begin, end.min(self.size.bytes()))))
    }

    /// The windows that are not holes only, of a file that has no manifest.
    ///
    /// # Errors
    /// When the file system cannot tell.
    pub fn windows(&self) -> io::Result<Vec<Window>> {
        let (mut runs, mut at) = (Vec::new(), 0);
        while at < self.size.bytes()
            && let Some((begin, end)) = self.next_data(at)?
        {
            runs.push(lunar_proto::domain::DiffRun {
                offset: begin,
                length: end - begin,
                kind: DiffKind::Data,
            });
            at = end;
        }
        Ok(windows_of(&runs, self.size))
    }
}

impl ImageReader for RawReader {
    fn read(&mut self, window: &Window, bytes: &mut [u8]) -> io::Result<()> {
        read_data(&self.file, window, self.size, bytes)
    }

    fn check_rest(&mut self, sums: &[Sum], buffer: &mut [u8]) -> io::Result<()> {
        for found in self.windows()? {
            let known = sums.binary_search_by_key(&found.index, |sum| sum.window.index);
            let known = known.map_or(0, |at| sums[at].window.clusters.data);
            let clusters = Clusters { data: found.clusters.data & !known, zero: 0 };
            let rest = Window { clusters, ..found };
            read_data(&self.file, &rest, self.size, buffer)?;
            for span in rest.spans(DiffKind::Data, self.size) {
                if !is_zero(&buffer[span.place()]) {
                    let Window { index, .. } = rest;
                    return Err(invalid(format!(
                        "window {index} has data at byte {} or behind, where zeros should be",
                        span.offset
                    )));
                }
            }
        }
        Ok(())
    }
}
