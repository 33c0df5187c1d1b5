//! Reservations of a block device through the kernel.
//!
//! Source: `linux/pr.h` of Linux 7.2 (structures, numbers and statuses of the `IOC_PR_*` calls) and
//! `scsi/sg.h` (`SG_IO`, for kernels without `IOC_PR_READ_KEYS`, which came with 6.19). A call
//! answers 0, a status of the device, or an errno: EBADE and EREMOTEIO among them are a conflict.
//!
//! sd asks for a registration that survives a power loss (APTPL) by itself. What a multipath device
//! is asked for the kernel does on all of its paths.
#![allow(unsafe_code, reason = "ioctls with structures that carry addresses")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lunar_types::RegistrationKey;

use super::scsi::{self, Inquiry};
use super::{Array, ArrayError, Kind, Reservation, Step, assert_victim, paths};
use crate::lun::set::OpenLun;

/// PR_WRITE_EXCLUSIVE_ALL_REGS.
const ALL_REGISTRANTS: u32 = 5;
/// PR_FL_IGNORE_KEY.
const IGNORE_KEY: u32 = 1;
/// PR_STS_RESERVATION_CONFLICT, which is also the status of SCSI.
const CONFLICT: i32 = 0x18;
/// PR_STS_IOERR, which is also CHECK CONDITION of SCSI.
const CHECK_CONDITION: u8 = 0x02;
/// The sense key of a device that has something to say first.
const UNIT_ATTENTION: u8 = 0x06;
const UNIT_ATTENTIONS_MAX: usize = 8;
/// Keys that are asked for at first, and at most (PR_KEYS_MAX).
const KEYS_FIRST: usize = 64;
const KEYS_MAX: usize = 1 << 16;
/// SG_SCSI_RESET_DEVICE with SG_SCSI_RESET_NO_ESCALATE: this unit, and nothing more if it fails.
const RESET_UNIT: i32 = 1 | 0x100;
/// A LUN that is gone must not keep who asks for ever.
const SG_TIMEOUT_MS: u32 = 30_000;

#[repr(C)]
struct PrRegistration {
    old_key: u64,
    new_key: u64,
    flags: u32,
    pad: u32,
}

#[repr(C)]
struct PrReservation {
    key: u64,
    kind: u32,
    flags: u32,
}

/// `old_key` is the caller's, `new_key` the victim's.
#[repr(C)]
struct PrPreempt {
    old_key: u64,
    new_key: u64,
    kind: u32,
    flags: u32,
}

#[repr(C)]
struct PrReadKeys {
    generation: u32,
    num_keys: u32,
    keys_ptr: u64,
}

#[repr(C)]
#[derive(Default)]
struct PrReadReservation {
    key: u64,
    generation: u32,
    kind: u32,
}

#[repr(C)]
struct SgIo {
    interface_id: i32,
    direction: i32,
    command_length: u8,
    sense_room: u8,
    iovec_count: u16,
    transfer_length: u32,
    transfer: *mut u8,
    command: *mut u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: i32,
    user: *mut u8,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_length: u8,
    host_status: u16,
    driver_status: u16,
    residual: i32,
    duration_ms: u32,
    info: u32,
}

const _: () = {
    assert!(size_of::<PrRegistration>() == 24);
    assert!(size_of::<PrReservation>() == 16);
    assert!(size_of::<PrPreempt>() == 24);
    assert!(size_of::<PrReadKeys>() == 16);
    assert!(size_of::<PrReadReservation>() == 16);
    assert!(size_of::<SgIo>() == 88);
};

mod request {
    use super::*;

    nix::ioctl_write_ptr!(register, b'p', 200, PrRegistration);
    nix::ioctl_write_ptr!(reserve, b'p', 201, PrReservation);
    nix::ioctl_write_ptr!(preempt_abort, b'p', 204, PrPreempt);
    nix::ioctl_readwrite!(read_keys, b'p', 206, PrReadKeys);
    nix::ioctl_read!(read_reservation, b'p', 207, PrReadReservation);
    nix::ioctl_readwrite_bad!(sg_io, 0x2285, SgIo);
    nix::ioctl_readwrite_bad!(sg_scsi_reset, 0x2284, i32);
}

/// A block device that is open for as long as this exists.
pub struct DeviceArray {
    device: Device,
    sys: PathBuf,
}

enum Device {
    /// Claimed, for a LUN that is used.
    Claimed(Arc<OpenLun>),
    /// Open to be asked, and nothing else.
    Asked(File, PathBuf),
}

/// Whether a device answers to reservations. It is asked for its keys; nothing is changed.
#[must_use]
pub fn has_reservations(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let device = Device::Asked(file, path.to_owned());
    DeviceArray { device, sys: PathBuf::from("/sys") }.read_keys().is_ok()
}

impl DeviceArray {
    /// The array behind an open LUN.
    #[must_use]
    pub fn new(lun: Arc<OpenLun>) -> Self {
        Self { device: Device::Claimed(lun), sys: PathBuf::from("/sys") }
    }

    fn file(&self) -> &File {
        match &self.device {
            Device::Claimed(lun) => lun.file(),
            Device::Asked(file, _) => file,
        }
    }

    fn descriptor(&self) -> RawFd {
        self.file().as_raw_fd()
    }

    fn path(&self) -> &Path {
        match &self.device {
            Device::Claimed(lun) => &lun.path,
            Device::Asked(_, path) => path,
        }
    }

    fn checked(&self, step: Step, answer: nix::Result<i32>) -> Result<(), ArrayError> {
        let path = || self.path().to_owned();
        match answer {
            Ok(0) => Ok(()),
            Ok(CONFLICT) => Err(ArrayError::Conflict { path: path(), step }),
            Ok(status) => Err(ArrayError::Path { path: path(), step, status }),
            Err(errno) => Err(failed(path(), step, errno.into())),
        }
    }

    fn failed(&self, step: Step, source: io::Error) -> ArrayError {
        failed(self.path().to_owned(), step, source)
    }

    /// Asks a SCSI device, with room for so many bytes of answer.
    fn inquire(&self, step: Step, inquiry: Inquiry, room: u16) -> Result<Vec<u8>, ArrayError> {
        for _ in 0..UNIT_ATTENTIONS_MAX {
            let mut answer = vec![0; usize::from(room)];
            let (mut command, mut sense) = (scsi::command(inquiry, room), [0_u8; 64]);
            let mut io = SgIo {
                interface_id: i32::from(b'S'),
                // SG_DXFER_FROM_DEV
                direction: -3,
                command_length: command.len() as u8,
                sense_room: sense.len() as u8,
                iovec_count: 0,
                transfer_length: u32::from(room),
                transfer: answer.as_mut_ptr(),
                command: command.as_mut_ptr(),
                sense: sense.as_mut_ptr(),
                timeout_ms: SG_TIMEOUT_MS,
                flags: 0,
                pack_id: 0,
                user: std::ptr::null_mut(),
                status: 0,
                masked_status: 0,
                message_status: 0,
                sense_length: 0,
                host_status: 0,
                driver_status: 0,
                residual: 0,
                duration_ms: 0,
                info: 0,
            };
            // SAFETY: every address in the structure is of a local buffer of the length beside it,
            // and SG_IO returns when the kernel has done with them.
            let answered = unsafe { request::sg_io(self.descriptor(), &raw mut io) };
            answered.map_err(|errno| self.failed(step, errno.into()))?;
            if io.host_status != 0 {
                let (path, status) = (self.path().to_owned(), i32::from(io.host_status));
                return Err(ArrayError::Path { path, step, status });
            }
            match i32::from(io.status) {
                0 => {
                    let left = usize::try_from(io.residual).unwrap_or(0);
                    answer.truncate(usize::from(room).saturating_sub(left));
                    return Ok(answer);
                }
                CONFLICT => {
                    return Err(ArrayError::Conflict { path: self.path().to_owned(), step });
                }
                _ if io.status == CHECK_CONDITION && sense_key(&sense) == UNIT_ATTENTION => {}
                status => {
                    let text = format!("SCSI status {status:#x}, sense key {}", sense_key(&sense));
                    return Err(self.failed(step, io::Error::other(text)));
                }
            }
        }
        Err(self.failed(step, io::Error::other("it reports one unit attention after the other")))
    }

    fn malformed(&self, step: Step, problem: scsi::Malformed) -> ArrayError {
        self.failed(step, io::Error::new(io::ErrorKind::InvalidData, problem))
    }

    fn scsi_keys(&self) -> Result<Vec<u64>, ArrayError> {
        const STEP: Step = Step::ReadKeys;
        let mut room = KEYS_FIRST;
        loop {
            let bytes = scsi::HEAD_BYTES + room * scsi::KEY_BYTES;
            let bytes = u16::try_from(bytes).unwrap_or(u16::MAX - 7);
            let answer = self.inquire(STEP, Inquiry::Keys, bytes)?;
            let (keys, all) = scsi::keys(&answer).map_err(|it| self.malformed(STEP, it))?;
            if keys.len() == all {
                return Ok(keys);
            }
            if bytes == u16::MAX - 7 {
                let text = format!("it has {all} keys, more than can be read");
                return Err(self.failed(STEP, io::Error::other(text)));
            }
            room = all.max(room * 2);
        }
    }

    fn scsi_reservation(&self) -> Result<Option<Reservation>, ArrayError> {
        const STEP: Step = Step::ReadReservation;
        let answer = self.inquire(STEP, Inquiry::Reservation, 24)?;
        scsi::reservation(&answer).map_err(|it| self.malformed(STEP, it))
    }
}

fn failed(path: PathBuf, step: Step, source: io::Error) -> ArrayError {
    match source.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOTTY) => ArrayError::Unsupported { path, step, source },
        Some(libc::EBADE) => ArrayError::Conflict { path, step },
        _ => ArrayError::Failed { path, step, source },
    }
}

/// The sense key, in either format of sense data.
const fn sense_key(sense: &[u8; 64]) -> u8 {
    match sense[0] & 0x7F {
        0x72 | 0x73 => sense[1] & 0x0F,
        _ => sense[2] & 0x0F,
    }
}

impl Array for DeviceArray {
    fn register(&self, key: RegistrationKey) -> Result<(), ArrayError> {
        let new_key = key.raw();
        let wanted = PrRegistration { old_key: 0, new_key, flags: IGNORE_KEY, pad: 0 };
        // SAFETY: the kernel reads one structure, which outlives the call.
        let answer = unsafe { request::register(self.descriptor(), &raw const wanted) };
        self.checked(Step::Register, answer)
    }

    fn reserve(&self, key: RegistrationKey) -> Result<(), ArrayError> {
        let wanted = PrReservation { key: key.raw(), kind: ALL_REGISTRANTS, flags: 0 };
        // SAFETY: the kernel reads one structure, which outlives the call.
        let answer = unsafe { request::reserve(self.descriptor(), &raw const wanted) };
        self.checked(Step::Reserve, answer)
    }

    fn preempt_and_abort(
        &self,
        own: RegistrationKey,
        victim: RegistrationKey,
    ) -> Result<(), ArrayError> {
        assert_victim(own, victim);
        let (old_key, new_key) = (own.raw(), victim.raw());
        let wanted = PrPreempt { old_key, new_key, kind: ALL_REGISTRANTS, flags: 0 };
        // SAFETY: the kernel reads one structure, which outlives the call.
        let answer = unsafe { request::preempt_abort(self.descriptor(), &raw const wanted) };
        self.checked(Step::PreemptAndAbort, answer)
    }

    fn reset(&self) -> Result<(), ArrayError> {
        let mut what = RESET_UNIT;
        // SAFETY: the kernel reads one number, which outlives the call.
        let answer = unsafe { request::sg_scsi_reset(self.descriptor(), &raw mut what) };
        self.checked(Step::Reset, answer)
    }

    fn read_keys(&self) -> Result<Vec<u64>, ArrayError> {
        let mut room = KEYS_FIRST;
        loop {
            let mut keys = vec![0_u64; room];
            let mut wanted = PrReadKeys {
                generation: 0,
                num_keys: u32::try_from(room).expect("KEYS_MAX is small"),
                keys_ptr: keys.as_mut_ptr() as u64,
            };
            // SAFETY: the kernel writes the structure and at most `num_keys` keys behind
            // `keys_ptr`; both outlive the call.
            let answer = unsafe { request::read_keys(self.descriptor(), &raw mut wanted) };
            if answer == Err(nix::errno::Errno::ENOTTY) {
                return self.scsi_keys();
            }
            self.checked(Step::ReadKeys, answer)?;
            let all = wanted.num_keys as usize;
            if all <= room {
                keys.truncate(all);
                return Ok(keys);
            }
            if room == KEYS_MAX {
                let text = format!("it has {all} keys, more than can be read");
                return Err(self.failed(Step::ReadKeys, io::Error::other(text)));
            }
            room = all.max(room * 2).min(KEYS_MAX);
        }
    }

    fn read_reservation(&self) -> Result<Option<Reservation>, ArrayError> {
        let mut held = PrReadReservation::default();
        // SAFETY: the kernel writes one structure, which outlives the call.
        let answer = unsafe { request::read_reservation(self.descriptor(), &raw mut held) };
        if answer == Err(nix::errno::Errno::ENOTTY) {
            return self.scsi_reservation();
        }
        self.checked(Step::ReadReservation, answer)?;
        let kind = match held.kind {
            0 => return Ok(None),
            ALL_REGISTRANTS => Kind::WriteExclusiveAllRegistrants,
            other => Kind::Other(other),
        };
        Ok(Some(Reservation { kind, key: held.key }))
    }

    fn paths(&self) -> Result<u32, ArrayError> {
        let step = Step::CountPaths;
        let number = self.file().metadata().map_err(|source| self.failed(step, source))?.rdev();
        let number = (libc::major(number).into(), libc::minor(number).into());
        paths::count(&self.sys, number).map_err(|source| self.failed(step, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_reservations_says_so_by_name() {
        let error = failed("/dev/vda".into(), Step::Register, libc_error(libc::EOPNOTSUPP));
        let text = error.to_string();
        assert!(text.contains("/dev/vda") && text.contains("--fencing lease or none"), "{text}");
        let refused = failed("/dev/sda".into(), Step::Reserve, libc_error(libc::EBADE));
        assert!(matches!(refused, ArrayError::Conflict { step: Step::Reserve, .. }));
    }

    fn libc_error(errno: i32) -> io::Error {
        io::Error::from_raw_os_error(errno)
    }

    #[test]
    fn the_sense_key_is_found_in_both_formats() {
        let mut sense = [0_u8; 64];
        (sense[0], sense[2]) = (0x70, 0xF6);
        assert_eq!(sense_key(&sense), UNIT_ATTENTION);
        (sense[0], sense[1]) = (0x72, 0x05);
        assert_eq!(sense_key(&sense), 5);
    }
}
