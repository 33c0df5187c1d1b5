//! The records of volumes that two nodes have for a live migration.

use lunar_types::{ExtentRun, Incarnation, SessionNumber};

use super::encoding::{DecodeError, Field, Record};
use super::records::records;

records! {
    /// A node that has a device of a volume together with another one.
    PeerRecord = "peer" {
        /// Its incarnation.
        incarnation: Incarnation,
        /// Since when, in seconds since 1970-01-01 UTC, for people.
        since: u64,
        /// Its place among those who want the volume, the lowest first; 0: it does not.
        wish: u64,
        /// The process that wants it: with it the wish is over.
        session: SessionNumber,
        /// A person moves it.
        is_urgent: bool,
    }

    /// A volume that has peers.
    MigrationRecord = "migration" {
        /// How often the volume has changed hands.
        moves: u64,
        /// Where the journal of the next owner will be; empty while there is an owner.
        spare_journal: Vec<ExtentRun>,
    }
}
