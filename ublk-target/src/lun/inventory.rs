//! The devices of this host that are LUNs or could become some, and which path to use.
//!
//! Invariants:
//! - every whole block device is looked at, but ublk's (they stand on us), RAM disks, drives
//!   with exchangeable media and devices of size 0; loop devices only count once they are
//!   labelled;
//! - two paths to one LUN give one LUN: a multipath device before its paths, a device before those
//!   it stands on, then by name; two names of one device are one path;
//! - two devices with one label and different world-wide names are a copy, not a path: neither
//!   is used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lunar_types::{ClusterId, LunId};

use super::inspect::{Inspected, LunState, inspect, read_label};
use crate::holders::block_device;

const SKIPPED_PREFIXES: [&str; 7] = ["ublkb", "ram", "zram", "sr", "fd", "nbd", "mtdblock"];

/// Where to look for LUNs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Whether all whole block devices are looked at.
    pub scan: bool,
    /// Devices and files that are looked at in any case.
    pub paths: Vec<PathBuf>,
}

/// What the kernel says of the unit behind a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFacts {
    /// World-wide name, serial number or backing file; the same on every path.
    pub wwid: Option<String>,
    /// Vendor and model.
    pub model: Option<String>,
    /// Whether it is a multipath device, which is better than any of its paths.
    pub is_multipath: bool,
    /// Whether another device stands on it, which is then the one to use.
    pub is_held: bool,
}

/// A LUN, or a device that could become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalLun {
    /// What was found on the path that is used.
    pub inspected: Inspected,
    /// Further paths to the same LUN.
    pub other_paths: Vec<PathBuf>,
    /// What the kernel says of it.
    pub unit: UnitFacts,
    /// Whether it must not be used, because another device is a copy of it.
    pub is_ambiguous: bool,
}

impl LocalLun {
    /// The LUN's id, if it is one of ours.
    #[must_use]
    pub fn id(&self) -> Option<LunId> {
        match self.inspected.state {
            LunState::Ours(label) => Some(label.lun),
            _ => None,
        }
    }
}

/// The paths of all devices that are looked at.
///
/// # Errors
/// When sysfs cannot be read.
pub fn candidates(search: &Search, class_block: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = search.paths.clone();
    if search.scan {
        for entry in fs::read_dir(class_block)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_whole_disk(&entry.path(), &name) {
                paths.push(Path::new("/dev").join(name.replace('!', "/")));
            }
        }
    }
    paths.sort();
    paths.dedup();
    Ok(paths)
}

fn is_whole_disk(sysfs: &Path, name: &str) -> bool {
    let attribute = |file: &str| fs::read_to_string(sysfs.join(file)).unwrap_or_default();
    let is_skipped = SKIPPED_PREFIXES.iter().any(|prefix| {
        let rest = name.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    !is_skipped
        && !sysfs.join("partition").exists()
        && attribute("hidden").trim() != "1"
        && !matches!(attribute("size").trim(), "" | "0")
}

/// What the kernel says of the unit behind a path.
#[must_use]
pub fn unit_facts(path: &Path, dev_block: &Path) -> UnitFacts {
    let Some(number) = block_device(path) else {
        let real = fs::canonicalize(path).ok();
        let wwid = real.map(|path| format!("file:{}", path.display()));
        return UnitFacts { wwid, ..UnitFacts::default() };
    };
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let sysfs = dev_block.join(format!("{major}:{minor}"));
    let attribute = |file: &str| {
        let text = fs::read_to_string(sysfs.join(file)).ok()?;
        let text = text.trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    let dm_uuid = attribute("dm/uuid").unwrap_or_default();
    let multipath = dm_uuid.strip_prefix("mpath-").map(|wwid| format!("mpath:{wwid}"));
    let backing = attribute("loop/backing_file").map(|file| format!("file:{file}"));
    let is_multipath = multipath.is_some();
    let wwid = multipath
        .or(backing)
        .or_else(|| attribute("wwid"))
        .or_else(|| attribute("device/wwid"))
        .or_else(|| attribute("serial"));
    let model = [attribute("device/vendor"), attribute("device/model")];
    let model = model.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let is_held = fs::read_dir(sysfs.join("holders")).is_ok_and(|mut held| held.next().is_some());
    UnitFacts { wwid, model: (!model.is_empty()).then_some(model), is_multipath, is_held }
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Labels only: fast, enough to find the LUNs of a pool.
    Labels,
    /// Anything else on unlabelled devices too.
    Signatures,
}

/// Looks at every device.
///
/// # Errors
/// When sysfs cannot be read; a device that cannot be read is in the answer.
pub fn find_luns(
    search: &Search,
    cluster: Option<ClusterId>,
    depth: Depth,
) -> io::Result<Vec<LocalLun>> {
    let mut found = Vec::new();
    let candidates = candidates(search, Path::new("/sys/class/block"))?;
    for path in distinct_devices(candidates, &search.paths, block_device) {
        let mut inspected = read_label(&path, cluster);
        let is_loop = path.to_string_lossy().starts_with("/dev/loop");
        if is_loop && inspected.label().is_none() && !search.paths.contains(&path) {
            continue;
        }
        if depth == Depth::Signatures && inspected.state == LunState::Unlabelled {
            inspected = inspect(&path, cluster);
        }
        let unit = unit_facts(&path, Path::new("/sys/dev/block"));
        found.push((inspected, unit));
    }
    Ok(merge_paths(found))
}

/// Drops further names of a device that is in the list; a name that was given stays.
pub(super) fn distinct_devices(
    mut paths: Vec<PathBuf>,
    given: &[PathBuf],
    number_of: impl Fn(&Path) -> Option<u64>,
) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    paths.sort_by_key(|path| !given.contains(path));
    paths.retain(|path| number_of(path).is_none_or(|number| seen.insert(number)));
    paths
}

/// Makes one LUN of several paths to it.
fn merge_paths(mut found: Vec<(Inspected, UnitFacts)>) -> Vec<LocalLun> {
    found.sort_by_key(|(inspected, unit)| {
        (!unit.is_multipath, unit.is_held, inspected.path.clone())
    });
    let mut luns: Vec<LocalLun> = Vec::new();
    let mut by_id: BTreeMap<LunId, usize> = BTreeMap::new();
    for (inspected, unit) in found {
        let id = inspected.label().map(|label| label.lun);
        match id.and_then(|id| by_id.get(&id)) {
            Some(&at) => add_path(&mut luns[at], inspected, &unit),
            None => {
                by_id.extend(id.map(|id| (id, luns.len())));
                let lun =
                    LocalLun { inspected, other_paths: Vec::new(), unit, is_ambiguous: false };
                luns.push(lun);
            }
        }
    }
    luns
}

fn add_path(lun: &mut LocalLun, inspected: Inspected, unit: &UnitFacts) {
    // A multipath device is named differently from its paths: its label is proof enough.
    let is_copy = !lun.unit.is_multipath
        && !unit.is_multipath
        && matches!((&lun.unit.wwid, &unit.wwid), (Some(one), Some(other)) if one != other);
    let (used, other) = (lun.inspected.path.display(), inspected.path.display());
    if is_copy {
        lun.inspected.problem = Some(format!(
            "{used} and {other} carry the same label but are different units: one is a copy of \
             the other, and neither is used; remove the copy from this host or wipe its label"
        ));
        lun.is_ambiguous = true;
    } else if !lun.is_ambiguous {
        let note = format!("{other} is a second path to it and is not used");
        let problem = lun.inspected.problem.take();
        lun.inspected.problem =
            Some(problem.map_or_else(|| note.clone(), |text| format!("{text}; {note}")));
    }
    lun.other_paths.push(inspected.path);
}

#[cfg(test)]
mod tests {
    use lunar_engine::label::Label;

    use super::*;

    fn found(path: &str, lun: u128, unit: UnitFacts) -> (Inspected, UnitFacts) {
        let label = Label {
            cluster: ClusterId::from_u128(1),
            lun: LunId::from_u128(lun),
            size_bytes: 1 << 30,
            logical_block_bytes: 512,
        };
        let inspected = Inspected {
            path: path.into(),
            size_bytes: 1 << 30,
            logical_block_bytes: 512,
            state: LunState::Ours(label),
            problem: None,
        };
        (inspected, unit)
    }

    fn wwid(text: &str) -> UnitFacts {
        UnitFacts { wwid: Some(text.to_owned()), ..UnitFacts::default() }
    }

    #[test]
    fn a_second_path_is_reported_and_a_multipath_device_is_preferred() {
        let mpath = UnitFacts { is_multipath: true, ..wwid("mpath:360") };
        let luns = merge_paths(vec![
            found("/dev/sda", 7, wwid("naa.1")),
            found("/dev/sdb", 7, wwid("naa.1")),
            found("/dev/dm-0", 7, mpath),
            found("/dev/sdc", 8, wwid("naa.2")),
        ]);
        assert_eq!(luns.len(), 2);
        assert_eq!(luns[0].inspected.path, Path::new("/dev/dm-0"));
        assert_eq!(luns[0].other_paths, [PathBuf::from("/dev/sda"), PathBuf::from("/dev/sdb")]);
        let problem = luns[0].inspected.problem.as_deref().expect("both are reported");
        assert!(problem.contains("/dev/sda") && problem.contains("/dev/sdb"), "{problem}");
        assert!(!luns[0].is_ambiguous && luns[1].other_paths.is_empty());
    }

    #[test]
    fn a_device_is_preferred_to_what_it_stands_on_and_two_names_are_one_path() {
        let held = UnitFacts { is_held: true, ..UnitFacts::default() };
        let luns = merge_paths(vec![
            found("/dev/loop0", 7, held),
            found("/dev/mapper/slow", 7, UnitFacts::default()),
        ]);
        assert_eq!(luns[0].inspected.path, Path::new("/dev/mapper/slow"));
        let number = |path: &Path| match path.to_str() {
            Some("/dev/dm-0" | "/dev/mapper/slow") => Some(1),
            Some("/dev/sda") => Some(2),
            _ => None,
        };
        let paths = ["/dev/dm-0", "/dev/mapper/slow", "/dev/sda", "/srv/a", "/srv/b"];
        let given = [PathBuf::from("/dev/mapper/slow")];
        let distinct = distinct_devices(paths.map(PathBuf::from).to_vec(), &given, number);
        let expected = ["/dev/mapper/slow", "/dev/sda", "/srv/a", "/srv/b"];
        assert_eq!(distinct, expected.map(PathBuf::from));
    }

    #[test]
    fn a_copy_of_a_lun_makes_both_unusable() {
        let luns = merge_paths(vec![
            found("/dev/sda", 7, wwid("naa.1")),
            found("/dev/sdb", 7, wwid("naa.9")),
        ]);
        assert!(luns[0].is_ambiguous);
        assert_eq!(luns.len(), 1);
    }

    #[test]
    fn ublk_devices_partitions_and_empty_drives_are_no_candidates() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = |name: &str, size: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).expect("made");
            fs::write(path.join("size"), size).expect("written");
            path
        };
        for name in ["sda", "nvme0n1", "vdb", "dm-3", "ublkb0", "ram1", "zram0", "sr0"] {
            disk(name, "2048\n");
        }
        disk("sdb", "0\n");
        fs::write(disk("sda1", "1024\n").join("partition"), "1\n").expect("written");
        fs::write(disk("nvme0c0n1", "1024\n").join("hidden"), "1\n").expect("written");
        let search = Search { scan: true, paths: vec!["/srv/lun.raw".into()] };
        let expected = ["/dev/dm-3", "/dev/nvme0n1", "/dev/sda", "/dev/vdb", "/srv/lun.raw"];
        assert_eq!(candidates(&search, dir.path()).expect("readable"), expected.map(PathBuf::from));
        let none = Search { scan: false, paths: Vec::new() };
        assert!(candidates(&none, dir.path()).expect("readable").is_empty());
    }
}
