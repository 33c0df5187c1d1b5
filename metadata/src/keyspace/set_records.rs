//! The records of snapshot sets and their members.

use lunar_proto::domain::{CutAs, Fsfreeze, MemberState, SetAbort, SetState};
use lunar_types::{
    CommitNumber, Epoch, Incarnation, JournalSeq, LayerId, NodeId, NodeIncarnation, SessionNumber,
    SnapshotId, VolumeId,
};

use super::encoding::{DecodeError, Field, Record, invalid};
use super::parts::Generation;
use super::records::records;

records! {
    /// A set of snapshots that are cut at one moment.
    SnapshotSetRecord = "set" {
        /// Which requests it is forgotten with, once it is decided.
        generation: Generation,
        /// Where it is.
        state: SetState,
        /// Why it was aborted, if it was.
        abort: Option<SetAbort>,
        /// Whether holders freeze file systems meanwhile.
        fsfreeze: Fsfreeze,
        /// In the order of the request.
        members: Vec<SetEntry>,
    }

    /// How far a member of an open set is.
    SetMemberRecord = "set member" {
        /// Where it is.
        state: MemberState,
        /// Who holds it; nobody holds a detached one, and then everything below is 0.
        holder: Option<NodeIncarnation>,
        /// The process that is ready or has voted; 0 before.
        session: SessionNumber,
        /// Under which epoch it is held.
        epoch: Epoch,
        /// Of the vote: the last commit. 0 before.
        last_commit: CommitNumber,
        /// Of the vote: the last sequence number of the journal. 0 before.
        checkpoint: JournalSeq,
        /// Of the vote: the next head. 0 before.
        next_head: LayerId,
    }
}

/// A member as its set lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetEntry {
    /// The volume.
    pub volume: VolumeId,
    /// What it is cut for.
    pub cut: CutAs,
}

impl SetEntry {
    /// The snapshot that it becomes, if it becomes one.
    #[must_use]
    pub const fn snapshot(&self) -> Option<SnapshotId> {
        match self.cut {
            CutAs::Snapshot(snapshot) => Some(snapshot),
            CutAs::Clone { .. } => None,
        }
    }
}

impl Field for SetEntry {
    /// Volume, snapshot or 0, clone or 0, name of the clone or none.
    fn put(&self, out: &mut Vec<u8>) {
        self.volume.put(out);
        let (snapshot, clone, name) = match &self.cut {
            CutAs::Snapshot(snapshot) => (Some(*snapshot), None, None),
            CutAs::Clone { volume, name } => (None, Some(*volume), Some(name.clone())),
        };
        snapshot.put(out);
        clone.put(out);
        name.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let volume = VolumeId::take(input)?;
        let snapshot: Option<SnapshotId> = Field::take(input)?;
        let clone: Option<VolumeId> = Field::take(input)?;
        let cut = match (snapshot, clone, Field::take(input)?) {
            (Some(snapshot), None, None) => CutAs::Snapshot(snapshot),
            (None, Some(volume), Some(name)) => CutAs::Clone { volume, name },
            _ => return Err(invalid("what a member is cut for", volume)),
        };
        Ok(Self { volume, cut })
    }
}

impl Field for Vec<SetEntry> {
    /// Their number in 2 bytes, then each.
    fn put(&self, out: &mut Vec<u8>) {
        u16::try_from(self.len()).expect("a set has at most 32 members").put(out);
        self.iter().for_each(|entry| entry.put(out));
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let count = u16::take(input)?;
        (0..count).map(|_| SetEntry::take(input)).collect()
    }
}

impl Field for Option<SetAbort> {
    /// The reason or no name, then the volume or 0.
    fn put(&self, out: &mut Vec<u8>) {
        self.as_ref().map(|abort| abort.reason.clone()).put(out);
        self.as_ref().and_then(|abort| abort.volume).put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let (reason, volume) = (Field::take(input)?, Field::take(input)?);
        match (reason, volume) {
            (Some(reason), volume) => Ok(Some(SetAbort { reason, volume })),
            (None, None) => Ok(None),
            (None, Some(volume)) => Err(invalid("volume of a set without a reason", volume)),
        }
    }
}

impl Field for Generation {
    fn put(&self, out: &mut Vec<u8>) {
        self.get().put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        u64::take(input).map(Self::new)
    }
}

impl Field for Option<NodeIncarnation> {
    /// Node 0, incarnation 0 is nobody.
    fn put(&self, out: &mut Vec<u8>) {
        let nobody = NodeIncarnation { node: NodeId::new(0), incarnation: Incarnation::new(0) };
        self.unwrap_or(nobody).put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let node = NodeIncarnation::take(input)?;
        Ok((node.node.get() != 0).then_some(node))
    }
}

/// States as one byte.
macro_rules! state_field {
    ($state:ident, $what:literal: $($variant:ident = $raw:literal),+) => {
        impl Field for $state {
            fn put(&self, out: &mut Vec<u8>) {
                let raw: u8 = match self { $(Self::$variant => $raw,)+ };
                raw.put(out);
            }

            fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
                match u8::take(input)? {
                    $($raw => Ok(Self::$variant),)+
                    other => Err(invalid($what, other)),
                }
            }
        }
    };
}
state_field!(SetState, "set state": Gathering = 1, Pausing = 2, Sealed = 3, Aborted = 4);
state_field!(MemberState, "member state": Asked = 1, Ready = 2, Paused = 3);
state_field!(Fsfreeze, "fsfreeze": Auto = 1, Always = 2, Never = 3);
