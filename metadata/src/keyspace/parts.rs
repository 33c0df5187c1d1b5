//! The parts of keys: which element of a tuple each id is, and the numbers that rise.

use foundationdb_tuple::{TuplePack, TupleUnpack};
use lunar_proto::domain::{BackupNumber, OperationId};
use lunar_types::{
    Epoch, Incarnation, LayerId, LogicalExtent, LunId, LunIndex, Name, NodeId, PoolId, RequestId,
    SnapshotGroupId, SnapshotId, SnapshotSetId, VolumeId, counter_id,
};
use uuid::Uuid;

use super::bitmap::{GroupIndex, QuarantineStamp};
use super::fencing::AuditNumber;

/// A part of a key: which tuple element it is.
pub(super) trait Part: Sized {
    type Element: TuplePack + for<'a> TupleUnpack<'a>;
    fn element(&self) -> Self::Element;
    fn from_element(element: Self::Element) -> Option<Self>;
}

macro_rules! uuid_part {
    ($($id:ty),+) => {
        $(impl Part for $id {
            type Element = Uuid;

            fn element(&self) -> Uuid {
                Uuid::from_u128(self.as_u128())
            }

            fn from_element(element: Uuid) -> Option<Self> {
                Some(Self::from_u128(element.as_u128()))
            }
        })+
    };
}
uuid_part!(PoolId, VolumeId, SnapshotId, SnapshotSetId, SnapshotGroupId, LunId, RequestId);

macro_rules! number_part {
    ($($id:ty = $int:ty, $make:expr;)+) => {
        $(impl Part for $id {
            type Element = $int;

            fn element(&self) -> $int {
                self.get()
            }

            fn from_element(element: $int) -> Option<Self> {
                $make(element)
            }
        })+
    };
}
number_part! {
    LayerId = u64, |raw| Some(LayerId::new(raw));
    LogicalExtent = u64, |raw| Some(LogicalExtent::new(raw));
    NodeId = u16, |raw| Some(NodeId::new(raw));
    Incarnation = u32, |raw| Some(Incarnation::new(raw));
    Epoch = u64, |raw| Some(Epoch::new(raw));
    LunIndex = u16, LunIndex::try_new;
    OperationId = u64, |raw| Some(OperationId::new(raw));
    Generation = u64, |raw| Some(Generation::new(raw));
    QuarantineStamp = u64, |raw| Some(QuarantineStamp::new(raw));
    BackupNumber = u64, |raw| Some(BackupNumber::new(raw));
    AuditNumber = u64, |raw| Some(AuditNumber::new(raw));
}

impl Part for GroupIndex {
    type Element = u32;

    fn element(&self) -> u32 {
        self.get()
    }

    fn from_element(element: u32) -> Option<Self> {
        (element < 1 << 26).then(|| Self::new(element))
    }
}

impl Part for Name {
    type Element = String;

    fn element(&self) -> String {
        self.to_string()
    }

    fn from_element(element: String) -> Option<Self> {
        element.parse().ok()
    }
}

counter_id!(
    /// Which batch of requests is remembered together and forgotten together.
    Generation,
    u64
);

/// The numbers that rise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Counter {
    /// The last layer id given.
    Layer,
    /// The last node id given.
    Node,
    /// The last operation id given.
    Operation,
    /// The generation of requests that is being filled.
    Generation,
    /// The last entry of the audit.
    Audit,
    /// The last incarnation that no new node has, because a life of the cluster that a restore has
    /// ended may have given it.
    Incarnation,
}

impl Part for Counter {
    type Element = u16;

    fn element(&self) -> u16 {
        match self {
            Self::Layer => 1,
            Self::Node => 2,
            Self::Operation => 3,
            Self::Generation => 4,
            Self::Audit => 5,
            Self::Incarnation => 6,
        }
    }

    fn from_element(element: u16) -> Option<Self> {
        use Counter::{Audit, Generation, Incarnation, Layer, Node, Operation};
        [Layer, Node, Operation, Generation, Audit, Incarnation]
            .into_iter()
            .find(|counter| counter.element() == element)
    }
}
