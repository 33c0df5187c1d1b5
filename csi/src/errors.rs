//! Errors of the driver: a code of CSI and a text that names what, which, why and what to do.
//!
//! Sidecars and kubelet forget a call that has ended with a *final* code, so:
//! - what is not known to have changed nothing (no answer, too late, a busy store, a daemon that is
//!   away) is UNAVAILABLE;
//! - what goes on, or has to wait for something that goes on, is ABORTED;
//! - every other code says that nothing has changed.

use lunar_metadata_client::{ClientError, ErrorReport};
use lunar_proto::error::reason_text;
use tonic::{Code, Status};

/// Why a call was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CsiError {
    /// The code of CSI.
    pub code: Code,
    /// For people.
    pub message: String,
}

/// Reasons of the metadata service and of fs-core whose code in CSI is not the one that they have
/// there.
const OTHER_CODES: [(&str, Code); 15] = [
    // They pass by themselves.
    ("VOLUME_BUSY", Code::Aborted),
    ("VOLUME_NOT_READY", Code::Aborted),
    ("SNAPSHOT_NOT_READY", Code::Aborted),
    ("SET_DECIDED", Code::Aborted),
    // It was decided so long ago that it is forgotten: what came of it is found by name.
    ("SET_NOT_FOUND", Code::Aborted),
    ("NODE_FENCING", Code::Aborted),
    ("NODE_NOT_ACTIVE", Code::Aborted),
    ("LUN_NOT_REGISTERED", Code::Aborted),
    ("STALE_SESSION", Code::Aborted),
    // A size is beyond what can be.
    ("VOLUME_TOO_LARGE", Code::OutOfRange),
    // Something is still under way.
    ("NOT_MOVED", Code::Aborted),
    ("CHANGE_HANGS", Code::Aborted),
    ("IO_HANGS", Code::Aborted),
    ("NOT_RECOVERED", Code::Aborted),
    ("HALF_DETACHED", Code::Aborted),
];

fn code_of(reason: &str, theirs: Code) -> Code {
    let other = OTHER_CODES.iter().find(|(text, _)| *text == reason);
    match (other, theirs) {
        (Some((_, code)), _) => *code,
        // Nobody knows what such a call has changed.
        (None, Code::Unknown | Code::Cancelled | Code::DeadlineExceeded) => Code::Unavailable,
        (None, code) => code,
    }
}

macro_rules! makers {
    ($($(#[doc = $doc:literal])+ $name:ident => $code:ident,)+) => {
        impl CsiError {
            $($(#[doc = $doc])+
            #[must_use]
            pub fn $name(message: impl std::fmt::Display) -> Self {
                Self { code: Code::$code, message: message.to_string() }
            })+
        }
    };
}

makers! {
    /// A field of the call is missing or cannot be what it says.
    invalid => InvalidArgument,
    /// What the call names is not there.
    not_found => NotFound,
    /// It is there, and is another one than was asked for.
    exists => AlreadyExists,
    /// The state of an object forbids it until somebody changes that.
    precondition => FailedPrecondition,
    /// Something is under way: the same call later.
    aborted => Aborted,
    /// Nobody knows what the call has changed: the same call later.
    unavailable => Unavailable,
    /// It has failed, and nothing has changed.
    internal => Internal,
    /// Data is lost or damaged.
    data_loss => DataLoss,
    /// A size or number is beyond what can be.
    out_of_range => OutOfRange,
    /// There is no room for it.
    exhausted => ResourceExhausted,
    /// The driver does not do this.
    unsupported => Unimplemented,
}

impl CsiError {
    /// Of a call to fs-core that was to do `what`.
    #[must_use]
    pub fn of_daemon(what: &str, status: &Status) -> Self {
        let Some(reason) = reason_text(status) else {
            let message = format!("cannot {what}: fs-core does not answer: {}", status.message());
            return Self::unavailable(message);
        };
        let message = format!("cannot {what}: {}", status.message());
        Self { code: code_of(&reason, status.code()), message }
    }

    fn of_report(message: String, report: &ErrorReport) -> Self {
        Self { code: code_of(report.reason.as_str(), report.reason.code()), message }
    }
}

impl From<ClientError> for CsiError {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error.report() {
            Some(report) => Self::of_report(message, report),
            None => Self::unavailable(message),
        }
    }
}

impl From<CsiError> for Status {
    fn from(error: CsiError) -> Self {
        Self::new(error.code, error.message)
    }
}

#[cfg(test)]
mod tests {
    use lunar_metadata_client::ErrorReason;
    use lunar_proto::error::Facts;

    use super::*;

    fn code(reason: ErrorReason) -> Code {
        let report = ErrorReport { reason, message: "why".to_owned(), facts: Facts::new() };
        CsiError::from(ClientError::Refused { what: "do it", report }).code
    }

    #[test]
    fn no_reason_gives_a_code_that_says_nothing_of_what_has_changed() {
        let vague = [Code::Ok, Code::Unknown, Code::Cancelled, Code::DeadlineExceeded];
        for reason in ErrorReason::ALL {
            assert!(!vague.contains(&code(*reason)), "{reason:?}");
        }
    }

    #[test]
    fn what_passes_by_itself_is_aborted_and_what_is_unknown_is_unavailable() {
        for (reason, expected) in [
            (ErrorReason::VolumeBusy, Code::Aborted),
            (ErrorReason::NodeFencing, Code::Aborted),
            (ErrorReason::SetNotFound, Code::Aborted),
            (ErrorReason::VolumeRecalled, Code::Aborted),
            (ErrorReason::StoreBusy, Code::Unavailable),
            (ErrorReason::NotPublished, Code::FailedPrecondition),
            (ErrorReason::VolumeNotFound, Code::NotFound),
            (ErrorReason::PoolFull, Code::ResourceExhausted),
            (ErrorReason::VolumeTooLarge, Code::OutOfRange),
        ] {
            assert_eq!(code(reason), expected, "{reason:?}");
        }
        let endpoints = "a:1".to_owned();
        let problem = "refused".to_owned();
        let away = ClientError::Unreachable { what: "do it", endpoints, problem };
        assert_eq!(CsiError::from(away).code, Code::Unavailable);
    }

    #[test]
    fn the_table_names_no_reason_twice() {
        let names: std::collections::BTreeSet<_> =
            OTHER_CODES.iter().map(|(reason, _)| reason).collect();
        assert_eq!(names.len(), OTHER_CODES.len());
    }

    #[test]
    fn a_daemon_that_is_away_is_unavailable_and_one_that_refuses_is_not() {
        let away = CsiError::of_daemon("attach", &Status::unknown("transport error"));
        assert_eq!(away.code, Code::Unavailable);
        let report = ErrorReport {
            reason: ErrorReason::NotPublished,
            message: "volume 'v' is published to no node".to_owned(),
            facts: Facts::new(),
        };
        let refused = CsiError::of_daemon("attach", &report.to_status());
        assert_eq!(refused.code, Code::FailedPrecondition);
        assert!(refused.message.contains("published to no node"), "{refused}");
    }
}
