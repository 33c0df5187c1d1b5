//! The short-lived side: `lab` commands that ask a supervisor, and the start of one.

use super::{READY, Request, Settings, control_socket};
use crate::error::{AtPath, LabError, Result};
use crate::frame::{CHUNK_BYTES, Frame, Kind};
use crate::message::{ExecSpec, Outcome};
use crate::run_dir::{self, RunDir};
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;

/// Starts a supervisor in the background with this program and `arguments`, which must lead to
/// [`super::serve`]; returns when the nodes are up.
///
/// # Errors
/// When the supervisor ends before that; what it printed went to standard error.
pub fn start(settings: &Settings, arguments: &[&OsStr]) -> Result<()> {
    let program = std::env::current_exe().at("find the path of", "this program")?;
    let text = serde_json::to_string(settings).map_err(|error| {
        LabError::Settings(format!("a path in the settings is not UTF-8: {error}"))
    })?;
    let mut command = Command::new(&program);
    command.args(arguments).arg(text);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().at("run", program)?;
    let relay = child.stderr.take().map(|stderr| thread::spawn(|| relay_lines(stderr)));
    let stdout = child.stdout.take().map(BufReader::new);
    let mut lines = stdout.into_iter().flat_map(BufRead::lines).map_while(io::Result::ok);
    let ready = lines.any(|line| line == READY);
    if ready {
        return Ok(());
    }
    let status = child.wait().at("wait for", "the supervisor")?;
    if let Some(relay) = relay {
        // Its last words explain the failure.
        let _ = relay.join();
    }
    Err(LabError::Refused(format!("the lab did not start ({status}), see above")))
}

fn relay_lines(reader: impl Read) {
    for line in BufReader::new(reader).lines().map_while(io::Result::ok) {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

fn connect(name: &str) -> Result<UnixStream> {
    let path = control_socket(name);
    UnixStream::connect(&path).map_err(|error| {
        let directory = RunDir::path_of(name);
        let left = if run_dir::is_owned(&directory) {
            format!(" yet (it is starting, or its socket fails: {error})")
        } else if directory.exists() {
            format!(" any more; {} is left of it, `lab down` removes that", directory.display())
        } else {
            String::new()
        };
        LabError::NotUp { name: name.to_owned(), left }
    })
}

/// Ends a lab, or removes what is left of one; `false` when there was nothing.
///
/// # Errors
/// When its supervisor does not answer, or its directory cannot be removed.
pub fn down(name: &str) -> Result<bool> {
    let directory = RunDir::path_of(name);
    if !directory.exists() {
        return Ok(false);
    }
    if run_dir::is_owned(&directory) {
        request(name, &Request::Down)?;
    } else {
        run_dir::remove_if_free(&directory)?;
    }
    Ok(true)
}

/// Asks the supervisor for anything but a command; gives what it sends back.
///
/// # Errors
/// When no such lab runs, or the request cannot be carried out.
pub fn request(name: &str, request: &Request) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let stream = connect(name)?;
    send(&stream, request)?;
    match receive(&stream, &mut content, &mut io::stderr())? {
        Outcome::Failed(why) => Err(LabError::Refused(why)),
        _ => Ok(content),
    }
}

/// Runs a command in a node with the streams of this process.
///
/// # Errors
/// When no such lab runs, or the supervisor goes away.
pub fn exec(name: &str, node: String, spec: ExecSpec) -> Result<Outcome> {
    let stream = connect(name)?;
    let with_input = spec.stdin;
    send(&stream, &Request::Exec { node, spec })?;
    if with_input {
        let stream = stream.try_clone().at("use", control_socket(name))?;
        thread::spawn(move || pass_input(stream));
    }
    receive(&stream, &mut io::stdout(), &mut io::stderr())
}

fn send(mut stream: &UnixStream, request: &Request) -> Result<()> {
    let frame = Frame::json(Kind::Control, 0, request);
    let sent = frame.and_then(|frame| frame.write_to(&mut stream));
    sent.or_else(|error| gone(error, "write to"))
}

/// A supervisor that was killed resets its connections.
fn gone<T>(error: io::Error, what: &'static str) -> Result<T> {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Err(went_away()),
        _ => Err(error).at(what, "the supervisor's socket"),
    }
}

fn went_away() -> LabError {
    LabError::Refused("the supervisor went away: the lab is down".to_owned())
}

fn pass_input(mut stream: UnixStream) {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut stdin = io::stdin();
    while let Ok(count @ 1..) = stdin.read(&mut buffer) {
        // A command that is over is noticed by the receiving side.
        if Frame::new(Kind::Stdin, 0, &buffer[..count]).write_to(&mut stream).is_err() {
            return;
        }
    }
    let _ = Frame::new(Kind::StdinEnd, 0, Vec::new()).write_to(&mut stream);
}

fn receive(mut stream: &UnixStream, out: &mut impl Write, err: &mut impl Write) -> Result<Outcome> {
    let place = "the supervisor's socket";
    loop {
        let frame = Frame::read_from(&mut stream).or_else(|error| gone(error, "read from"))?;
        let Some(frame) = frame else { return Err(went_away()) };
        let written = match frame.kind {
            Kind::Stdout => out.write_all(&frame.payload).and_then(|()| out.flush()),
            Kind::Stderr => err.write_all(&frame.payload).and_then(|()| err.flush()),
            _ => return frame.parse().at("read from", place),
        };
        written.at("write to", "standard output")?;
    }
}
