//! `lunar fsck`: asks the service, or runs the service's own check on a store at rest.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use super::Context;
use crate::args::{FsckArgs, OutputFormat};
use crate::error::{CliError, Exit};
use crate::progress::Waiting;
use crate::views::fsck::FsckView;

/// The program that knows the store. It is run, not linked: a command line has no store.
const SERVICE_PROGRAM: &str = "metadata-service";

pub(super) async fn run(args: &FsckArgs, context: &Context<'_>) -> Result<Exit, CliError> {
    match &args.offline {
        Some(store) => offline(store, context.global.output),
        None => online(context).await,
    }
}

async fn online(context: &Context<'_>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let waiting = Waiting::on("checking the metadata");
    let (findings, summary) = service.fsck().await?;
    drop(waiting);
    context.show(&FsckView::new(findings, &summary))?;
    Ok(if summary.findings == 0 { Exit::Ok } else { Exit::Failed })
}

/// Runs the service's program; what it writes and how it ends is the answer.
fn offline(store: &Path, format: OutputFormat) -> Result<Exit, CliError> {
    let program = service_program();
    let mut check = Command::new(&program);
    check.arg("fsck").arg("--store").arg(store);
    if format == OutputFormat::Json {
        check.args(["--output", "json"]);
    }
    let status = check.status().map_err(|error| not_started(&program, &error))?;
    exit_of(&program, status)
}

/// The program beside this one, as they are installed together, or the one on `PATH`.
fn service_program() -> PathBuf {
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|own| Some(own.parent()?.join(SERVICE_PROGRAM)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(SERVICE_PROGRAM))
}

fn not_started(program: &Path, error: &io::Error) -> CliError {
    let message = format!("check the store: {} cannot be started: {error}", program.display());
    CliError::new(Exit::Failed, "PROGRAM_MISSING", message)
        .advise("install metadata-service beside lunar, or put it on PATH")
}

/// Its exit codes are ours.
fn exit_of(program: &Path, status: ExitStatus) -> Result<Exit, CliError> {
    match status.code() {
        Some(0) => Ok(Exit::Ok),
        Some(2) => Ok(Exit::Usage),
        Some(_) => Ok(Exit::Failed),
        None => {
            let signal = status.signal().unwrap_or_default();
            let message = format!("check the store: {} died of signal {signal}", program.display());
            Err(CliError::new(Exit::Failed, "PROGRAM_DIED", message))
        }
    }
}
