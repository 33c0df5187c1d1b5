//! What the commands do: ask a service, shape the answer, write it.

mod doctor;
mod fsck;
mod generate;
mod lun;
mod node;
mod pool;
mod volume;

use lunar_metadata_client::MetadataClient;

use crate::args::{Command, GlobalArgs, NodeCommand};
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
        service::connect(&self.global.metadata).await
    }

    async fn daemon(&self) -> Result<Daemon, CliError> {
        Daemon::connect(&self.global.socket).await
    }

    fn show<R: Report>(&self, report: &R) -> Result<Exit, CliError> {
        output::write_out(output::render(report, self.global.output).as_bytes())?;
        Ok(Exit::Ok)
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
        Command::Node(NodeCommand::List) => node::list(&context).await,
        Command::Fsck(args) => fsck::run(args, &context).await,
        Command::Completions { shell } => generate::completions(*shell),
        Command::Man { out } => generate::manual_pages(out),
    }
}
