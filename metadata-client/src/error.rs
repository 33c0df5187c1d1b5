//! Why a call has no answer, or a refusal for an answer.

use std::time::Duration;

use lunar_proto::error::{ErrorReason, ErrorReport, FieldError};
use tonic::Code;

/// What to match on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The service has answered: no, and why.
    Refused(ErrorReason),
    /// No endpoint could be reached.
    Unreachable,
    /// The service was reached and did not answer in time.
    TimedOut,
    /// The answer cannot be understood.
    Malformed,
    /// The service failed in a way that has no reason.
    Failed,
}

/// Why a call did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The service refused it.
    #[error("cannot {what}: {}", report.message)]
    Refused {
        /// What was to be done.
        what: &'static str,
        /// Why not.
        report: ErrorReport,
    },
    /// No endpoint could be reached.
    #[error(
        "cannot {what}: no metadata service at {endpoints} ({problem}); start it, or name another \
         endpoint"
    )]
    Unreachable {
        /// What was to be done.
        what: &'static str,
        /// Where it was tried.
        endpoints: String,
        /// What the last attempt met.
        problem: String,
    },
    /// It did not answer.
    #[error(
        "cannot {what}: the metadata service at {endpoints} has not answered for {} ms",
        waited.as_millis()
    )]
    TimedOut {
        /// What was to be done.
        what: &'static str,
        /// Where it was tried.
        endpoints: String,
        /// How long the call took in all.
        waited: Duration,
    },
    /// The answer cannot be understood.
    #[error("cannot {what}: the answer of the metadata service is malformed")]
    Malformed {
        /// What was to be done.
        what: &'static str,
        /// Which field.
        #[source]
        source: FieldError,
    },
    /// The service failed.
    #[error("cannot {what}: the metadata service failed ({code:?}): {message}")]
    Failed {
        /// What was to be done.
        what: &'static str,
        /// The gRPC code.
        code: Code,
        /// What it says.
        message: String,
    },
}

impl ClientError {
    /// What to match on.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { report, .. } => ErrorKind::Refused(report.reason),
            Self::Unreachable { .. } => ErrorKind::Unreachable,
            Self::TimedOut { .. } => ErrorKind::TimedOut,
            Self::Malformed { .. } => ErrorKind::Malformed,
            Self::Failed { .. } => ErrorKind::Failed,
        }
    }

    /// The refusal with its facts, if the service has answered.
    #[must_use]
    pub const fn report(&self) -> Option<&ErrorReport> {
        match self {
            Self::Refused { report, .. } => Some(report),
            _ => None,
        }
    }

    /// Whether the same request may succeed later without anybody changing anything: the service
    /// is away or busy.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Unreachable
                | ErrorKind::TimedOut
                | ErrorKind::Refused(ErrorReason::StoreBusy | ErrorReason::StoreFailed)
        )
    }
}
