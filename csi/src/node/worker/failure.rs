//! Why a worker has not done what it was told, as it tells the driver.

use serde::{Deserialize, Serialize};

use crate::errors::CsiError;

/// What sort of failure it is: each is one code of CSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// What was asked for cannot be.
    Invalid,
    /// What it was asked of is not there.
    NotFound,
    /// It is there in another way.
    Exists,
    /// Somebody has to change something first.
    Precondition,
    /// Somebody is still at work there.
    Busy,
    /// It is not there yet.
    Unavailable,
    /// It has failed and changed nothing.
    Internal,
    /// The file system or its device is damaged.
    DataLoss,
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What sort.
    pub kind: Kind,
    /// For people.
    pub message: String,
}

impl Failure {
    /// A failure of this sort.
    #[must_use]
    pub fn new(kind: Kind, message: impl std::fmt::Display) -> Self {
        Self { kind, message: message.to_string() }
    }

    /// What has failed and changed nothing.
    #[must_use]
    pub fn internal(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self::new(Kind::Internal, format!("cannot {what}: {why}"))
    }
}

impl From<Failure> for CsiError {
    fn from(Failure { kind, message }: Failure) -> Self {
        match kind {
            Kind::Invalid => Self::invalid(message),
            Kind::NotFound => Self::not_found(message),
            Kind::Exists => Self::exists(message),
            Kind::Precondition => Self::precondition(message),
            Kind::Busy => Self::aborted(message),
            Kind::Unavailable => Self::unavailable(message),
            Kind::Internal => Self::internal(message),
            Kind::DataLoss => Self::data_loss(message),
        }
    }
}
