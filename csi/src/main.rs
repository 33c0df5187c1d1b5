//! The program `csi-driver`: one part of the driver, or a probe of one.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use lunar_csi::args::{Cli, Part};
use tracing::error;
use tracing_subscriber::EnvFilter;

fn log_to_stderr(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn run(part: &Part) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        match part {
            Part::Controller(arguments) => lunar_csi::controller::run(arguments).await,
            Part::Node(arguments) => lunar_csi::node::run(arguments).await,
            Part::Probe(arguments) => lunar_csi::probe::run(arguments).await,
            Part::Worker => unreachable!("it has no runtime"),
        }
    });
    // What still works, perhaps at a LUN that hangs, must not keep the process.
    runtime.shutdown_background();
    ended
}

fn main() -> ExitCode {
    let part = Cli::parse().part;
    match &part {
        Part::Controller(arguments) => log_to_stderr(&arguments.serve.log),
        Part::Node(arguments) => log_to_stderr(&arguments.serve.log),
        Part::Probe(_) => log_to_stderr("warn"),
        // It has one thread, and says what it has to say in its answer.
        Part::Worker => return lunar_csi::node::worker::run(),
    }
    match run(&part) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{}", with_causes(&*problem));
            ExitCode::FAILURE
        }
    }
}
