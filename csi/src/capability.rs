//! What a volume is to be used for, of what CSI can ask.
//!
//! Served are all modes of one node, and of several nodes only MULTI_NODE_MULTI_WRITER of a raw
//! block volume, which is a live migration between two (`docs/csi.md`). Everything else is refused
//! by name, never served as something that it is not.

use std::collections::BTreeSet;

use lunar_proto::csi::VolumeCapability;
use lunar_proto::csi::volume_capability::AccessType;
use lunar_proto::csi::volume_capability::access_mode::Mode;
use lunar_proto::domain::PublicationMode;

use crate::errors::CsiError;
use crate::file_system::FileSystem;

/// The most bytes of all mount flags together, by the specification.
const MOUNT_FLAGS_BYTES_MAX: usize = 4096;
/// The most capabilities that are looked at; each combination that is served is named in fewer.
const CAPABILITIES_MAX: usize = 64;

/// How a pod sees a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Access {
    /// As a device.
    Block,
    /// As a directory of this file system.
    Mount(FileSystem),
}

/// What a volume is to be used for, as the driver serves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeUse {
    /// How a pod sees it.
    pub access: Access,
    /// On how many nodes.
    pub mode: PublicationMode,
    /// Nothing is to be written.
    pub reads_only: bool,
}

fn access_of(capability: &VolumeCapability) -> Result<Access, CsiError> {
    let mount = match &capability.access_type {
        None => return Err(CsiError::invalid("volume capability: access_type is missing")),
        Some(AccessType::Block(_)) => return Ok(Access::Block),
        Some(AccessType::Mount(mount)) => mount,
    };
    if !mount.volume_mount_group.is_empty() {
        let problem = "volume_mount_group is not served: let fsGroup be applied by kubelet";
        return Err(CsiError::invalid(format!("volume capability: {problem}")));
    }
    let bytes: usize = mount.mount_flags.iter().map(String::len).sum();
    if bytes > MOUNT_FLAGS_BYTES_MAX {
        return Err(CsiError::invalid(format!(
            "volume capability: mount_flags have {bytes} bytes: the limit is \
             {MOUNT_FLAGS_BYTES_MAX}"
        )));
    }
    let odd = |flag: &&String| flag.is_empty() || flag.chars().any(char::is_control);
    if let Some(flag) = mount.mount_flags.iter().find(odd) {
        return Err(CsiError::invalid(format!("volume capability: {flag:?} is no mount flag")));
    }
    FileSystem::asked(&mount.fs_type).map(Access::Mount).map_err(CsiError::invalid)
}

/// What one capability asks for.
///
/// # Errors
/// It is not served, or it contradicts itself.
pub fn volume_use(capability: &VolumeCapability) -> Result<VolumeUse, CsiError> {
    let access = access_of(capability)?;
    let missing = || CsiError::invalid("volume capability: access_mode is missing");
    let mode = capability.access_mode.as_ref().ok_or_else(missing)?.mode;
    let known = Mode::try_from(mode).map_err(|_| {
        CsiError::invalid(format!("volume capability: access mode {mode} is not known"))
    })?;
    let single = PublicationMode::Single;
    let (mode, reads_only) = match (known, access) {
        (
            Mode::SingleNodeWriter | Mode::SingleNodeSingleWriter | Mode::SingleNodeMultiWriter,
            _,
        ) => (single, false),
        (Mode::SingleNodeReaderOnly, _) => (single, true),
        (Mode::MultiNodeMultiWriter, Access::Block) => (PublicationMode::Migratable, false),
        (Mode::Unknown, _) => return Err(missing()),
        (other, _) => {
            return Err(CsiError::invalid(format!(
                "volume capability: access mode {} is not served: a volume is used on one node, \
                 or, as a raw block volume of mode MULTI_NODE_MULTI_WRITER, on two for a live \
                 migration",
                other.as_str_name()
            )));
        }
    };
    Ok(VolumeUse { access, mode, reads_only })
}

/// What all of these together ask of one volume.
///
/// # Errors
/// There are none, one of them is not served, or no volume can be all of it.
pub fn volume_uses(capabilities: &[VolumeCapability]) -> Result<Vec<VolumeUse>, CsiError> {
    if capabilities.is_empty() {
        return Err(CsiError::invalid("volume_capabilities are missing: give at least one"));
    }
    if capabilities.len() > CAPABILITIES_MAX {
        let count = capabilities.len();
        let message = format!("{count} volume_capabilities: the limit is {CAPABILITIES_MAX}");
        return Err(CsiError::invalid(message));
    }
    let uses = capabilities.iter().map(volume_use).collect::<Result<Vec<_>, _>>()?;
    let kinds: BTreeSet<Access> = uses.iter().map(|it| it.access).collect();
    match kinds.len() {
        1 => Ok(uses),
        _ => Err(CsiError::invalid(
            "volume_capabilities contradict each other: a volume is a raw block volume, or has \
             one file system",
        )),
    }
}

#[cfg(test)]
mod tests {
    use lunar_proto::csi::volume_capability::{AccessMode, BlockVolume, MountVolume};

    use super::*;

    fn block() -> AccessType {
        AccessType::Block(BlockVolume {})
    }

    fn mount(fs_type: &str) -> AccessType {
        let fs_type = fs_type.to_owned();
        AccessType::Mount(MountVolume { fs_type, ..MountVolume::default() })
    }

    fn capability(access: AccessType, mode: Mode) -> VolumeCapability {
        let access_mode = Some(AccessMode { mode: mode.into() });
        VolumeCapability { access_mode, access_type: Some(access) }
    }

    #[test]
    fn each_mode_is_served_as_what_it_is_or_refused() {
        use PublicationMode::{Migratable, Single};
        let table = [
            (Mode::Unknown, None, None),
            (Mode::SingleNodeWriter, Some((Single, false)), Some((Single, false))),
            (Mode::SingleNodeReaderOnly, Some((Single, true)), Some((Single, true))),
            (Mode::MultiNodeReaderOnly, None, None),
            (Mode::MultiNodeSingleWriter, None, None),
            (Mode::MultiNodeMultiWriter, Some((Migratable, false)), None),
            (Mode::SingleNodeSingleWriter, Some((Single, false)), Some((Single, false))),
            (Mode::SingleNodeMultiWriter, Some((Single, false)), Some((Single, false))),
        ];
        for (mode, of_block, of_mount) in table {
            for (access, expected) in [(block(), of_block), (mount("xfs"), of_mount)] {
                let served = volume_use(&capability(access, mode)).ok();
                let served = served.map(|served| (served.mode, served.reads_only));
                assert_eq!(served, expected, "{mode:?}");
            }
        }
        let later = VolumeCapability {
            access_mode: Some(AccessMode { mode: 99 }),
            access_type: Some(block()),
        };
        assert!(volume_use(&later).is_err());
    }

    #[test]
    fn the_file_system_is_ext4_unless_said_otherwise() {
        let access = |fs_type: &str| {
            volume_use(&capability(mount(fs_type), Mode::SingleNodeWriter)).map(|it| it.access)
        };
        assert_eq!(access(""), Ok(Access::Mount(FileSystem::Ext4)));
        assert_eq!(access("xfs"), Ok(Access::Mount(FileSystem::Xfs)));
        for other in ["btrfs", "EXT4", "ext4 ", "ext3"] {
            assert!(access(other).is_err(), "{other}");
        }
    }

    #[test]
    fn capabilities_that_no_volume_can_have_together_are_refused() {
        let of = |access| capability(access, Mode::SingleNodeWriter);
        assert!(volume_uses(&[]).is_err());
        assert!(volume_uses(&[of(block()), of(mount(""))]).is_err());
        assert!(volume_uses(&[of(mount("ext4")), of(mount("xfs"))]).is_err());
        assert!(volume_uses(&[of(mount("ext4")), of(mount(""))]).is_ok());
    }

    #[test]
    fn mount_flags_and_groups_that_cannot_be_served_are_refused() {
        let with = |flags: &[&str], group: &str| {
            let mount_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
            let volume_mount_group = group.to_owned();
            let mount = MountVolume { mount_flags, volume_mount_group, ..MountVolume::default() };
            volume_use(&capability(AccessType::Mount(mount), Mode::SingleNodeWriter))
        };
        assert!(with(&["noatime", "discard"], "").is_ok());
        for flags in [&[""][..], &["no\natime"], &["a".repeat(5000).as_str()]] {
            assert!(with(flags, "").is_err(), "{flags:?}");
        }
        assert!(with(&[], "1000").is_err());
    }
}
