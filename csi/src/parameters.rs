//! Parameters of a StorageClass, a VolumeSnapshotClass and a VolumeAttributesClass.
//!
//! Invariant: a parameter is obeyed or refused by its name. What the sidecars add
//! (`csi.storage.k8s.io/…`) is passed over, but for the file system.

use std::collections::HashMap;

use lunar_proto::domain::Selector;
use lunar_types::{LogicalBlockSize, PoolId};

use crate::capability::{Access, VolumeUse};
use crate::errors::CsiError;
use crate::file_system::FileSystem;
use crate::naming::shown;

/// What the sidecars put before their own.
const OF_SIDECARS: &str = "csi.storage.k8s.io/";
/// The pool, by name or id.
const POOL: &str = "pool";
/// What the device advertises, in bytes.
const BLOCK_SIZE: &str = "blockSize";
/// The file system.
const FS_TYPE: &str = "csi.storage.k8s.io/fstype";

/// Parameters by name.
pub type Parameters = HashMap<String, String>;

/// What a StorageClass says of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeParameters {
    /// Where it is made.
    pub pool: Selector<PoolId>,
    /// What its device advertises, if that was said.
    pub block_size: Option<LogicalBlockSize>,
    /// Its file system, if that was said.
    pub fs_type: Option<FileSystem>,
}

/// The first parameter that nobody obeys, in the order of names.
fn unknown<'a>(parameters: &'a Parameters, known: &[&str]) -> Option<&'a String> {
    let is_unknown = |name: &&String| {
        !known.contains(&name.as_str()) && name.strip_prefix(OF_SIDECARS).is_none_or(str::is_empty)
    };
    parameters.keys().filter(is_unknown).min()
}

fn pool_of(text: &str) -> Result<Selector<PoolId>, CsiError> {
    if let Ok(id) = text.parse() {
        return Ok(Selector::Id(id));
    }
    let name = text.parse().map_err(|problem| {
        CsiError::invalid(format!("parameter '{POOL}' is no pool's name or id: {problem}"))
    })?;
    Ok(Selector::Name(name))
}

fn block_size_of(text: &str) -> Result<LogicalBlockSize, CsiError> {
    match text {
        "512" => Ok(LogicalBlockSize::B512),
        "4096" => Ok(LogicalBlockSize::B4096),
        other => {
            let other = shown(other);
            let message = format!("parameter '{BLOCK_SIZE}' is {other:?}: write 512 or 4096");
            Err(CsiError::invalid(message))
        }
    }
}

impl VolumeParameters {
    /// Of a volume that is to be made.
    ///
    /// # Errors
    /// One is missing, unknown, or cannot be what it says.
    pub fn new(parameters: &Parameters) -> Result<Self, CsiError> {
        if let Some(name) = unknown(parameters, &[POOL, BLOCK_SIZE]) {
            return Err(CsiError::invalid(format!(
                "parameter {:?} is not known: there are '{POOL}', '{BLOCK_SIZE}' and '{FS_TYPE}'",
                shown(name)
            )));
        }
        let missing = || CsiError::invalid(format!("parameter '{POOL}' is missing: name a pool"));
        let block_size = parameters.get(BLOCK_SIZE).map(|text| block_size_of(text)).transpose()?;
        let fs_type = parameters.get(FS_TYPE).map(|text| text.parse()).transpose();
        Ok(Self {
            pool: pool_of(parameters.get(POOL).ok_or_else(missing)?)?,
            block_size,
            fs_type: fs_type.map_err(CsiError::invalid)?,
        })
    }

    /// Refuses another file system than these uses ask for: the node would make theirs.
    ///
    /// # Errors
    /// The class and a capability contradict each other.
    pub fn require_file_system(&self, uses: &[VolumeUse]) -> Result<(), CsiError> {
        let Some(fs_type) = self.fs_type else { return Ok(()) };
        let other = uses.iter().find_map(|it| match it.access {
            Access::Mount(asked) if asked != fs_type => Some(asked),
            Access::Mount(_) | Access::Block => None,
        });
        match other {
            None => Ok(()),
            Some(other) => Err(CsiError::invalid(format!(
                "parameter '{FS_TYPE}' is {fs_type}, and a volume capability asks for {other}"
            ))),
        }
    }
}

/// Refuses parameters of a snapshot or a group: there are none.
///
/// # Errors
/// There is one that is not of the sidecars.
pub fn require_none(parameters: &Parameters) -> Result<(), CsiError> {
    match unknown(parameters, &[]) {
        None => Ok(()),
        Some(name) => Err(CsiError::invalid(format!(
            "parameter {:?} is not known: a snapshot has none",
            shown(name)
        ))),
    }
}

/// Refuses mutable parameters: nothing of a volume can be changed by them.
///
/// # Errors
/// There is one.
pub fn require_no_mutable(parameters: &Parameters) -> Result<(), CsiError> {
    match parameters.keys().min() {
        None => Ok(()),
        Some(name) => Err(CsiError::invalid(format!(
            "mutable parameter {:?} is not known: nothing of a volume is changed by a \
             VolumeAttributesClass",
            shown(name)
        ))),
    }
}

/// Refuses secrets where something is made: it would be no safer for them.
///
/// # Errors
/// There is one.
pub fn require_no_secrets(secrets: &HashMap<String, String>) -> Result<(), CsiError> {
    match secrets.is_empty() {
        true => Ok(()),
        false => Err(CsiError::invalid(
            "secrets are given, and the driver has no use for them: take the secret's name out of \
             the class",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(of: &[(&str, &str)]) -> Parameters {
        of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_parameter_is_obeyed_or_refused_by_name() {
        let all = parameters(&[
            ("pool", "tank"),
            ("blockSize", "512"),
            ("csi.storage.k8s.io/fstype", "xfs"),
            ("csi.storage.k8s.io/pvc/name", "data"),
        ]);
        let all = VolumeParameters::new(&all).expect("known");
        assert_eq!(all.pool, Selector::Name("tank".parse().expect("a name")));
        assert_eq!(all.block_size, Some(LogicalBlockSize::B512));
        assert_eq!(all.fs_type, Some(FileSystem::Xfs));
        for (name, value) in [
            ("Pool", "tank"),
            ("iops", "100"),
            ("csi.storage.k8s.io/", "x"),
            ("blockSize", "1024"),
            ("blockSize", ""),
            ("csi.storage.k8s.io/fstype", "btrfs"),
            ("pool", ""),
            ("pool", "a b"),
        ] {
            let mut given = parameters(&[("pool", "tank")]);
            given.insert(name.to_owned(), value.to_owned());
            let refused = VolumeParameters::new(&given).expect_err(name);
            let told = name.strip_prefix("csi.storage.k8s.io/f").map_or(name, |_| value);
            assert!(refused.message.contains(told), "{name}: {refused}");
        }
        assert!(VolumeParameters::new(&Parameters::new()).is_err());
    }

    #[test]
    fn a_pool_is_named_or_given_by_its_id() {
        let id = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";
        let given = VolumeParameters::new(&parameters(&[("pool", id)])).expect("an id");
        assert_eq!(given.pool, Selector::Id(id.parse().expect("an id")));
    }

    #[test]
    fn what_nothing_obeys_is_refused() {
        assert!(
            require_none(&parameters(&[("csi.storage.k8s.io/volumesnapshot/name", "s")])).is_ok()
        );
        assert!(require_none(&parameters(&[("fsfreeze", "never")])).is_err());
        assert!(require_no_mutable(&Parameters::new()).is_ok());
        assert!(require_no_mutable(&parameters(&[("csi.storage.k8s.io/x", "s")])).is_err());
        let refused = require_no_secrets(&parameters(&[("key", "hush")])).expect_err("a secret");
        assert!(!refused.message.contains("hush"), "{refused}");
    }
}
