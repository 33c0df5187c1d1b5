//! The program fs-core.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use lunar_metadata_client::{CertFacts, ClientTls};
use lunar_ublk_target::config::{Config, ConfigError, HostFacts, Settings};
use lunar_ublk_target::daemon::Ended;
use lunar_ublk_target::lun::inspect::with_causes;
use lunar_ublk_target::ublk::stop_helper::{self, StopMode};
use lunar_ublk_target::volume::fsfreeze::helper;
use lunar_ublk_target::{daemon, metadata, process};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// The node daemon of Lunar: serves volumes as ublk devices.
#[derive(Parser)]
#[command(name = "fs-core", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve volumes until SIGTERM.
    Serve(Serve),
    /// What fs-core starts to freeze file systems.
    #[command(hide = true)]
    FsfreezeHelper {
        /// What to do, as JSON
        order: String,
    },
    /// What fs-core starts to stop a device.
    #[command(hide = true)]
    StopHelper {
        /// The number of the device
        device: u32,
        /// Whether it is stopped although it is open: if-unused or always
        mode: StopMode,
    },
}

#[derive(clap::Args)]
struct Serve {
    /// Configuration file (TOML); flags and LUNAR_* variables win over it
    #[arg(long, env = "LUNAR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log, such as info or lunar_ublk_target=debug
    #[arg(long, env = "LUNAR_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    #[command(flatten)]
    settings: Settings,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve(serve) => {
            log_to_stderr(&serve.log);
            end_on_panic();
            exit_code(run(serve))
        }
        Command::FsfreezeHelper { order } => {
            log_to_stderr("info");
            helper::run(&order)
        }
        Command::StopHelper { device, mode } => stop_helper::run(device, mode),
    }
}

fn log_to_stderr(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

fn exit_code(ended: Result<ExitCode, Box<dyn std::error::Error>>) -> ExitCode {
    match ended {
        Ok(code) => code,
        Err(problem) => {
            error!("{}", with_causes(&*problem));
            ExitCode::FAILURE
        }
    }
}

/// A panic leaves some volume in an unknown state: the process ends, the devices keep their
/// requests, and a successor takes over.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        error!(%info, backtrace = %std::backtrace::Backtrace::force_capture(), "panic");
        std::process::abort();
    }));
}

fn host_facts() -> HostFacts {
    let host_name = nix::unistd::gethostname()
        .map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    HostFacts { host_name, processors: u16::try_from(processors).unwrap_or(u16::MAX) }
}

fn configuration(serve: Serve) -> Result<Config, ConfigError> {
    let file = match &serve.config {
        Some(path) => Settings::from_file(path)?,
        None => Settings::default(),
    };
    serve.settings.or(file).validate(&host_facts())
}

/// The service would refuse every call of a node under another one's certificate; a start that
/// says why is better.
fn require_own_name(own: &CertFacts, config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let (holder, node) = (&own.name, &config.node_name);
    if holder.role.is_node() && holder.name == *node {
        return Ok(());
    }
    let advice = format!("lunar pki issue --role node --name {node}");
    Err(format!("--tls-cert is for {holder}, and this is node '{node}': {advice}").into())
}

fn run(serve: Serve) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let config = configuration(serve)?;
    // Before any thread: all of this is inherited by threads.
    let facts = process::prepare()?;
    process::require_ublk()?;
    info!(node = %config.node_name, version = env!("CARGO_PKG_VERSION"), "fs-core starts");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let tls = config.tls.clone().map(ClientTls::load).transpose()?.map(Arc::new);
        if let Some(tls) = &tls {
            require_own_name(&tls.own(), &config)?;
        }
        let metadata = metadata::remote::Remote::new(&config.metadata_endpoint, tls.as_ref())?;
        let ended = daemon::run(config, facts, Arc::new(metadata)).await;
        Ok::<_, Box<dyn std::error::Error>>(ended?)
    })?;
    // What still blocks, perhaps on a LUN that hangs, must not keep the process.
    runtime.shutdown_background();
    match ended {
        Ended::Exit(code) => Ok(code),
        Ended::Rejoin => Err(process::start_anew().into()),
    }
}
