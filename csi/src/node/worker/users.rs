//! Who has something open on a device's file system: for the message that says why it stays.
//!
//! Nothing of the file system is touched: the kernel tells of each open file which mount it is on.
//! Processes that cannot be seen, or that have only their working directory there, are not named.

use std::fs;

use super::mountinfo::{self, Mount};
use super::survey::uses_of;
use crate::node::device::DeviceNumber;

/// The most that are named.
const NAMED_MAX: usize = 5;

fn mounts_of(pid: &str) -> Vec<Mount> {
    let table = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    mountinfo::parse(&table).unwrap_or_default()
}

fn has_open(pid: &str, ids: &[u64]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    descriptors.flatten().any(|descriptor| {
        let text = fs::read_to_string(descriptor.path()).unwrap_or_default();
        let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        id.and_then(|id| id.trim().parse().ok()).is_some_and(|id| ids.contains(&id))
    })
}

/// The processes, and what they are called, in one text; empty if none is seen.
#[must_use]
pub fn users_of(device: DeviceNumber) -> String {
    let Ok(processes) = fs::read_dir("/proc") else { return String::new() };
    let names = processes.flatten().filter_map(|process| {
        let pid = process.file_name().into_string().ok()?;
        let is_process = pid.bytes().all(|byte| byte.is_ascii_digit());
        let is_own = pid == std::process::id().to_string();
        if !is_process || is_own {
            return None;
        }
        let ids: Vec<u64> =
            uses_of(device, &mounts_of(&pid)).iter().map(|used| used.mount.id).collect();
        if ids.is_empty() || !has_open(&pid, &ids) {
            return None;
        }
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(format!("process {pid} ({})", command.trim()))
    });
    names.take(NAMED_MAX).collect::<Vec<_>>().join(", ")
}
