//! `lunar pki`.

use std::path::Path;

use lunar_identity::CertFacts;
use lunar_identity::certificate::{HostName, host_names, lifetime, serial_of};
use lunar_identity::files::read_certificates;
use lunar_identity::issue::{Authority, Order, cluster_of};
use lunar_metadata_client::unix_seconds;
use lunar_proto::domain::RevokeCertificate;

use super::Context;
use crate::args::{InitArgs, IssueArgs, PkiCommand, RevokeArgs, RotateArgs};
use crate::error::{CliError, Exit};
use crate::pki::{AUTHORITY, Existing, PkiDir, PkiError};
use crate::views::pki::{CertificateList, CertificateView, RevokedList};
use crate::views::time::DAY;

/// Clocks of other hosts may be behind by so much.
const CLOCK_ROOM: i64 = 300;

pub(super) async fn run(command: &PkiCommand, context: &Context<'_>) -> Result<Exit, CliError> {
    let written = match command {
        PkiCommand::Init(args) => vec![init(args).map_err(|error| failed("init", &error))?],
        PkiCommand::Issue(args) => vec![issue(args).map_err(|error| failed("issue", &error))?],
        PkiCommand::Rotate(args) => rotate(args).map_err(|error| failed("rotate", &error))?,
        PkiCommand::Show(args) => {
            let shown: Result<_, _> = args.files.iter().map(|path| view(path)).collect();
            shown.map_err(|error| failed("show", &error))?
        }
        PkiCommand::Revoke(args) => return revoke(args, context).await,
        PkiCommand::Revoked => {
            let revoked = context.service().await?.revoked_certificates().await?;
            return context.show(&RevokedList::new(revoked));
        }
    };
    context.show(&CertificateList::new(written))
}

fn failed(step: &str, error: &PkiError) -> CliError {
    let message = format!("pki {step}: {error}");
    match error {
        PkiError::Exists(_) => CliError::new(Exit::Refused, "FILE_EXISTS", message).advise(
            "lunar pki rotate issues it anew, lunar pki issue --force replaces it; an authority is \
             never replaced: give another --dir",
        ),
        PkiError::Io { .. } => CliError::new(Exit::Failed, "IO", message),
        PkiError::Files(_) => CliError::new(Exit::Failed, "PKI_FILES", message)
            .advise("lunar pki init makes an authority; --dir names its folder"),
        PkiError::Issue(_) => CliError::new(Exit::Failed, "NOT_ISSUED", message),
        PkiError::Certificate { .. } => CliError::new(Exit::Failed, "BAD_CERTIFICATE", message),
    }
}

/// The time of this host, in seconds since 1970-01-01 UTC.
fn now() -> i64 {
    unix_seconds().cast_signed()
}

fn init(args: &InitArgs) -> Result<CertificateView, PkiError> {
    let dir = PkiDir(&args.at.dir);
    let now = now();
    let until = now + i64::from(args.days) * DAY;
    let (_, issued) = Authority::new(args.cluster, now - CLOCK_ROOM, until)?;
    dir.create()?;
    dir.place(AUTHORITY, &issued, Existing::Keep)?;
    view(&dir.certificate(AUTHORITY))
}

fn issue(args: &IssueArgs) -> Result<CertificateView, PkiError> {
    let dir = PkiDir(&args.at.dir);
    let stem = args.name.as_str();
    if stem == AUTHORITY {
        return Err(PkiError::Exists(dir.certificate(AUTHORITY)));
    }
    let (authority, last) = dir.authority()?;
    let dns = args.dns.iter().cloned().map(HostName::Dns);
    let hosts = dns.chain(args.ip.iter().copied().map(HostName::Ip)).collect();
    let now = now();
    let not_after = last.min(now + i64::from(args.days) * DAY);
    let (role, name) = (args.role, args.name.clone());
    let order = Order { role, name, hosts, not_before: now - CLOCK_ROOM, not_after };
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    dir.place(stem, &authority.issue(&order)?, existing)?;
    view(&dir.certificate(stem))
}

fn rotate(args: &RotateArgs) -> Result<Vec<CertificateView>, PkiError> {
    let dir = PkiDir(&args.at.dir);
    let (authority, last) = dir.authority()?;
    let stems = match args.names.is_empty() {
        true => dir.stems()?,
        false => args.names.iter().map(ToString::to_string).collect(),
    };
    let mut written = Vec::new();
    for stem in stems {
        let path = dir.certificate(&stem);
        let old = read_certificates(&path)?.swap_remove(0);
        let bad = |source| PkiError::Certificate { path: path.clone(), source };
        let (facts, hosts) = (CertFacts::of(&old).map_err(bad)?, host_names(&old).map_err(bad)?);
        let now = now();
        if !args.now && facts.not_after - now >= i64::from(args.below) * DAY {
            continue;
        }
        let life = args.days.map(|days| i64::from(days) * DAY);
        let life = life.unwrap_or(facts.not_after - facts.not_before);
        let order = Order {
            role: facts.name.role,
            name: facts.name.name,
            hosts,
            not_before: now - CLOCK_ROOM,
            not_after: last.min(now + life),
        };
        dir.place(&stem, &authority.issue(&order)?, Existing::Replace)?;
        written.push(view(&path)?);
    }
    Ok(written)
}

/// What the certificate of a file says of its holder.
pub(super) fn facts(path: &Path) -> Result<CertFacts, PkiError> {
    let certificate = read_certificates(path)?.swap_remove(0);
    let bad = |source| PkiError::Certificate { path: path.to_owned(), source };
    CertFacts::of(&certificate).map_err(bad)
}

/// What a file says.
fn view(path: &Path) -> Result<CertificateView, PkiError> {
    let shown = path.display().to_string();
    let certificate = read_certificates(path)?.swap_remove(0);
    let bad = |source| PkiError::Certificate { path: path.to_owned(), source };
    match cluster_of(&certificate) {
        None => {
            let facts = CertFacts::of(&certificate).map_err(bad)?;
            Ok(CertificateView::of_holder(shown, &facts, now()))
        }
        Some(cluster) => {
            let life = lifetime(&certificate).map_err(bad)?;
            let serial = serial_of(&certificate).map_err(bad)?.to_string();
            let cluster = cluster.to_string();
            Ok(CertificateView::of_authority(shown, &cluster, &serial, life, now()))
        }
    }
}

async fn revoke(args: &RevokeArgs, context: &Context<'_>) -> Result<Exit, CliError> {
    let serial = match (&args.serial, &args.cert) {
        (Some(serial), _) => serial.clone(),
        (None, Some(path)) => {
            let certificate = read_certificates(path).map_err(PkiError::from);
            let certificate = certificate.map_err(|error| failed("revoke", &error))?;
            let bad = |source| PkiError::Certificate { path: path.clone(), source };
            serial_of(&certificate[0]).map_err(bad).map_err(|error| failed("revoke", &error))?
        }
        (None, None) => {
            let message = "pki revoke: give a serial number or --cert";
            return Err(CliError::new(Exit::Usage, "NO_SERIAL", message));
        }
    };
    let service = context.service().await?;
    let request = RevokeCertificate { serial, reason: args.reason.clone() };
    service.revoke_certificate(&request).await?;
    context.show(&RevokedList::new(service.revoked_certificates().await?))
}
