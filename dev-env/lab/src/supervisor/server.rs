//! The supervisor itself: owns the lab, serves requests until it is told to end.

use super::{CONTROL_SOCKET, LunStatus, NodeStatus, READY, Request, Settings, Status};
use crate::client::{Event, JobChannel};
use crate::error::{AtPath, Result};
use crate::frame::{CHUNK_BYTES, Frame, Kind};
use crate::lab::Lab;
use crate::message::{ExecSpec, Outcome};
use crate::node::Node;
use crate::progress::say;
use crate::target::Target;
use nix::sys::signal::SIGKILL;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// Boots the lab and serves it; returns when it was told to end, or when it could not start.
///
/// # Errors
/// When the lab cannot be started.
pub fn serve(settings: &Settings) -> Result<()> {
    // A terminal that is closed must not end the lab. It fails only for a process group leader,
    // which no terminal will signal either.
    let _ = nix::unistd::setsid();
    let mut builder = Lab::builder()
        .name(&settings.name)
        .nodes(settings.nodes)
        .luns(settings.lun_specs())
        .cpus(settings.cpus)
        .memory_mib(settings.memory_mib);
    for name in &settings.machines {
        builder = builder.machine(name);
    }
    if settings.networks {
        builder = builder.networks();
    }
    if let Some(target) = settings.target() {
        builder = builder.target(target);
    }
    for directory in &settings.programs {
        builder = builder.programs(directory);
    }
    let lab = builder.start()?;
    let socket = lab.directory().join(CONTROL_SOCKET);
    let listener = UnixListener::bind(&socket).at("listen on", &socket)?;
    let log_path = lab.directory().join("supervisor.log");
    let log = fs::File::create(&log_path).at("create", &log_path)?;
    // The starter reads both streams until it sees this line, and then goes away.
    let announced = writeln!(io::stdout(), "{READY}").and_then(|()| io::stdout().flush());
    announced.at("write to", "standard output")?;
    nix::unistd::dup2_stderr(&log).map_err(io::Error::from).at("write to", &log_path)?;
    let lab = Arc::new(lab);
    let (ended, end) = channel();
    let serving = Arc::clone(&lab);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let (lab, ended) = (Arc::clone(&serving), ended.clone());
            thread::spawn(move || {
                if let Err(error) = answer(&lab, connection, &ended) {
                    say(&format!("a request broke off: {error}"));
                }
            });
        }
    });
    // Only a request can end the lab; the sender lives in the thread above.
    let _ = end.recv();
    Ok(())
}

/// Answers one connection.
fn answer(lab: &Lab, mut stream: UnixStream, ended: &Sender<()>) -> io::Result<()> {
    let Some(first) = Frame::read_from(&mut stream)? else {
        return Ok(());
    };
    let request: Request = first.parse()?;
    say(&format!("{request:?}"));
    let down = matches!(request, Request::Down);
    let result = match request {
        Request::Exec { node, spec } => {
            find(lab, &node).and_then(|node| exec(node, &spec, &stream))
        }
        other => carry_out(lab, other).and_then(|content| {
            for chunk in content.chunks(CHUNK_BYTES) {
                let frame = Frame::new(Kind::Stdout, 0, chunk);
                frame.write_to(&mut stream).at("write to", CONTROL_SOCKET)?;
            }
            Ok(Outcome::Exited(0))
        }),
    };
    let outcome = result.unwrap_or_else(|error| Outcome::Failed(error.to_string()));
    let sent = Frame::json(Kind::Ended, 0, &outcome)?.write_to(&mut stream);
    if down {
        // The receiver is gone only when the lab is ending already.
        let _ = ended.send(());
    }
    sent
}

/// Carries out a request that is no command; gives what is to be sent back.
fn carry_out(lab: &Lab, request: Request) -> Result<Vec<u8>> {
    let done = |()| Vec::new();
    match request {
        Request::Exec { .. } => unreachable!("commands are carried out by exec"),
        Request::Cut(node) => find(lab, &node)?.cut().map(done),
        Request::Boot(node) => lab.boot(find(lab, &node)?).map(done),
        Request::Pause(node) => find(lab, &node)?.pause().map(done),
        Request::Resume(node) => find(lab, &node)?.resume().map(done),
        Request::ShutDown(node) => find(lab, &node)?.shut_down().map(done),
        Request::Partition { node, network } => find(lab, &node)?.partition(network).map(done),
        Request::Heal { node, network } => find(lab, &node)?.heal(network).map(done),
        Request::Push { node, source, target } => {
            push(find(lab, &node)?, &source, &target).map(done)
        }
        Request::Pull { node, source } => find(lab, &node)?.read_file(&source),
        Request::Logs(node) => Ok(find(lab, &node)?.logs().into_bytes()),
        Request::Status => {
            Ok(serde_json::to_vec(&status(lab)).expect("paths of the lab are plain strings"))
        }
        Request::Down => {
            lab.end();
            Ok(Vec::new())
        }
    }
}

/// The machine with this name; a node that is not there is named by its number.
fn find<'a>(lab: &'a Lab, name: &str) -> Result<&'a Node> {
    match name.strip_prefix("node").and_then(|number| number.parse().ok()) {
        Some(number) => lab.try_node(number),
        None => lab.try_machine(name),
    }
}

fn push(node: &Node, source: &Path, target: &str) -> Result<()> {
    let content = fs::read(source).at("read", source)?;
    let mode = fs::metadata(source).at("look at", source)?.permissions().mode() & 0o7777;
    node.write_file(target, content, mode)
}

fn status(lab: &Lab) -> Status {
    let nodes = lab.all_machines().map(|node| NodeStatus {
        name: node.name().to_owned(),
        state: node.state().to_string(),
        addresses: node.addresses(),
        partitions: node.partitions(),
        directory: node.directory().to_owned(),
    });
    let exported = lab.try_target().map_or(&[][..], Target::luns);
    let luns = lab.luns().iter().chain(exported).map(|lun| LunStatus {
        serial: lun.serial().to_owned(),
        size_bytes: lun.spec().size_bytes,
        device: lun.device(),
        file: lun.file().to_owned(),
    });
    Status { directory: lab.directory().to_owned(), nodes: nodes.collect(), luns: luns.collect() }
}

/// Runs a command with its streams on the connection; ends it when the connection ends.
fn exec(node: &Node, spec: &ExecSpec, stream: &UnixStream) -> Result<Outcome> {
    let what = spec.argv.join(" ");
    let payload = serde_json::to_vec(spec).expect("plain strings are JSON");
    let job = node.client(&what)?.start(Kind::Exec, payload, &what)?;
    let remote = job.remote();
    let mut input = stream.try_clone().at("use", CONTROL_SOCKET)?;
    thread::spawn(move || {
        loop {
            let passed = match Frame::read_from(&mut input) {
                Ok(Some(frame)) if frame.kind == Kind::Stdin => {
                    remote.input(&frame.payload).map(|_| ())
                }
                Ok(Some(_)) => remote.input_end(),
                // The one who asked is gone: nobody would ever see the end of the command.
                Ok(None) | Err(_) => {
                    if !remote.is_over() {
                        let _ = remote.kill(SIGKILL as i32);
                    }
                    return;
                }
            };
            if passed.is_err() {
                return;
            }
        }
    });
    relay(&job, stream)
}

fn relay(job: &JobChannel, mut stream: &UnixStream) -> Result<Outcome> {
    loop {
        let frame = match job.next(None)? {
            Event::Stdout(bytes) => Frame::new(Kind::Stdout, 0, bytes),
            Event::Stderr(bytes) => Frame::new(Kind::Stderr, 0, bytes),
            Event::Ended(outcome) => return Ok(outcome),
            Event::Started(_) | Event::Pong => continue,
        };
        if let Err(error) = frame.write_to(&mut stream) {
            job.remote().kill(SIGKILL as i32)?;
            return Err(error).at("write to", CONTROL_SOCKET);
        }
    }
}
