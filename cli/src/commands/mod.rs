//! What the commands do: ask a service, shape the answer, write it.

mod backup;
mod clone;
mod cut;
mod doctor;
mod explain;
mod fsck;
mod generate;
mod grow;
mod lun;
mod node;
mod operation;
mod pki;
mod pool;
mod publish;
mod rollback;
mod snapshot;
mod takeover;
mod transfer;
mod volume;

use lunar_metadata_client::{ClientError, ErrorKind, MetadataClient};

use crate::args::{Command, GlobalArgs, OperationCommand};
use crate::daemon::Daemon;
use crate::error::{CliError, Exit};
use crate::output::{self, Report};
use crate::service;

/// Where a command works and how it shows its result.
struct Context<'a> {
    global: &'a GlobalArgs,
}

impl Context<'_> {
    async fn service(&self) -> Result<MetadataClient, CliError> {
        service::connect(self.global).await
    }

    async fn daemon(&self) -> Result<Daemon, CliError> {
        Daemon::connect(&self.global.socket).await
    }

    fn show<R: Report>(&self, report: &R) -> Result<Exit, CliError> {
        output::write_out(output::render(report, self.global.output).as_bytes())?;
        Ok(Exit::Ok)
    }
}

/// The answer, or nothing where the service refuses so: an object that may be gone.
fn unless<T>(gone: ErrorKind, answer: Result<T, ClientError>) -> Result<Option<T>, CliError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.kind() == gone => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Runs a command.
///
/// # Errors
/// What failed, as the person who typed the command reads it.
pub async fn run(command: &Command, global: &GlobalArgs) -> Result<Exit, CliError> {
    let context = Context { global };
    match command {
        Command::Doctor => doctor::run(&context).await,
        Command::Pool(command) => pool::run(command, &context).await,
        Command::Lun(command) => lun::run(command, &context).await,
        Command::Volume(command) => volume::run(command, &context).await,
        Command::Snapshot(command) => snapshot::run(command, &context).await,
        Command::Node(command) => node::run(command, &context).await,
        Command::Explain(command) => explain::run(command, &context).await,
        Command::Operation(OperationCommand::List) => operation::list(&context).await,
        Command::Backup(command) => backup::run(command, &context).await,
        Command::Pki(command) => pki::run(command, &context).await,
        Command::Fsck(args) => fsck::run(args, &context).await,
        Command::Completions { shell } => generate::completions(*shell),
        Command::Man { out } => generate::manual_pages(out),
    }
}
