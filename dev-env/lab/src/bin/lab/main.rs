//! `lab`: boots virtual machines with ublk and shared LUNs, and works with them by hand.

mod arguments;

use arguments::{Arguments, Command, ExecArguments, UpArguments};
use clap::Parser;
use lunar_lab::image::Image;
use lunar_lab::message::ExecSpec;
use lunar_lab::supervisor::{self, Request, Settings, Status};
use lunar_lab::{Outcome, Result, say};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Exit code of `lab exec` for a command that ran out of time, as `timeout` has it.
const TIMED_OUT: u8 = 124;
/// Exit code when the lab itself failed, to be told from the codes of commands.
const LAB_FAILED: u8 = 125;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(LAB_FAILED)
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let name = arguments.name.as_str();
    let ask = |request| supervisor::request(name, &request);
    match arguments.command {
        Command::Image { rebuild } => {
            let image = if rebuild { Image::rebuild()? } else { Image::ensure()? };
            let directory = image.directory().display();
            print(format!("{directory}\nkernel {}\n", image.kernel_release()).as_bytes());
        }
        Command::Up(up) => start(name, up)?,
        Command::Exec(exec) => return run_command(name, exec),
        Command::Cut { node } => drop(ask(Request::Cut(node.0))?),
        Command::Boot { node } => drop(ask(Request::Boot(node.0))?),
        Command::Pause { node } => drop(ask(Request::Pause(node.0))?),
        Command::Resume { node } => drop(ask(Request::Resume(node.0))?),
        Command::Partition { node, network } => {
            ask(Request::Partition { node: node.0, network })?;
        }
        Command::Heal { node, network } => drop(ask(Request::Heal { node: node.0, network })?),
        Command::Shutdown { node } => drop(ask(Request::ShutDown(node.0))?),
        Command::Push { node, source, target } => {
            let source = absolute(&source)?;
            ask(Request::Push { node: node.0, source, target })?;
        }
        Command::Pull { node, source } => print(&ask(Request::Pull { node: node.0, source })?),
        Command::Logs { node } => print(&ask(Request::Logs(node.0))?),
        Command::Status { json } => show_status(&ask(Request::Status)?, json),
        Command::Down => {
            if !supervisor::down(name)? {
                say(&format!("no lab named {name} runs"));
            }
        }
        Command::Supervise { settings } => supervise(&settings)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(bytes: &[u8]) {
    // A reader that went away (think of `head`) wants no more.
    let _ = io::stdout().write_all(bytes).and_then(|()| io::stdout().flush());
}

fn absolute(path: &Path) -> Result<std::path::PathBuf> {
    std::path::absolute(path).map_err(|source| lunar_lab::LabError::File {
        what: "resolve",
        path: path.to_owned(),
        source,
    })
}

fn start(name: &str, up: UpArguments) -> Result<()> {
    let programs = up.programs.iter().map(|path| absolute(path)).collect::<Result<_>>()?;
    let settings = Settings {
        name: name.to_owned(),
        nodes: up.nodes,
        networks: up.networks,
        machines: up.machine,
        target_luns: up.target_luns,
        paths: up.paths,
        luns: up.luns,
        lun_bytes: up.lun_size.0,
        write_cache: up.lun_write_cache,
        logical_block_bytes: up.lun_block_size,
        programs,
        cpus: up.cpus,
        memory_mib: up.memory_mib,
    };
    supervisor::start(&settings, &[OsStr::new("supervise"), OsStr::new("--settings")])?;
    show_status(&supervisor::request(name, &Request::Status)?, false);
    Ok(())
}

fn supervise(settings: &str) -> Result<()> {
    let settings: Settings = serde_json::from_str(settings)
        .map_err(|error| lunar_lab::LabError::Settings(format!("supervise: {error}")))?;
    supervisor::serve(&settings)
}

fn run_command(name: &str, exec: ExecArguments) -> Result<ExitCode> {
    let spec = ExecSpec {
        argv: exec.command,
        env: exec.env.into_iter().map(|pair| (pair.name, pair.value)).collect(),
        cwd: exec.cwd,
        timeout_ms: exec.timeout.map(|seconds| seconds.saturating_mul(1000)),
        stdin: !exec.no_stdin,
    };
    let code = match supervisor::exec(name, exec.node.0, spec)? {
        Outcome::Exited(code) => u8::try_from(code).unwrap_or(u8::MAX),
        Outcome::Signaled(signal) => {
            say(&format!("the command was ended by signal {signal}"));
            u8::try_from(128 + signal).unwrap_or(u8::MAX)
        }
        Outcome::TimedOut => {
            say("the command was killed at its timeout");
            TIMED_OUT
        }
        Outcome::Failed(why) => {
            say(&format!("error: {why}"));
            LAB_FAILED
        }
    };
    Ok(ExitCode::from(code))
}

fn show_status(json: &[u8], as_json: bool) {
    if as_json {
        print(json);
        return print(b"\n");
    }
    let status: Status = match serde_json::from_slice(json) {
        Ok(status) => status,
        Err(error) => return say(&format!("the supervisor is of another version: {error}")),
    };
    let mut text = format!("lab in {}\n\n", status.directory.display());
    text += &format!("{:<8} {:<8} LOGS\n", "NODE", "STATE");
    for node in &status.nodes {
        text += &format!("{:<8} {:<8} {}\n", node.name, node.state, node.directory.display());
        for (network, address) in &node.addresses {
            let cut = if node.partitions.contains(network) { "  cut off" } else { "" };
            text += &format!("{:<17} {network} {address}{cut}\n", "");
        }
    }
    if !status.luns.is_empty() {
        text += &format!("\n{:<20} {:>10}  DEVICE\n", "LUN", "SIZE");
    }
    for lun in &status.luns {
        let size = format!("{} MiB", lun.size_bytes >> 20);
        text += &format!("{:<20} {size:>10}  {}\n", lun.serial, lun.device);
    }
    print(text.as_bytes());
}
