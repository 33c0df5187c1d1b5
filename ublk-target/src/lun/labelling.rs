//! Makes a device a LUN of the cluster.
//!
//! Invariants:
//! - nothing foreign is destroyed unless the caller repeats its UUID;
//! - the device is claimed while its label is written, so nobody has it mounted.
//!
//! Crash order: foreign signatures are wiped, then the label's head copy, then its tail copy are
//! written. A crash in between leaves a blank device or one good copy, which inspection reports.

use std::path::Path;

use lunar_engine::label::{self, Label, LabelError};
use lunar_engine::lun::LunDevice;
use lunar_types::{ClusterId, LunId};

use super::inspect::{Damage, Inspected, LunState, inspect};
use super::open::{self, Access, OpenError};
use super::signature::{self, SignatureError};

/// How far a request to label goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelOptions {
    /// The UUID of the foreign content that may be destroyed.
    pub force_foreign: Option<String>,
    /// Whether a damaged copy of our own label is written anew.
    pub repair: bool,
}

/// A device was not labelled.
#[derive(Debug, thiserror::Error)]
pub enum LabellingError {
    /// It is not free; `problem` says what it is and what to do.
    #[error("{path} is not labelled: {problem}")]
    Refused {
        /// The device.
        path: String,
        /// What it is and what to do.
        problem: String,
        /// What would have forced it, if anything.
        force_token: Option<String>,
    },
    /// The forcing UUID is not that of what is on the device.
    #[error("{path} is not labelled: --force-foreign names {given}, which is not there; {problem}")]
    WrongToken {
        /// The device.
        path: String,
        /// What was given.
        given: String,
        /// What it is and what would have been right.
        problem: String,
    },
    /// It cannot be claimed.
    #[error("cannot claim the device")]
    Open(#[from] OpenError),
    /// Foreign signatures cannot be removed.
    #[error("cannot remove what is on the device")]
    Wipe(#[from] SignatureError),
    /// The label cannot be written.
    #[error("cannot label {path}")]
    Write {
        /// The device.
        path: String,
        /// Why not.
        #[source]
        source: LabelError,
    },
}

/// Labels a device, or leaves it as it is when it has our label already.
///
/// # Errors
/// When it is not free, or the device fails.
pub fn label_device(
    path: &Path,
    cluster: ClusterId,
    lun: LunId,
    options: &LabelOptions,
) -> Result<Inspected, LabellingError> {
    let found = inspect(path, Some(cluster));
    match &found.state {
        LunState::Ours(_) => return Ok(found),
        LunState::Damaged(Damage::OneCopy) if options.repair => repair(path)?,
        LunState::Unlabelled => write(path, cluster, lun)?,
        _ => {
            check_force(&found, options)?;
            signature::wipe_signatures(path)?;
            write(path, cluster, lun)?;
        }
    }
    Ok(inspect(path, Some(cluster)))
}

/// What has to be repeated to have the device labelled all the same; nothing if nothing helps.
fn force_tokens(state: &LunState) -> Vec<String> {
    match state {
        LunState::ForeignCluster(label) => vec![label.lun.to_string()],
        LunState::ForeignSignature(signatures) => {
            signatures.iter().map(|signature| signature.force_token().to_owned()).collect()
        }
        LunState::Damaged(Damage::BothCopies) => vec!["damaged-label".to_owned()],
        _ => Vec::new(),
    }
}

fn check_force(found: &Inspected, options: &LabelOptions) -> Result<(), LabellingError> {
    let path = found.path.display().to_string();
    let tokens = force_tokens(&found.state);
    let problem = found.problem.clone().unwrap_or_else(|| "it is not free".to_owned());
    match &options.force_foreign {
        Some(given) if tokens.contains(given) => Ok(()),
        Some(given) if !tokens.is_empty() => {
            Err(LabellingError::WrongToken { path, given: given.clone(), problem })
        }
        _ => {
            let force_token = tokens.into_iter().next();
            Err(LabellingError::Refused { path, problem, force_token })
        }
    }
}

fn repair(path: &Path) -> Result<(), LabellingError> {
    let device = open::open(path, Access::Claim)?;
    label::repair(&device).map(|_| ()).map_err(|source| failed(path, source))
}

fn write(path: &Path, cluster: ClusterId, lun: LunId) -> Result<(), LabellingError> {
    let device = open::open(path, Access::Claim)?;
    let label = Label {
        cluster,
        lun,
        size_bytes: device.size_bytes(),
        logical_block_bytes: device.logical_block_bytes(),
    };
    label::write(&device, &label).map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: LabelError) -> LabellingError {
    LabellingError::Write { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use super::super::inspect::tests::{OURS, blank, labelled_file};
    use super::*;

    fn label(path: &Path, options: &LabelOptions) -> Result<Inspected, LabellingError> {
        label_device(path, OURS, LunId::from_u128(99), options)
    }

    fn force(token: &str) -> LabelOptions {
        LabelOptions { force_foreign: Some(token.to_owned()), repair: false }
    }

    #[test]
    fn a_blank_device_is_labelled_once() {
        let file = blank();
        let first = label(file.path(), &LabelOptions::default()).expect("labelled");
        assert_eq!(first.label().map(|label| label.lun), Some(LunId::from_u128(99)));
        let again = label_device(file.path(), OURS, LunId::from_u128(5), &LabelOptions::default());
        assert_eq!(again.expect("left as it is"), first);
    }

    #[test]
    fn foreign_content_is_destroyed_only_when_its_uuid_is_repeated() {
        let file = blank();
        assert!(Command::new("mkswap").arg(file.path()).output().expect("runs").status.success());
        let refused = label(file.path(), &LabelOptions::default()).expect_err("foreign");
        let LabellingError::Refused { force_token: Some(token), .. } = refused else {
            panic!("{refused}");
        };
        let wrong = label(file.path(), &force("1234")).expect_err("wrong UUID");
        assert!(matches!(wrong, LabellingError::WrongToken { .. }), "{wrong}");
        let labelled = label(file.path(), &force(&token)).expect("forced");
        assert!(matches!(labelled.state, LunState::Ours(_)), "{labelled:?}");
        let left = signature::foreign_signatures(file.path()).expect("readable");
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn the_lun_of_another_cluster_is_taken_only_by_its_id() {
        let file = labelled_file(ClusterId::from_u128(2), 7);
        let refused = label(file.path(), &LabelOptions::default()).expect_err("foreign");
        assert!(matches!(&refused, LabellingError::Refused { force_token: Some(token), .. }
            if *token == LunId::from_u128(7).to_string()));
        let token = LunId::from_u128(7).to_string();
        let labelled = label(file.path(), &force(&token)).expect("forced");
        assert_eq!(labelled.label().map(|label| label.cluster), Some(OURS));
    }

    #[test]
    fn a_damaged_copy_is_repaired_on_request_only_and_a_shrunken_lun_never_relabelled() {
        let file = labelled_file(OURS, 7);
        file.as_file().write_all_at(&[0xff; 64], (64 << 10) + 100).expect("damaged");
        assert!(label(file.path(), &LabelOptions::default()).is_err());
        let repair = LabelOptions { force_foreign: None, repair: true };
        let repaired = label(file.path(), &repair).expect("repaired");
        assert_eq!(repaired.label().map(|label| label.lun), Some(LunId::from_u128(7)));
        file.as_file().set_len(40 << 20).expect("shrunk");
        assert!(label(file.path(), &repair).is_err());
        assert!(label(file.path(), &force(&LunId::from_u128(7).to_string())).is_err());
    }
}
