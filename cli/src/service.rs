//! The way to the metadata service, and its errors as a person reads them.

use std::sync::Arc;
use std::time::Duration;

use lunar_metadata_client::{ClientError, ClientTls, MetadataClient, Policy, TlsError, TlsFiles};
use tonic::Status;

use crate::args::GlobalArgs;
use crate::error::{CliError, Exit};

/// How long a service may take to show that it is there at all. Somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The files of TLS of these options; none, where none is given.
///
/// # Errors
/// Some are given and others are not.
pub fn tls_files(global: &GlobalArgs) -> Result<Option<TlsFiles>, CliError> {
    let (ca, cert, key) = (global.tls_ca.clone(), global.tls_cert.clone(), global.tls_key.clone());
    TlsFiles::all_or_none(ca, cert, key)
        .map_err(|part| CliError::new(Exit::Usage, "PART_OF_TLS", part))
}

fn tls_failed(error: &TlsError) -> CliError {
    let message = match std::error::Error::source(error) {
        Some(source) => format!("TLS: {error}: {source}"),
        None => format!("TLS: {error}"),
    };
    CliError::new(Exit::Usage, "TLS_FILES", message)
        .advise("lunar pki issue makes a certificate, lunar pki show says what is in it")
}

/// A client of the service, which has answered.
///
/// # Errors
/// When it does not answer soon, with what to do.
pub async fn connect(global: &GlobalArgs) -> Result<MetadataClient, CliError> {
    let quick = Policy::once(PATIENCE);
    let tls = tls_files(global)?.map(ClientTls::load).transpose();
    let tls = tls.map_err(|error| tls_failed(&error))?.map(Arc::new);
    let client = MetadataClient::over(&[&global.metadata], quick, tls.as_ref())
        .map_err(|error| CliError::new(Exit::Usage, "ENDPOINT", error))?;
    client.cluster().await?;
    Ok(client.with_policy(Policy::default()))
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Refused { report, .. } => Self { message, ..Self::of_report(report) },
            ClientError::Unreachable { endpoints, problem, .. } => {
                let message =
                    format!("the metadata service cannot be reached at {endpoints}: {problem}");
                Self::new(Exit::Unavailable, "METADATA_UNREACHABLE", message).advise(
                    "see that it runs, or name its endpoint with --metadata or LUNAR_METADATA",
                )
            }
            ClientError::TimedOut { .. } => {
                Self::new(Exit::Unavailable, "METADATA_SILENT", message).advise(
                    "see what the metadata service logs, and whether its disk is overloaded",
                )
            }
            ClientError::Malformed { source, .. } => {
                Self::new(Exit::Failed, "MALFORMED_ANSWER", format!("{message}: {source}"))
                    .advise("see that lunar and the metadata service are of the same version")
            }
            ClientError::Failed { what, code, message } => {
                Self::of_status(&format!("cannot {what}"), &Status::new(code, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lunar_metadata_client::{ErrorReason, ErrorReport};
    use lunar_proto::error::{Facts, FieldError};
    use tonic::Code;

    use super::*;

    const WHAT: &str = "look up the volume";

    #[test]
    fn a_refusal_keeps_reason_facts_and_words_of_the_service() {
        let facts = Facts::from([("volume".to_owned(), "v".to_owned())]);
        let message = "volume 'v' does not exist".to_owned();
        let report = ErrorReport { reason: ErrorReason::VolumeNotFound, message, facts };
        let error = CliError::from(ClientError::Refused { what: WHAT, report });
        assert_eq!(error.message, "cannot look up the volume: volume 'v' does not exist");
        assert_eq!((error.exit, error.facts["volume"].as_str()), (Exit::NotFound, "v"));
        assert_eq!(error.reason, "VOLUME_NOT_FOUND");
    }

    #[test]
    fn a_service_that_is_away_or_silent_is_unavailable() {
        let (endpoints, problem) = ("a:1".to_owned(), "refused".to_owned());
        let away = ClientError::Unreachable { what: WHAT, endpoints, problem };
        let waited = Duration::from_secs(3);
        let silent = ClientError::TimedOut { what: WHAT, endpoints: "a:1".to_owned(), waited };
        for error in [CliError::from(away), CliError::from(silent)] {
            assert_eq!(error.exit, Exit::Unavailable, "{error}");
            assert!(error.message.contains("a:1") && !error.advice.is_empty(), "{error}");
        }
    }

    #[test]
    fn malformed_and_unexplained_answers_are_failures() {
        let source = FieldError::missing("volume");
        let malformed = CliError::from(ClientError::Malformed { what: WHAT, source });
        assert!(malformed.message.contains("field 'volume': is missing"), "{malformed}");
        let (code, message) = (Code::Internal, "panicked".to_owned());
        let failed = CliError::from(ClientError::Failed { what: WHAT, code, message });
        assert_eq!(failed.message, "cannot look up the volume: panicked");
        assert_eq!((malformed.exit, failed.exit), (Exit::Failed, Exit::Failed));
    }
}
