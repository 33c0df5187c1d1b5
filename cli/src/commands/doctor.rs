//! `lunar doctor`.

use lunar_metadata_client::unix_seconds;

use super::Context;
use crate::doctor::checks::{self, DaemonFacts};
use crate::doctor::{Diagnosis, Verdict, host};
use crate::error::{CliError, Exit};
use crate::service;

pub(super) async fn run(context: &Context<'_>) -> Result<Exit, CliError> {
    let mut checks = checks::of_host(&host::gather());
    if let Ok(Some(files)) = service::tls_files(context.global) {
        let own = super::pki::facts(&files.cert).map_err(|error| error.to_string());
        checks.push(checks::of_certificate(&files.cert, &own, unix_seconds().cast_signed()));
    }
    let service = context.service().await;
    let cluster = match &service {
        Ok(service) => service.cluster().await.map_err(CliError::from),
        Err(error) => Err(error.clone()),
    };
    checks.push(checks::of_metadata(&context.global.metadata, &cluster));
    if let (Ok(service), Ok(_)) = (&service, &cluster) {
        let pools = super::pool::every_status(service).await;
        checks.extend(checks::of_pools(&pools));
        checks.extend(checks::of_fencing(&pools));
    }
    checks.extend(checks::of_daemon(&ask_daemon(context).await));
    let diagnosis = Diagnosis::new(checks);
    context.show(&diagnosis)?;
    Ok(match diagnosis.verdict {
        Verdict::Ok | Verdict::Warn => Exit::Ok,
        Verdict::Fail => Exit::Failed,
    })
}

async fn ask_daemon(context: &Context<'_>) -> Result<DaemonFacts, CliError> {
    let daemon = context.daemon().await?;
    let (status, probe) = (daemon.status().await?, daemon.probe().await?);
    Ok(DaemonFacts { status, probe, luns: daemon.list_luns(false).await? })
}
