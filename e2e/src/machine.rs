//! Where commands run: a virtual machine of the lab, or this host.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lunar_lab::{Job, LabError, Node, Signal};
use nix::unistd::Pid;

/// A command could not be run, or did not end as it had to.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The lab failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The host could not start it.
    #[error("cannot run {what}")]
    Host {
        /// The command.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It ended with another exit code than it had to.
    #[error("{what}\nended with exit code {code}, not {expected}:\n{output}")]
    ExitCode {
        /// The command.
        what: String,
        /// How it ended; -1 by a signal.
        code: i32,
        /// How it had to end.
        expected: i32,
        /// What it printed.
        output: String,
    },
    /// Something is not as it has to be.
    #[error("{0}")]
    Unexpected(String),
    /// It took too long.
    #[error("not within {limit:?}: {what}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
}

/// What a command printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The command, for messages.
    pub what: String,
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ran {
    /// The output, if the exit code is this one.
    ///
    /// # Errors
    /// With everything it printed, if not.
    pub fn expect_code(self, expected: i32) -> Result<Self, MachineError> {
        if self.code == expected {
            return Ok(self);
        }
        let output = format!("{}{}", self.stdout, self.stderr);
        Err(MachineError::ExitCode { what: self.what, code: self.code, expected, output })
    }
}

/// A program that runs on until it is stopped.
pub trait Background {
    /// Sends it a signal.
    ///
    /// # Errors
    /// When it cannot be delivered.
    fn signal(&mut self, signal: Signal) -> Result<(), MachineError>;
    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within the limit.
    fn wait(&mut self, limit: Duration) -> Result<(), MachineError>;
    /// What it logged so far, since it was started.
    fn log(&self) -> String;
}

/// Fails with this text unless something holds.
///
/// # Errors
/// It does not.
pub fn require(holds: bool, text: impl FnOnce() -> String) -> Result<(), MachineError> {
    if holds { Ok(()) } else { Err(MachineError::Unexpected(text())) }
}

/// Where commands run.
pub trait Machine {
    /// Runs a shell script (bash, stopping at the first error).
    ///
    /// # Errors
    /// When it cannot be run; its exit code is the caller's to judge.
    fn sh(&self, script: &str, limit: Duration) -> Result<Ran, MachineError>;
    /// Starts a program in the background.
    ///
    /// # Errors
    /// When it cannot be started.
    fn start(&self, argv: &[&str]) -> Result<Box<dyn Background>, MachineError>;
}

impl Machine for Node {
    fn sh(&self, script: &str, limit: Duration) -> Result<Ran, MachineError> {
        let output = self.script(script).timeout(limit).run()?;
        Ok(Ran {
            what: script.to_owned(),
            code: output.code().unwrap_or(-1),
            stdout: output.stdout_text(),
            stderr: output.stderr_text(),
        })
    }

    fn start(&self, argv: &[&str]) -> Result<Box<dyn Background>, MachineError> {
        Ok(Box::new(self.spawn(argv)?))
    }
}

impl Background for Job {
    fn signal(&mut self, signal: Signal) -> Result<(), MachineError> {
        Ok(self.kill(signal)?)
    }

    fn wait(&mut self, limit: Duration) -> Result<(), MachineError> {
        Job::wait(self, limit)?;
        Ok(())
    }

    fn log(&self) -> String {
        format!("{}{}", self.stdout(), self.stderr())
    }
}

/// This host: ublk must be there, and root.
pub struct Host {
    /// Where logs of background programs go.
    pub logs: PathBuf,
}

struct HostProgram {
    child: Child,
    log: PathBuf,
    /// Where its part of the log begins: after that of its predecessors.
    log_from: u64,
}

impl Machine for Host {
    fn sh(&self, script: &str, _limit: Duration) -> Result<Ran, MachineError> {
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .stdin(Stdio::null())
            .output()
            .map_err(|source| MachineError::Host { what: script.to_owned(), source })?;
        Ok(Ran {
            what: script.to_owned(),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn start(&self, argv: &[&str]) -> Result<Box<dyn Background>, MachineError> {
        let what = argv.join(" ");
        let failed = |source| MachineError::Host { what: what.clone(), source };
        let log = self.logs.join(format!("{}.log", argv[0]));
        let file = std::fs::File::options().create(true).append(true).open(&log);
        let file = file.map_err(failed)?;
        let log_from = file.metadata().map_err(failed)?.len();
        let child = Command::new(argv[0])
            .args(&argv[1..])
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(failed)?)
            .stderr(file)
            .spawn()
            .map_err(failed)?;
        Ok(Box::new(HostProgram { child, log, log_from }))
    }
}

impl Background for HostProgram {
    fn signal(&mut self, signal: Signal) -> Result<(), MachineError> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        nix::sys::signal::kill(pid, signal).map_err(|errno| MachineError::Host {
            what: format!("{signal} to process {pid}"),
            source: errno.into(),
        })
    }

    #[allow(clippy::disallowed_methods, reason = "waits for a real process on a real clock")]
    fn wait(&mut self, limit: Duration) -> Result<(), MachineError> {
        let start = std::time::Instant::now();
        while start.elapsed() < limit {
            let failed = |source| MachineError::Host { what: "wait".to_owned(), source };
            if self.child.try_wait().map_err(failed)?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let what = format!("the end of process {}", self.child.id());
        Err(MachineError::TimedOut { what, limit })
    }

    fn log(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(self.log_from).unwrap_or(usize::MAX);
        String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned()
    }
}

impl Drop for HostProgram {
    fn drop(&mut self) {
        // Nothing is left behind: a program that has ended already makes this fail, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
