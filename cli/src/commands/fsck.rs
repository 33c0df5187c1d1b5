//! `lunar fsck`: asks the service, or runs the service's own check on a store at rest.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use lunar_proto::domain::FsckEvent;

use super::Context;
use crate::args::{FsckArgs, OutputFormat};
use crate::error::{CliError, Exit};
use crate::progress::Waiting;
use crate::views::fsck::{Detail, FsckView};

/// The program that knows the store. It is run, not linked: a command line has no store.
const SERVICE_PROGRAM: &str = "metadata-service";

pub(super) async fn run(args: &FsckArgs, context: &Context<'_>) -> Result<Exit, CliError> {
    match &args.offline {
        Some(store) => offline(store, args, context.global.output),
        None => online(args, context).await,
    }
}

async fn online(args: &FsckArgs, context: &Context<'_>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let (mut findings, mut repaired) = (Vec::new(), Vec::new());
    let summary = match args.findings {
        None => {
            let _waiting = Waiting::on("checking the metadata");
            service.fsck(|finding| findings.push(finding)).await?
        }
        Some(digest) => {
            let _waiting = Waiting::on("repairing the metadata");
            let told = |event| match event {
                FsckEvent::Finding(finding) => findings.push(finding),
                FsckEvent::Repaired(repair) => repaired.push(repair),
                FsckEvent::Summary(_) => {}
            };
            service.repair(digest, told).await?
        }
    };
    let detail = if args.dry_run { Detail::Plan } else { Detail::Findings };
    context.show(&FsckView::new(findings, &summary, repaired, detail))?;
    Ok(if summary.findings == 0 { Exit::Ok } else { Exit::Failed })
}

/// Runs the service's program; what it writes and how it ends is the answer.
fn offline(store: &Path, args: &FsckArgs, format: OutputFormat) -> Result<Exit, CliError> {
    if format == OutputFormat::Json {
        let message = "the offline check writes text only";
        return Err(CliError::new(Exit::Usage, "TEXT_ONLY", message)
            .advise("leave -o json out, or start the service and run 'lunar fsck -o json'"));
    }
    let program = service_program(std::env::current_exe().ok().as_deref());
    let mut check = Command::new(&program);
    let ended = check.args(["fsck", "--store"]).arg(store).args(repair_of(args)).status();
    exit_of(&program, ended.map_err(|error| not_started(&program, &error))?)
}

/// The flags of a repair, which are the same there.
fn repair_of(args: &FsckArgs) -> Vec<String> {
    let repair = args.repair.then(|| "--repair".to_owned());
    let dry_run = args.dry_run.then(|| "--dry-run".to_owned());
    let findings = args.findings.map(|digest| format!("--findings={digest}"));
    [repair, dry_run, findings].into_iter().flatten().collect()
}

/// The program beside this one, as they are installed together, or the one on `PATH`.
fn service_program(own: Option<&Path>) -> PathBuf {
    let beside = own.and_then(|own| Some(own.parent()?.join(SERVICE_PROGRAM)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(SERVICE_PROGRAM))
}

fn not_started(program: &Path, error: &io::Error) -> CliError {
    let message = format!("check the store: {} cannot be started: {error}", program.display());
    CliError::new(Exit::Failed, "PROGRAM_MISSING", message)
        .advise("install metadata-service beside lunar, or put it on PATH")
}

/// It has said itself what it found or why it could not check.
fn exit_of(program: &Path, status: ExitStatus) -> Result<Exit, CliError> {
    match status.code() {
        Some(0) => Ok(Exit::Ok),
        Some(_) => Ok(Exit::Failed),
        None => {
            let signal = status.signal().unwrap_or_default();
            let message = format!("check the store: {} died of signal {signal}", program.display());
            Err(CliError::new(Exit::Failed, "PROGRAM_DIED", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_beside_our_own_is_preferred() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = folder.path().join("lunar");
        assert_eq!(service_program(Some(&own)), Path::new(SERVICE_PROGRAM));
        let beside = folder.path().join(SERVICE_PROGRAM);
        std::fs::write(&beside, "").expect("writable");
        assert_eq!(service_program(Some(&own)), beside);
        assert_eq!(service_program(None), Path::new(SERVICE_PROGRAM));
    }

    #[test]
    fn damage_and_death_of_the_check_are_failures() {
        let end = |raw| exit_of(Path::new("p"), ExitStatus::from_raw(raw));
        assert_eq!(end(0), Ok(Exit::Ok));
        assert_eq!(end(4 << 8), Ok(Exit::Failed));
        assert_eq!(end(8 << 8), Ok(Exit::Failed));
        assert_eq!(end(9).expect_err("killed").message, "check the store: p died of signal 9");
    }

    #[test]
    fn the_offline_repair_has_the_same_flags() {
        let offline = Some("/store".into());
        let digest = "0123456789abcdef".parse().expect("a digest");
        let args = FsckArgs { offline, repair: false, dry_run: false, findings: None };
        assert!(repair_of(&args).is_empty());
        let args = FsckArgs { repair: true, dry_run: true, ..args };
        assert_eq!(repair_of(&args), ["--repair", "--dry-run"]);
        let args = FsckArgs { dry_run: false, findings: Some(digest), ..args };
        assert_eq!(repair_of(&args), ["--repair", "--findings=0123456789abcdef"]);
    }

    #[test]
    fn json_of_the_offline_check_is_refused() {
        let args = FsckArgs { offline: None, repair: false, dry_run: false, findings: None };
        let error = offline(Path::new("/none"), &args, OutputFormat::Json).expect_err("text only");
        assert_eq!(error.exit, Exit::Usage);
    }
}
