//! What is on a device that we did not put there: file systems, RAID, LVM, partition tables.
//!
//! `blkid -p` of util-linux looks; it knows more formats than we ever would. What it cannot tell
//! for sure counts as foreign: a doubt never lets a device be labelled.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Exit code of blkid: nothing was found.
const NOTHING_FOUND: i32 = 2;
/// Exit code of blkid: signatures of several formats contradict each other.
const AMBIVALENT: i32 = 8;

/// Something foreign on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// As blkid names the format, such as `ext4`, `LVM2_member`, `gpt`.
    pub kind: String,
    /// `filesystem`, `raid`, `crypto`, `partition table` or `other`.
    pub usage: String,
    /// Its UUID, where the format has one.
    pub uuid: Option<String>,
    /// Its label, where it has one.
    pub label: Option<String>,
}

impl Signature {
    /// What has to be repeated to have it destroyed: its UUID, or its kind where there is none.
    #[must_use]
    pub fn force_token(&self) -> &str {
        self.uuid.as_deref().unwrap_or(&self.kind)
    }
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.kind, self.usage)?;
        if let Some(uuid) = &self.uuid {
            write!(f, " {uuid}")?;
        }
        Ok(())
    }
}

/// What is on a device cannot be found out.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The program cannot be run.
    #[error("cannot run {program}: install util-linux")]
    Run {
        /// Which one.
        program: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The program failed.
    #[error("{program} failed on {}: {message}", path.display())]
    Failed {
        /// Which one.
        program: &'static str,
        /// The device.
        path: PathBuf,
        /// What it said.
        message: String,
    },
}

/// Everything foreign that blkid finds on a device.
///
/// # Errors
/// When it cannot be run or cannot read the device.
pub fn foreign_signatures(path: &Path) -> Result<Vec<Signature>, SignatureError> {
    // blkid says "nothing found" of a device that it cannot open.
    std::fs::File::open(path).map_err(|source| SignatureError::Failed {
        program: "blkid",
        path: path.to_owned(),
        message: source.to_string(),
    })?;
    let output = Command::new("blkid")
        .args(["-p", "-o", "export"])
        .arg(path)
        .output()
        .map_err(|source| SignatureError::Run { program: "blkid", source })?;
    match output.status.code() {
        Some(0) => Ok(parse(&String::from_utf8_lossy(&output.stdout))),
        Some(NOTHING_FOUND) if output.stderr.is_empty() => Ok(Vec::new()),
        Some(AMBIVALENT) => Ok(vec![Signature {
            kind: "ambivalent".to_owned(),
            usage: "several formats at once".to_owned(),
            uuid: None,
            label: None,
        }]),
        _ => Err(SignatureError::Failed {
            program: "blkid",
            path: path.to_owned(),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

/// Removes every foreign signature.
///
/// # Errors
/// When wipefs cannot be run or fails.
pub fn wipe_signatures(path: &Path) -> Result<(), SignatureError> {
    let output = Command::new("wipefs")
        .arg("--all")
        .arg(path)
        .output()
        .map_err(|source| SignatureError::Run { program: "wipefs", source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(SignatureError::Failed {
        program: "wipefs",
        path: path.to_owned(),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Reads blkid's export format: KEY=value lines.
fn parse(text: &str) -> Vec<Signature> {
    let fields: BTreeMap<&str, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key, unescape(value)))
        .collect();
    let get = |key: &str| fields.get(key).filter(|value| !value.is_empty()).cloned();
    let mut found = Vec::new();
    if let Some(kind) = get("TYPE") {
        let usage = get("USAGE").unwrap_or_else(|| "other".to_owned());
        found.push(Signature { kind, usage, uuid: get("UUID"), label: get("LABEL") });
    }
    if let Some(kind) = get("PTTYPE") {
        let usage = "partition table".to_owned();
        found.push(Signature { kind, usage, uuid: get("PTUUID"), label: None });
    }
    if found.is_empty() && fields.keys().any(|key| *key != "DEVNAME") {
        let usage = "other".to_owned();
        found.push(Signature { kind: "unknown".to_owned(), usage, uuid: None, label: None });
    }
    found
}

/// The export format escapes what a shell would act upon with a backslash.
fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_and_a_partition_table_are_read() {
        let ext4 = "DEVNAME=/dev/vdb\nLABEL=my\\ disk\nUUID=9c3f4b1e-0000-4000-8000-00000000000a\n\
                    VERSION=1.0\nBLOCK_SIZE=4096\nUSAGE=filesystem\nTYPE=ext4\n";
        let found = parse(ext4);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].kind.as_str(), found[0].usage.as_str()), ("ext4", "filesystem"));
        assert_eq!(found[0].label.as_deref(), Some("my disk"));
        assert_eq!(found[0].force_token(), "9c3f4b1e-0000-4000-8000-00000000000a");
        let gpt = parse("DEVNAME=/dev/vdb\nPTUUID=abcd\nPTTYPE=gpt\n");
        assert_eq!((gpt[0].kind.as_str(), gpt[0].force_token()), ("gpt", "abcd"));
    }

    #[test]
    fn what_is_not_understood_counts_as_foreign() {
        let found = parse("DEVNAME=/dev/vdb\nMINIMUM_IO_SIZE=512\n");
        assert_eq!((found.len(), found[0].force_token()), (1, "unknown"));
        assert!(parse("DEVNAME=/dev/vdb\n").is_empty());
        let lvm = parse("USAGE=raid\nTYPE=LVM2_member\n");
        assert_eq!(lvm[0].force_token(), "LVM2_member");
    }

    #[test]
    fn a_fresh_file_is_clean_and_a_swap_area_is_found_and_wiped() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(1 << 20).expect("sized");
        assert_eq!(foreign_signatures(file.path()).expect("blkid runs"), []);
        let made = Command::new("mkswap").arg(file.path()).output().expect("mkswap runs");
        assert!(made.status.success());
        let found = foreign_signatures(file.path()).expect("blkid runs");
        assert_eq!((found[0].kind.as_str(), found.len()), ("swap", 1));
        assert!(found[0].uuid.is_some());
        wipe_signatures(file.path()).expect("wipefs runs");
        assert_eq!(foreign_signatures(file.path()).expect("blkid runs"), []);
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error_and_never_clean() {
        let path = Path::new("/dev/no-such-device");
        assert!(foreign_signatures(path).is_err());
    }
}
