//! The server of the lab's channel: reads frames, starts jobs, passes input and signals to them.
//!
//! Invariants:
//! - the reading loop never waits for a job: input goes through a queue that the host keeps below
//!   [`crate::message::INPUT_WINDOW_BYTES`];
//! - every job that was asked for ends with exactly one `Ended` frame.

use super::job::{Jobs, Port};
use super::{AGENT_PORT, DATA_MOUNT, NODE_PARAMETER, kernel_parameter, log, port_path};
use crate::frame::{Frame, Kind};
use crate::message::{ExecSpec, Hello, Outcome, PROTOCOL_VERSION, WriteSpec};
use nix::mount::{MntFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use std::fs::{self, OpenOptions};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Serves until the host closes the channel.
pub(super) fn run() -> io::Result<()> {
    let path = port_path(AGENT_PORT)?;
    let mut reader = OpenOptions::new().read(true).write(true).open(&path)?;
    let port = Port::new(reader.try_clone()?);
    let jobs = Arc::new(Jobs::default());
    let hello = hello();
    log(&format!("serving as {hello:?}"));
    port.send(&Frame::json(Kind::Hello, 0, &hello)?)?;
    while let Some(frame) = Frame::read_from(&mut reader)? {
        handle(frame, &port, &jobs)?;
    }
    log("the host closed the channel");
    Ok(())
}

fn hello() -> Hello {
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    Hello {
        protocol: PROTOCOL_VERSION,
        node: kernel_parameter(NODE_PARAMETER).unwrap_or_default(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel: read("/proc/sys/kernel/osrelease"),
        uptime_ms: uptime_ms(&read("/proc/uptime")),
    }
}

/// Of what `/proc/uptime` says: seconds and hundredths, then something else.
fn uptime_ms(text: &str) -> u64 {
    let seconds = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
    Duration::try_from_secs_f64(seconds.unwrap_or(0.0))
        .map_or(0, |uptime| u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX))
}

fn handle(frame: Frame, port: &Port, jobs: &Arc<Jobs>) -> io::Result<()> {
    let job = frame.job;
    match frame.kind {
        Kind::Exec => jobs.exec(job, frame.parse::<ExecSpec>()?, port),
        Kind::WriteFile => jobs.write_file(job, frame.parse::<WriteSpec>()?, port),
        Kind::ReadFile => match String::from_utf8(frame.payload) {
            Ok(path) => jobs.read_file(job, path, port),
            Err(error) => port.end(job, &Outcome::Failed(format!("path: {error}"))),
        },
        Kind::Stdin => jobs.input(job, frame.payload),
        Kind::StdinEnd => jobs.input_end(job),
        Kind::Kill => jobs.kill(job, frame.number()?),
        Kind::Ping => port.send(&Frame::new(Kind::Pong, job, Vec::new()))?,
        Kind::PowerOff => power_off(),
        other => log(&format!("ignored a {other:?} frame: it is not for the agent")),
    }
    Ok(())
}

/// Ends as a person would end a machine: data on disk, file system clean, power off.
fn power_off() {
    log("powering off");
    nix::unistd::sync();
    if let Err(error) = umount2(DATA_MOUNT, MntFlags::MNT_DETACH) {
        log(&format!("unmount {DATA_MOUNT}: {error}"));
    }
    nix::unistd::sync();
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    log(&format!("power off: {error}"));
}

#[cfg(test)]
mod tests {
    use super::uptime_ms;

    #[test]
    fn an_uptime_is_read_in_milliseconds() {
        assert_eq!(uptime_ms("12.34 56.78"), 12_340);
        assert_eq!(uptime_ms(""), 0);
        assert_eq!(uptime_ms("soon 1"), 0);
    }
}
