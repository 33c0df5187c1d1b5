//! Opens a block device or a regular file as a LUN, for direct I/O.
//!
//! Invariant: a block device opened to be used is claimed (O_EXCL), so that neither a mount nor
//! another claimer, such as mkfs or LVM, gets at it meanwhile.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lunar_engine::buffer::AlignedBuf;
use lunar_engine::lun::FileLun;

use crate::sys;

/// What a LUN is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To look at it.
    Inspect,
    /// To read and write it, and to keep others from it.
    Claim,
}

/// A device cannot be opened as a LUN.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The open itself failed.
    #[error("cannot open {}", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody else has claimed it.
    #[error(
        "{} is in use by somebody else: it is mounted, or part of LVM, RAID or multipath",
        path.display()
    )]
    Claimed {
        /// The device.
        path: PathBuf,
    },
    /// Its file system knows no direct I/O.
    #[error("{} does not support direct I/O (O_DIRECT): use another file system", path.display())]
    NoDirectIo {
        /// The file.
        path: PathBuf,
    },
    /// Neither a block device nor a regular file.
    #[error("{} is neither a block device nor a regular file", path.display())]
    Kind {
        /// What was given.
        path: PathBuf,
    },
    /// Its size or block cannot be asked for.
    #[error("cannot find out the size of {}", path.display())]
    Size {
        /// The device.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An odd logical block.
    #[error("{} has logical blocks of {bytes} B: only 512 and 4096 are supported", path.display())]
    LogicalBlock {
        /// The device.
        path: PathBuf,
        /// What it has.
        bytes: u32,
    },
}

/// Opens a device or file for direct I/O.
///
/// # Errors
/// See [`OpenError`].
pub fn open(path: &Path, access: Access) -> Result<FileLun, OpenError> {
    let owned = || path.to_owned();
    let open_error = |source| OpenError::Open { path: owned(), source };
    let kind = std::fs::metadata(path).map_err(open_error)?.file_type();
    if !kind.is_block_device() && !kind.is_file() {
        return Err(OpenError::Kind { path: owned() });
    }
    let claim = if access == Access::Claim && kind.is_block_device() { libc::O_EXCL } else { 0 };
    let file = OpenOptions::new()
        .read(true)
        .write(access == Access::Claim)
        .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC | claim)
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) => OpenError::Claimed { path: owned() },
            Some(libc::EINVAL) => OpenError::NoDirectIo { path: owned() },
            _ => OpenError::Open { path: owned(), source },
        })?;
    let facts = if kind.is_block_device() { device_facts(&file) } else { file_facts(&file) };
    let (size, block) = facts.map_err(|source| OpenError::Size { path: owned(), source })?;
    if !matches!(block, 512 | 4096) {
        return Err(OpenError::LogicalBlock { path: owned(), bytes: block });
    }
    Ok(FileLun::new(file, size, block))
}

fn device_facts(file: &File) -> io::Result<(u64, u32)> {
    Ok((sys::block_device_bytes(file)?, sys::block_device_logical_block(file)?))
}

/// The size of a file, and the unit in which its file system does direct I/O.
fn file_facts(file: &File) -> io::Result<(u64, u32)> {
    let size = file.metadata()?.len();
    let mut page = AlignedBuf::zeroed(1);
    match file.read_at(&mut page.as_mut_bytes()[..512], 0) {
        Ok(_) => Ok((size, 512)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok((size, 4096)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use lunar_engine::lun::LunDevice;

    use super::*;

    #[test]
    fn a_file_is_a_lun_of_its_size() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        file.as_file().set_len(1 << 20).expect("sized");
        let lun = open(file.path(), Access::Claim).expect("it can be opened");
        assert_eq!(lun.size_bytes(), 1 << 20);
        assert!(matches!(lun.logical_block_bytes(), 512 | 4096));
        let mut buffer = AlignedBuf::zeroed(1);
        buffer.as_mut_bytes().fill(7);
        lun.write_at(8192, buffer.as_bytes()).expect("written");
        let mut back = AlignedBuf::zeroed(1);
        lun.read_at(8192, back.as_mut_bytes()).expect("read");
        assert_eq!(back.as_bytes(), buffer.as_bytes());
    }

    #[test]
    fn a_directory_and_a_missing_path_are_refused_by_name() {
        let directory = open(Path::new("/"), Access::Inspect).expect_err("no LUN");
        assert!(matches!(directory, OpenError::Kind { .. }));
        let missing = open(Path::new("/dev/no-such-device"), Access::Inspect).expect_err("none");
        assert!(missing.to_string().contains("/dev/no-such-device"), "{missing}");
    }
}
