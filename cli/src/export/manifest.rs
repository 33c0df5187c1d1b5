//! What a file of bytes is of, with checksums: kept next to images that have none of their own.
//! `docs/format/export.md` has the bytes.
//!
//! - A record speaks of one window, after its bytes were written to the file.
//! - The end record comes when the file is whole and durable; it is under a checksum of all others.
//! - What is cut off, or damaged anywhere, is not whole; what comes before the damage still holds.

use std::io::{self, Read, Write};

use super::Crc32c;
use super::stream::{HEADER_BYTES, StreamFault, StreamHeader, read_up_to};
use super::window::{Clusters, Window};

const MAGIC: [u8; 8] = *b"LUNXSUMS";
const VERSION: u16 = 1;
const RECORD_BYTES: usize = 64;
const CRC_AT: usize = 60;

/// How the bytes lie in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageFormat {
    /// The bytes of the volume, with holes for zeros.
    Raw = 1,
    /// An image of QEMU.
    Qcow2 = 2,
}

impl ImageFormat {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What a file is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ManifestHeader {
    /// Snapshot, base, size.
    pub of: StreamHeader,
    /// The format of the file.
    pub format: ImageFormat,
}

/// A window and the checksum of its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sum {
    /// The window.
    pub window: Window,
    /// CRC32C of its data.
    pub crc: u32,
}

/// A manifest that was read.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// What the file is of.
    pub header: ManifestHeader,
    /// What holds, in ascending order.
    pub sums: Vec<Sum>,
    /// Whether the end record is there, and right, and nothing follows it.
    pub whole: bool,
}

/// Why a manifest cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Its first bytes are not those of a manifest.
    #[error("it does not begin with the header of a manifest of this version")]
    NotAManifest,
    /// Its header is damaged or cannot be.
    #[error("its header: {0}")]
    Header(StreamFault),
    /// It cannot be read.
    #[error("read: {0}")]
    Io(#[from] io::Error),
}

impl ManifestHeader {
    /// The header of a stream with another magic, the format, and the checksum of that.
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = self.of.encode();
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = self.format as u8;
        let crc = Crc32c::of(&[&bytes[..CRC_AT]]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, ManifestError> {
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if bytes[..8] != MAGIC || version != VERSION {
            return Err(ManifestError::NotAManifest);
        }
        let (stored, computed) = (u32_at(bytes, CRC_AT), Crc32c::of(&[&bytes[..CRC_AT]]));
        if stored != computed {
            return Err(ManifestError::Header(StreamFault::HeaderChecksum { stored, computed }));
        }
        let format = match (bytes[10], bytes[11], &bytes[56..CRC_AT]) {
            (1, 0, [0, 0, 0, 0]) => ImageFormat::Raw,
            (2, 0, [0, 0, 0, 0]) => ImageFormat::Qcow2,
            _ => return Err(ManifestError::NotAManifest),
        };
        let of = StreamHeader::decode_fields(bytes).map_err(ManifestError::Header)?;
        Ok(Self { of, format })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Record {
    Window(Sum),
    End { windows: u64, crc: u32 },
}

impl Record {
    fn encode(self) -> [u8; RECORD_BYTES] {
        let (kind, number, Clusters { data, zero }, crc) = match self {
            Self::Window(Sum { window, crc }) => (1, window.index, window.clusters, crc),
            Self::End { windows, crc } => (2, windows, Clusters::default(), crc),
        };
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = kind;
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..32].copy_from_slice(&data.to_le_bytes());
        bytes[32..48].copy_from_slice(&zero.to_le_bytes());
        bytes[48..52].copy_from_slice(&crc.to_le_bytes());
        let own = Crc32c::of(&[&bytes[..CRC_AT]]);
        bytes[CRC_AT..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// The record, if its checksum holds and it can be one.
    fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let number = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
        let clusters = Clusters { data: u128_at(bytes, 16), zero: u128_at(bytes, 32) };
        let crc = u32_at(bytes, 48);
        let record = match bytes[0] {
            1 => Self::Window(Sum { window: Window { index: number, clusters }, crc }),
            2 => Self::End { windows: number, crc },
            _ => return None,
        };
        // Every byte has one meaning, the reserved ones and the checksum too.
        (record.encode() == *bytes).then_some(record)
    }
}

/// What an end record is held against.
#[derive(Clone, Debug)]
struct Sums {
    windows: u64,
    crc: Crc32c,
}

impl Sums {
    fn over(header: &[u8; HEADER_BYTES]) -> Self {
        let mut crc = Crc32c::new();
        crc.update(&header[CRC_AT..]);
        Self { windows: 0, crc }
    }

    fn take(&mut self, record: &[u8; RECORD_BYTES]) {
        self.windows += 1;
        self.crc.update(&record[CRC_AT..]);
    }

    fn end(&self) -> Record {
        Record::End { windows: self.windows, crc: self.crc.value() }
    }
}

impl Manifest {
    /// Reads a manifest up to where it ends or is damaged.
    ///
    /// # Errors
    /// When it has no header that holds, or cannot be read.
    pub fn read(mut input: impl Read) -> Result<Self, ManifestError> {
        let mut begin = [0; HEADER_BYTES];
        if read_up_to(&mut input, &mut begin)? < HEADER_BYTES {
            return Err(ManifestError::NotAManifest);
        }
        let header = ManifestHeader::decode(&begin)?;
        let mut found = Self { header, sums: Vec::new(), whole: false };
        let (mut sums, mut bytes) = (Sums::over(&begin), [0; RECORD_BYTES]);
        while read_up_to(&mut input, &mut bytes)? == RECORD_BYTES {
            let after = found.sums.last().map_or(0, |last| last.window.index + 1);
            match Record::decode(&bytes) {
                Some(Record::Window(sum))
                    if sum.window.index >= after && sum.window.check(header.of.size).is_ok() =>
                {
                    found.sums.push(sum);
                    sums.take(&bytes);
                }
                Some(end @ Record::End { .. }) if end == sums.end() => {
                    found.whole = read_up_to(&mut input, &mut [0])? == 0;
                    break;
                }
                _ => break,
            }
        }
        Ok(found)
    }

    /// How many bytes the header and its first `windows` take.
    #[must_use]
    pub const fn bytes_of(windows: usize) -> u64 {
        (HEADER_BYTES + windows * RECORD_BYTES) as u64
    }

    /// How many bytes of data the file has.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        let size = self.header.of.size;
        self.sums.iter().map(|sum| sum.window.data_bytes(size)).sum()
    }

    /// The checksum over all checksums, as in the end record.
    #[must_use]
    pub fn crc(&self) -> u32 {
        let mut sums = Sums::over(&self.header.encode());
        self.sums.iter().for_each(|sum| sums.take(&Record::Window(*sum).encode()));
        sums.crc.value()
    }
}

/// A manifest that is being written.
#[derive(Debug)]
pub struct ManifestWriter<W> {
    output: W,
    sums: Sums,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins a manifest in `output`, which is empty.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(mut output: W, header: &ManifestHeader) -> io::Result<Self> {
        let bytes = header.encode();
        output.write_all(&bytes)?;
        Ok(Self { output, sums: Sums::over(&bytes) })
    }

    /// Goes on behind these; `output` stands there and has nothing behind it.
    #[must_use]
    pub fn resume(output: W, header: &ManifestHeader, kept: &[Sum]) -> Self {
        let mut sums = Sums::over(&header.encode());
        kept.iter().for_each(|sum| sums.take(&Record::Window(*sum).encode()));
        Self { output, sums }
    }

    /// Says that the bytes of a window are in the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn window(&mut self, sum: Sum) -> io::Result<()> {
        let bytes = Record::Window(sum).encode();
        self.output.write_all(&bytes)?;
        self.sums.take(&bytes);
        Ok(())
    }

    /// Says that the file is whole, and gives the output and the checksum over all checksums.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<(W, u32)> {
        let end = self.sums.end();
        self.output.write_all(&end.encode())?;
        self.output.flush()?;
        Ok((self.output, self.sums.crc.value()))
    }
}

#[cfg(test)]
mod tests;
