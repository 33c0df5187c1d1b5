//! What is in the root image: packages, settings, the first script. Its text is the cache key.

/// Debian release of the image.
pub(crate) const SUITE: &str = "trixie";
/// Where its kernel comes from.
pub(crate) const KERNEL_SUITE: &str = "trixie-backports";
/// Flavour of the kernel: small, with every driver that a virtual machine needs.
pub(crate) const KERNEL_FLAVOUR: &str = "cloud-amd64";
/// Size of the root file system; sparse.
pub(crate) const ROOT_BYTES: u64 = 2 << 30;

/// Packages of the image beside the kernel.
pub(crate) const PACKAGES: &[&str] = &[
    // storage tools that the tests use
    "dmsetup",
    "e2fsprogs",
    "fdisk",
    "fio",
    "lvm2",
    "nvme-cli",
    "open-iscsi",
    "sg3-utils",
    "thin-provisioning-tools",
    "xfsprogs",
    // the machine itself
    "iproute2",
    "iputils-ping",
    "kmod",
    "procps",
    "udev",
    "util-linux",
    // libraries of our programs
    "ca-certificates",
    "libssl3t64",
    // to find out what goes on
    "lsof",
    "psmisc",
    "socat",
    "strace",
];

/// Paths that dpkg leaves out: nobody reads manuals in a lab machine.
pub(crate) const LEFT_OUT: &[&str] =
    &["/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*"];

/// Process 1 until the programs disk is found; then the agent.
pub(crate) const LABINIT: &str = r#"#!/bin/sh
# Finds the disk with the programs and hands over to the agent on it.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
[ -e /sys/block/vda ] || modprobe -a virtio_pci virtio_blk
tries=0
while [ "$tries" -lt 100 ]; do
    for disk in /sys/block/vd*; do
        if [ "$(cat "$disk/serial" 2>/dev/null)" = lunar-programs ]; then
            mount -t ext4 -o ro "/dev/${disk##*/}" /opt/lunar &&
                exec /opt/lunar/bin/lab-agent init
            echo "labinit: the programs disk cannot be used" >/dev/console
        fi
    done
    tries=$((tries + 1))
    sleep 0.1
done
echo "labinit: no usable disk with serial lunar-programs" >/dev/console
"#;

/// Name of an image: a hash of all of the above and of the pinned kernel.
pub(crate) fn key(pinned_kernel: Option<&str>) -> String {
    let size = ROOT_BYTES.to_string();
    let parts = [SUITE, KERNEL_SUITE, KERNEL_FLAVOUR, &size, LABINIT]
        .into_iter()
        .chain([pinned_kernel.unwrap_or("newest")])
        .chain(PACKAGES.iter().copied())
        .chain(LEFT_OUT.iter().copied());
    // FNV-1a, 64 bits; a zero byte ends each part.
    let hash = parts
        .flat_map(|part| part.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{SUITE}-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_changes_with_the_kernel_pin_only() {
        assert_eq!(key(None), key(None));
        assert_ne!(key(None), key(Some("7.3.4+deb13")));
        assert_ne!(key(Some("7.3.4+deb13")), key(Some("7.2.6+deb13")));
    }

    #[test]
    fn labinit_names_what_the_agent_names() {
        assert!(LABINIT.contains(crate::agent::PROGRAMS_SERIAL));
        assert!(LABINIT.contains(&format!("exec {}/bin/lab-agent", crate::agent::PROGRAMS_MOUNT)));
    }
}
