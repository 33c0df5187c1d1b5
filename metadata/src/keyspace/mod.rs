//! The layout of the store: which keys there are, what their values say, byte by byte.
//!
//! `docs/format/keyspace.md` is the specification, a fixture test holds the two together.
//!
//! Invariants:
//! - keys are FoundationDB tuples whose first element is the number of their table;
//! - values begin with the version of their record; a version that is not known is an error, and
//!   so are bytes too few or too many;
//! - one value has one encoding: what is decoded encodes to the same bytes again.

mod bitmap;
mod contents;
mod digest;
mod earlier;
mod encoding;
mod fencing;
mod kept;
mod keys;
mod outcome;
mod parts;
mod peers;
mod publications;
mod records;
mod revoked;
mod set_records;
mod slot_value;
mod typed;
mod watermarks;

pub use bitmap::{Bitmap, GROUP_EXTENTS, GroupIndex, QuarantineStamp, runs_of};
pub use contents::Content;
pub use digest::SlotDigest;
pub(crate) use digest::hash_bytes;
pub use encoding::{DecodeError, Record};
pub use fencing::*;
pub use kept::Kept;
pub use keys::*;
pub use outcome::Outcome;
pub use parts::{Counter, Generation};
pub use peers::{MigrationRecord, PeerRecord};
pub use publications::PublicationRecord;
pub use records::*;
pub use revoked::{RevocationReason, RevokedRecord};
pub use set_records::*;
pub use slot_value::SlotValue;
pub use typed::{Entry, KeyedTxn, Scanned, TypedRange};

/// The version of the layout that this program writes.
pub const KEYSPACE_VERSION: u32 = 3;
