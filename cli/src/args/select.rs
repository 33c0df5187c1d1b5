//! How an object is named on the command line: by name, by id, by path.

use std::path::PathBuf;
use std::str::FromStr;

use lunar_proto::domain::Selector;
use lunar_types::{LunId, Name, NameError, PoolId, SnapshotGroupId, SnapshotId, VolumeId};

/// Marks a name that could be taken for an id. No name has a colon.
const NAME_PREFIX: &str = "name:";

/// A pool, volume or snapshot: a UUID is its id, anything else its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SelectorArg<I>(pub Selector<I>);

/// A pool on the command line.
pub type PoolArg = SelectorArg<PoolId>;
/// A volume on the command line.
pub type VolumeArg = SelectorArg<VolumeId>;
/// A snapshot on the command line.
pub type SnapshotArg = SelectorArg<SnapshotId>;
/// A group of snapshots on the command line.
pub type GroupArg = SelectorArg<SnapshotGroupId>;

impl<I: FromStr> FromStr for SelectorArg<I> {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Some(name) = text.strip_prefix(NAME_PREFIX) {
            return Ok(Self(Selector::Name(name.parse::<Name>()?)));
        }
        match text.parse::<I>() {
            Ok(id) => Ok(Self(Selector::Id(id))),
            Err(_) => Ok(Self(Selector::Name(text.parse::<Name>()?))),
        }
    }
}

impl SnapshotArg {
    /// The volume of this name or id, where the command line says that it is one.
    #[must_use]
    pub fn as_volume(&self) -> Selector<VolumeId> {
        match &self.0 {
            Selector::Id(id) => Selector::Id(VolumeId::from_u128(id.as_u128())),
            Selector::Name(name) => Selector::Name(name.clone()),
        }
    }
}

/// A LUN: a device path of this node or the id in its label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LunReference {
    /// An absolute path.
    Path(PathBuf),
    /// The id in the label.
    Id(LunId),
}

impl FromStr for LunReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        text.parse::<LunId>().map(Self::Id).map_err(|_| {
            format!("'{text}' is neither a device path such as /dev/sdb nor a LUN id (a UUID)")
        })
    }
}
