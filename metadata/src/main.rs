//! The program `metadata-service`: serves a store, checks one offline, or makes one from a backup.

use std::fs::File;
use std::io::IsTerminal as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{Parser, Subcommand};
use lunar_identity::{ServerTls, TlsError};
use lunar_metadata::config::{ConfigError, ServeConfig, ServeFlags};
use lunar_metadata::error::{ServiceError, chain};
use lunar_metadata::fsck::{self, Flow};
use lunar_metadata::restore::{Asked, RestoreError, Survey, restore};
use lunar_metadata::seams::{SystemClock, SystemIds, block_on};
use lunar_metadata::server::{Handlers, StoreFailure, run_operations, serve_loopback, serve_tls};
use lunar_metadata::service::{Seams, Service, Settings, StartError, check_keyspace};
use lunar_metadata::store::{MetaStore, OpenError, RedbStore};
use lunar_proto::domain::{
    FindingsDigest, FsckEvent, FsckFinding, FsckRemedy, FsckRepaired, FsckSummary,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

/// Threads that may wait for the disk at the same time.
const BLOCKING_THREADS: usize = 64;
/// How long requests in flight may take after the signal to stop.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// From when on a start warns of the end of the certificate.
const EXPIRY_WARNING_DAYS: i64 = 14;
/// Exit code of a check that found damage, as of fsck(8).
const EXIT_DAMAGED: u8 = 4;
/// Exit code of a check that could not run, as of fsck(8).
const EXIT_NOT_CHECKED: u8 = 8;

/// The metadata service of Lunar: the only authority over extent maps and epochs.
#[derive(Parser)]
#[command(name = "metadata-service", version)]
struct Cli {
    /// What is logged: a level, or filters such as 'info,lunar_metadata=debug'.
    #[arg(long, env = "LUNAR_LOG", default_value = "info", global = true)]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves a store over gRPC.
    Serve(ServeFlags),
    /// Checks a store that nobody serves. Exit code 0: sound; 4: damaged; 8: not checked.
    Fsck {
        /// The store.
        #[arg(long, env = "LUNAR_METADATA_STORE", value_name = "PATH")]
        store: PathBuf,
        #[command(flatten)]
        repair: RepairFlags,
    },
    /// Makes a store from a backup. The whole backup is checked before anything is written. All
    /// that is free is quarantined then, and nothing can be attached before 'lunar pool
    /// release-quarantine'.
    Restore(RestoreFlags),
}

/// Which backup is restored, and where to.
#[derive(clap::Args)]
struct RestoreFlags {
    /// The backup.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The store: a file that does not exist yet.
    #[arg(long, env = "LUNAR_METADATA_STORE", value_name = "PATH")]
    store: PathBuf,
    /// The number of the newest complete backup, which is the only one that may be restored: what
    /// earlier ones name may be another volume's by now.
    #[arg(long)]
    number: u64,
    /// Check the backup and tell what would be done; write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Restore a backup that was made while the horizon was off: restored volumes may show what
    /// others have written since.
    #[arg(long)]
    unprotected: bool,
}

/// What a check may change.
#[derive(clap::Args)]
struct RepairFlags {
    /// Repair what can be repaired safely: first --dry-run, then --findings with what it told.
    #[arg(long, requires = "how")]
    repair: bool,
    /// Tell what would be repaired and what not, and the digest of the findings.
    #[arg(long, requires = "repair", group = "how")]
    dry_run: bool,
    /// Repair the findings of this digest; refused when they have changed.
    #[arg(long, requires = "repair", group = "how", value_name = "DIGEST")]
    findings: Option<FindingsDigest>,
}

/// Why the program ends with an error.
#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Check(#[from] ServiceError),
    #[error("backup '{from}' is not restored into '{store}'")]
    Restore {
        from: PathBuf,
        store: PathBuf,
        #[source]
        source: Box<RestoreError>,
    },
    #[error("backup '{path}' cannot be opened")]
    Backup {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("standard output cannot be written")]
    Output(#[source] std::io::Error),
    #[error(transparent)]
    Failed(#[from] StoreFailure),
    #[error("--log '{filter}' is no filter")]
    Log {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error(
        "{address} cannot be listened on (is another metadata-service running? choose another \
         port with --listen)"
    )]
    Bind {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error("the transport failed")]
    Transport(#[from] tonic::transport::Error),
    #[error("the operating system refused to {step}")]
    System {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_check = matches!(cli.command, Command::Fsck { .. });
    let outcome = start_logging(&cli.log).and_then(|()| match cli.command {
        Command::Serve(flags) => serve(flags.resolve()?).map(|()| ExitCode::SUCCESS),
        Command::Fsck { store, repair } => check(&store, &repair),
        Command::Restore(flags) => restore_from(&flags),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let text = format!("metadata-service: {}\n", chain(&error));
            // Nothing can be done when standard error is closed.
            drop(std::io::stderr().write_all(text.as_bytes()));
            if is_check { ExitCode::from(EXIT_NOT_CHECKED) } else { ExitCode::FAILURE }
        }
    }
}

fn start_logging(filter: &str) -> Result<(), MainError> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|source| MainError::Log { filter: filter.to_owned(), source })?;
    // A reader of the log that has gone must not end the service: no complaint about it on the
    // same closed stream.
    tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false)
        .init();
    Ok(())
}

fn serve(config: ServeConfig) -> Result<(), MainError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|source| MainError::System { step: "start threads", source })?;
    runtime.block_on(serve_until_stopped(config))
}

async fn serve_until_stopped(config: ServeConfig) -> Result<(), MainError> {
    let system = |step| move |source| MainError::System { step, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("handle SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("handle SIGINT"))?;
    // The port before the store: a second service on the same host says which of both is taken.
    let address = config.listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| MainError::Bind { address, source })?;
    let address = listener.local_addr().map_err(system("name the port"))?;
    let service = open_service(&config).await?;
    let cluster = service.cluster();
    info!(
        cluster = %cluster.id, keyspace = cluster.keyspace_version,
        store = %config.store.display(), listen = %address, "serving"
    );
    let work = Arc::new(Notify::new());
    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    let handlers = Handlers::new(Arc::clone(&service), Arc::clone(&work));
    let tls = config.tls.map(|files| ServerTls::load(files, cluster.id)).transpose()?;
    if let Some(tls) = &tls {
        warn_of_expiry(tls);
    }
    let stopped = async move { stopped.notified().await };
    let mut serving: Pin<Box<dyn Future<Output = _>>> = match tls {
        None => Box::pin(serve_loopback(listener, handlers, stopped)),
        Some(tls) => Box::pin(serve_tls(listener, Arc::new(tls), handlers, stopped)),
    };
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        failure = run_operations(Arc::clone(&service), work) => return Err(failure.into()),
        _ = terminate.recv() => info!("SIGTERM: stopping"),
        _ = interrupt.recv() => info!("SIGINT: stopping"),
    }
    stop.notify_one();
    match tokio::time::timeout(STOP_GRACE, serving).await {
        Ok(ended) => ended?,
        Err(_) => info!("requests in flight took longer than {STOP_GRACE:?}: they are cut off"),
    }
    info!("stopped");
    Ok(())
}

fn warn_of_expiry(tls: &ServerTls) {
    const DAY: i64 = 86_400;
    let own = tls.own();
    let days = (own.not_after - unix_seconds().cast_signed()).div_euclid(DAY);
    if days < EXPIRY_WARNING_DAYS {
        warn!(name = %own.name, days, "the certificate ends soon: lunar pki rotate");
    } else {
        info!(name = %own.name, days, "TLS only; the certificate is valid for so many days");
    }
}

async fn open_service(config: &ServeConfig) -> Result<Arc<Service<RedbStore>>, MainError> {
    let store = RedbStore::open(&config.store)?;
    let seams = Seams { clock: Arc::new(SystemClock::start()), ids: Arc::new(SystemIds) };
    let settings = Settings { request_retention: config.request_retention, ..Settings::default() };
    Ok(Arc::new(Service::open(store, seams, settings).await?))
}

fn check(path: &Path, flags: &RepairFlags) -> Result<ExitCode, MainError> {
    let store = RedbStore::open_existing(path)?;
    let mut out = std::io::stdout();
    let mut sink = |event: FsckEvent| {
        let written = match event {
            FsckEvent::Finding(finding) => write_finding(&mut out, &finding, flags.dry_run),
            FsckEvent::Summary(summary) => write_summary(&mut out, &summary)
                .and_then(|()| if flags.dry_run { write_plan(&mut out, &summary) } else { Ok(()) }),
            FsckEvent::Repaired(repaired) => write_repaired(&mut out, &repaired),
        };
        if written.is_ok() { Flow::Continue } else { Flow::Stop }
    };
    let summary = block_on(async {
        let txn = store.begin().await.map_err(StartError::from)?;
        check_keyspace(&txn).await?;
        Ok::<_, MainError>(match flags.findings {
            None => fsck::check(&txn, &mut sink).await?,
            Some(findings) => fsck::repair(&store, findings, &mut sink).await?,
        })
    })?;
    Ok(if summary.findings == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DAMAGED) })
}

fn write_finding(
    out: &mut impl std::io::Write,
    finding: &FsckFinding,
    with_remedy: bool,
) -> std::io::Result<()> {
    let facts = finding.facts.iter().map(|(name, value)| format!(" {name}={value}"));
    let facts: String = facts.collect();
    writeln!(out, "{}: {}\n   {facts}", finding.kind, finding.message)?;
    match &finding.remedy {
        _ if !with_remedy => Ok(()),
        FsckRemedy::Repair(what) => writeln!(out, "    repair: {what}"),
        FsckRemedy::Refused(why) => writeln!(out, "    no repair: {why}"),
    }
}

fn write_repaired(out: &mut impl std::io::Write, repaired: &FsckRepaired) -> std::io::Result<()> {
    match repaired.changed {
        true => writeln!(out, "repaired: {}", repaired.repair),
        false => writeln!(out, "not needed any more: {}", repaired.repair),
    }
}

fn write_plan(out: &mut impl std::io::Write, summary: &FsckSummary) -> std::io::Result<()> {
    let FsckSummary { findings, repairable, digest, .. } = summary;
    writeln!(
        out,
        "{repairable} of {findings} findings can be repaired safely, nothing was changed"
    )?;
    match repairable {
        0 => Ok(()),
        _ => writeln!(out, "to repair them: --repair --findings {digest}"),
    }
}

fn write_summary(out: &mut impl std::io::Write, summary: &FsckSummary) -> std::io::Result<()> {
    writeln!(
        out,
        "{} findings in {} pools, {} LUNs, {} volumes, {} layers, {} slots, {} nodes, \
         {} attachments, {} allocated extents",
        summary.findings,
        summary.pools,
        summary.luns,
        summary.volumes,
        summary.layers,
        summary.slots,
        summary.nodes,
        summary.attachments,
        summary.allocated_extents
    )
}

#[allow(clippy::disallowed_methods, reason = "this is the program that owns the clock")]
fn unix_seconds() -> u64 {
    // Before 1970 is 0, which every restore refuses.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn open_backup(path: &Path) -> Result<File, MainError> {
    File::open(path).map_err(|source| MainError::Backup { path: path.to_owned(), source })
}

fn restore_from(flags: &RestoreFlags) -> Result<ExitCode, MainError> {
    let RestoreFlags { number, unprotected, .. } = *flags;
    let asked = Asked { number, now: unix_seconds(), unprotected };
    let failed = |source| MainError::Restore {
        from: flags.from.clone(),
        store: flags.store.clone(),
        source: Box::new(source),
    };
    let survey = Survey::read(open_backup(&flags.from)?, asked).map_err(failed)?;
    let mut out = std::io::stdout();
    write_survey(&mut out, &survey).map_err(MainError::Output)?;
    if flags.dry_run {
        writeln!(out, "the backup is whole and can be restored, nothing was written")
            .map_err(MainError::Output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let store = RedbStore::open(&flags.store)?;
    let restored = block_on(restore(&store, open_backup(&flags.from)?, &survey));
    let extents = restored.map_err(failed)?;
    write_restored(&mut out, extents).map_err(MainError::Output)?;
    Ok(ExitCode::SUCCESS)
}

fn write_survey(out: &mut impl std::io::Write, survey: &Survey) -> std::io::Result<()> {
    let (header, counts, raised) = (&survey.header, &survey.counts, &survey.raised);
    writeln!(
        out,
        "backup {} of cluster {}, begun {} s before now: {} entries in {} blocks, {} bytes, every \
         checksum is right",
        header.number,
        header.cluster,
        raised.now() - header.begun,
        survey.end.entries,
        survey.end.blocks,
        survey.end.bytes
    )?;
    writeln!(
        out,
        "{} volumes and {} snapshots come back and are listed as restored",
        counts.volumes, counts.snapshots
    )?;
    writeln!(
        out,
        "{} attachments and {} stale journals are taken away, {} open snapshot sets are aborted",
        counts.attachments, counts.stale_journals, counts.open_sets
    )?;
    writeln!(
        out,
        "epochs, sessions, structures, layers, operations and backups go on from {}, incarnations \
         of {} nodes from {}",
        raised.number(),
        counts.nodes,
        raised.incarnation()
    )
}

fn write_restored(out: &mut impl std::io::Write, extents: u64) -> std::io::Result<()> {
    writeln!(
        out,
        "restored; {extents} extents are in quarantine: all that was free, reserved or a journal"
    )?;
    writeln!(
        out,
        "next: stop every fs-core of before or fence its host, serve the store, and certify that \
         with 'lunar pool release-quarantine' of each pool; then attach volumes with \
         --accept-restored"
    )
}
