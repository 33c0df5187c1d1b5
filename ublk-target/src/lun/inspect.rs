//! What a device is to us: free, ours, somebody else's, or damaged.

use std::path::{Path, PathBuf};

use lunar_engine::label::{self, Label, LabelError};
use lunar_engine::lun::LunDevice;
use lunar_types::ClusterId;

use super::open::{self, Access};
use super::signature::{self, Signature};

/// What a device is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LunState {
    /// Nothing is on it: it may be labelled.
    Unlabelled,
    /// It has our cluster's label.
    Ours(Label),
    /// It has a label, but which cluster we are is not known yet.
    Labelled(Label),
    /// It has the label of another cluster.
    ForeignCluster(Label),
    /// Something else is on it.
    ForeignSignature(Vec<Signature>),
    /// It had our label, which does not hold any more; why is in `problem`.
    Damaged(Damage),
    /// It cannot be opened or read; why is in `problem`.
    Unreadable,
}

/// In what way a label does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// One copy is good, so it can be repaired.
    OneCopy,
    /// No copy is good, or the two name different LUNs.
    BothCopies,
    /// The device is smaller than the label says.
    Shrank,
    /// The device is smaller than any LUN.
    TooSmall,
    /// The label is of a newer version.
    Newer,
}

/// A device and what it is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Its path.
    pub path: PathBuf,
    /// Its size; 0 if it cannot be opened.
    pub size_bytes: u64,
    /// Its logical block; 0 if it cannot be opened.
    pub logical_block_bytes: u32,
    /// What it is to us.
    pub state: LunState,
    /// What is wrong and what to do, if something is.
    pub problem: Option<String>,
}

impl Inspected {
    /// The label, where a whole one was read.
    #[must_use]
    pub const fn label(&self) -> Option<&Label> {
        match &self.state {
            LunState::Ours(label) | LunState::Labelled(label) | LunState::ForeignCluster(label) => {
                Some(label)
            }
            _ => None,
        }
    }
}

/// The error and all its causes, in one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Looks at a device's label, and at nothing else: enough to find LUNs.
#[must_use]
pub fn read_label(path: &Path, cluster: Option<ClusterId>) -> Inspected {
    let unreadable = |problem: String| Inspected {
        path: path.to_owned(),
        size_bytes: 0,
        logical_block_bytes: 0,
        state: LunState::Unreadable,
        problem: Some(problem),
    };
    let lun = match open::open(path, Access::Inspect) {
        Ok(lun) => lun,
        Err(error) => return unreadable(with_causes(&error)),
    };
    let (state, problem) = match label::read(&lun) {
        Ok(label) => labelled(label, cluster),
        Err(error) => unlabelled(&error),
    };
    Inspected {
        path: path.to_owned(),
        size_bytes: lun.size_bytes(),
        logical_block_bytes: lun.logical_block_bytes(),
        state,
        problem,
    }
}

fn labelled(label: Label, cluster: Option<ClusterId>) -> (LunState, Option<String>) {
    match cluster {
        Some(cluster) if cluster == label.cluster => (LunState::Ours(label), None),
        Some(_) => {
            let problem = format!(
                "it is LUN {} of another cluster ({}): to take it over, and lose what is on it, \
                 give --force-foreign {}",
                label.lun, label.cluster, label.lun
            );
            (LunState::ForeignCluster(label), Some(problem))
        }
        None => {
            let problem = "the metadata service has not been reached yet, so it cannot be told \
                           whether this LUN is of this cluster";
            (LunState::Labelled(label), Some(problem.to_owned()))
        }
    }
}

fn unlabelled(error: &LabelError) -> (LunState, Option<String>) {
    let state = match error {
        LabelError::Unlabelled => return (LunState::Unlabelled, None),
        LabelError::Shrank { .. } => LunState::Damaged(Damage::Shrank),
        LabelError::CopyDamaged { .. } => LunState::Damaged(Damage::OneCopy),
        LabelError::CopiesDisagree { .. } | LabelError::Damaged => {
            LunState::Damaged(Damage::BothCopies)
        }
        LabelError::NewerVersion { .. } => LunState::Damaged(Damage::Newer),
        LabelError::TooSmall { .. } => LunState::Damaged(Damage::TooSmall),
        LabelError::Device { .. } => LunState::Unreadable,
    };
    (state, Some(with_causes(error)))
}

/// Looks at a device's label and, where it has none, for anything else on it.
#[must_use]
pub fn inspect(path: &Path, cluster: Option<ClusterId>) -> Inspected {
    let mut found = read_label(path, cluster);
    if found.state != LunState::Unlabelled {
        return found;
    }
    match signature::foreign_signatures(path) {
        Ok(signatures) if signatures.is_empty() => {}
        Ok(signatures) => {
            let names: Vec<_> = signatures.iter().map(ToString::to_string).collect();
            found.problem = Some(format!(
                "it carries {}: to label it, and lose what is on it, give --force-foreign {}",
                names.join(" and "),
                signatures[0].force_token()
            ));
            found.state = LunState::ForeignSignature(signatures);
        }
        Err(error) => {
            found.problem = Some(with_causes(&error));
            found.state = LunState::Unreadable;
        }
    }
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::FileExt;

    use lunar_types::LunId;
    use tempfile::NamedTempFile;

    use super::*;

    pub(crate) const OURS: ClusterId = ClusterId::from_u128(1);
    const SIZE: u64 = 64 << 20;

    pub(crate) fn blank() -> NamedTempFile {
        let file = NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        file.as_file().set_len(SIZE).expect("sized");
        file
    }

    pub(crate) fn labelled_file(cluster: ClusterId, lun: u128) -> NamedTempFile {
        let file = blank();
        let device = open::open(file.path(), Access::Claim).expect("opened");
        let label = Label {
            cluster,
            lun: LunId::from_u128(lun),
            size_bytes: SIZE,
            logical_block_bytes: device.logical_block_bytes(),
        };
        label::write(&device, &label).expect("written");
        file
    }

    fn state(file: &NamedTempFile, cluster: Option<ClusterId>) -> LunState {
        inspect(file.path(), cluster).state
    }

    #[test]
    fn labels_tell_ours_from_others() {
        let file = labelled_file(OURS, 7);
        assert!(matches!(state(&file, Some(OURS)), LunState::Ours(label)
            if label.lun == LunId::from_u128(7)));
        let other = Some(ClusterId::from_u128(2));
        assert!(matches!(state(&file, other), LunState::ForeignCluster(_)));
        assert!(matches!(state(&file, None), LunState::Labelled(_)));
        assert_eq!(state(&blank(), Some(OURS)), LunState::Unlabelled);
    }

    #[test]
    fn a_damaged_copy_a_shrunken_and_a_small_device_are_told_apart() {
        let file = labelled_file(OURS, 7);
        file.as_file().write_all_at(&[0xff; 64], (64 << 10) + 100).expect("damaged");
        assert_eq!(state(&file, Some(OURS)), LunState::Damaged(Damage::OneCopy));
        let file = labelled_file(OURS, 7);
        file.as_file().set_len(SIZE / 2).expect("shrunk");
        assert_eq!(state(&file, Some(OURS)), LunState::Damaged(Damage::Shrank));
        file.as_file().set_len(1 << 20).expect("shrunk");
        assert_eq!(state(&file, Some(OURS)), LunState::Damaged(Damage::TooSmall));
        assert_eq!(inspect(Path::new("/"), None).state, LunState::Unreadable);
    }

    #[test]
    fn a_foreign_signature_is_named_with_what_forces_it() {
        let file = blank();
        let made = std::process::Command::new("mkswap").arg(file.path()).output().expect("runs");
        assert!(made.status.success());
        let found = inspect(file.path(), Some(OURS));
        let LunState::ForeignSignature(signatures) = &found.state else {
            panic!("{found:?}");
        };
        let problem = found.problem.as_deref().expect("there is one");
        assert!(problem.contains(signatures[0].force_token()), "{problem}");
    }
}
