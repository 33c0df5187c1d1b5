//! Loses nodes in every way, as often as it is told, and says how long takeovers took and whether a
//! stale write arrived.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use lunar_e2e::cluster::{Cluster, ClusterSpec};
use lunar_e2e::takeover::{make_pool, summary, take_over_and_over};
use lunar_lab::say;

#[derive(Parser)]
#[command(about = "Loses nodes under load over and over, in virtual machines of the lab")]
struct Arguments {
    /// How often in each of the five ways.
    #[arg(long, default_value_t = 20)]
    cycles: u64,
}

fn soak(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let own = std::env::current_exe()?;
    let programs = own.parent().unwrap_or_else(|| Path::new(".")).to_owned();
    let mut cluster =
        Cluster::start(&ClusterSpec { nodes: 2, luns: 2, cpus: 1, paths: 1, programs })?;
    let done = make_pool(&cluster)
        .and_then(|()| take_over_and_over(&mut cluster, arguments.cycles, &mut say));
    let takeovers = done.inspect_err(|_| cluster.lab_mut().keep_logs())?;
    say(&summary(&takeovers));
    Ok(takeovers.iter().all(|takeover| takeover.stale == 0))
}

fn main() -> ExitCode {
    match soak(&Arguments::parse()) {
        Ok(true) => {
            say("fence-soak: ok");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            say("fence-soak: a stale write arrived");
            ExitCode::FAILURE
        }
        Err(error) => {
            say(&format!("fence-soak: failed: {error}"));
            ExitCode::FAILURE
        }
    }
}
