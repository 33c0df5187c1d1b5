//! The fields of calls, checked before anything is done.

use std::collections::HashMap;
use std::path::Path;

use lunar_types::{PublicationId, VolumeId};

use super::text::quoted;
use super::worker::paths::{PathError, beneath};
use crate::errors::CsiError;
use crate::naming::id_of;
use crate::publication::PUBLICATION_KEY;

/// What Kubernetes adds to the volume context by itself.
const OF_KUBERNETES: [&str; 2] = ["csi.storage.k8s.io/", "storage.kubernetes.io/"];

/// What an id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A volume that may be there.
    Volume(VolumeId),
    /// Nothing, ever: it is no UUID.
    Nothing,
}

/// What the id of a volume names.
///
/// # Errors
/// There is none.
pub fn named(volume_id: &str) -> Result<Named, CsiError> {
    if volume_id.is_empty() {
        return Err(CsiError::invalid("volume_id is missing"));
    }
    // One volume has one text: another one would have another key.
    Ok(id_of(volume_id).map_or(Named::Nothing, Named::Volume))
}

/// The volume of a call that needs one.
///
/// # Errors
/// There is no id, or none that can name a volume.
pub fn volume(volume_id: &str) -> Result<VolumeId, CsiError> {
    match named(volume_id)? {
        Named::Volume(id) => Ok(id),
        Named::Nothing => {
            let id = quoted(volume_id);
            Err(CsiError::not_found(format!("there is no volume {id}: an id is a UUID")))
        }
    }
}

/// The publication in a publish context.
///
/// # Errors
/// It is missing, or there is something else.
pub fn publication(context: &HashMap<String, String>) -> Result<PublicationId, CsiError> {
    if let Some(key) = context.keys().find(|key| *key != PUBLICATION_KEY) {
        let key = quoted(key);
        let message = format!("publish_context has {key}, which this driver does not know");
        return Err(CsiError::invalid(message));
    }
    let missing = || {
        let why = "it is what ControllerPublishVolume has answered";
        CsiError::invalid(format!("publish_context has no {PUBLICATION_KEY}: {why}"))
    };
    let text = context.get(PUBLICATION_KEY).ok_or_else(missing)?;
    text.parse().map_err(|_| {
        let text = quoted(text);
        CsiError::invalid(format!("{PUBLICATION_KEY} {text} in publish_context is no UUID"))
    })
}

/// Refuses what a volume context says that nobody here has ever put there.
///
/// # Errors
/// It has something that is neither ours nor of Kubernetes.
pub fn volume_context(context: &HashMap<String, String>) -> Result<(), CsiError> {
    let is_known = |key: &str| OF_KUBERNETES.iter().any(|prefix| key.starts_with(prefix));
    match context.keys().find(|key| !is_known(key)) {
        None => Ok(()),
        Some(key) => {
            let key = quoted(key);
            let message = format!("volume_context has {key}, which this driver does not know");
            Err(CsiError::invalid(message))
        }
    }
}

/// A path of a call.
///
/// # Errors
/// It is missing, or no normal path beneath the root.
pub fn path(root: &Path, field: &str, text: &str) -> Result<String, CsiError> {
    match beneath(root, text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(CsiError::invalid(format!("{field} {error}"))),
    }
}

/// The path at which a volume is said to be. A volume is never at one that is not absolute.
///
/// # Errors
/// It is missing, no normal path beneath the root, or none where a volume can be.
pub fn place(root: &Path, text: &str) -> Result<String, CsiError> {
    match beneath(root, text) {
        Err(error @ PathError::Relative(_)) => {
            Err(CsiError::not_found(format!("the volume is not there: volume_path {error}")))
        }
        _ => path(root, "volume_path", text),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const ID: &str = "0b7e4a52-9f57-4d1f-8c6c-2a106fa1c2d4";

    fn context(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_id_that_is_no_uuid_names_nothing_and_one_volume_has_one_text() {
        assert!(matches!(named(ID), Ok(Named::Volume(_))));
        let upper = ID.to_uppercase();
        let plain = ID.replace('-', "");
        for text in ["v", "0", &upper, &plain, &format!("{{{ID}}}"), &format!("{ID} ")] {
            assert_eq!(named(text), Ok(Named::Nothing), "{text}");
            assert_eq!(volume(text).expect_err(text).code, Code::NotFound);
        }
        assert_eq!(volume("").expect_err("none").code, Code::InvalidArgument);
    }

    #[test]
    fn the_publish_context_is_the_publication_and_nothing_else() {
        assert!(publication(&context(&[(PUBLICATION_KEY, ID)])).is_ok());
        for wrong in [
            context(&[]),
            context(&[(PUBLICATION_KEY, "")]),
            context(&[(PUBLICATION_KEY, "x")]),
            context(&[(PUBLICATION_KEY, ID), ("devicePath", "/dev/sda")]),
            context(&[("publicationid", ID)]),
        ] {
            let error = publication(&wrong).expect_err("it is refused");
            assert_eq!(error.code, Code::InvalidArgument, "{wrong:?}");
        }
    }

    #[test]
    fn what_kubernetes_adds_to_the_volume_context_is_passed_over_and_no_other_key() {
        let added = [
            ("storage.kubernetes.io/csiProvisionerIdentity", "1-8081-csi.lunar.storage"),
            ("csi.storage.k8s.io/pod.name", "p"),
        ];
        assert_eq!(volume_context(&context(&added)), Ok(()));
        let error = volume_context(&context(&[("fsType", "ext4")])).expect_err("it is refused");
        assert!(error.message.contains("fsType"), "{error}");
    }
}
