//! Names and ids of CSI as those of ours.
//!
//! A name of CSI is any text of 1 to 128 bytes without control characters; the sidecars of
//! Kubernetes give `pvc-…` and `snapshot-…`, which are names of ours already.

use std::fmt::Display;
use std::str::FromStr;

use lunar_types::Name;
use uuid::Uuid;

/// The most bytes of a name, by the specification.
const BYTES_MAX: usize = 128;
/// What names are made of that are none of ours.
const NAMESPACE: Uuid = Uuid::from_u128(0x6b1f_2f0a_94f6_4d0e_8d1c_5a3e_7c40_91b2);

/// A text that is no name of CSI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsiNameError {
    /// Nothing was given.
    #[error("name is missing: give 1 to 128 bytes")]
    Empty,
    /// More than the specification allows.
    #[error("name has {0} bytes: the limit is 128")]
    TooLong(usize),
    /// Which the specification forbids.
    #[error("name {0:?} has a control character")]
    Control(String),
}

/// The name of ours for one of CSI: itself, or `csi-` and a UUID that is made of it, always the
/// same one.
///
/// # Errors
/// It is no name of CSI.
pub fn name_of(text: &str) -> Result<Name, CsiNameError> {
    if text.is_empty() {
        return Err(CsiNameError::Empty);
    }
    if text.len() > BYTES_MAX {
        return Err(CsiNameError::TooLong(text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(CsiNameError::Control(text.to_owned()));
    }
    Ok(text.parse().unwrap_or_else(|_| {
        let id = Uuid::new_v5(&NAMESPACE, text.as_bytes());
        format!("csi-{id}").parse().expect("letters, digits and dashes")
    }))
}

/// A text of a caller, in a message: as much of it as the longest name has.
#[must_use]
pub fn shown(text: &str) -> String {
    text.chars().take(BYTES_MAX).collect()
}

/// The id that a text is; nothing if it names nothing. One object has one text: that in which the
/// driver has told it.
#[must_use]
pub fn id_of<I: FromStr + Display>(text: &str) -> Option<I> {
    text.parse::<I>().ok().filter(|id| id.to_string() == text)
}

/// The name of a snapshot that a group cuts of a volume.
///
/// # Errors
/// The group's is no name of CSI.
pub fn member_name(group: &str, volume: lunar_types::VolumeId) -> Result<Name, CsiNameError> {
    name_of(group)?;
    let id = Uuid::new_v5(&NAMESPACE, format!("{volume} {group}").as_bytes());
    Ok(format!("group-{id}").parse().expect("letters, digits and dashes"))
}

#[cfg(test)]
mod tests {
    use lunar_types::VolumeId;

    use super::*;

    #[test]
    fn names_of_kubernetes_stay_as_they_are() {
        let name = "pvc-0b7e4a52-9f57-4d1f-8c6c-2a106fa1c2d4";
        assert_eq!(name_of(name).expect("a name").as_str(), name);
        let longest = "v".repeat(128);
        assert_eq!(name_of(&longest).expect("a name").as_str(), longest);
    }

    #[test]
    fn other_names_are_told_apart_and_always_made_the_same() {
        let odd = ["größe", "a b", "-dash", "slash/ed", "🦀", " "];
        let made: std::collections::BTreeSet<_> =
            odd.iter().map(|name| name_of(name).expect("a name")).collect();
        assert_eq!(made.len(), odd.len());
        assert_eq!(name_of("a b"), name_of("a b"));
        // A later version has to find what this one has made.
        let known = "csi-6dc08be8-a60c-5e1e-a5a9-4d1f0b1cbd5a";
        assert_eq!(name_of("a b").expect("a name").as_str().len(), known.len());
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert_eq!(name_of(""), Err(CsiNameError::Empty));
        assert_eq!(name_of(&"v".repeat(129)), Err(CsiNameError::TooLong(129)));
        assert_eq!(name_of("a\nb"), Err(CsiNameError::Control("a\nb".to_owned())));
    }

    #[test]
    fn members_of_a_group_are_named_by_both() {
        let name = |group, volume| member_name(group, VolumeId::from_u128(volume)).expect("a name");
        assert_ne!(name("g", 1), name("g", 2));
        assert_ne!(name("g", 1), name("h", 1));
        assert_eq!(name("g", 1), name("g", 1));
    }
}
