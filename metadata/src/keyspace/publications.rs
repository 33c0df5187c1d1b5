//! The records of publications.

use lunar_proto::domain::PublicationMode;
use lunar_types::PublicationId;

use super::encoding::{DecodeError, Field, Record, invalid};
use super::records::records;

records! {
    /// The leave for a node to attach a volume.
    PublicationRecord = "publication" {
        /// The node attaches with it.
        id: PublicationId,
        /// Whether another node may have the volume too.
        mode: PublicationMode,
        /// Nothing is to be written under it.
        reads_only: bool,
        /// It grants nothing any more.
        recalled: bool,
        /// Since when, in seconds since 1970-01-01 UTC, for people.
        since: u64,
    }
}

impl Field for PublicationMode {
    fn put(&self, out: &mut Vec<u8>) {
        let raw: u8 = match self {
            Self::Single => 1,
            Self::Migratable => 2,
        };
        raw.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match u8::take(input)? {
            1 => Self::Single,
            2 => Self::Migratable,
            other => return Err(invalid("publication mode", other)),
        })
    }
}
