//! Commands in a machine: built, run to their end, or left running as jobs.

use crate::client::{AgentClient, Event, JobChannel, JobRemote};
use crate::error::{AtPath, LabError, Result};
use crate::frame::Kind;
use crate::message::{ExecSpec, Outcome};
use crate::node::Node;
use std::fs::{self, File};
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a command may take when nothing else is said.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// What an agent may need beyond a command's own limit to report its end.
pub(crate) const GRACE: Duration = Duration::from_secs(20);

/// Between two looks at the output of a job.
const OUTPUT_POLL: Duration = Duration::from_millis(20);

/// Most bytes of one stream that are held in memory.
const STREAM_BYTES_MAX: usize = 64 << 20;

/// A command for a machine, not started yet.
#[must_use = "a command does nothing until it is run or spawned"]
pub struct Command<'n> {
    node: &'n Node,
    spec: ExecSpec,
    stdin: Vec<u8>,
    limit: Duration,
}

impl<'n> Command<'n> {
    pub(crate) fn new(node: &'n Node, argv: &[impl AsRef<str>]) -> Self {
        let spec = ExecSpec {
            argv: argv.iter().map(|word| word.as_ref().to_owned()).collect(),
            env: Vec::new(),
            cwd: None,
            timeout_ms: None,
            stdin: false,
        };
        Self { node, spec, stdin: Vec::new(), limit: COMMAND_LIMIT }
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory; `/root` otherwise.
    pub fn cwd(mut self, directory: impl Into<String>) -> Self {
        self.spec.cwd = Some(directory.into());
        self
    }

    /// Gives the command this standard input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self.spec.stdin = true;
        self
    }

    /// Sets when its process group is killed; [`COMMAND_LIMIT`] otherwise.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end, whatever its exit code is.
    ///
    /// # Errors
    /// When the machine is off, goes away, or does not answer.
    pub fn run(mut self) -> Result<Output> {
        self.spec.timeout_ms = Some(milliseconds(self.limit));
        let what = self.spec.argv.join(" ");
        let begun = crate::progress::now();
        let channel = self.start(&what)?;
        if self.spec.stdin {
            channel.remote().input_from(Cursor::new(self.stdin));
        }
        let result = collect(&channel, self.limit + GRACE);
        let result = result.map_err(|error| self.node.explain(error));
        self.node.record(&what, begun.elapsed(), &result);
        result
    }

    /// Runs it to its end; anything but exit code 0 is an error with the whole output.
    ///
    /// # Errors
    /// As [`Command::run`], and when the command does not succeed.
    pub fn run_ok(self) -> Result<Output> {
        let (node, command) = (self.node.name().to_owned(), self.spec.argv.join(" "));
        let output = self.run()?;
        if output.success() {
            return Ok(output);
        }
        Err(LabError::CommandFailed {
            node,
            command,
            outcome: output.outcome.to_string(),
            stdout: output.stdout_text(),
            stderr: output.stderr_text(),
        })
    }

    /// Starts it and lets it run, without a time limit; its output goes to files on the host.
    ///
    /// # Errors
    /// When the machine is off or goes away, or the program cannot be started.
    pub fn spawn(self) -> Result<Job> {
        let what = self.spec.argv.join(" ");
        let channel = self.start(&what)?;
        if self.spec.stdin {
            channel.remote().input_from(Cursor::new(self.stdin));
        }
        let pid = match channel.next(Some(COMMAND_LIMIT))? {
            Event::Started(pid) => pid,
            event => {
                let outcome = match event {
                    Event::Ended(outcome) => outcome.to_string(),
                    other => format!("the agent sent {other:?} first"),
                };
                let node = self.node.name().to_owned();
                let (stdout, stderr) = (String::new(), String::new());
                return Err(LabError::CommandFailed {
                    node,
                    command: what,
                    outcome,
                    stdout,
                    stderr,
                });
            }
        };
        let program = self.spec.argv.first().map(|word| Path::new(word).file_name());
        let program = program.flatten().unwrap_or_default().to_string_lossy().into_owned();
        let (stdout_path, stderr_path) = self.node.job_files(&program)?;
        Job::follow(channel, pid, what, stdout_path, stderr_path)
    }

    fn start(&self, what: &str) -> Result<JobChannel> {
        let client: AgentClient = self.node.client(what)?;
        let payload = serde_json::to_vec(&self.spec).expect("plain strings are JSON");
        client.start(Kind::Exec, payload, what)
    }
}

fn milliseconds(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
}

/// Collects the output of a job until its end.
pub(crate) fn collect(channel: &JobChannel, limit: Duration) -> Result<Output> {
    let deadline = crate::progress::now() + limit;
    let mut output = Output { outcome: Outcome::TimedOut, stdout: Vec::new(), stderr: Vec::new() };
    loop {
        let left = deadline.saturating_duration_since(crate::progress::now());
        match channel.next(Some(left.max(Duration::from_millis(1))))? {
            Event::Stdout(bytes) => output.stdout.extend_from_slice(&bytes),
            Event::Stderr(bytes) => output.stderr.extend_from_slice(&bytes),
            Event::Ended(outcome) => {
                output.outcome = outcome;
                return Ok(output);
            }
            Event::Started(_) | Event::Pong => {}
        }
        if output.stdout.len().max(output.stderr.len()) > STREAM_BYTES_MAX {
            channel.remote().kill(nix::sys::signal::SIGKILL as i32)?;
            let why = "its output is over 64 MiB: write it to a file in the machine";
            output.outcome = Outcome::Failed(why.to_owned());
            return Ok(output);
        }
    }
}

/// What a command that ended has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub outcome: Outcome,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it exited with code 0.
    pub fn success(&self) -> bool {
        self.outcome.is_success()
    }

    /// Its exit code, if it exited.
    pub fn code(&self) -> Option<i32> {
        match self.outcome {
            Outcome::Exited(code) => Some(code),
            _ => None,
        }
    }

    /// Its standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

#[derive(Default)]
struct Progress {
    /// `None` while it runs.
    end: Option<End>,
    /// Rises with each piece of output.
    pieces: u64,
}

#[derive(Clone)]
enum End {
    Outcome(Outcome),
    NodeGone,
}

/// A command that runs on in a machine; its output is in files on the host, also after a power cut.
pub struct Job {
    remote: JobRemote,
    node: String,
    command: String,
    pid: u32,
    stdout_path: PathBuf,
    stderr_path: PathBuf,
    progress: Arc<(Mutex<Progress>, Condvar)>,
}

impl Job {
    fn follow(
        channel: JobChannel,
        pid: u32,
        command: String,
        stdout_path: PathBuf,
        stderr_path: PathBuf,
    ) -> Result<Self> {
        let mut stdout = File::create(&stdout_path).at("create", &stdout_path)?;
        let mut stderr = File::create(&stderr_path).at("create", &stderr_path)?;
        let progress: Arc<(Mutex<Progress>, Condvar)> = Arc::default();
        let (remote, node) = (channel.remote(), channel.node().to_owned());
        let shared = Arc::clone(&progress);
        thread::spawn(move || {
            loop {
                let mut end = None;
                match channel.next(None) {
                    // A full disk of the host must not end the job; the missing text shows it.
                    Ok(Event::Stdout(bytes)) => drop(stdout.write_all(&bytes)),
                    Ok(Event::Stderr(bytes)) => drop(stderr.write_all(&bytes)),
                    Ok(Event::Ended(outcome)) => end = Some(End::Outcome(outcome)),
                    Ok(Event::Started(_) | Event::Pong) => {}
                    Err(_) => end = Some(End::NodeGone),
                }
                let over = end.is_some();
                let mut progress = lock(&shared.0);
                progress.pieces += 1;
                progress.end = end;
                shared.1.notify_all();
                if over {
                    return;
                }
            }
        });
        Ok(Self { remote, node, command, pid, stdout_path, stderr_path, progress })
    }

    /// Its process id in the machine, which is also its process group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs, as far as the host has heard.
    pub fn is_running(&self) -> bool {
        lock(&self.progress.0).end.is_none()
    }

    /// Sends a signal to its process group.
    ///
    /// # Errors
    /// When the machine is gone.
    pub fn kill(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        self.remote.kill(signal as i32)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time, or its machine went away first.
    pub fn wait(&self, limit: Duration) -> Result<Outcome> {
        let guard = lock(&self.progress.0);
        let waited = self.progress.1.wait_timeout_while(guard, limit, |state| state.end.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (node, what) = (self.node.clone(), self.command.clone());
        match state.end.clone() {
            Some(End::Outcome(outcome)) => Ok(outcome),
            Some(End::NodeGone) => Err(LabError::NodeGone { node, what, console: String::new() }),
            None => Err(LabError::NoAnswer { node, what, limit }),
        }
    }

    /// Waits until its output (either stream) has this text; for the ready line of a daemon.
    ///
    /// # Errors
    /// When it ends, or the time does, before the text is seen; the error has all its output.
    pub fn wait_for_output(&self, text: &str, limit: Duration) -> Result<()> {
        let deadline = crate::progress::now() + limit;
        let mut state = lock(&self.progress.0);
        loop {
            let (seen, ended) = (state.pieces, state.end.is_some());
            drop(state);
            if self.stdout().contains(text) || self.stderr().contains(text) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(crate::progress::now());
            if ended || left.is_zero() {
                let end = if ended { "it ended" } else { "time was up" };
                return Err(LabError::CommandFailed {
                    node: self.node.clone(),
                    command: self.command.clone(),
                    outcome: format!("{end} before it printed {text:?}"),
                    stdout: self.stdout(),
                    stderr: self.stderr(),
                });
            }
            let still = |state: &mut Progress| state.pieces == seen;
            let guard = lock(&self.progress.0);
            let waited = self.progress.1.wait_timeout_while(guard, left, still);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Bytes of its standard output until now.
    pub(crate) fn stdout_bytes(&self) -> Result<u64> {
        let facts = fs::metadata(&self.stdout_path).at("look at", &self.stdout_path)?;
        Ok(facts.len())
    }

    /// Waits until this text, of one line, is in its standard output after `from`; looks at each
    /// part of an output that may be long only once.
    pub(crate) fn wait_for_stdout(&self, from: u64, text: &str, limit: Duration) -> Result<()> {
        let deadline = crate::progress::now() + limit;
        let mut file = File::open(&self.stdout_path).at("open", &self.stdout_path)?;
        file.seek(SeekFrom::Start(from)).at("read", &self.stdout_path)?;
        let mut bytes = Vec::new();
        loop {
            file.read_to_end(&mut bytes).at("read", &self.stdout_path)?;
            if String::from_utf8_lossy(&bytes).contains(text) {
                return Ok(());
            }
            let line = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            bytes.drain(..line);
            let (node, what) = (self.node.clone(), self.command.clone());
            if !self.is_running() {
                return Err(LabError::NodeGone { node, what, console: String::new() });
            }
            if crate::progress::now() > deadline {
                return Err(LabError::NoAnswer { node, what, limit });
            }
            crate::progress::pause(OUTPUT_POLL);
        }
    }

    /// Its standard output until now.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout_path)
    }

    /// Its standard error until now.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr_path)
    }
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_lossy(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
