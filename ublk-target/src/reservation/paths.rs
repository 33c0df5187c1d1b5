//! How many paths lead from this host to a LUN, by sysfs.
//!
//! A device-mapper multipath device has one path a slave; an NVMe namespace with the kernel's own
//! multipath one a controller; anything else is a path itself.

use std::fs;
use std::io;
use std::path::Path;

/// Paths of the block device with this number, below a root that holds `dev/block` and `class`.
pub(super) fn count(sys: &Path, (major, minor): (u64, u64)) -> io::Result<u32> {
    let device = sys.join(format!("dev/block/{major}:{minor}"));
    if is_multipath(&device) {
        return entries(&device.join("slaves"), |_| true);
    }
    // Of a namespace with several controllers only the head is a disk that others see; its paths
    // are the hidden disks nvmeXcYnZ beside it, in the directory of the subsystem.
    let name = fs::canonicalize(&device)?;
    let name = name.file_name().map(|name| name.to_string_lossy().into_owned());
    let Some((subsystem, namespace)) = name.as_deref().and_then(nvme_parts) else { return Ok(1) };
    let parent = fs::canonicalize(&device)?;
    let parent = parent.parent().unwrap_or(&device);
    let prefix = format!("nvme{subsystem}c");
    let suffix = format!("n{namespace}");
    let mut paths = 0;
    for controller in controllers(parent)? {
        paths += entries(&controller, |name| name.starts_with(&prefix) && name.ends_with(&suffix))?;
    }
    Ok(paths.max(1))
}

fn is_multipath(device: &Path) -> bool {
    fs::read_to_string(device.join("dm/uuid")).is_ok_and(|uuid| uuid.starts_with("mpath-"))
}

/// The numbers in nvme0n1.
fn nvme_parts(name: &str) -> Option<(&str, &str)> {
    let (subsystem, namespace) = name.strip_prefix("nvme")?.split_once('n')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(subsystem) && is_number(namespace)).then_some((subsystem, namespace))
}

/// The controllers of the subsystem that has a namespace: directories, or links to them.
fn controllers(subsystem: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(subsystem)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_string_lossy().strip_prefix("nvme").map(str::to_owned);
        if number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn entries(directory: &Path, is_counted: impl Fn(&str) -> bool) -> io::Result<u32> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        count += u32::from(is_counted(&entry?.file_name().to_string_lossy()));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(root: &Path, directories: &[&str]) {
        for directory in directories {
            fs::create_dir_all(root.join(directory)).expect("a directory");
        }
    }

    fn link(root: &Path, number: &str, device: &str) {
        make(root, &["dev/block"]);
        let at = root.join("dev/block").join(number);
        std::os::unix::fs::symlink(root.join(device), at).expect("a link");
    }

    #[test]
    fn paths_are_counted_for_each_kind_of_device() {
        let folder = tempfile::tempdir().expect("a folder");
        let sys = folder.path();
        make(sys, &["devices/sda", "devices/dm-0/dm", "devices/dm-0/slaves/sda"]);
        make(sys, &["devices/dm-0/slaves/sdb", "devices/dm-1/dm", "devices/dm-1/slaves/sdc"]);
        fs::write(sys.join("devices/dm-0/dm/uuid"), "mpath-3600\n").expect("written");
        fs::write(sys.join("devices/dm-1/dm/uuid"), "LVM-abc\n").expect("written");
        make(sys, &["devices/nvme-subsys0/nvme0n1", "devices/nvme-subsys0/nvme0/nvme0c0n1"]);
        make(sys, &["devices/nvme-subsys0/nvme1/nvme0c1n1", "devices/nvme-subsys0/nvme1/hwmon0"]);
        make(sys, &["devices/pci/nvme3/nvme3n1"]);
        link(sys, "8:0", "devices/sda");
        link(sys, "254:0", "devices/dm-0");
        link(sys, "254:1", "devices/dm-1");
        link(sys, "259:0", "devices/nvme-subsys0/nvme0n1");
        link(sys, "259:9", "devices/pci/nvme3/nvme3n1");
        let cases = [((8, 0), 1), ((254, 0), 2), ((254, 1), 1), ((259, 0), 2), ((259, 9), 1)];
        for (number, paths) in cases {
            assert_eq!(count(sys, number).expect("counted"), paths, "{number:?}");
        }
        assert!(count(sys, (1, 1)).is_err());
    }
}
