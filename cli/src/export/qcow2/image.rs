//! Images written window by window, and gone on with.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use lunar_proto::domain::DiffKind;
use lunar_types::VolumeSize;

use super::super::image::{ImageWriter, sync};
use super::super::window::Window;
use super::{CLUSTER_BYTES, Image, Qcow2Writer};

/// More than the header with its extensions and the path of a backing file.
const HEADER_MAX: usize = 4096;

/// An image in a file.
#[derive(Debug)]
pub struct Qcow2File {
    writer: Qcow2Writer<File>,
    size: VolumeSize,
}

impl Qcow2File {
    /// Begins in an empty file, or in one that an earlier run has left.
    #[must_use]
    pub fn new(file: File, image: Image) -> Self {
        let size = image.size;
        Self { writer: Qcow2Writer::over(file, image), size }
    }
}

impl ImageWriter for Qcow2File {
    fn put(&mut self, window: &Window, bytes: &[u8]) -> io::Result<()> {
        for span in window.all_spans(self.size) {
            match span.kind {
                DiffKind::Data => self.writer.data(span.offset, &bytes[span.place()])?,
                DiffKind::Zero => self.writer.zero(span.offset, span.length)?,
            }
        }
        Ok(())
    }

    fn read_back(&mut self, window: &Window, bytes: &mut [u8]) -> io::Result<()> {
        // A window without data has nothing to hold a checksum against, but it moves on the table.
        let mut ahead = 0;
        for span in window.all_spans(self.size) {
            let place = match span.kind {
                DiffKind::Data => span.place(),
                DiffKind::Zero => 0..0,
            };
            self.writer.read_next(span.offset, ahead, &mut bytes[place.clone()])?;
            ahead += (place.len() as u64).div_ceil(CLUSTER_BYTES);
        }
        Ok(())
    }

    fn accept(&mut self, window: &Window) {
        for span in window.all_spans(self.size) {
            match span.kind {
                DiffKind::Data => self.writer.take_data(span.offset, span.length),
                DiffKind::Zero => self.writer.take_zero(span.offset, span.length),
            }
        }
    }

    fn cut(&mut self) -> io::Result<()> {
        let file = self.writer.output();
        file.set_len(self.writer.file_bytes())?;
        // An earlier run may have come as far as the header, whose tables are cut off now.
        let mut begin = [0; HEADER_MAX];
        file.read_exact_at(&mut begin, 0)?;
        match begin.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => file.write_all_at(&[0; HEADER_MAX], 0),
        }
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.writer.finish(|file| sync(file)).map(drop)
    }
}
