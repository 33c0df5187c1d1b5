//! Jobs of the agent: commands, files written, files read.
//!
//! Invariants:
//! - a job's table entry goes before its process is reaped, so a signal never hits a reused id;
//! - output that is written before the process ends is sent before the job's `Ended` frame;
//! - a daemon that a job leaves behind keeps a reader on its pipes, so it never gets SIGPIPE.

use super::log;
use crate::frame::{CHUNK_BYTES, Frame, Kind};
use crate::message::{ExecSpec, Outcome, WriteSpec};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long output of a finished process is waited for when something else holds its pipes.
const DRAIN: Duration = Duration::from_millis(300);

/// The writing side of the channel, shared by all jobs.
#[derive(Clone)]
pub(super) struct Port(Arc<Mutex<File>>);

impl Port {
    pub(super) fn new(file: File) -> Self {
        Self(Arc::new(Mutex::new(file)))
    }

    pub(super) fn send(&self, frame: &Frame) -> io::Result<()> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frame.write_to(&mut *file)
    }

    /// Sends the last frame of a job.
    pub(super) fn end(&self, job: u32, outcome: &Outcome) {
        log(&format!("job {job}: {outcome}"));
        let sent = Frame::json(Kind::Ended, job, outcome).and_then(|frame| self.send(&frame));
        if let Err(error) = sent {
            log(&format!("job {job}: outcome not sent: {error}"));
        }
    }
}

enum Input {
    Bytes(Vec<u8>),
    End,
}

#[derive(Default)]
struct Entry {
    input: Option<Sender<Input>>,
    group: Option<Pid>,
}

/// The jobs that run.
#[derive(Default)]
pub(super) struct Jobs(Mutex<HashMap<u32, Entry>>);

impl Jobs {
    fn table(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn input(&self, job: u32, bytes: Vec<u8>) {
        if let Some(input) = self.table().get(&job).and_then(|entry| entry.input.as_ref()) {
            // A job that no longer reads has closed its side; its end is reported elsewhere.
            let _ = input.send(Input::Bytes(bytes));
        }
    }

    pub(super) fn input_end(&self, job: u32) {
        if let Some(input) = self.table().get_mut(&job).and_then(|entry| entry.input.take()) {
            let _ = input.send(Input::End);
        }
    }

    pub(super) fn kill(&self, job: u32, number: u32) {
        let signal = i32::try_from(number).ok().and_then(|raw| Signal::try_from(raw).ok());
        // The table stays locked over the signal: see the first invariant.
        let table = self.table();
        let group = table.get(&job).and_then(|entry| entry.group);
        match (signal, group) {
            (Some(signal), Some(group)) => {
                log(&format!("job {job}: {signal} to process group {group}"));
                if let Err(error) = killpg(group, signal) {
                    log(&format!("job {job}: {signal}: {error}"));
                }
            }
            (None, _) => log(&format!("job {job}: {number} is not a signal")),
            (_, None) => log(&format!("job {job}: nothing to signal")),
        }
    }

    /// Starts a command; its thread sends every frame of the job.
    pub(super) fn exec(self: &Arc<Self>, job: u32, spec: ExecSpec, port: &Port) {
        log(&format!("job {job}: {:?}", spec.argv));
        let child = match spawn(&spec) {
            Ok(child) => child,
            Err(why) => return port.end(job, &Outcome::Failed(why)),
        };
        let pid = child.id();
        let group = Pid::from_raw(i32::try_from(pid).expect("process ids are positive i32"));
        let (input, queue) = channel();
        let input = spec.stdin.then_some(input);
        self.table().insert(job, Entry { input, group: Some(group) });
        let started = Frame::new(Kind::Started, job, pid.to_le_bytes());
        if let Err(error) = port.send(&started) {
            log(&format!("job {job}: {error}"));
        }
        let run = Run { jobs: Arc::clone(self), job, port: port.clone(), group };
        thread::spawn(move || run.run_to_end(child, queue, spec.timeout_ms));
    }

    pub(super) fn write_file(self: &Arc<Self>, job: u32, spec: WriteSpec, port: &Port) {
        log(&format!("job {job}: write {}", spec.path));
        let (input, queue) = channel();
        self.table().insert(job, Entry { input: Some(input), group: None });
        let (jobs, port) = (Arc::clone(self), port.clone());
        thread::spawn(move || {
            let result = receive_file(job, &spec, &queue, &port);
            jobs.table().remove(&job);
            port.end(job, &outcome_of(result, &spec.path));
        });
    }

    pub(super) fn read_file(self: &Arc<Self>, job: u32, path: String, port: &Port) {
        log(&format!("job {job}: read {path}"));
        let port = port.clone();
        thread::spawn(move || {
            let result = File::open(&path).and_then(|file| pump(job, Kind::Stdout, file, &port));
            port.end(job, &outcome_of(result, &path));
        });
    }
}

fn outcome_of(result: io::Result<()>, path: &str) -> Outcome {
    match result {
        Ok(()) => Outcome::Exited(0),
        Err(error) => Outcome::Failed(format!("{path}: {error}")),
    }
}

fn spawn(spec: &ExecSpec) -> Result<Child, String> {
    let Some((program, arguments)) = spec.argv.split_first() else {
        return Err("an empty command".to_owned());
    };
    let cwd = spec.cwd.as_deref().unwrap_or("/root");
    Command::new(program)
        .args(arguments)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .current_dir(cwd)
        .stdin(if spec.stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{program} (in {cwd}): {error}"))
}

/// One command while it runs.
struct Run {
    jobs: Arc<Jobs>,
    job: u32,
    port: Port,
    group: Pid,
}

impl Run {
    fn run_to_end(self, mut child: Child, queue: Receiver<Input>, timeout_ms: Option<u64>) {
        let job = self.job;
        let (drained, readers) = channel();
        let out =
            child.stdout.take().map(|pipe| (Kind::Stdout, Box::new(pipe) as Box<dyn Read + Send>));
        let err =
            child.stderr.take().map(|pipe| (Kind::Stderr, Box::new(pipe) as Box<dyn Read + Send>));
        for (kind, pipe) in [out, err].into_iter().flatten() {
            let (port, drained) = (self.port.clone(), drained.clone());
            thread::spawn(move || {
                report(job, pump(job, kind, pipe, &port));
                let _ = drained.send(());
            });
        }
        drop(drained);
        if let Some(stdin) = child.stdin.take() {
            let port = self.port.clone();
            thread::spawn(move || feed(job, stdin, &queue, &port));
        }
        let (status, timed_out) = self.wait(child, timeout_ms);
        // Both readers report, or something that the job left behind holds a pipe.
        while readers.recv_timeout(DRAIN).is_ok() {}
        let outcome = match status {
            _ if timed_out => Outcome::TimedOut,
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Outcome::Exited(code),
                (None, Some(signal)) => Outcome::Signaled(signal),
                (None, None) => Outcome::Failed(format!("ended as {status:?}")),
            },
            Err(error) => Outcome::Failed(format!("waiting for it: {error}")),
        };
        self.port.end(job, &outcome);
    }

    /// Waits for the process; kills its group when the time is up.
    fn wait(&self, mut child: Child, timeout_ms: Option<u64>) -> (io::Result<ExitStatus>, bool) {
        let (jobs, job, group) = (Arc::clone(&self.jobs), self.job, self.group);
        let (ended, end) = channel();
        thread::spawn(move || {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            while let Err(nix::Error::EINTR) = waitid(Id::Pid(group), flags) {}
            jobs.table().remove(&job);
            let _ = ended.send(child.wait());
        });
        let gone = || io::Error::other("the waiting thread ended");
        let Some(limit) = timeout_ms.map(Duration::from_millis) else {
            return (end.recv().unwrap_or_else(|_| Err(gone())), false);
        };
        match end.recv_timeout(limit) {
            Ok(status) => (status, false),
            Err(RecvTimeoutError::Disconnected) => (Err(gone()), false),
            Err(RecvTimeoutError::Timeout) => {
                self.jobs.kill(self.job, Signal::SIGKILL as u32);
                // A process in an uninterruptible sleep may outlast its signal.
                let status = end.recv_timeout(Duration::from_secs(2));
                (status.unwrap_or_else(|_| Err(gone())), true)
            }
        }
    }
}

fn report(job: u32, result: io::Result<()>) {
    if let Err(error) = result {
        log(&format!("job {job}: output: {error}"));
    }
}

/// Sends what a reader gives until its end; goes on reading when the channel fails.
fn pump(job: u32, kind: Kind, mut reader: impl Read, port: &Port) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut sent = Ok(());
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return sent,
            Ok(count) => {
                let frame = Frame::new(kind, job, &buffer[..count]);
                sent = sent.and_then(|()| port.send(&frame));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn consumed(job: u32, count: usize, port: &Port) {
    let count = u32::try_from(count).expect("a payload is at most 1 MiB");
    report(job, port.send(&Frame::new(Kind::Consumed, job, count.to_le_bytes())));
}

/// Passes input on to a process, until its end or until the process no longer reads.
fn feed(job: u32, mut stdin: impl Write, queue: &Receiver<Input>, port: &Port) {
    let mut open = true;
    while let Ok(Input::Bytes(bytes)) = queue.recv() {
        // Closed early is the process's choice (think of `head`): the rest is dropped.
        open = open && stdin.write_all(&bytes).is_ok();
        consumed(job, bytes.len(), port);
    }
}

/// Writes a file beside its final name and moves it there when it is whole.
fn receive_file(
    job: u32,
    spec: &WriteSpec,
    queue: &Receiver<Input>,
    port: &Port,
) -> io::Result<()> {
    let path = Path::new(&spec.path);
    if !path.is_absolute() {
        return Err(io::Error::other("the path is not absolute"));
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let partial = format!("{}.lab-partial", spec.path);
    let options =
        OpenOptions::new().write(true).create(true).truncate(true).mode(spec.mode).clone();
    let mut file = options.open(&partial)?;
    loop {
        match queue.recv() {
            Ok(Input::Bytes(bytes)) => {
                file.write_all(&bytes)?;
                consumed(job, bytes.len(), port);
            }
            Ok(Input::End) => break,
            Err(_) => return Err(io::Error::other("the host went away")),
        }
    }
    drop(file);
    fs::rename(partial, path)
}
