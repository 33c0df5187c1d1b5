//! What can go wrong in the lab, said so that a person knows what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Result of a lab call.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

/// A failed step of the lab, with its facts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A program of the host is missing.
    #[error(
        "the program {program} is not installed; install the Debian package {package} or \
         run scripts/bootstrap.sh"
    )]
    ToolMissing {
        /// Its name.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program of the host failed.
    #[error("{what} failed: {command} ended with {status}\n{output}")]
    ToolFailed {
        /// The step that needed it.
        what: String,
        /// Its command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it printed, or the end of it.
        output: String,
    },
    /// A file operation of the host failed.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was being done, a verb.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Too little space.
    #[error(
        "{} has {free_mib} MiB free and {what} needs {needed_mib} MiB; free space or set \
         {variable} to a directory with room", path.display()
    )]
    NoSpace {
        /// What needs it.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// What is there.
        free_mib: u64,
        /// What is needed.
        needed_mib: u64,
        /// The variable that moves the directory.
        variable: &'static str,
    },
    /// The image cannot be had.
    #[error("lab image: {0}")]
    Image(String),
    /// A setting makes no sense.
    #[error("lab settings: {0}")]
    Settings(String),
    /// The agent program or another program for the machines was not found.
    #[error(
        "{name} was not found at {}; build it with `cargo build --release -p lab`{hint}",
        path.display()
    )]
    ProgramMissing {
        /// Its name.
        name: String,
        /// Where it was expected.
        path: PathBuf,
        /// More advice.
        hint: &'static str,
    },
    /// The machine did not come up.
    #[error(
        "{node} did not start: {why}\nfrom its console ({}):\n{console}", log.display()
    )]
    Boot {
        /// The node.
        node: String,
        /// What happened.
        why: String,
        /// The console log.
        log: PathBuf,
        /// Its last lines.
        console: String,
    },
    /// The kernel of a machine has measured its clock wrongly.
    #[error(
        "{node}: its clock is {seconds} s ahead of its age, at every try: the host keeps the \
         emulator from running while the kernel measures its processor; try again when the host is \
         idle"
    )]
    FastClock {
        /// The machine.
        node: String,
        /// How far ahead.
        seconds: u64,
    },
    /// The machine is off.
    #[error("{node} is off: {what} needs it running")]
    NodeOff {
        /// The node.
        node: String,
        /// What was asked.
        what: String,
    },
    /// The machine went away under a call.
    #[error("{node} went away during {what}{console}")]
    NodeGone {
        /// The node.
        node: String,
        /// What was going on.
        what: String,
        /// The last lines of its console, if they are known.
        console: String,
    },
    /// The machine already runs.
    #[error("{node} already runs")]
    NodeOn {
        /// The node.
        node: String,
    },
    /// There is no such node.
    #[error("there is no node {index}: the lab has {count} (numbered from 0)")]
    NoSuchNode {
        /// What was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// There is no machine of this name.
    #[error("there is no machine {name}: the lab has {there}")]
    NoSuchMachine {
        /// What was asked for.
        name: String,
        /// The machines that there are.
        there: String,
    },
    /// The machine is not on this network.
    #[error("{machine} is on no {network} network; ask for it when the lab is built")]
    NoNetwork {
        /// The machine.
        machine: String,
        /// The network.
        network: &'static str,
    },
    /// The record of the target cannot be used.
    #[error("the target's record of commands: {0}")]
    Record(String),
    /// No answer in time.
    #[error("{node} gave no answer to {what} within {limit:?} (paused, hung or overloaded)")]
    NoAnswer {
        /// The node.
        node: String,
        /// What was asked.
        what: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// A command that had to succeed did not.
    #[error("{node}: `{command}`: {outcome}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")]
    CommandFailed {
        /// The node.
        node: String,
        /// The command.
        command: String,
        /// How it ended.
        outcome: String,
        /// Its standard output.
        stdout: String,
        /// Its standard error.
        stderr: String,
    },
    /// The channel to a machine broke its own rules.
    #[error("{node}: {what}: {source}")]
    Channel {
        /// The node or socket.
        node: String,
        /// What was going on.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// No lab of this name runs.
    #[error("no lab named {name} runs{left}; `lab up` starts one")]
    NotUp {
        /// Its name.
        name: String,
        /// What there is instead.
        left: String,
    },
    /// The supervisor could not carry out a request.
    #[error("{0}")]
    Refused(String),
    /// QEMU refused a monitor command.
    #[error("{node}: QEMU refused {command}: {why}")]
    Monitor {
        /// The node.
        node: String,
        /// The QMP command.
        command: String,
        /// Its answer.
        why: String,
    },
}

/// Adds the path to an I/O error.
pub(crate) trait AtPath<T> {
    /// Says what was being done with which file.
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| LabError::File { what, path: path.into(), source })
    }
}
