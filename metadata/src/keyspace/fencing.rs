//! The records of registrations, fences and the audit, and records of before there were any.

use lunar_proto::domain::{FenceLunState, FenceProof, PoolFencing, Watermarks};
use lunar_types::{Incarnation, Name, NodeIncarnation, counter_id};

use super::encoding::{DecodeError, Field, Record, invalid, take_bytes};
use super::records::{AttachmentRecord, NodeRecord, PoolRecord, records};

records! {
    /// The registration of a node at a LUN.
    RegistrationRecord = "registration" {
        /// Whose key it is.
        incarnation: Incarnation,
        /// Paths on which the key was seen; 0: it is only intended, and nothing was written yet.
        paths: u32,
    }

    /// The fence of an incarnation.
    FenceRecord = "fence" {
        /// Why it was begun, for people.
        reason: Text,
        /// When it was begun, in seconds since 1970-01-01 UTC, for people.
        begun_at: u64,
        /// Whether its end has come: the incarnation is proven unable to write where there are
        /// reservations.
        is_complete: bool,
        /// Whether an operator has certified that the machine is off.
        is_certified: bool,
    }

    /// A LUN from which an incarnation is cut off.
    FenceLunRecord = "LUN of a fence" {
        /// Whether it may have written there.
        was_confirmed: bool,
        /// How far it is.
        state: FenceLunState,
        /// The last attempt that was begun.
        attempts: u32,
    }

    /// Something that an operator has overridden.
    AuditRecord = "audit" {
        /// In seconds since 1970-01-01 UTC.
        at: u64,
        /// Whom the connection spoke for.
        actor: Text,
        /// A stable name.
        action: Name,
        /// What it was done to.
        object: Text,
        /// Why.
        reason: Text,
    }
}

counter_id!(
    /// The number of an entry of the audit.
    AuditNumber,
    u64
);

/// Text for people.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Text(String);

impl Text {
    /// The text, cut off behind what a record holds.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let end = text.floor_char_boundary(usize::from(u16::MAX).min(text.len()));
        Self(text[..end].to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Field for Text {
    /// Its length in 2 bytes, then the text.
    fn put(&self, out: &mut Vec<u8>) {
        u16::try_from(self.0.len()).expect("it was cut off").put(out);
        out.extend_from_slice(self.0.as_bytes());
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let length = usize::from(u16::take(input)?);
        let bytes = take_bytes(input, length, "text")?;
        let text = std::str::from_utf8(bytes).map_err(|error| invalid("text", error))?;
        Ok(Self(text.to_owned()))
    }
}

impl Field for PoolFencing {
    fn put(&self, out: &mut Vec<u8>) {
        let raw: u8 = match self {
            Self::Reservations => 1,
            Self::Lease => 2,
            Self::None => 3,
        };
        raw.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match u8::take(input)? {
            1 => Self::Reservations,
            2 => Self::Lease,
            3 => Self::None,
            other => return Err(invalid("fencing", other)),
        })
    }
}

impl Field for FenceProof {
    fn put(&self, out: &mut Vec<u8>) {
        let raw: u8 = match self {
            Self::Aborted => 1,
            Self::NeverRegistered => 2,
            Self::Waited => 3,
            Self::Certified => 4,
        };
        raw.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match u8::take(input)? {
            1 => Self::Aborted,
            2 => Self::NeverRegistered,
            3 => Self::Waited,
            4 => Self::Certified,
            other => return Err(invalid("proof of a fence", other)),
        })
    }
}

impl Field for FenceLunState {
    /// 1 open; 2 begun, then who, then which attempt; 3 done, then how it is known.
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open => 1_u8.put(out),
            Self::Begun { fencer, attempt } => {
                2_u8.put(out);
                fencer.put(out);
                attempt.put(out);
            }
            Self::Done(proof) => {
                3_u8.put(out);
                proof.put(out);
            }
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match u8::take(input)? {
            1 => Self::Open,
            2 => {
                Self::Begun { fencer: NodeIncarnation::take(input)?, attempt: Field::take(input)? }
            }
            3 => Self::Done(Field::take(input)?),
            other => return Err(invalid("state of a fence", other)),
        })
    }
}

/// A pool of version 1 has the watermarks that every pool begins with, one of version 2 none that
/// fences: there was nothing else.
pub(super) fn earlier_pool(
    version: u8,
    input: &mut &[u8],
) -> Option<Result<PoolRecord, DecodeError>> {
    (1..=2).contains(&version).then(|| {
        Ok(PoolRecord {
            name: Field::take(input)?,
            extent_size: Field::take(input)?,
            logical_block_size: Field::take(input)?,
            luns: Field::take(input)?,
            watermarks: if version == 1 { Watermarks::DEFAULT } else { Field::take(input)? },
            fencing: PoolFencing::None,
        })
    })
}

/// A node of version 1 was neither barred nor draining.
pub(super) fn earlier_node(
    version: u8,
    input: &mut &[u8],
) -> Option<Result<NodeRecord, DecodeError>> {
    (version == 1).then(|| {
        Ok(NodeRecord {
            name: Field::take(input)?,
            incarnation: Field::take(input)?,
            boot: Field::take(input)?,
            state: Field::take(input)?,
            session: Field::take(input)?,
            is_barred: false,
            is_draining: false,
        })
    })
}

/// Of an attachment of version 2 it is not known when it was granted.
pub(super) fn earlier_attachment(
    version: u8,
    input: &mut &[u8],
) -> Option<Result<AttachmentRecord, DecodeError>> {
    (version == 2).then(|| {
        Ok(AttachmentRecord {
            node: Field::take(input)?,
            epoch: Field::take(input)?,
            checkpoint: Field::take(input)?,
            last_commit: Field::take(input)?,
            last_request: Field::take(input)?,
            journal: Field::take(input)?,
            next_head: Field::take(input)?,
            granted_at: 0,
        })
    })
}

#[cfg(test)]
mod tests {
    use lunar_proto::domain::NodeState;
    use lunar_types::{
        BootId, CommitNumber, Epoch, ExtentSize, JournalSeq, LayerId, LogicalBlockSize, NodeId,
        RequestId, SessionNumber,
    };

    use super::*;

    fn name() -> Name {
        "p".parse().expect("a name")
    }

    fn pool(watermarks: Watermarks, fencing: PoolFencing) -> PoolRecord {
        PoolRecord {
            name: name(),
            extent_size: ExtentSize::DEFAULT,
            logical_block_size: LogicalBlockSize::B4096,
            luns: 3,
            watermarks,
            fencing,
        }
    }

    #[test]
    fn pools_of_earlier_versions_have_what_all_had_then() {
        let marks = Watermarks::new(10, 20, 30).expect("in order");
        let mut bytes = pool(marks, PoolFencing::Lease).encode();
        assert_eq!(PoolRecord::decode(&bytes), Ok(pool(marks, PoolFencing::Lease)));
        bytes.truncate(bytes.len() - 1);
        bytes[0] = 2;
        assert_eq!(PoolRecord::decode(&bytes), Ok(pool(marks, PoolFencing::None)));
        bytes.truncate(bytes.len() - 3);
        bytes[0] = 1;
        let first = pool(Watermarks::DEFAULT, PoolFencing::None);
        assert_eq!(PoolRecord::decode(&bytes), Ok(first));
        bytes.push(80);
        let trailing = DecodeError::Trailing { record: "pool", count: 1 };
        assert_eq!(PoolRecord::decode(&bytes), Err(trailing));
        bytes[0] = 4;
        let unknown = DecodeError::Version { record: "pool", found: 4, known: 3 };
        assert_eq!(PoolRecord::decode(&bytes), Err(unknown));
    }

    #[test]
    fn nodes_and_grants_of_earlier_versions_are_read() {
        let node = NodeRecord {
            name: name(),
            incarnation: Incarnation::new(4),
            boot: BootId::from_u128(9),
            state: NodeState::Active,
            session: SessionNumber::new(7),
            is_barred: false,
            is_draining: false,
        };
        let mut bytes = node.encode();
        bytes.truncate(bytes.len() - 2);
        bytes[0] = 1;
        assert_eq!(NodeRecord::decode(&bytes), Ok(node));
        let held = AttachmentRecord {
            node: NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(4) },
            epoch: Epoch::new(3),
            checkpoint: JournalSeq::new(2),
            last_commit: CommitNumber::new(1),
            last_request: RequestId::from_u128(8),
            journal: Vec::new(),
            next_head: LayerId::new(5),
            granted_at: 0,
        };
        let mut bytes = held.encode();
        bytes.truncate(bytes.len() - 8);
        bytes[0] = 2;
        assert_eq!(AttachmentRecord::decode(&bytes), Ok(held));
    }

    #[test]
    fn text_is_cut_off_at_a_character() {
        let text = "ä".repeat(40_000);
        let cut = Text::new(&text);
        assert_eq!(cut.as_str().len(), 65_534);
        let mut bytes = Vec::new();
        cut.put(&mut bytes);
        assert_eq!(Text::take(&mut bytes.as_slice()), Ok(cut));
    }
}
