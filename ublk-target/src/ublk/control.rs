//! Control commands of the ublk driver, one at a time, each waited for.
//!
//! Invariants:
//! - a command's buffer lives until its completion was seen, signals or not;
//! - an errno of the driver is an error, whatever its number.
//!
//! A [`Control`] is made for a few commands and dropped; commands block (START waits for the
//! queues, STOP for requests under way), so callers use a thread that may wait.
#![allow(unsafe_code, reason = "control commands pass pointers to the kernel")]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use libublk::sys;

use crate::process::UBLK_CONTROL;

/// The number N of /dev/ublkcN and /dev/ublkbN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(u32);

impl DeviceId {
    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Path of the character device that queues are served by.
    #[must_use]
    pub fn char_path(self) -> String {
        format!("/dev/ublkc{}", self.0)
    }

    /// Path of the block device.
    #[must_use]
    pub fn block_path(self) -> String {
        format!("/dev/{}", self.block_name())
    }

    /// Kernel name of the block device.
    #[must_use]
    pub fn block_name(self) -> String {
        format!("ublkb{}", self.0)
    }

    /// Major and minor number of the block device, from the kernel's own list; nothing while there
    /// is none.
    #[must_use]
    pub fn number(self) -> Option<(u32, u32)> {
        let path = format!("/sys/class/block/{}/dev", self.block_name());
        let text = std::fs::read_to_string(path).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A control command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum UblkError {
    /// The control device cannot be opened.
    #[error("cannot open {UBLK_CONTROL}")]
    Open(#[source] io::Error),
    /// No ring can be made.
    #[error("cannot make an io_uring for ublk's control commands")]
    Ring(#[source] io::Error),
    /// The driver refused the command.
    #[error("the ublk driver refused {command} of device {device}")]
    Command {
        /// Which one.
        command: &'static str,
        /// Of which device; "new" for one that has no number yet.
        device: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl UblkError {
    /// The errno of a refused command.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(source) | Self::Ring(source) | Self::Command { source, .. } => {
                source.raw_os_error()
            }
        }
    }
}

/// Where a device is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// Added but not started, or stopped.
    Dead,
    /// Serving.
    Live,
    /// Its daemon is gone; requests wait for a successor.
    Quiesced,
    /// Its daemon is gone; requests fail.
    FailIo,
    /// A state of a later driver.
    Other(u16),
}

impl From<u16> for DeviceState {
    fn from(raw: u16) -> Self {
        match u32::from(raw) {
            sys::UBLK_S_DEV_DEAD => Self::Dead,
            sys::UBLK_S_DEV_LIVE => Self::Live,
            sys::UBLK_S_DEV_QUIESCED => Self::Quiesced,
            sys::UBLK_S_DEV_FAIL_IO => Self::FailIo,
            _ => Self::Other(raw),
        }
    }
}

/// What the driver says of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number.
    pub id: DeviceId,
    /// Where it is in its life.
    pub state: DeviceState,
    /// Queues.
    pub queues: u16,
    /// Requests a queue.
    pub queue_depth: u16,
    /// Bytes of the largest request.
    pub max_io_bytes: u32,
    /// UBLK_F_* in force.
    pub flags: u64,
    /// What its creator stored with it; ours by [`NewDevice::token`].
    pub token: u64,
    /// Process that serves it.
    pub server_pid: i32,
}

impl From<sys::ublksrv_ctrl_dev_info> for DeviceInfo {
    fn from(info: sys::ublksrv_ctrl_dev_info) -> Self {
        Self {
            id: DeviceId(info.dev_id),
            state: info.state.into(),
            queues: info.nr_hw_queues,
            queue_depth: info.queue_depth,
            max_io_bytes: info.max_io_buf_bytes,
            flags: info.flags,
            token: info.ublksrv_flags,
            server_pid: info.ublksrv_pid,
        }
    }
}

/// A device to be added.
#[derive(Debug, Clone, Copy)]
pub struct NewDevice {
    /// The number it shall have.
    pub id: DeviceId,
    /// Queues.
    pub queues: u16,
    /// Requests a queue.
    pub queue_depth: u16,
    /// Bytes of the largest request.
    pub max_io_bytes: u32,
    /// UBLK_F_* asked for.
    pub flags: u64,
    /// Stored with the device and given back by [`Control::info`]: proves that it is ours.
    pub token: u64,
}

/// An open control device with a ring of its own.
pub struct Control {
    device: File,
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
}

const NO_QUEUE: u16 = u16::MAX;
const SECTOR_SHIFT: u32 = 9;

fn errno(raw: i32) -> io::Error {
    io::Error::from_raw_os_error(raw)
}

impl Control {
    /// Opens the control device.
    ///
    /// # Errors
    /// When it cannot be opened or no ring can be made.
    pub fn open() -> Result<Self, UblkError> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(UBLK_CONTROL)
            .map_err(UblkError::Open)?;
        let ring = IoUring::builder().build(4).map_err(UblkError::Ring)?;
        Ok(Self { device, ring })
    }

    /// UBLK_F_* that the driver knows.
    ///
    /// # Errors
    /// With EINVAL or the like on a driver before Linux 6.5.
    pub fn features(&mut self) -> Result<u64, UblkError> {
        let mut bits = 0_u64;
        let command = Self::buffer_command(&raw mut bits);
        self.run("GET_FEATURES", sys::UBLK_U_CMD_GET_FEATURES, None, command)?;
        Ok(bits)
    }

    /// Adds a device and gives what the driver made of it.
    ///
    /// # Errors
    /// With EEXIST when the number is taken.
    pub fn add(&mut self, new: &NewDevice) -> Result<DeviceInfo, UblkError> {
        let mut info = sys::ublksrv_ctrl_dev_info {
            nr_hw_queues: new.queues,
            queue_depth: new.queue_depth,
            max_io_buf_bytes: new.max_io_bytes,
            dev_id: new.id.0,
            ublksrv_pid: std::process::id() as i32,
            flags: new.flags,
            ublksrv_flags: new.token,
            ..Default::default()
        };
        let command = Self::buffer_command(&raw mut info);
        self.run("ADD_DEV", sys::UBLK_U_CMD_ADD_DEV, Some(new.id), command)?;
        Ok(info.into())
    }

    /// What the driver says of a device; nothing if there is none of this number.
    ///
    /// # Errors
    /// For any other reason.
    pub fn info(&mut self, id: DeviceId) -> Result<Option<DeviceInfo>, UblkError> {
        let mut info = sys::ublksrv_ctrl_dev_info::default();
        let command = Self::buffer_command(&raw mut info);
        match self.run("GET_DEV_INFO", sys::UBLK_U_CMD_GET_DEV_INFO, Some(id), command) {
            Ok(()) => Ok(Some(info.into())),
            Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::ENOENT)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the parameters of a device that is not started.
    ///
    /// # Errors
    /// When the driver finds them odd.
    pub fn set_params(&mut self, id: DeviceId, params: &sys::ublk_params) -> Result<(), UblkError> {
        let mut params = *params;
        let command = Self::buffer_command(&raw mut params);
        self.run("SET_PARAMS", sys::UBLK_U_CMD_SET_PARAMS, Some(id), command)
    }

    /// How large a device is by its parameters, in bytes.
    ///
    /// # Errors
    /// When there is none of this number.
    pub fn size_bytes(&mut self, id: DeviceId) -> Result<u64, UblkError> {
        let len = size_of::<sys::ublk_params>() as u32;
        let mut params = sys::ublk_params { len, ..Default::default() };
        let command = Self::buffer_command(&raw mut params);
        self.run("GET_PARAMS", sys::UBLK_U_CMD_GET_PARAMS, Some(id), command)?;
        Ok(params.basic.dev_sectors << SECTOR_SHIFT)
    }

    /// Changes the size of a started device; whoever has it open goes on. The driver takes any size
    /// and looks neither at its features nor at the state of the device.
    ///
    /// # Errors
    /// When there is none of this number, or the driver does not know the command.
    ///
    /// # Panics
    /// When the size is not in whole sectors.
    pub fn update_size(&mut self, id: DeviceId, bytes: u64) -> Result<(), UblkError> {
        assert!(bytes > 0 && bytes.is_multiple_of(1 << SECTOR_SHIFT), "{bytes} B is no size");
        let command = sys::ublksrv_ctrl_cmd { data: [bytes >> SECTOR_SHIFT], ..Self::command() };
        self.run("UPDATE_SIZE", sys::UBLK_U_CMD_UPDATE_SIZE, Some(id), command)
    }

    /// The processors that requests of a queue come from.
    ///
    /// # Errors
    /// When the device or the queue is not there.
    pub fn queue_processors(&mut self, id: DeviceId, queue: u16) -> Result<Vec<usize>, UblkError> {
        const WORDS: usize = 16;
        let mut mask = [0_u64; WORDS];
        let mut command = Self::buffer_command(&raw mut mask);
        command.data = [queue.into()];
        self.run("GET_QUEUE_AFFINITY", sys::UBLK_U_CMD_GET_QUEUE_AFFINITY, Some(id), command)?;
        let is_set = |processor: &usize| mask[processor / 64] >> (processor % 64) & 1 == 1;
        Ok((0..WORDS * 64).filter(is_set).collect())
    }

    /// Starts a device; waits until every queue has fetched, then the block device is there.
    ///
    /// # Errors
    /// When the device was started already or its queues went away.
    pub fn start(&mut self, id: DeviceId) -> Result<(), UblkError> {
        self.run("START_DEV", sys::UBLK_U_CMD_START_DEV, Some(id), Self::pid_command())
    }

    /// Stops a device: waits for requests under way, then the block device is gone.
    ///
    /// # Errors
    /// When there is none of this number.
    pub fn stop(&mut self, id: DeviceId) -> Result<(), UblkError> {
        self.run("STOP_DEV", sys::UBLK_U_CMD_STOP_DEV, Some(id), Self::command())
    }

    /// Stops a device unless somebody has it open.
    ///
    /// # Errors
    /// With EBUSY when somebody has; on a driver without SAFE_STOP_DEV.
    pub fn stop_if_unused(&mut self, id: DeviceId) -> Result<(), UblkError> {
        self.run("TRY_STOP_DEV", sys::UBLK_U_CMD_TRY_STOP_DEV, Some(id), Self::command())
    }

    /// Deletes a stopped device; waits until nobody has its character device open.
    ///
    /// # Errors
    /// When there is none of this number.
    pub fn delete(&mut self, id: DeviceId) -> Result<(), UblkError> {
        self.run("DEL_DEV", sys::UBLK_U_CMD_DEL_DEV, Some(id), Self::command())
    }

    /// Deletes a device without waiting for those who have its character device open.
    ///
    /// # Errors
    /// When there is none of this number, or the driver is too old.
    pub fn delete_without_wait(&mut self, id: DeviceId) -> Result<(), UblkError> {
        self.run("DEL_DEV_ASYNC", sys::UBLK_U_CMD_DEL_DEV_ASYNC, Some(id), Self::command())
    }

    /// Begins to take over a device whose daemon is gone.
    ///
    /// # Errors
    /// With EBUSY while I/O of the dead daemon is under way.
    pub fn start_recovery(&mut self, id: DeviceId) -> Result<(), UblkError> {
        let command = Self::command();
        self.run("START_USER_RECOVERY", sys::UBLK_U_CMD_START_USER_RECOVERY, Some(id), command)
    }

    /// Completes the takeover; waits until every queue has fetched, then requests flow again.
    ///
    /// # Errors
    /// When the device is not being taken over.
    pub fn end_recovery(&mut self, id: DeviceId) -> Result<(), UblkError> {
        let command = Self::pid_command();
        self.run("END_USER_RECOVERY", sys::UBLK_U_CMD_END_USER_RECOVERY, Some(id), command)
    }

    fn command() -> sys::ublksrv_ctrl_cmd {
        sys::ublksrv_ctrl_cmd { queue_id: NO_QUEUE, ..Default::default() }
    }

    fn pid_command() -> sys::ublksrv_ctrl_cmd {
        sys::ublksrv_ctrl_cmd { data: [std::process::id().into()], ..Self::command() }
    }

    fn buffer_command<T>(buffer: *mut T) -> sys::ublksrv_ctrl_cmd {
        let len = u16::try_from(size_of::<T>()).expect("control buffers are small");
        sys::ublksrv_ctrl_cmd { addr: buffer as u64, len, ..Self::command() }
    }

    /// Runs one command to its end. What `command.addr` points to outlives this call, because
    /// every caller keeps it in its own frame.
    fn run(
        &mut self,
        name: &'static str,
        number: u32,
        id: Option<DeviceId>,
        mut command: sys::ublksrv_ctrl_cmd,
    ) -> Result<(), UblkError> {
        command.dev_id = id.map_or(u32::MAX, DeviceId::get);
        let mut bytes = [0_u8; 80];
        let size = size_of::<sys::ublksrv_ctrl_cmd>();
        // SAFETY: the command is plain data without padding, so all its bytes are initialised,
        // and it is shorter than the 80 bytes that they are copied to.
        unsafe {
            std::ptr::copy_nonoverlapping((&raw const command).cast(), bytes.as_mut_ptr(), size);
        }
        let entry =
            opcode::UringCmd80::new(types::Fd(self.device.as_raw_fd()), number).cmd(bytes).build();
        // SAFETY: the buffer that the command points to lives in the caller's frame, and
        // `wait` does not return before the kernel has completed the command.
        unsafe { self.ring.submission().push(&entry) }
            .expect("a ring that runs one command at a time has room");
        let result = self.wait().map_err(UblkError::Ring)?;
        if result >= 0 {
            return Ok(());
        }
        let device = id.map_or_else(|| "new".to_owned(), |id| id.to_string());
        Err(UblkError::Command { command: name, device, source: errno(-result) })
    }

    fn wait(&mut self) -> io::Result<i32> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if is_transient(&error) => {}
                // The command may be under way with a pointer into a frame that is about to go.
                Err(error) if !self.ring.submission().is_empty() => return Err(error),
                Err(error) => panic!("waiting for a ublk command failed: {error}"),
            }
            if let Some(completion) = self.ring.completion().next() {
                return Ok(completion.result());
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

/// The numbers of all ublk devices of the host, ours or not.
///
/// # Errors
/// When sysfs cannot be read.
pub fn all_devices() -> io::Result<Vec<DeviceId>> {
    let mut ids = Vec::new();
    let entries = match std::fs::read_dir("/sys/class/ublk-char") {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ids),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("ublkc"));
        ids.extend(number.and_then(|number| number.parse().ok()).map(DeviceId));
    }
    ids.sort();
    Ok(ids)
}
