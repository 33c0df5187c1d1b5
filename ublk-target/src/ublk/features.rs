//! What a ublk driver can do, what fs-core asks of it and what it cannot do without.

use libublk::sys;

/// What every device is created with.
pub const WANTED: u64 = (sys::UBLK_F_USER_RECOVERY
    | sys::UBLK_F_USER_RECOVERY_REISSUE
    | sys::UBLK_F_CMD_IOCTL_ENCODE) as u64;

const NAMES: [(u32, &str); 20] = [
    (sys::UBLK_F_SUPPORT_ZERO_COPY, "SUPPORT_ZERO_COPY"),
    (sys::UBLK_F_URING_CMD_COMP_IN_TASK, "URING_CMD_COMP_IN_TASK"),
    (sys::UBLK_F_NEED_GET_DATA, "NEED_GET_DATA"),
    (sys::UBLK_F_USER_RECOVERY, "USER_RECOVERY"),
    (sys::UBLK_F_USER_RECOVERY_REISSUE, "USER_RECOVERY_REISSUE"),
    (sys::UBLK_F_UNPRIVILEGED_DEV, "UNPRIVILEGED_DEV"),
    (sys::UBLK_F_CMD_IOCTL_ENCODE, "CMD_IOCTL_ENCODE"),
    (sys::UBLK_F_USER_COPY, "USER_COPY"),
    (sys::UBLK_F_ZONED, "ZONED"),
    (sys::UBLK_F_USER_RECOVERY_FAIL_IO, "USER_RECOVERY_FAIL_IO"),
    (sys::UBLK_F_UPDATE_SIZE, "UPDATE_SIZE"),
    (sys::UBLK_F_AUTO_BUF_REG, "AUTO_BUF_REG"),
    (sys::UBLK_F_QUIESCE, "QUIESCE"),
    (sys::UBLK_F_PER_IO_DAEMON, "PER_IO_DAEMON"),
    (sys::UBLK_F_BUF_REG_OFF_DAEMON, "BUF_REG_OFF_DAEMON"),
    (sys::UBLK_F_BATCH_IO, "BATCH_IO"),
    (sys::UBLK_F_INTEGRITY, "INTEGRITY"),
    (sys::UBLK_F_SAFE_STOP_DEV, "SAFE_STOP_DEV"),
    (sys::UBLK_F_NO_AUTO_PART_SCAN, "NO_AUTO_PART_SCAN"),
    (sys::UBLK_F_SHMEM_ZC, "SHMEM_ZC"),
];

/// The names of the bits that are set; bits without a name are left out.
#[must_use]
pub fn names(bits: u64) -> Vec<&'static str> {
    let is_set = |bit: u32| bits & u64::from(bit) != 0;
    NAMES.iter().filter(|(bit, _)| is_set(*bit)).map(|(_, name)| *name).collect()
}

/// The wanted bits that `granted` lacks.
#[must_use]
pub const fn missing(granted: u64) -> u64 {
    WANTED & !granted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_recovery_needs_is_missed_by_name() {
        let without = WANTED & !u64::from(sys::UBLK_F_USER_RECOVERY_REISSUE);
        assert_eq!(names(missing(without)), ["USER_RECOVERY_REISSUE"]);
        assert_eq!(missing(WANTED | 1), 0);
    }
}
