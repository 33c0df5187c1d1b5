//! Identities: who and what a message, a record or a key speaks of.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::counter_id;

/// A text that should have been a UUID is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is not a {what} id: expected a UUID such as 6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10"
)]
pub struct IdParseError {
    what: &'static str,
    text: String,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// The id with these 128 bits; randomness is the caller's: a simulation repeats.
            #[must_use]
            pub const fn from_u128(bits: u128) -> Self {
                Self(bits)
            }

            /// The 128 bits of the id.
            #[must_use]
            pub const fn as_u128(self) -> u128 {
                self.0
            }

            /// The id as the 16 bytes of a UUID, most significant first.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The id in these 16 bytes of a UUID, most significant first.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Uuid::from_u128(self.0).hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;

            fn from_str(text: &str) -> Result<Self, IdParseError> {
                Uuid::parse_str(text)
                    .map(|uuid| Self(uuid.as_u128()))
                    .map_err(|_| IdParseError { what: $what, text: text.to_owned() })
            }
        }
    };
}

uuid_id!(
    /// One installation of Lunar: labels of another cluster are foreign.
    ClusterId,
    "cluster"
);
uuid_id!(
    /// A shared block device that carries our label.
    LunId,
    "LUN"
);
uuid_id!(
    /// LUNs with one extent size.
    PoolId,
    "pool"
);
uuid_id!(
    /// A block volume; it names a writable head layer.
    VolumeId,
    "volume"
);
uuid_id!(
    /// A snapshot; it names a sealed layer.
    SnapshotId,
    "snapshot"
);
uuid_id!(
    /// Snapshots that were cut by one transaction.
    SnapshotSetId,
    "snapshot set"
);
uuid_id!(
    /// The leave for one node to attach a volume, never used again once it was taken back.
    PublicationId,
    "publication"
);
uuid_id!(
    /// One attempt to make a file system on a volume.
    FormatToken,
    "format token"
);
uuid_id!(
    /// Snapshots that were cut at one moment and are kept as one thing.
    SnapshotGroupId,
    "snapshot group"
);
uuid_id!(
    /// One boot of a host, as the kernel names it in `/proc/sys/kernel/random/boot_id`.
    BootId,
    "boot"
);
uuid_id!(
    /// One request of a caller: sent again, it is answered again and done once.
    RequestId,
    "request"
);

counter_id!(
    /// A layer of extent maps; unique in the cluster, never used twice. 0 is no layer.
    LayerId,
    u64
);
counter_id!(
    /// A node of the cluster; 16 bits, because it is part of the reservation key. 0 is no node.
    NodeId,
    u16
);
counter_id!(
    /// Rises at every join of a node. 0 is never a live incarnation.
    Incarnation,
    u32
);
counter_id!(
    /// Rises at every start of a process that speaks for a node, never falls, and outlives
    /// incarnations. 0 is a node that never joined.
    SessionNumber,
    u64
);
counter_id!(
    /// Counts the map commits under one grant. 0 is before the first.
    CommitNumber,
    u64
);
counter_id!(
    /// Rises at every grant of a volume to a node. 0 is a volume that was never granted.
    Epoch,
    u64
);
counter_id!(
    /// Rises when the chain of layers below the head of a volume has become another, or its size:
    /// the holder has to look at its attachment again. A seal by the holder is no such change.
    StructureNumber,
    u64
);
counter_id!(
    /// Position in the journal of one epoch. 0 is before the first.
    JournalSeq,
    u64
);

impl Incarnation {
    /// The incarnation after this one.
    ///
    /// # Panics
    /// When 2^32 joins are used up; a wrapped incarnation would revive a fenced one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("a node joins fewer than 2^32 times"))
    }
}

impl Epoch {
    /// The epoch after this one.
    ///
    /// # Panics
    /// When 2^64 grants are used up.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("a volume is granted fewer than 2^64 times"))
    }
}

impl SessionNumber {
    /// The session after this one.
    ///
    /// # Panics
    /// When 2^64 sessions are used up.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("a node starts fewer than 2^64 times"))
    }
}

impl CommitNumber {
    /// The number of the next commit.
    ///
    /// # Panics
    /// When 2^64 commits are used up.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("a grant sees fewer than 2^64 commits"))
    }
}

impl StructureNumber {
    /// The number after this one.
    ///
    /// # Panics
    /// When 2^64 changes are used up.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("a volume changes fewer than 2^64 times"))
    }
}

/// One life of a node: what fencing acts upon and what reservations belong to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeIncarnation {
    /// The node.
    pub node: NodeId,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

impl fmt::Display for NodeIncarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.incarnation)
    }
}

/// One process that speaks for an incarnation: calls of an earlier one are refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeSession {
    /// The incarnation.
    pub node: NodeIncarnation,
    /// Which of the node's processes.
    pub number: SessionNumber,
}

impl fmt::Display for NodeSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in session {}", self.node, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_ids_survive_text_and_bytes() {
        let id = VolumeId::from_u128(0x6fa1_c2d4_0b7e_4a52_9f57_3d1f_0c6c_2a10);
        assert_eq!(id.to_string(), "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(VolumeId::from_bytes(id.to_bytes()), id);
    }

    #[test]
    fn malformed_id_is_refused_with_its_text() {
        let error = "shelf-7".parse::<LunId>().expect_err("not a UUID");
        assert!(error.to_string().starts_with("'shelf-7' is not a LUN id"));
    }
}
