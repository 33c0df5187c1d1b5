//! The mount table of the kernel, as `/proc/self/mountinfo` tells it.
//!
//! - A mount is known by its id, never by its path: two may be at one path, one above the other.
//! - A line that cannot be understood is an error: a table that is half known would let a mount be
//!   overlooked.
//! - Reading it touches no file system, so what is dead or hangs is in it as well.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use serde::{Deserialize, Serialize};

use crate::node::device::DeviceNumber;

/// Of this thread: threads may have mount namespaces of their own.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The id of this mount; no other one that lives has it.
    pub id: u64,
    /// The mount that it is on.
    pub parent: u64,
    /// The device of its file system.
    pub device: DeviceNumber,
    /// Which part of the file system is mounted, such as "/".
    pub root: String,
    /// Where, for people: what is no UTF-8 is replaced.
    pub point: String,
    /// Attributes of the mount, such as "rw,noatime".
    pub attributes: String,
    /// What is mounted on it is seen in other namespaces too.
    pub is_shared: bool,
    /// Such as "ext4".
    pub fs_type: String,
    /// What it was mounted from, such as "/dev/ublkb0".
    pub source: String,
    /// Options of the file system, such as "rw,discard".
    pub fs_options: String,
}

impl Mount {
    /// Nothing can be written through this mount.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        has_option(&self.attributes, "ro")
    }

    /// Nothing can be written through any mount of its file system.
    #[must_use]
    pub fn is_fs_read_only(&self) -> bool {
        self.has_fs_option("ro")
    }

    /// Whether its file system tells this option, without a value.
    #[must_use]
    pub fn has_fs_option(&self, wanted: &str) -> bool {
        has_option(&self.fs_options, wanted)
    }
}

fn has_option(options: &str, wanted: &str) -> bool {
    options.split(',').any(|option| option == wanted)
}

/// A line that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the mount table has no {what}: {text:?}")]
pub struct MountTableError {
    line: usize,
    what: &'static str,
    text: String,
}

/// The mounts of the namespace of this thread.
///
/// # Errors
/// The table cannot be read or understood.
pub fn read() -> io::Result<Vec<Mount>> {
    parse(&std::fs::read(TABLE)?).map_err(io::Error::other)
}

/// The id of the mount that a descriptor is on. Asks no file system, so it is known of a dead one.
///
/// # Errors
/// The kernel does not tell.
pub fn mount_id(of: impl AsFd) -> io::Result<u64> {
    let path = format!("/proc/thread-self/fdinfo/{}", of.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path)?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel tells no mount id of a descriptor"))
}

/// The mounts in the text of such a table.
///
/// # Errors
/// A line cannot be understood.
pub fn parse(table: &[u8]) -> Result<Vec<Mount>, MountTableError> {
    let lines = table.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(n, line)| {
            let text = String::from_utf8_lossy(line);
            parse_line(line).map_err(|what| MountTableError {
                line: n + 1,
                what,
                text: text.into_owned(),
            })
        })
        .collect()
}

fn parse_line(line: &[u8]) -> Result<Mount, &'static str> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = |what| fields.next().filter(|field| !field.is_empty()).ok_or(what);
    let id = number(next("id")?).ok_or("id")?;
    let parent = number(next("parent")?).ok_or("parent")?;
    let device = device_number(next("device")?).ok_or("device")?;
    let root = unescaped(next("root")?);
    let point = unescaped(next("mount point")?);
    let attributes = unescaped(next("attributes")?);
    let mut is_shared = false;
    loop {
        match next("end of the optional fields")? {
            b"-" => break,
            field => is_shared |= field.starts_with(b"shared:"),
        }
    }
    let fs_type = unescaped(next("file system")?);
    // A source may be empty, which leaves two spaces.
    let source = unescaped(fields.next().ok_or("source")?);
    let fs_options = unescaped(fields.next().ok_or("options")?);
    Ok(Mount {
        id,
        parent,
        device,
        root,
        point,
        attributes,
        is_shared,
        fs_type,
        source,
        fs_options,
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device_number(field: &[u8]) -> Option<DeviceNumber> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Space, tab, newline, backslash and a few more are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        match (first, octal(after)) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = digits.get(..3)?;
    if !digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
        return None;
    }
    let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &str = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=c";

    fn one(line: &str) -> Mount {
        let mounts = parse(line.as_bytes()).expect("a mount table");
        assert_eq!(mounts.len(), 1, "{line}");
        mounts.into_iter().next().expect("it has one")
    }

    #[test]
    fn a_line_is_taken_apart() {
        let mount = one(LINE);
        assert_eq!((mount.id, mount.parent), (36, 35));
        assert_eq!(mount.device, DeviceNumber { major: 98, minor: 0 });
        assert_eq!((mount.root.as_str(), mount.point.as_str()), ("/mnt1", "/mnt2"));
        assert_eq!((mount.fs_type.as_str(), mount.source.as_str()), ("ext3", "/dev/root"));
        assert_eq!(mount.fs_options, "rw,errors=c");
        assert!(!mount.is_shared && !mount.is_read_only());
    }

    #[test]
    fn shared_mounts_are_found_among_none_one_and_several_optional_fields() {
        for (fields, shared) in [
            ("", false),
            ("shared:7 ", true),
            ("master:1 ", false),
            ("shared:7 master:1 ", true),
            ("master:1 propagate_from:2 shared:7 ", true),
            ("unbindable ", false),
            ("some:thing new shared:1 ", true),
        ] {
            let line = format!("1 2 0:5 / /a rw {fields}- tmpfs tmpfs rw");
            assert_eq!(one(&line).is_shared, shared, "{fields}");
        }
    }

    #[test]
    fn octal_escapes_are_undone_and_other_backslashes_stay() {
        for (written, meant) in [
            ("/a\\040b", "/a b"),
            ("/a\\011b\\012c", "/a\tb\nc"),
            ("/a\\134040", "/a\\040"),
            ("/\\303\\251", "/é"),
            ("/a\\04", "/a\\04"),
            ("/a\\089", "/a\\089"),
            ("/a\\777", "/a\\777"),
            ("/a\\", "/a\\"),
        ] {
            let line = format!("1 2 0:5 / {written} rw - tmpfs tmpfs rw");
            assert_eq!(one(&line).point, meant, "{written}");
        }
    }

    #[test]
    fn read_only_is_an_option_of_its_own_and_no_part_of_another() {
        let mount = one("1 2 0:5 / /a relatime,ro - ext4 /dev/a rw,errors=remount-ro");
        assert!(mount.is_read_only() && !mount.is_fs_read_only());
        let mount = one("1 2 0:5 / /a rw - ext4 /dev/a ro");
        assert!(!mount.is_read_only() && mount.is_fs_read_only());
    }

    #[test]
    fn an_empty_source_is_no_error_and_a_missing_end_is() {
        assert_eq!(one("1 2 0:5 / /a rw - tmpfs  rw").source, "");
        for line in [
            "1",
            "x 2 0:5 / /a rw - tmpfs a rw",
            "1 2 05 / /a rw - tmpfs a rw",
            "1 2 0:5 / /a rw shared:1",
            "1 2 0:5 / /a rw - tmpfs a",
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn the_table_of_this_process_is_understood_and_has_its_root() {
        let mounts = read().expect("the table of the kernel");
        let root = std::fs::File::open("/").expect("the root");
        let id = mount_id(&root).expect("its id");
        assert!(mounts.iter().any(|mount| mount.id == id && mount.point == "/"), "{mounts:?}");
    }

    fn escaped(text: &str) -> String {
        text.bytes()
            .map(|byte| match byte {
                b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}"),
                _ => String::from_utf8_lossy(&[byte]).into_owned(),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn what_the_kernel_escapes_comes_back_as_it_was(point in "/[ -~\t\n]{0,40}") {
            let line = format!("1 2 8:1 / {} rw shared:1 - xfs /dev/a rw", escaped(&point));
            prop_assert_eq!(one(&line).point, point);
        }

        #[test]
        fn no_text_makes_it_panic(table in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&table);
        }
    }
}
