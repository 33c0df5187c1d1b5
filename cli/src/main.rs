//! The program `lunar`: reads its arguments, runs one command, ends with its exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use lunar_cli::args::Cli;
use lunar_cli::commands;
use lunar_cli::error::{CliError, Exit};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(&cli.command, &cli.global)),
        Err(error) => {
            let message = format!("start the event loop: {error}");
            Err(CliError::new(Exit::Failed, "RUNTIME", message))
        }
    };
    let exit = result.unwrap_or_else(|error| {
        // Without a standard error the exit code still tells.
        let _ = writeln!(std::io::stderr(), "{}", error.render(cli.global.output));
        error.exit
    });
    exit.into()
}
