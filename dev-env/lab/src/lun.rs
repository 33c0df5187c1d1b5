//! Shared LUNs: what they look like to the machines, and the file behind each.
//!
//! Invariants:
//! - a LUN is one sparse file that every node opens without a lock;
//! - whatever a machine was told is durable is in that file when its QEMU is killed: the file is
//!   written with `pwrite` before the completion, and only the host's own power loss could undo it.

use crate::error::{LabError, Result};
use std::path::{Path, PathBuf};

/// Most LUNs of a lab: each takes a PCI slot.
pub const LUNS_MAX: usize = 16;

const SERIAL_BYTES_MAX: usize = 20;
const LUN_BYTES_MIN: u64 = 1 << 20;

/// What a LUN should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LunSpec {
    /// Size in bytes, a multiple of 4096; the file is sparse.
    pub size_bytes: u64,
    /// Serial that the machines see, at most 20 characters; `lun<index>` when absent.
    pub serial: Option<String>,
    /// Whether the machines see a volatile write cache and so send flushes.
    pub write_cache: bool,
    /// Logical block size in bytes: 512 or 4096.
    pub logical_block_bytes: u32,
    /// Queues that the machines send requests through; one for each processor when absent. With one
    /// queue the flushes of all processors end in the order in which they began.
    pub queues: Option<u16>,
}

impl LunSpec {
    /// A LUN with blocks of 512 bytes and no volatile write cache, as arrays have them.
    pub fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            serial: None,
            write_cache: false,
            logical_block_bytes: 512,
            queues: None,
        }
    }

    /// Sets the serial.
    #[must_use]
    pub fn serial(mut self, serial: impl Into<String>) -> Self {
        self.serial = Some(serial.into());
        self
    }

    /// Sets whether the machines see a volatile write cache.
    #[must_use]
    pub fn write_cache(mut self, write_cache: bool) -> Self {
        self.write_cache = write_cache;
        self
    }

    /// Sets the logical block size, 512 or 4096 bytes.
    #[must_use]
    pub fn logical_block_bytes(mut self, bytes: u32) -> Self {
        self.logical_block_bytes = bytes;
        self
    }

    /// Sets how many queues the machines send requests through.
    #[must_use]
    pub fn queues(mut self, queues: u16) -> Self {
        self.queues = Some(queues);
        self
    }
}

/// A LUN of a running lab.
#[derive(Debug, Clone)]
pub struct Lun {
    pub(crate) serial: String,
    pub(crate) file: PathBuf,
    pub(crate) spec: LunSpec,
}

impl Lun {
    /// Checks the spec and gives the LUN its serial and its file's name.
    pub(crate) fn plan(index: usize, spec: LunSpec, directory: &Path) -> Result<Self> {
        let serial = spec.serial.clone().unwrap_or_else(|| format!("lun{index}"));
        let wrong = |why: &str| Err(LabError::Settings(format!("LUN {index} ({serial}): {why}")));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if serial.is_empty() || serial.len() > SERIAL_BYTES_MAX || !serial.chars().all(plain) {
            return wrong("a serial is 1 to 20 letters, digits, '-' or '_'");
        }
        if serial.starts_with("lunar-") {
            return wrong("serials that begin with lunar- are the lab's own");
        }
        if spec.size_bytes < LUN_BYTES_MIN || !spec.size_bytes.is_multiple_of(4096) {
            return wrong("the size is at least 1 MiB and a multiple of 4096 bytes");
        }
        if ![512, 4096].contains(&spec.logical_block_bytes) {
            return wrong("the logical block size is 512 or 4096");
        }
        if spec.queues == Some(0) {
            return wrong("requests need at least one queue");
        }
        let file = directory.join(format!("{serial}.raw"));
        Ok(Self { serial, file, spec })
    }

    /// The serial that the machines see.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The device in every machine.
    pub fn device(&self) -> String {
        format!("/dev/disk/by-id/virtio-{}", self.serial)
    }

    /// The file behind it on the host.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What it was asked to be.
    pub fn spec(&self) -> &LunSpec {
        &self.spec
    }
}

/// What the kernel of one machine has done to a block device since its boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockStat {
    /// Reads completed.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes completed.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Discards completed.
    pub discards: u64,
    /// Bytes discarded.
    pub discarded_bytes: u64,
    /// Flushes completed.
    pub flushes: u64,
}

impl BlockStat {
    /// Reads the fields of `/sys/block/*/stat`; `None` when it is not such a line.
    pub fn parse(line: &str) -> Option<Self> {
        let fields: Vec<u64> =
            line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        // Documentation/block/stat.rst; the unit of "sectors" is always 512 bytes.
        let sectors = |index: usize| fields.get(index)?.checked_mul(512);
        Some(Self {
            reads: *fields.first()?,
            read_bytes: sectors(2)?,
            writes: *fields.get(4)?,
            written_bytes: sectors(6)?,
            discards: *fields.get(11)?,
            discarded_bytes: sectors(13)?,
            flushes: *fields.get(15)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_that_make_no_sense_are_refused() {
        let plan = |spec| Lun::plan(0, spec, Path::new("/x"));
        assert!(plan(LunSpec::new(1 << 20)).is_ok());
        assert!(plan(LunSpec::new(0)).is_err());
        assert!(plan(LunSpec::new((1 << 20) + 512)).is_err());
        assert!(plan(LunSpec::new(1 << 20).logical_block_bytes(1024)).is_err());
        assert!(plan(LunSpec::new(1 << 20).serial("lunar-data")).is_err());
        assert!(plan(LunSpec::new(1 << 20).serial("a,b")).is_err());
        assert!(plan(LunSpec::new(1 << 20).serial("123456789012345678901")).is_err());
    }

    #[test]
    fn stat_line_is_read_by_position() {
        let line = " 10 1 80 5 20 2 160 6 0 7 8 3 0 24 9 4 11\n";
        let stat = BlockStat::parse(line).unwrap();
        assert_eq!((stat.reads, stat.read_bytes), (10, 80 * 512));
        assert_eq!((stat.writes, stat.written_bytes), (20, 160 * 512));
        assert_eq!((stat.discards, stat.discarded_bytes, stat.flushes), (3, 24 * 512, 4));
        assert_eq!(BlockStat::parse("1 2 3"), None);
        assert_eq!(BlockStat::parse("a b c"), None);
    }
}
