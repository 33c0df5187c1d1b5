//! The few system calls that no crate wraps safely.
//!
//! Each function is safe to call: it owns what it passes to the kernel for the length of the
//! call.
#![allow(unsafe_code, reason = "raw system calls live here, each with its reason")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

mod request {
    nix::ioctl_read!(block_device_bytes, 0x12, 114, u64);
    nix::ioctl_read_bad!(logical_block_bytes, 0x1268, libc::c_int);
    nix::ioctl_readwrite!(freeze_file_system, b'X', 119, libc::c_int);
    nix::ioctl_readwrite!(thaw_file_system, b'X', 120, libc::c_int);
}

// linux/prctl.h; libc has them for Android only.
const PR_SET_IO_FLUSHER: libc::c_int = 57;
const PR_GET_IO_FLUSHER: libc::c_int = 58;

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Tells the kernel that this task cleans dirty pages of others: its own allocations then never
/// start I/O that would wait for it. Threads created later inherit it.
///
/// # Errors
/// Without CAP_SYS_RESOURCE, or on a kernel before 5.6.
pub(crate) fn set_io_flusher() -> io::Result<()> {
    let on: libc::c_ulong = 1;
    let none: libc::c_ulong = 0;
    // SAFETY: PR_SET_IO_FLUSHER takes plain numbers and touches no memory of ours.
    check(unsafe { libc::prctl(PR_SET_IO_FLUSHER, on, none, none, none) })
}

/// Whether [`set_io_flusher`] is in force for this task.
///
/// # Errors
/// Without CAP_SYS_RESOURCE, or on a kernel before 5.6.
pub(crate) fn is_io_flusher() -> io::Result<bool> {
    let none: libc::c_ulong = 0;
    // SAFETY: PR_GET_IO_FLUSHER takes plain numbers and touches no memory of ours.
    match unsafe { libc::prctl(PR_GET_IO_FLUSHER, none, none, none, none) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value == 1),
    }
}

/// Keeps every page of the process in memory once it has been touched, now and later.
///
/// # Errors
/// Without CAP_IPC_LOCK or beyond RLIMIT_MEMLOCK.
pub(crate) fn lock_memory() -> io::Result<()> {
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: mlockall changes how pages are kept, never what they hold.
    check(unsafe { libc::mlockall(flags) })
}

/// The size of an open block device in bytes.
///
/// # Errors
/// When the file is no block device.
pub(crate) fn block_device_bytes(device: &File) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: BLKGETSIZE64 writes one u64 through the pointer, which outlives the call.
    unsafe { request::block_device_bytes(device.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

/// The logical block of an open block device in bytes.
///
/// # Errors
/// When the file is no block device.
pub(crate) fn block_device_logical_block(device: &File) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int through the pointer, which outlives the call.
    unsafe { request::logical_block_bytes(device.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Has a file system written out and keeps every later write waiting; takes any open file of it.
///
/// # Errors
/// When it knows no freezing, or is frozen.
pub(crate) fn freeze_file_system(root: &File) -> io::Result<()> {
    let mut ignored: libc::c_int = 0;
    // SAFETY: FIFREEZE ignores its argument, which is a valid int and outlives the call.
    unsafe { request::freeze_file_system(root.as_raw_fd(), &raw mut ignored) }?;
    Ok(())
}

/// Lets the writes of a frozen file system go on.
///
/// # Errors
/// When it is not frozen.
pub(crate) fn thaw_file_system(root: &File) -> io::Result<()> {
    let mut ignored: libc::c_int = 0;
    // SAFETY: FITHAW ignores its argument, which is a valid int and outlives the call.
    unsafe { request::thaw_file_system(root.as_raw_fd(), &raw mut ignored) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_is_no_block_device() {
        let file = tempfile::tempfile().expect("a temporary file");
        assert!(block_device_bytes(&file).is_err());
        assert!(block_device_logical_block(&file).is_err());
    }
}
