//! One QEMU process: started, greeted, stopped.
//!
//! Invariants:
//! - QEMU never outlives this process: the kernel kills it when its parent thread ends, and its
//!   parent is a thread that lives as long as the process;
//! - after [`Vm::cut`] returns, QEMU writes nothing more to any file.

use crate::client::AgentClient;
use crate::error::{AtPath, LabError, Result};
use crate::host::{self, CHRT, QEMU, SETPRIV};
use crate::message::Hello;
use crate::monitor::Monitor;
use crate::progress::{now, pause, say};
use crate::qemu::{Machine, MachineFiles};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Set to `0`, it keeps QEMU out of real-time scheduling.
pub const REALTIME_VARIABLE: &str = "LUNAR_LAB_REALTIME";

/// What a kernel says when QEMU before 8.1, without KVM, runs code that another processor has just
/// replaced: the breakpoint that guards a replacement is hit after its end.
pub(crate) const STALE_CODE: &str = "Oops: int3";

const BOOT_TRIES: u32 = 3;
/// By how much a machine may seem older than it is.
const CLOCK_SLACK: Duration = Duration::from_secs(1);
/// Lines of the console in an error.
pub(crate) const CONSOLE_LINES: usize = 30;

const POLL: Duration = Duration::from_millis(50);
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A running machine.
pub(crate) struct Vm {
    child: Child,
    client: AgentClient,
    monitor: Monitor,
    hello: Hello,
    /// Where in the console log this boot begins.
    console_start: u64,
}

impl Vm {
    /// Starts QEMU and waits until the agent answers.
    ///
    /// A machine that dies of the emulator's fault (see [`STALE_CODE`]), or whose kernel has
    /// measured its clock wrongly, is started again: nothing that is under test runs before the
    /// agent does.
    pub(crate) fn start(machine: &Machine, limit: Duration) -> Result<Self> {
        let mut tries = 1;
        loop {
            match Self::try_start(machine, limit) {
                Err(LabError::Boot { console, node, .. })
                    if console.contains(STALE_CODE) && tries < BOOT_TRIES =>
                {
                    say(&format!("{node}: QEMU ran stale code during the boot; booting again"));
                    tries += 1;
                }
                Err(LabError::FastClock { node, seconds }) if tries < BOOT_TRIES => {
                    say(&format!(
                        "{node}: its clock is {seconds} s ahead of its age; booting again"
                    ));
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    fn try_start(machine: &Machine, limit: Duration) -> Result<Self> {
        let console_start = fs::metadata(&machine.files.console_log).map_or(0, |facts| facts.len());
        let began = now();
        let deadline = began + limit;
        let agent = listen(&machine.files.agent_socket)?;
        let monitor = listen(&machine.files.monitor_socket)?;
        let mut child = spawn_with_this_process(command(machine)?)?;
        let result = greet(machine, &mut child, &agent, &monitor, deadline);
        match result {
            Ok((client, monitor, hello)) => {
                let vm = Self { child, client, monitor, hello, console_start };
                vm.check_clock(now().saturating_duration_since(began))?;
                Ok(vm)
            }
            Err(error) => {
                kill(&mut child);
                let why = match error {
                    LabError::Channel { source, .. } => reason(&source, &machine.files, limit),
                    other => return Err(other),
                };
                Err(LabError::Boot {
                    node: machine.node.clone(),
                    why,
                    log: machine.files.console_log.clone(),
                    console: host::console_excerpt(
                        &machine.files.console_log,
                        console_start,
                        CONSOLE_LINES,
                    ),
                })
            }
        }
    }

    /// A kernel that measures its processor while the emulator is kept from running takes every
    /// tick for many: a second then lasts some milliseconds, and whatever waits there loses
    /// patience. No machine is older than the time since its start.
    fn check_clock(&self, age: Duration) -> Result<()> {
        let ahead = Duration::from_millis(self.hello.uptime_ms).saturating_sub(age);
        if ahead < CLOCK_SLACK {
            return Ok(());
        }
        let (node, seconds) = (self.hello.node.clone(), ahead.as_secs());
        Err(LabError::FastClock { node, seconds })
    }

    pub(crate) fn client(&self) -> AgentClient {
        self.client.clone()
    }

    pub(crate) fn console_start(&self) -> u64 {
        self.console_start
    }

    pub(crate) fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Whether QEMU still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Power off at once: SIGKILL, and then wait until the process is gone.
    pub(crate) fn cut(mut self) {
        kill(&mut self.child);
        self.client.close();
    }

    /// Stops the virtual processors; disks and time stand still.
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.monitor.run("stop")
    }

    /// Lets the virtual processors go on.
    pub(crate) fn resume(&mut self) -> Result<()> {
        self.monitor.run("cont")
    }

    /// Asks the machine to power off and waits; kills it when it does not in time.
    pub(crate) fn shut_down(mut self, node: &str, limit: Duration) -> Result<()> {
        let asked = self.client.power_off();
        let deadline = now() + limit;
        while self.is_running() {
            if asked.is_err() || now() > deadline {
                self.cut();
                let what = "power off (it was cut instead)".to_owned();
                return Err(LabError::NoAnswer { node: node.to_owned(), what, limit });
            }
            pause(POLL);
        }
        self.client.close();
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

fn kill(child: &mut Child) {
    // Both fail only for a process that is gone, and then there is nothing to do.
    let _ = child.kill();
    let _ = child.wait();
}

fn reason(error: &io::Error, files: &MachineFiles, limit: Duration) -> String {
    use io::ErrorKind::{TimedOut, UnexpectedEof, WouldBlock};
    match error.kind() {
        WouldBlock | TimedOut => format!("its agent did not answer within {limit:?}"),
        UnexpectedEof => format!("QEMU ended; it said: {}", host::tail(&files.qemu_log, 10)),
        _ => error.to_string(),
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(LabError::Settings(format!(
            "{} is too long for a socket; set {} to a shorter directory",
            path.display(),
            crate::run_dir::RUN_VARIABLE
        )));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).at("remove", path);
        }
        _ => {}
    }
    UnixListener::bind(path).at("listen on", path)
}

fn greet(
    machine: &Machine,
    child: &mut Child,
    agent: &UnixListener,
    monitor: &UnixListener,
    deadline: Instant,
) -> Result<(AgentClient, Monitor, Hello)> {
    let node = &machine.node;
    let channel_error =
        |source| LabError::Channel { node: node.clone(), what: "start".to_owned(), source };
    let agent = accept(agent, child, deadline).map_err(channel_error)?;
    let monitor = accept(monitor, child, deadline).map_err(channel_error)?;
    let monitor = Monitor::open(node, monitor)?;
    let left = deadline.saturating_duration_since(now()).max(POLL);
    let (client, hello) = AgentClient::greet(node, agent, left).map_err(channel_error)?;
    Ok((client, monitor, hello))
}

/// Accepts QEMU's connection, or notices that QEMU ended or that time is up.
fn accept(listener: &UnixListener, child: &mut Child, deadline: Instant) -> io::Result<UnixStream> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let step = PollTimeout::try_from(POLL).expect("50 ms fit a poll timeout");
    while now() < deadline {
        let mut wanted = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut wanted, step)? > 0 {
            return Ok(listener.accept()?.0);
        }
        if child.try_wait()?.is_some() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn command(machine: &Machine) -> Result<Command> {
    let log_path = &machine.files.qemu_log;
    let log = OpenOptions::new().create(true).append(true).open(log_path).at("open", log_path)?;
    let errors = log.try_clone().at("open", log_path)?;
    let mut command = SETPRIV.command()?;
    command.args(["--pdeathsig", "KILL", "--"]);
    if realtime_allowed() {
        // Round robin and not FIFO: a virtual processor that spins for another one would keep a
        // FIFO scheduler from ever running that other one.
        command.arg(CHRT.path()?).args(["--rr", "5"]);
    }
    command.arg(QEMU.path()?).args(machine.arguments());
    // Its overlay of the root disk goes beside the other files of the machine.
    if let Some(directory) = log_path.parent() {
        command.env("TMPDIR", directory);
    }
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    Ok(command)
}

/// Whether QEMU may run with real-time priority; asked once, the answer is said once.
fn realtime_allowed() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let wanted = std::env::var(REALTIME_VARIABLE).map_or(true, |value| value != "0");
        let probe = || Some(CHRT.command().ok()?.args(["--rr", "5", "true"]).output().ok()?.status);
        let allowed = wanted && probe().is_some_and(|status| status.success());
        if !allowed {
            say("QEMU runs without real-time priority: timings will vary with the host's load");
        }
        allowed
    })
}

/// Gives the calling thread the priority of QEMU's own. When it cannot be done, only the timing is
/// worse.
///
/// Never QEMU's main thread above its others: it spins while it waits for them.
pub(crate) fn raise_priority() {
    if realtime_allowed()
        && let Ok(mut command) = CHRT.command()
    {
        let thread = nix::unistd::gettid().to_string();
        let _ = command.args(["--rr", "--pid", "5", &thread]).output();
    }
}

type Request = (Command, Sender<io::Result<Child>>);

/// Starts a child from the thread that lives as long as the process: the kernel's signal for the
/// death of a parent is sent at the death of the parent *thread*.
fn spawn_with_this_process(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // A requester that is gone leaves a child that the next line kills.
                if let Err(unwanted) = answer.send(command.spawn())
                    && let Ok(mut child) = unwanted.0
                {
                    kill(&mut child);
                }
            }
        });
        Mutex::new(requests)
    });
    let program = command.get_program().to_owned();
    let (answer, inbox) = channel();
    let sender = spawner.lock().unwrap_or_else(PoisonError::into_inner).clone();
    sender.send((command, answer)).expect("the spawning thread never ends");
    inbox.recv().expect("the spawning thread answers each request").at("run", program)
}
