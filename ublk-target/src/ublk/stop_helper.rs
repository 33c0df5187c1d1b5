//! Stopping a device, in a process of its own.
//!
//! The driver waits in STOP_DEV, uninterruptibly, until no request of the device is under way. A
//! request that is at a LUN which does not answer ends with the process that serves it: then the
//! last reference to the character device goes, and the driver takes the request back. If
//! that process had the command under way itself, it could not end before the command, which could
//! not end before the process: a daemon that is killed would be there until the host boots anew,
//! and keep the lock of its state directory.
//!
//! The process has nothing of the daemon: no device, no LUN, no memory, no lock. It is told what to
//! do by its arguments and says how that went: an errno, 0 if it is done.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use super::control::{Control, DeviceId, UblkError};
use crate::process::PROGRAM;

/// The subcommand of fs-core.
pub const SUBCOMMAND: &str = "stop-helper";

/// Whether a device is stopped that somebody has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Only if nobody has it open, as far as the driver can tell.
    IfUnused,
    /// Whoever uses it gets errors.
    Always,
}

impl StopMode {
    const IF_UNUSED: &'static str = "if-unused";
    const ALWAYS: &'static str = "always";

    const fn command(self) -> &'static str {
        match self {
            Self::IfUnused => "TRY_STOP_DEV",
            Self::Always => "STOP_DEV",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::IfUnused => Self::IF_UNUSED,
            Self::Always => Self::ALWAYS,
        }
    }
}

impl std::str::FromStr for StopMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            Self::IF_UNUSED => Ok(Self::IfUnused),
            Self::ALWAYS => Ok(Self::Always),
            other => Err(format!("'{other}' is neither if-unused nor always")),
        }
    }
}

/// Stops a device: its block device is gone afterwards. It blocks until requests under way have
/// ended.
///
/// # Errors
/// With EBUSY when it is in use and must not be stopped then; when there is none of this number.
pub fn stop(id: DeviceId, mode: StopMode) -> Result<(), UblkError> {
    let refused =
        |source| UblkError::Command { command: mode.command(), device: id.to_string(), source };
    let output = Command::new(PROGRAM)
        .args([SUBCOMMAND, &id.to_string(), mode.word()])
        .process_group(0)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = output.map_err(refused)?;
    match String::from_utf8_lossy(&output.stdout).trim().parse() {
        Ok(0) => Ok(()),
        Ok(errno) => Err(refused(io::Error::from_raw_os_error(errno))),
        Err(_) => {
            let ended =
                format!("the process that stops devices ended without a word, {}", output.status);
            Err(refused(io::Error::other(ended)))
        }
    }
}

/// What the process does.
#[must_use]
pub fn run(device: u32, mode: StopMode) -> ExitCode {
    let id = DeviceId::new(device);
    let stopped = Control::open().and_then(|mut control| match mode {
        StopMode::IfUnused => control.stop_if_unused(id),
        StopMode::Always => control.stop(id),
    });
    let errno = match &stopped {
        Ok(()) => 0,
        Err(error) => error.errno().unwrap_or(libc::EIO),
    };
    // The daemon may be gone: then nobody listens.
    let _ = writeln!(io::stdout(), "{errno}");
    if stopped.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_read_as_it_is_written() {
        for mode in [StopMode::IfUnused, StopMode::Always] {
            assert_eq!(mode.word().parse(), Ok(mode));
        }
        assert!("never".parse::<StopMode>().is_err());
    }
}
