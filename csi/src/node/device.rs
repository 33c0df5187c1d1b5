//! Block devices, by their number: a path may come to mean another device, a number is of one
//! device as long as anybody has it.

use std::io;

use lunar_types::VolumeId;
use serde::{Deserialize, Serialize};

/// The number of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeviceNumber {
    /// Which driver.
    pub major: u32,
    /// Which device of it.
    pub minor: u32,
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Sizes are told in sectors of this many bytes, whatever the device's blocks are.
const SECTOR_BYTES: u64 = 512;

impl DeviceNumber {
    fn told(self, what: &str) -> io::Result<Option<u64>> {
        match std::fs::read_to_string(format!("/sys/dev/block/{self}/{what}")) {
            Ok(text) => text.trim().parse().map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The size of the device; nothing, if it is not there any more. The device is not opened.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn size_bytes(self) -> io::Result<Option<u64>> {
        Ok(self.told("size")?.map(|sectors| sectors * SECTOR_BYTES))
    }

    /// Whether the device refuses writes; nothing, if it is not there any more.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn is_read_only(self) -> io::Result<Option<bool>> {
        Ok(self.told("ro")?.map(|value| value != 0))
    }
}

/// A device that serves a volume, as fs-core tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Such as /dev/ublkb0.
    pub path: String,
    /// Whatever is opened by the path has to have it.
    pub number: DeviceNumber,
}

impl Device {
    /// The last part of its path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Whether a path is of a device of the same driver: the same name, but for the digits.
    #[must_use]
    pub fn is_sibling(&self, path: &str) -> bool {
        let stem = |path: &str| path.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        stem(&self.path) == stem(path)
    }
}

/// An attached volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Which.
    pub volume: VolumeId,
    /// By what.
    pub device: Device,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_devices_of_the_same_driver() {
        let number = DeviceNumber { major: 1, minor: 1 };
        let device = Device { path: "/dev/ublkb7".to_owned(), number };
        assert!(device.is_sibling("/dev/ublkb12"));
        for other in ["/dev/sda1", "/dev/ublkc7", "/srv/ublkb7", "tmpfs", ""] {
            assert!(!device.is_sibling(other), "{other}");
        }
        assert_eq!(device.name(), "ublkb7");
    }

    #[test]
    fn a_device_that_is_not_there_has_no_size() {
        let nobody = DeviceNumber { major: 4_000, minor: 1 };
        assert_eq!(nobody.size_bytes().expect("the kernel tells"), None);
        assert_eq!(nobody.is_read_only().expect("the kernel tells"), None);
    }
}
