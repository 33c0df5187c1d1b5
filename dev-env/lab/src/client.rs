//! The host's end of the channel to one machine's agent.
//!
//! Invariants:
//! - frames of several jobs share the channel; a reading thread hands them out by job number;
//! - when the channel ends, every job learns it: none waits for ever;
//! - at most [`INPUT_WINDOW_BYTES`] of a job's input are under way, so that a job that does not
//!   read cannot block the channel for the others.

use crate::error::{LabError, Result};
use crate::frame::{CHUNK_BYTES, Frame, Kind};
use crate::message::{Hello, INPUT_WINDOW_BYTES, Outcome, PROTOCOL_VERSION};
use std::collections::HashMap;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A write that takes longer means that nobody reads: the machine is hung beyond use.
const WRITE_LIMIT: Duration = Duration::from_secs(20);

/// Something that happened to a job.
#[derive(Debug)]
pub(crate) enum Event {
    /// It runs, with this process id.
    Started(u32),
    /// It wrote to its standard output.
    Stdout(Vec<u8>),
    /// It wrote to its standard error.
    Stderr(Vec<u8>),
    /// It is over.
    Ended(Outcome),
    /// The agent answered a ping.
    Pong,
}

/// Input of a job that is under way.
#[derive(Default)]
struct Window {
    state: Mutex<WindowState>,
    changed: Condvar,
}

#[derive(Default)]
struct WindowState {
    bytes: usize,
    closed: bool,
}

impl Window {
    fn lock(&self) -> MutexGuard<'_, WindowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `count` bytes more fit; `false` when the job no longer takes any.
    fn reserve(&self, count: usize) -> bool {
        let full =
            |state: &mut WindowState| !state.closed && state.bytes + count > INPUT_WINDOW_BYTES;
        let waited = self.changed.wait_while(self.lock(), full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.bytes += count;
        !state.closed
    }

    fn release(&self, count: usize) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(count);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

struct Slot {
    events: Sender<Event>,
    window: Arc<Window>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<u32, Slot>,
    last: u32,
    gone: bool,
}

struct Shared {
    node: String,
    writer: Mutex<UnixStream>,
    table: Mutex<Table>,
}

/// A channel to an agent; clones share it.
#[derive(Clone)]
pub(crate) struct AgentClient(Arc<Shared>);

impl AgentClient {
    /// Waits for the agent's first frame and starts to hand out the following ones.
    pub(crate) fn greet(
        node: &str,
        stream: UnixStream,
        limit: Duration,
    ) -> io::Result<(Self, Hello)> {
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(WRITE_LIMIT))?;
        let mut reader = stream.try_clone()?;
        let first = Frame::read_from(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if first.kind != Kind::Hello {
            return Err(io::Error::other(format!("the agent began with {:?}", first.kind)));
        }
        let hello: Hello = first.parse()?;
        if hello.protocol != PROTOCOL_VERSION {
            let text = format!(
                "the agent speaks version {}, this program {PROTOCOL_VERSION}: build both anew",
                hello.protocol
            );
            return Err(io::Error::other(text));
        }
        reader.set_read_timeout(None)?;
        let shared = Shared {
            node: node.to_owned(),
            writer: Mutex::new(stream),
            table: Mutex::new(Table::default()),
        };
        let client = Self(Arc::new(shared));
        let reading = client.clone();
        thread::spawn(move || reading.read_all(reader));
        Ok((client, hello))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_all(&self, mut reader: UnixStream) {
        while let Ok(Some(frame)) = Frame::read_from(&mut reader) {
            if self.hand_out(frame).is_err() {
                break;
            }
        }
        self.close();
    }

    /// Ends the channel for good: every job sees its end.
    pub(crate) fn close(&self) {
        let mut table = self.table();
        table.gone = true;
        for (_, slot) in table.slots.drain() {
            slot.window.close();
        }
        drop(table);
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // It may be closed already; that is what is wanted.
        let _ = writer.shutdown(Shutdown::Both);
    }

    fn hand_out(&self, frame: Frame) -> io::Result<()> {
        let mut table = self.table();
        let job = frame.job;
        let Some(slot) = table.slots.get(&job) else {
            // Its owner has given up waiting.
            return Ok(());
        };
        let event = match frame.kind {
            Kind::Consumed => {
                slot.window.release(frame.number()? as usize);
                return Ok(());
            }
            Kind::Started => Event::Started(frame.number()?),
            Kind::Stdout => Event::Stdout(frame.payload),
            Kind::Stderr => Event::Stderr(frame.payload),
            Kind::Pong => Event::Pong,
            Kind::Ended => Event::Ended(frame.parse()?),
            other => return Err(io::Error::other(format!("the agent sent {other:?}"))),
        };
        let over = matches!(event, Event::Ended(_) | Event::Pong);
        let sent = slot.events.send(event);
        if (over || sent.is_err())
            && let Some(slot) = table.slots.remove(&job)
        {
            slot.window.close();
        }
        Ok(())
    }

    fn send(&self, frame: &Frame) -> io::Result<()> {
        let mut writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = frame.write_to(&mut *writer);
        drop(writer);
        if sent.is_err() {
            // Part of a frame may be out: the channel cannot be used again.
            self.close();
        }
        sent
    }

    fn gone(&self, what: &str) -> LabError {
        let (node, what) = (self.0.node.clone(), what.to_owned());
        LabError::NodeGone { node, what, console: String::new() }
    }

    fn error(&self, what: &str, source: io::Error) -> LabError {
        LabError::Channel { node: self.0.node.clone(), what: what.to_owned(), source }
    }

    /// Starts a job with its first frame.
    pub(crate) fn start(&self, kind: Kind, payload: Vec<u8>, what: &str) -> Result<JobChannel> {
        let (events, inbox) = channel();
        let window = Arc::new(Window::default());
        let mut table = self.table();
        if table.gone {
            return Err(self.gone(what));
        }
        table.last += 1;
        let job = table.last;
        table.slots.insert(job, Slot { events, window: Arc::clone(&window) });
        drop(table);
        self.send(&Frame::new(kind, job, payload)).map_err(|error| self.error(what, error))?;
        Ok(JobChannel { client: self.clone(), job, window, inbox, what: what.to_owned() })
    }

    /// Asks the machine to power itself off.
    pub(crate) fn power_off(&self) -> Result<()> {
        let frame = Frame::new(Kind::PowerOff, 0, Vec::new());
        self.send(&frame).map_err(|error| self.error("power off", error))
    }
}

/// The host's end of one job.
pub(crate) struct JobChannel {
    client: AgentClient,
    job: u32,
    window: Arc<Window>,
    inbox: Receiver<Event>,
    what: String,
}

impl JobChannel {
    /// The next event; an error when none comes within the limit, or when the machine goes away.
    pub(crate) fn next(&self, limit: Option<Duration>) -> Result<Event> {
        let gone = || self.client.gone(&self.what);
        let Some(limit) = limit else {
            return self.inbox.recv().map_err(|_| gone());
        };
        self.inbox.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                let (node, what) = (self.node().to_owned(), self.what.clone());
                LabError::NoAnswer { node, what, limit }
            }
            RecvTimeoutError::Disconnected => gone(),
        })
    }

    /// The node that it runs on.
    pub(crate) fn node(&self) -> &str {
        &self.client.0.node
    }

    /// A handle to signal the job with.
    pub(crate) fn remote(&self) -> JobRemote {
        JobRemote { client: self.client.clone(), job: self.job, window: Arc::clone(&self.window) }
    }
}

/// Sends input and signals to a job, from any thread.
#[derive(Clone)]
pub(crate) struct JobRemote {
    client: AgentClient,
    job: u32,
    window: Arc<Window>,
}

impl JobRemote {
    /// Whether the job has ended, as far as the host has heard.
    pub(crate) fn is_over(&self) -> bool {
        self.window.lock().closed
    }

    /// Sends a signal to the job's process group.
    pub(crate) fn kill(&self, signal: i32) -> Result<()> {
        let frame = Frame::new(Kind::Kill, self.job, signal.to_le_bytes());
        self.client.send(&frame).map_err(|error| self.client.error("signal", error))
    }

    /// Sends a piece of input; `false` when the job takes no more.
    pub(crate) fn input(&self, bytes: &[u8]) -> io::Result<bool> {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            if !self.window.reserve(chunk.len()) {
                return Ok(false);
            }
            self.client.send(&Frame::new(Kind::Stdin, self.job, chunk))?;
        }
        Ok(true)
    }

    /// Says that no more input comes.
    pub(crate) fn input_end(&self) -> io::Result<()> {
        self.client.send(&Frame::new(Kind::StdinEnd, self.job, Vec::new()))
    }

    /// Sends all that a reader gives in a thread of its own; a job that ends early stops it.
    pub(crate) fn input_from(&self, mut reader: impl Read + Send + 'static) {
        let remote = self.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; CHUNK_BYTES];
            loop {
                match reader.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => match remote.input(&buffer[..count]) {
                        Ok(true) => {}
                        // The job or the machine is gone; the waiting side reports which.
                        Ok(false) | Err(_) => return,
                    },
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            let _ = remote.input_end();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client whose agent is this test.
    fn pair() -> (AgentClient, UnixStream) {
        let (host, mut guest) = UnixStream::pair().unwrap();
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            node: "node0".into(),
            boot_id: "b".into(),
            kernel: "k".into(),
            uptime_ms: 7,
        };
        Frame::json(Kind::Hello, 0, &hello).unwrap().write_to(&mut guest).unwrap();
        let (client, seen) = AgentClient::greet("node0", host, Duration::from_secs(5)).unwrap();
        assert_eq!(seen, hello);
        (client, guest)
    }

    #[test]
    fn events_reach_their_own_job_in_order() {
        let (client, mut guest) = pair();
        let first = client.start(Kind::Exec, vec![], "first").unwrap();
        let second = client.start(Kind::Exec, vec![], "second").unwrap();
        let (a, b) = (first.job, second.job);
        for frame in [
            Frame::new(Kind::Stdout, b, "b1"),
            Frame::new(Kind::Stdout, a, "a1"),
            Frame::new(Kind::Stdout, b, "b2"),
            Frame::json(Kind::Ended, b, &Outcome::Exited(3)).unwrap(),
        ] {
            frame.write_to(&mut guest).unwrap();
        }
        let limit = Some(Duration::from_secs(5));
        assert!(matches!(first.next(limit).unwrap(), Event::Stdout(t) if t == b"a1"));
        assert!(matches!(second.next(limit).unwrap(), Event::Stdout(t) if t == b"b1"));
        assert!(matches!(second.next(limit).unwrap(), Event::Stdout(t) if t == b"b2"));
        assert!(matches!(second.next(limit).unwrap(), Event::Ended(Outcome::Exited(3))));
    }

    #[test]
    fn every_job_learns_that_the_machine_is_gone() {
        let (client, guest) = pair();
        let job = client.start(Kind::Exec, vec![], "work").unwrap();
        drop(guest);
        assert!(matches!(job.next(None), Err(LabError::NodeGone { .. })));
        assert!(!job.remote().input(&[0; CHUNK_BYTES]).unwrap_or(false));
        assert!(matches!(client.start(Kind::Ping, vec![], "ping"), Err(LabError::NodeGone { .. })));
    }

    #[test]
    fn silence_is_reported_after_the_limit() {
        let (client, _guest) = pair();
        let job = client.start(Kind::Ping, vec![], "ping").unwrap();
        let error = job.next(Some(Duration::from_millis(20)));
        assert!(matches!(error, Err(LabError::NoAnswer { .. })));
    }

    #[test]
    fn input_stops_at_the_window_until_it_is_consumed() {
        let (client, mut guest) = pair();
        let job = client.start(Kind::Exec, vec![], "cat").unwrap();
        job.remote().input_from(io::repeat(7).take(2 * INPUT_WINDOW_BYTES as u64));
        let mut got = 0;
        let mut ended = false;
        assert_eq!(Frame::read_from(&mut guest).unwrap().unwrap().kind, Kind::Exec);
        while !ended {
            let frame = Frame::read_from(&mut guest).unwrap().unwrap();
            ended = frame.kind == Kind::StdinEnd;
            got += frame.payload.len();
            if got % INPUT_WINDOW_BYTES == 0 && !ended {
                guest.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                if got == INPUT_WINDOW_BYTES {
                    assert!(Frame::read_from(&mut guest).is_err(), "the window is full");
                }
                guest.set_read_timeout(None).unwrap();
                let count = u32::try_from(INPUT_WINDOW_BYTES).unwrap().to_le_bytes();
                Frame::new(Kind::Consumed, job.job, count).write_to(&mut guest).unwrap();
            }
        }
        assert_eq!(got, 2 * INPUT_WINDOW_BYTES);
    }

    #[test]
    fn an_agent_of_another_version_is_refused() {
        let (host, mut guest) = UnixStream::pair().unwrap();
        let hello = r#"{"protocol":0,"node":"n","boot_id":"b","kernel":"k"}"#;
        Frame::new(Kind::Hello, 0, hello).write_to(&mut guest).unwrap();
        let refused = AgentClient::greet("n", host, Duration::from_secs(5));
        assert!(refused.err().unwrap().to_string().contains("build both anew"));
    }
}
