//! Values: fields one after the other, little-endian, behind one byte of version.

use lunar_types::{
    BootId, ByteCount, ClusterId, CommitNumber, Epoch, ExtentAddress, ExtentRun, ExtentSize,
    FormatToken, Incarnation, JournalSeq, LayerId, LogicalBlockSize, LunId, LunIndex, Name, NodeId,
    NodeIncarnation, NodeSession, PhysicalExtent, PoolId, PublicationId, RequestId, SessionNumber,
    SnapshotGroupId, SnapshotId, SnapshotSetId, StructureNumber, VolumeId, VolumeSize,
};

/// Why bytes are not the value they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a version of the program that this one does not know.
    #[error("{record} has version {found}, this program knows {known}")]
    Version {
        /// The kind of record.
        record: &'static str,
        /// What its first byte says.
        found: u8,
        /// What this program knows.
        known: u8,
    },
    /// The bytes end early.
    #[error("{what} ends early")]
    Short {
        /// Which field.
        what: &'static str,
    },
    /// Bytes are left over.
    #[error("{record} has {count} bytes too many")]
    Trailing {
        /// The kind of record.
        record: &'static str,
        /// How many.
        count: usize,
    },
    /// The bytes say a record that is written otherwise.
    #[error("{record} is not in its one encoding")]
    OtherEncoding {
        /// The kind of record.
        record: &'static str,
    },
    /// A number or text that cannot be.
    #[error("{what} cannot be {value}")]
    Invalid {
        /// Which field.
        what: &'static str,
        /// What stands there.
        value: String,
    },
}

/// A field that cannot be what stands there.
pub(super) fn invalid(what: &'static str, value: impl std::fmt::Display) -> DecodeError {
    DecodeError::Invalid { what, value: value.to_string() }
}

/// A part of a value.
pub(super) trait Field: Sized {
    /// Appends the bytes of the field.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes the field from the front of the bytes.
    fn take(input: &mut &[u8]) -> Result<Self, DecodeError>;
}

/// A value of the store.
pub trait Record: Sized {
    /// What errors call it.
    const NAME: &'static str;
    /// The version that is written.
    const VERSION: u8 = 1;

    /// Appends everything after the version byte.
    fn put_fields(&self, out: &mut Vec<u8>);

    /// Takes everything after the version byte.
    ///
    /// # Errors
    /// When the bytes do not say a record.
    fn take_fields(input: &mut &[u8]) -> Result<Self, DecodeError>;

    /// Takes everything after the byte of an earlier version that is still read; `None` if this
    /// one is not.
    fn take_earlier(_version: u8, _input: &mut &[u8]) -> Option<Result<Self, DecodeError>> {
        None
    }

    /// The bytes of the value.
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![Self::VERSION];
        self.put_fields(&mut out);
        out
    }

    /// The value in these bytes.
    ///
    /// # Errors
    /// When the bytes are not one record of a known version.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = bytes;
        let found = u8::take(&mut input)?;
        let is_earlier = found != Self::VERSION;
        let record = if is_earlier {
            let (record, known) = (Self::NAME, Self::VERSION);
            let unknown = DecodeError::Version { record, found, known };
            Self::take_earlier(found, &mut input).ok_or(unknown)??
        } else {
            Self::take_fields(&mut input)?
        };
        match input.len() {
            0 if is_earlier || record.encode() == bytes => Ok(record),
            0 => Err(DecodeError::OtherEncoding { record: Self::NAME }),
            count => Err(DecodeError::Trailing { record: Self::NAME, count }),
        }
    }
}

/// Takes `count` bytes from the front.
pub(super) fn take_bytes<'a>(
    input: &mut &'a [u8],
    count: usize,
    what: &'static str,
) -> Result<&'a [u8], DecodeError> {
    let (front, rest) = input.split_at_checked(count).ok_or(DecodeError::Short { what })?;
    *input = rest;
    Ok(front)
}

macro_rules! integer_field {
    ($($int:ty),+) => {
        $(impl Field for $int {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
                let bytes = take_bytes(input, size_of::<$int>(), stringify!($int))?;
                Ok(Self::from_le_bytes(bytes.try_into().expect("the length was asked for")))
            }
        })+
    };
}
integer_field!(u8, u16, u32, u64);

macro_rules! counter_field {
    ($($id:ty),+) => {
        $(impl Field for $id {
            fn put(&self, out: &mut Vec<u8>) {
                self.get().put(out);
            }

            fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
                Field::take(input).map(Self::new)
            }
        })+
    };
}
counter_field!(
    LayerId,
    NodeId,
    Incarnation,
    SessionNumber,
    Epoch,
    CommitNumber,
    JournalSeq,
    StructureNumber,
    ByteCount
);

macro_rules! uuid_field {
    ($($id:ty),+) => {
        $(impl Field for $id {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_bytes());
            }

            fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
                let bytes = take_bytes(input, 16, stringify!($id))?;
                Ok(Self::from_bytes(bytes.try_into().expect("the length was asked for")))
            }
        })+
    };
}
uuid_field!(
    ClusterId,
    LunId,
    PoolId,
    VolumeId,
    SnapshotId,
    SnapshotSetId,
    SnapshotGroupId,
    PublicationId,
    FormatToken,
    BootId,
    RequestId
);

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        u8::from(*self).put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        match u8::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(invalid("flag", other)),
        }
    }
}

impl Field for Name {
    fn put(&self, out: &mut Vec<u8>) {
        let bytes = self.as_str().as_bytes();
        u8::try_from(bytes.len()).expect("a name has at most 128 bytes").put(out);
        out.extend_from_slice(bytes);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let length = usize::from(u8::take(input)?);
        let bytes = take_bytes(input, length, "name")?;
        let text = std::str::from_utf8(bytes).map_err(|error| invalid("name", error))?;
        text.parse().map_err(|error| invalid("name", error))
    }
}

impl Field for Option<LayerId> {
    /// 0 is no layer.
    fn put(&self, out: &mut Vec<u8>) {
        self.unwrap_or_default().put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let id = LayerId::take(input)?;
        Ok((id != LayerId::default()).then_some(id))
    }
}

macro_rules! optional_uuid_field {
    ($($id:ty),+) => {
        $(impl Field for Option<$id> {
            /// 0 is none.
            fn put(&self, out: &mut Vec<u8>) {
                self.unwrap_or(<$id>::from_u128(0)).put(out);
            }

            fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
                let id = <$id>::take(input)?;
                Ok((id.as_u128() != 0).then_some(id))
            }
        })+
    };
}
optional_uuid_field!(VolumeId, SnapshotId, SnapshotSetId, SnapshotGroupId);

impl Field for Option<Name> {
    /// Length 0 is none.
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Some(name) => name.put(out),
            None => 0_u8.put(out),
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        if input.first() == Some(&0) {
            u8::take(input)?;
            return Ok(None);
        }
        Name::take(input).map(Some)
    }
}

impl Field for ExtentSize {
    /// log2 of the bytes.
    fn put(&self, out: &mut Vec<u8>) {
        u8::try_from(self.shift()).expect("the shift is at most 24").put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let shift = u8::take(input)?;
        let bytes = 1_u64.checked_shl(u32::from(shift)).unwrap_or(0);
        Self::from_bytes(bytes).map_err(|_| invalid("extent size", format_args!("2^{shift}")))
    }
}

impl Field for LogicalBlockSize {
    fn put(&self, out: &mut Vec<u8>) {
        u16::try_from(self.bytes()).expect("at most 4096").put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let bytes = u16::take(input)?;
        Self::from_bytes(u64::from(bytes)).map_err(|_| invalid("logical block size", bytes))
    }
}

impl Field for VolumeSize {
    fn put(&self, out: &mut Vec<u8>) {
        self.bytes().put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let bytes = u64::take(input)?;
        Self::from_bytes(bytes).map_err(|error| invalid("volume size", error))
    }
}

impl Field for LunIndex {
    fn put(&self, out: &mut Vec<u8>) {
        self.get().put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let raw = u16::take(input)?;
        Self::try_new(raw).ok_or_else(|| invalid("LUN index", raw))
    }
}

impl Field for NodeIncarnation {
    fn put(&self, out: &mut Vec<u8>) {
        self.node.put(out);
        self.incarnation.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { node: Field::take(input)?, incarnation: Field::take(input)? })
    }
}

impl Field for NodeSession {
    fn put(&self, out: &mut Vec<u8>) {
        self.node.put(out);
        self.number.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { node: Field::take(input)?, number: Field::take(input)? })
    }
}

impl Field for ExtentAddress {
    /// The LUN index in 2 bytes, the position in 5.
    fn put(&self, out: &mut Vec<u8>) {
        self.lun.put(out);
        out.extend_from_slice(&self.extent.get().to_le_bytes()[..5]);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let lun = LunIndex::take(input)?;
        let mut raw = [0; 8];
        raw[..5].copy_from_slice(take_bytes(input, 5, "extent")?);
        let raw = u64::from_le_bytes(raw);
        let extent = PhysicalExtent::try_new(raw).ok_or_else(|| invalid("extent", raw))?;
        Ok(Self { lun, extent })
    }
}

impl Field for ExtentRun {
    fn put(&self, out: &mut Vec<u8>) {
        self.first().put(out);
        self.count().put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let first = ExtentAddress::take(input)?;
        let count = u32::take(input)?;
        let end = first.extent.get() + u64::from(count);
        if count == 0 || end > PhysicalExtent::LIMIT {
            return Err(invalid("run length", count));
        }
        Ok(Self::new(first, count))
    }
}

impl Field for Vec<SnapshotId> {
    /// Their number in 2 bytes, then each.
    fn put(&self, out: &mut Vec<u8>) {
        let count = u16::try_from(self.len()).expect("a group has as few snapshots as a set");
        count.put(out);
        self.iter().for_each(|snapshot| snapshot.put(out));
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let count = u16::take(input)?;
        (0..count).map(|_| SnapshotId::take(input)).collect()
    }
}

impl Field for Vec<ExtentRun> {
    /// Their number in 2 bytes, then each.
    fn put(&self, out: &mut Vec<u8>) {
        let count = u16::try_from(self.len()).expect("a list has fewer than 65,536 runs");
        count.put(out);
        self.iter().for_each(|run| run.put(out));
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let count = u16::take(input)?;
        (0..count).map(|_| ExtentRun::take(input)).collect()
    }
}
