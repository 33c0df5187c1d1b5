//! A device that is open: as long as it is, its number is of no other one.
//!
//! - The number of what was opened is compared, never a path.
//! - Who changes what is on a device holds its lock (`flock`), and the tools that he becomes hold
//!   it on: a process of a killed driver that still writes keeps its successor out. udev looks at
//!   no device that is locked so.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::{FileType, FlockOperation, OFlags, flock, fstat, major, minor};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use super::failure::{Failure, Kind};
use crate::node::device::{Device, DeviceNumber};

/// Where signatures of file systems, partition tables and volume managers are.
const END_BYTES: u64 = 4 << 20;
const READ_BYTES: usize = 1 << 20;

/// For what a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be compared. The device hears nothing of it.
    Identify,
    /// To be read.
    Read,
    /// To be changed by nobody else meanwhile.
    Change,
}

/// An open device.
#[derive(Debug)]
pub struct OpenDevice {
    file: File,
}

/// The number of the device that a descriptor is of, if it is of a block device.
///
/// # Errors
/// The kernel does not tell.
pub fn block_number(of: impl std::os::fd::AsFd) -> io::Result<Option<DeviceNumber>> {
    let stat = fstat(of)?;
    let is_block = FileType::from_raw_mode(stat.st_mode).is_block_device();
    let number = DeviceNumber { major: major(stat.st_rdev), minor: minor(stat.st_rdev) };
    Ok(is_block.then_some(number))
}

fn other_device(device: &Device, found: Option<DeviceNumber>) -> Failure {
    let Device { path, number } = device;
    let what = found.map_or("no block device".to_owned(), |found| format!("device {found}"));
    let message = format!(
        "{path} is {what} here, and the volume is served by device {number}: see that the driver \
         sees the /dev of its node"
    );
    Failure::new(Kind::Internal, message)
}

impl OpenDevice {
    /// Opens a device.
    ///
    /// # Errors
    /// It is not there or another one, or somebody else is changing it.
    pub fn open(device: &Device, purpose: Purpose) -> Result<Self, Failure> {
        let flags = match purpose {
            Purpose::Identify => OFlags::PATH | OFlags::NOFOLLOW,
            Purpose::Read | Purpose::Change => OFlags::NOFOLLOW,
        };
        let flags = i32::try_from(flags.bits()).expect("flags of open are small");
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(flags).open(&device.path);
        let failed = |error| Failure::internal(format!("open {}", device.path), error);
        let file = file.map_err(failed)?;
        let found = block_number(&file).map_err(failed)?;
        if found != Some(device.number) {
            return Err(other_device(device, found));
        }
        if purpose == Purpose::Change {
            lock(&file, device)?;
        }
        Ok(Self { file })
    }

    /// Leaves the device open, and locked, in the program that this process becomes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn pass_on(&self) -> io::Result<()> {
        Ok(fcntl_setfd(&self.file, FdFlags::empty())?)
    }

    /// Makes everything durable that was written to the device, by whomever.
    ///
    /// # Errors
    /// The device says so: then nothing that was written may be relied on.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Reads the places where something would be found: what finds nothing proves nothing where
    /// nothing can be read.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read_ends(&self, size_bytes: u64) -> io::Result<()> {
        let last = size_bytes.saturating_sub(END_BYTES);
        self.read_range(0, END_BYTES.min(size_bytes))?;
        self.read_range(last, size_bytes)
    }

    fn read_range(&self, from: u64, to: u64) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let mut at = from;
        while at < to {
            let length = usize::try_from(to - at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
            self.file.read_exact_at(&mut buffer[..length], at)?;
            at += length as u64;
        }
        Ok(())
    }
}

fn lock(file: &File, device: &Device) -> Result<(), Failure> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let message = format!(
                "{} is locked by another process that works on it, perhaps one of a driver that \
                 was killed: try again",
                device.path
            );
            Err(Failure::new(Kind::Busy, message))
        }
        Err(error) => {
            Err(Failure::internal(format!("lock {}", device.path), io::Error::from(error)))
        }
    }
}
