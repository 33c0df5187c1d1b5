//! Mount flags of a storage class: attributes of the mount, and options of the file system.
//!
//! - What the kernel knows as an attribute (`noatime`, `nodev`, …) is one, of each mount of its
//!   own; everything else goes to the file system, which refuses what it does not know.
//! - An option that names another device, or changes what a mount is, is refused: the driver alone
//!   says what is mounted where.

use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use super::text::quoted;

/// The most flags of one call, and bytes of one of them: more is no storage class.
const FLAGS_MAX: usize = 64;
const FLAG_BYTES_MAX: usize = 255;

/// An attribute of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attribute {
    /// Nothing can be written.
    ReadOnly,
    /// No set-user-id programs.
    NoSuid,
    /// No device nodes.
    NoDev,
    /// No programs.
    NoExec,
    /// Reading leaves no trace.
    NoAtime,
    /// Listing a directory leaves none.
    NoDirAtime,
    /// Reading leaves one a day: what the kernel does unasked.
    RelAtime,
    /// Each read leaves one.
    StrictAtime,
}

const ATTRIBUTES: [(&str, Attribute); 8] = [
    ("ro", Attribute::ReadOnly),
    ("nosuid", Attribute::NoSuid),
    ("nodev", Attribute::NoDev),
    ("noexec", Attribute::NoExec),
    ("noatime", Attribute::NoAtime),
    ("nodiratime", Attribute::NoDirAtime),
    ("relatime", Attribute::RelAtime),
    ("strictatime", Attribute::StrictAtime),
];

/// What holds unasked, so that it may be asked for.
const DEFAULTS: [&str; 6] = ["rw", "suid", "dev", "exec", "defaults", "_netdev"];

/// Names another device, or makes the mount another kind of mount.
const REFUSED: [&str; 14] = [
    "source",
    "bind",
    "rbind",
    "move",
    "remount",
    "shared",
    "slave",
    "private",
    "unbindable",
    "loop",
    "logdev",
    "rtdev",
    "journal_dev",
    "journal_path",
];

impl Attribute {
    const fn flag(self) -> MountAttrFlags {
        match self {
            Self::ReadOnly => MountAttrFlags::MOUNT_ATTR_RDONLY,
            Self::NoSuid => MountAttrFlags::MOUNT_ATTR_NOSUID,
            Self::NoDev => MountAttrFlags::MOUNT_ATTR_NODEV,
            Self::NoExec => MountAttrFlags::MOUNT_ATTR_NOEXEC,
            Self::NoAtime => MountAttrFlags::MOUNT_ATTR_NOATIME,
            Self::NoDirAtime => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            Self::RelAtime => MountAttrFlags::MOUNT_ATTR_RELATIME,
            Self::StrictAtime => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        }
    }
}

/// How something is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions {
    /// Attributes of the mount.
    pub attributes: Vec<Attribute>,
    /// Options of the file system.
    pub file_system: Vec<FsOption>,
}

/// An option of a file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsOption {
    /// Such as "discard" or "commit".
    pub key: String,
    /// What is after the "=".
    pub value: Option<String>,
}

/// A flag that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// More than a storage class has.
    #[error("{0} mount flags were given: the most is 64")]
    TooMany(usize),
    /// It cannot be an option.
    #[error(
        "mount flag {} is none: letters, digits and ._:@%+/- make a key, or a key=value, of at \
         most 255 bytes", quoted(.0)
    )]
    Malformed(String),
    /// It would change what is mounted.
    #[error("mount flag {} is refused: the driver says what is mounted, and where", quoted(.0))]
    Refused(String),
    /// Each excludes the other.
    #[error("mount flags exclude each other: only one of noatime, relatime and strictatime")]
    TwoAtimes,
}

impl MountOptions {
    /// Of the flags of a call.
    ///
    /// # Errors
    /// One of them is not taken.
    pub fn parse(flags: &[String]) -> Result<Self, OptionError> {
        if flags.len() > FLAGS_MAX {
            return Err(OptionError::TooMany(flags.len()));
        }
        let mut options = Self::default();
        for flag in flags {
            if flag.len() > FLAG_BYTES_MAX {
                return Err(OptionError::Malformed(flag.clone()));
            }
            for text in flag.split(',') {
                options.add(text)?;
            }
        }
        let is_atime = |a: &&Attribute| {
            matches!(a, Attribute::NoAtime | Attribute::RelAtime | Attribute::StrictAtime)
        };
        match options.attributes.iter().filter(is_atime).count() {
            0 | 1 => Ok(options),
            _ => Err(OptionError::TwoAtimes),
        }
    }

    fn add(&mut self, text: &str) -> Result<(), OptionError> {
        let attribute = ATTRIBUTES.iter().find(|(name, _)| *name == text);
        if let Some((_, attribute)) = attribute {
            if !self.attributes.contains(attribute) {
                self.attributes.push(*attribute);
            }
            return Ok(());
        }
        if DEFAULTS.contains(&text) {
            return Ok(());
        }
        let option = fs_option(text).ok_or_else(|| OptionError::Malformed(text.to_owned()))?;
        if REFUSED.contains(&option.key.as_str()) {
            return Err(OptionError::Refused(text.to_owned()));
        }
        self.file_system.push(option);
        Ok(())
    }

    /// The same, with another attribute.
    #[must_use]
    pub fn with(mut self, attribute: Attribute) -> Self {
        if !self.attributes.contains(&attribute) {
            self.attributes.push(attribute);
        }
        self
    }

    /// Nothing can be written through the mount.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.attributes.contains(&Attribute::ReadOnly)
    }

    /// The attributes as the kernel takes them.
    #[must_use]
    pub fn flags(&self) -> MountAttrFlags {
        self.attributes.iter().map(|attribute| attribute.flag()).collect()
    }
}

fn fs_option(text: &str) -> Option<FsOption> {
    let is_text = |text: &str| {
        let is_taken = |c: char| c.is_ascii_alphanumeric() || "._:@%+/-".contains(c);
        !text.is_empty() && text.chars().all(is_taken)
    };
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    let is_option = is_text(key) && value.is_none_or(is_text);
    is_option.then(|| FsOption { key: key.to_owned(), value: value.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<MountOptions, OptionError> {
        MountOptions::parse(&flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn attributes_stay_with_the_mount_and_options_go_to_the_file_system() {
        let options = parse(&["noatime", "discard", "commit=30", "nodev,noexec", "rw"]);
        let options = options.expect("they are taken");
        let expected = [Attribute::NoAtime, Attribute::NoDev, Attribute::NoExec];
        assert_eq!(options.attributes, expected);
        let keys: Vec<_> = options.file_system.iter().map(|option| option.key.as_str()).collect();
        assert_eq!(keys, ["discard", "commit"]);
        assert_eq!(options.file_system[1].value.as_deref(), Some("30"));
    }

    #[test]
    fn every_attribute_has_a_flag_of_its_own() {
        for (name, attribute) in ATTRIBUTES {
            let options = parse(&[name, name]).expect("it is taken");
            assert_eq!(options.attributes, [attribute]);
            assert_eq!(options.is_read_only(), name == "ro");
        }
        let both = parse(&["nosuid", "nodev"]).expect("taken").flags();
        assert_eq!(both, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV);
    }

    #[test]
    fn what_would_change_what_is_mounted_is_refused() {
        for name in REFUSED {
            for flag in [name.to_owned(), format!("{name}=/dev/sda"), format!("discard,{name}")] {
                let refused = parse(&[&flag]).expect_err(name);
                assert!(matches!(refused, OptionError::Refused(_)), "{flag}: {refused}");
            }
        }
    }

    #[test]
    fn what_is_no_option_is_refused() {
        let long = "x".repeat(256);
        for flag in ["", ",", "a b", "a=", "=b", "a=b=c", "a\nb", "a\0", "é", "a;b", "$(a)", &long]
        {
            let refused = parse(&[flag]).expect_err(flag);
            assert!(matches!(refused, OptionError::Malformed(_)), "{flag}: {refused}");
        }
        assert_eq!(parse(&["a"; 65]), Err(OptionError::TooMany(65)));
        assert_eq!(parse(&["noatime", "strictatime"]), Err(OptionError::TwoAtimes));
    }
}
