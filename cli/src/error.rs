//! Errors of the command line: what failed, on which object, why, and what to do.
//!
//! - An error has one exit code; the codes are part of the help and never change their meaning.
//! - For people it is lines on the standard error; with `-o json` one object there.

use std::fmt;

use lunar_proto::error::{ErrorReport, Facts};
use serde::Serialize;
use tonic::{Code, Status};

use crate::args::OutputFormat;

/// The exit codes of `lunar`, as its help lists them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It was done.
    Ok = 0,
    /// It failed, or a check has found something.
    Failed = 1,
    /// The arguments cannot be what they say.
    Usage = 2,
    /// There is no such object.
    NotFound = 3,
    /// The state of an object forbids it.
    Refused = 4,
    /// A service cannot be reached or did not answer in time.
    Unavailable = 5,
    /// The person who waited has had enough; what was asked for may still be done.
    Interrupted = 130,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    fn of_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument | Code::OutOfRange => Self::Usage,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted
            | Code::Aborted => Self::Refused,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unavailable,
            _ => Self::Failed,
        }
    }
}

/// Why a command failed.
#[derive(Clone, PartialEq, Debug)]
pub struct CliError {
    /// How the program ends.
    pub exit: Exit,
    /// Stable word for programs, such as `VOLUME_NOT_FOUND`.
    pub reason: String,
    /// What failed, on which object, and why.
    pub message: String,
    /// What to do, where the message does not say it.
    pub advice: String,
    /// The objects and numbers of the message, for programs.
    pub facts: Facts,
}

impl CliError {
    /// An error without facts or advice.
    #[must_use]
    pub fn new(exit: Exit, reason: &str, message: impl fmt::Display) -> Self {
        Self {
            exit,
            reason: reason.to_owned(),
            message: message.to_string(),
            advice: String::new(),
            facts: Facts::new(),
        }
    }

    /// The same error with what to do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl fmt::Display) -> Self {
        self.advice = advice.to_string();
        self
    }

    /// The answer of a service to `step`, such as "list the volumes".
    #[must_use]
    pub fn of_status(step: &str, status: &Status) -> Self {
        if let Some(report) = ErrorReport::from_status(status) {
            return Self::of_report(report);
        }
        let exit = Exit::of_code(status.code());
        let why = match status.message() {
            "" => status.code().description(),
            message => message,
        };
        Self::new(exit, code_word(status.code()), format!("{step}: {why}"))
    }

    /// An error that a service of Lunar explains itself.
    #[must_use]
    pub fn of_report(report: ErrorReport) -> Self {
        let exit = Exit::of_code(report.reason.code());
        let facts = report.facts;
        Self { facts, ..Self::new(exit, report.reason.as_str(), report.message) }
    }

    /// The text for the standard error.
    #[must_use]
    pub fn render(&self, format: OutputFormat) -> String {
        match format {
            OutputFormat::Table => self.to_string(),
            OutputFormat::Json => self.to_json(),
        }
    }

    fn to_json(&self) -> String {
        let object = ErrorObject {
            error: ErrorBody {
                reason: &self.reason,
                message: &self.message,
                advice: &self.advice,
                facts: &self.facts,
                exit_code: self.exit as u8,
            },
        };
        serde_json::to_string_pretty(&object).expect("texts and numbers are always JSON")
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match self.advice.as_str() {
            "" => Ok(()),
            advice => write!(f, "\nhelp: {advice}"),
        }
    }
}

impl std::error::Error for CliError {}

#[derive(Serialize)]
struct ErrorObject<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    reason: &'a str,
    message: &'a str,
    advice: &'a str,
    facts: &'a Facts,
    exit_code: u8,
}

/// The name of a gRPC code as its specification spells it.
fn code_word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use lunar_proto::error::ErrorReason;

    use super::*;

    fn of_reason(reason: ErrorReason) -> CliError {
        let facts = Facts::from([("volume".to_owned(), "a".to_owned())]);
        let message = "attach volume 'a': node 'n2' holds it".to_owned();
        CliError::of_status("attach", &ErrorReport { reason, message, facts }.to_status())
    }

    #[test]
    fn every_reason_has_the_exit_code_of_its_kind() {
        for (reason, exit) in [
            (ErrorReason::InvalidField, Exit::Usage),
            (ErrorReason::VolumeNotFound, Exit::NotFound),
            (ErrorReason::PoolExists, Exit::Refused),
            (ErrorReason::VolumeAttached, Exit::Refused),
            (ErrorReason::PoolFull, Exit::Refused),
            (ErrorReason::StoreBusy, Exit::Unavailable),
            (ErrorReason::StoreCorrupt, Exit::Failed),
            (ErrorReason::NotPermitted, Exit::Refused),
        ] {
            assert_eq!(of_reason(reason).exit, exit, "{reason}");
        }
    }

    #[test]
    fn error_for_people_says_what_failed_and_what_to_do() {
        let error = of_reason(ErrorReason::VolumeAttached).advise("detach it there");
        assert_eq!(
            error.render(OutputFormat::Table),
            "error: attach volume 'a': node 'n2' holds it\nhelp: detach it there"
        );
    }

    #[test]
    fn error_for_programs_has_reason_facts_and_exit_code() {
        let text = of_reason(ErrorReason::VolumeAttached).render(OutputFormat::Json);
        let expected = r#"{
  "error": {
    "reason": "VOLUME_ATTACHED",
    "message": "attach volume 'a': node 'n2' holds it",
    "advice": "",
    "facts": {
      "volume": "a"
    },
    "exit_code": 4
  }
}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn foreign_status_is_told_with_the_step() {
        let error = CliError::of_status("list the pools", &Status::unimplemented("no such call"));
        assert_eq!(error.message, "list the pools: no such call");
        assert_eq!((error.exit, error.reason.as_str()), (Exit::Failed, "UNIMPLEMENTED"));
        let silent = CliError::of_status("list the pools", &Status::new(Code::Internal, ""));
        assert_eq!(silent.message, "list the pools: Internal error");
    }
}
