//! How Kubernetes wants a volume on this node, out of a `VolumeCapability`.

use lunar_proto::csi::VolumeCapability;
use lunar_proto::csi::volume_capability::access_mode::Mode;
use lunar_proto::csi::volume_capability::{AccessType, MountVolume};

use super::options::MountOptions;
use super::worker::mounts::{FsMount, Writing};
use crate::errors::CsiError;
use crate::file_system::FileSystem;

/// Who may have it at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One pod.
    OnePod,
    /// Pods of this node.
    OneNode,
    /// Pods of several nodes: a raw block volume, while it migrates.
    Nodes,
}

/// What a pod gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// The device.
    Block,
    /// A file system on it.
    FileSystem(FsMount),
}

/// How a volume is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// What a pod gets.
    pub form: Form,
    /// Who may have it.
    pub sharing: Sharing,
    /// Whether anybody may write.
    pub writing: Writing,
}

impl Access {
    /// Of a call's capability.
    ///
    /// # Errors
    /// It is missing, or the driver does not do it.
    pub fn parse(capability: Option<&VolumeCapability>) -> Result<Self, CsiError> {
        let missing = |what: &str| CsiError::invalid(format!("{what} is missing"));
        let capability = capability.ok_or_else(|| missing("volume_capability"))?;
        let mode = capability.access_mode.as_ref();
        let mode = mode.ok_or_else(|| missing("volume_capability.access_mode"))?;
        let (sharing, writing) = sharing(mode.mode)?;
        let access_type = capability.access_type.as_ref();
        let form = match access_type.ok_or_else(|| missing("volume_capability.access_type"))? {
            AccessType::Block(_) => Form::Block,
            AccessType::Mount(mount) => Form::FileSystem(fs_mount(mount, writing)?),
        };
        if sharing == Sharing::Nodes && form != Form::Block {
            let why = "a file system is of one node at a time";
            return Err(CsiError::invalid(format!("MULTI_NODE_MULTI_WRITER is refused: {why}")));
        }
        Ok(Self { form, sharing, writing })
    }

    /// The file system that is made and mounted, if one is.
    #[must_use]
    pub fn fs_mount(&self) -> Option<&FsMount> {
        match &self.form {
            Form::Block => None,
            Form::FileSystem(mount) => Some(mount),
        }
    }
}

fn sharing(mode: i32) -> Result<(Sharing, Writing), CsiError> {
    match Mode::try_from(mode) {
        Ok(Mode::SingleNodeWriter | Mode::SingleNodeMultiWriter) => {
            Ok((Sharing::OneNode, Writing::Allowed))
        }
        Ok(Mode::SingleNodeSingleWriter) => Ok((Sharing::OnePod, Writing::Allowed)),
        Ok(Mode::SingleNodeReaderOnly) => Ok((Sharing::OneNode, Writing::Forbidden)),
        Ok(Mode::MultiNodeMultiWriter) => Ok((Sharing::Nodes, Writing::Allowed)),
        Ok(other) => {
            let mode = other.as_str_name();
            let message = format!(
                "access mode {mode} is none of the driver: one node, or MULTI_NODE_MULTI_WRITER \
                 of a raw block volume"
            );
            Err(CsiError::invalid(message))
        }
        Err(_) => Err(CsiError::invalid(format!("access mode {mode} is not known"))),
    }
}

fn fs_mount(mount: &MountVolume, writing: Writing) -> Result<FsMount, CsiError> {
    let MountVolume { fs_type, mount_flags, volume_mount_group } = mount;
    let kind = FileSystem::asked(fs_type).map_err(CsiError::invalid)?;
    if !volume_mount_group.is_empty() {
        let why = "leave fsGroup to kubelet (fsGroupPolicy File)";
        return Err(CsiError::invalid(format!("volume_mount_group is not done here: {why}")));
    }
    let options = MountOptions::parse(mount_flags).map_err(CsiError::invalid)?;
    Ok(FsMount { kind, options, writing })
}

#[cfg(test)]
mod tests {
    use lunar_proto::csi::volume_capability::{AccessMode, BlockVolume};
    use tonic::Code;

    use super::*;

    fn capability(access_type: AccessType, mode: Mode) -> VolumeCapability {
        let access_mode = Some(AccessMode { mode: mode.into() });
        VolumeCapability { access_type: Some(access_type), access_mode }
    }

    fn mount(fs_type: &str) -> AccessType {
        AccessType::Mount(MountVolume { fs_type: fs_type.to_owned(), ..MountVolume::default() })
    }

    #[test]
    fn each_mode_is_taken_in_its_form_or_refused() {
        use Mode::*;
        for (mode, block, file_system) in [
            (Unknown, false, false),
            (SingleNodeWriter, true, true),
            (SingleNodeReaderOnly, true, true),
            (MultiNodeReaderOnly, false, false),
            (MultiNodeSingleWriter, false, false),
            (MultiNodeMultiWriter, true, false),
            (SingleNodeSingleWriter, true, true),
            (SingleNodeMultiWriter, true, true),
        ] {
            let taken = |form| Access::parse(Some(&capability(form, mode))).is_ok();
            assert_eq!(taken(AccessType::Block(BlockVolume {})), block, "{mode:?}");
            assert_eq!(taken(mount("xfs")), file_system, "{mode:?}");
        }
    }

    #[test]
    fn what_only_reads_forbids_writing_to_its_file_system() {
        let access = Access::parse(Some(&capability(mount(""), Mode::SingleNodeReaderOnly)));
        let access = access.expect("it is taken");
        let mount = access.fs_mount().expect("a file system");
        assert_eq!((mount.kind, mount.writing), (FileSystem::Ext4, Writing::Forbidden));
    }

    #[test]
    fn what_is_missing_or_not_known_is_an_invalid_argument() {
        let good = capability(mount("ext4"), Mode::SingleNodeWriter);
        let no_mode = VolumeCapability { access_mode: None, ..good.clone() };
        let no_type = VolumeCapability { access_type: None, ..good.clone() };
        let odd_mode = VolumeCapability { access_mode: Some(AccessMode { mode: 99 }), ..good };
        let odd_fs = capability(mount("btrfs"), Mode::SingleNodeWriter);
        let group = MountVolume { volume_mount_group: "1000".to_owned(), ..MountVolume::default() };
        let group = capability(AccessType::Mount(group), Mode::SingleNodeWriter);
        for refused in
            [None, Some(no_mode), Some(no_type), Some(odd_mode), Some(odd_fs), Some(group)]
        {
            let error = Access::parse(refused.as_ref()).expect_err("it is refused");
            assert_eq!(error.code, Code::InvalidArgument, "{refused:?}");
        }
    }
}
