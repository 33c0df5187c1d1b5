//! Payloads of the frames between the host and the agent in a machine.
//!
//! Shapes only: both ends are built from the same source, and [`Hello`] carries the version of the
//! protocol so that a stale agent binary is refused by name instead of misread.

use serde::{Deserialize, Serialize};

/// Version of the frames and payloads; raised with each change of either.
pub const PROTOCOL_VERSION: u32 = 2;

/// Bytes of input that may be under way to a job before it has taken them.
pub const INPUT_WINDOW_BYTES: usize = 256 << 10;

/// A command to run in the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// The program and its arguments; looked up in the agent's `PATH`.
    pub argv: Vec<String>,
    /// Variables to set on top of the agent's environment.
    pub env: Vec<(String, String)>,
    /// Working directory; `/root` when absent.
    pub cwd: Option<String>,
    /// Milliseconds after which the process group is killed; no limit when absent.
    pub timeout_ms: Option<u64>,
    /// Whether input frames follow; without them standard input is `/dev/null`.
    pub stdin: bool,
}

/// A file to create or replace in the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteSpec {
    /// Absolute path; missing parent directories are made.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The process exited with this code; files written or read count as 0.
    Exited(i32),
    /// The process was ended by this signal.
    Signaled(i32),
    /// The agent killed the process group when its time was up.
    TimedOut,
    /// The job could not be started or carried out; the text says why.
    Failed(String),
}

impl Outcome {
    /// Whether the job did what was asked.
    pub fn is_success(&self) -> bool {
        *self == Self::Exited(0)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled(signal) => write!(f, "killed by signal {signal}"),
            Self::TimedOut => write!(f, "killed at its timeout"),
            Self::Failed(why) => write!(f, "not run: {why}"),
        }
    }
}

/// The first frame of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Must equal [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Name of the node, from the kernel command line.
    pub node: String,
    /// The kernel's boot id: differs at every boot.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// How long the machine has run, by its own clock. Agents of version 1 do not say so.
    #[serde(default)]
    pub uptime_ms: u64,
}
