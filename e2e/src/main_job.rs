//! The main job: what the product is for, from bare LUNs to verified content after a restart.
//!
//! The demo shows it, the end-to-end test checks it; both run these steps.

use serde_json::Value;

use crate::machine::MachineError;
use crate::product::Product;
use crate::session::Session;

const GIB: u64 = 1 << 30;

/// The volumes of the main job: name, and how it is used.
const VOLUMES: [(&str, Use); 3] = [
    ("alpha", Use::FileSystem("mkfs.ext4 -q -E nodiscard")),
    ("beta", Use::FileSystem("mkfs.xfs -q -K")),
    ("gamma", Use::Raw),
];

#[derive(Clone, Copy)]
enum Use {
    FileSystem(&'static str),
    Raw,
}

fn number(value: &Value, path: &str) -> Result<u64, MachineError> {
    let found = value.pointer(path).and_then(Value::as_u64);
    found.ok_or_else(|| MachineError::Unexpected(format!("no number at {path} in {value}")))
}

/// Bytes of the pool's first LUNs that volumes map.
///
/// # Errors
/// When the pool's status cannot be had.
pub fn mapped_bytes(session: &Session<'_>) -> Result<u64, MachineError> {
    number(&session.json("pool status tank")?, "/pools/0/usage/mapped_bytes")
}

fn check(holds: bool, claim: impl FnOnce() -> String) -> Result<(), MachineError> {
    if holds { Ok(()) } else { Err(MachineError::Unexpected(claim())) }
}

/// Labels the LUNs and makes the pool `tank` of them.
///
/// # Errors
/// When a step fails.
pub fn make_pool(session: &Session<'_>, luns: &[String]) -> Result<(), MachineError> {
    session.headline("label the LUNs and make a pool of them");
    for lun in luns {
        session.run(&format!("lunar lun label {lun}"))?;
    }
    session.run(&format!("lunar pool create tank --fencing none {}", luns.join(" ")))?;
    session.run("lunar pool status tank")?;
    let status = session.json("pool status tank")?;
    let total = number(&status, "/pools/0/usage/total_bytes")?;
    check(total < 10 * GIB, || format!("a pool of {total} B does not show thin provisioning"))
}

/// Attaches a volume and gives its device.
///
/// # Errors
/// When it fails.
pub fn attach(session: &Session<'_>, volume: &str) -> Result<String, MachineError> {
    session.run(&format!("lunar volume attach {volume}"))?;
    device_of(session, volume)
}

/// Attaches a volume without showing it, by one command: each is a third of a second in the lab.
///
/// # Errors
/// When it fails.
pub fn attach_quietly(session: &Session<'_>, volume: &str) -> Result<String, MachineError> {
    device_in(&session.json(&format!("volume attach {volume}"))?, "/device_path")
}

/// The device of a volume that is attached here.
///
/// # Errors
/// When it is not.
pub fn device_of(session: &Session<'_>, volume: &str) -> Result<String, MachineError> {
    device_in(&session.json(&format!("volume show {volume}"))?, "/attachment/device_path")
}

fn device_in(shown: &Value, path: &str) -> Result<String, MachineError> {
    let device = shown.pointer(path).and_then(Value::as_str);
    let device = device.filter(|path| path.starts_with("/dev/ublkb")).map(str::to_owned);
    device.ok_or_else(|| MachineError::Unexpected(format!("no ublk device in {shown}")))
}

/// Makes the volumes, puts content on each and verifies it.
///
/// # Errors
/// When a step fails.
pub fn fill_volumes(session: &Session<'_>) -> Result<(), MachineError> {
    for (name, usage) in VOLUMES {
        session.headline(&format!("volume {name}: 10 GiB, thin"));
        session.run(&format!("lunar volume create {name} --pool tank --size 10GiB"))?;
        let device = attach(session, name)?;
        match usage {
            Use::FileSystem(mkfs) => fill_file_system(session, name, &device, mkfs)?,
            Use::Raw => fill_raw(session, &device)?,
        }
    }
    Ok(())
}

fn fill_file_system(
    session: &Session<'_>,
    name: &str,
    device: &str,
    mkfs: &str,
) -> Result<(), MachineError> {
    session.run(&format!("{mkfs} {device}"))?;
    session.run(&format!("mkdir -p /mnt/{name} && mount {device} /mnt/{name}"))?;
    session.run(&format!(
        "cd /mnt/{name} && head -c 24M /dev/urandom > kept && head -c 48M /dev/urandom > dropped \
         && cp -a /etc/. etc && sha256sum kept dropped > sums && sync -f ."
    ))?;
    session.run(&format!("umount /mnt/{name} && mount {device} /mnt/{name}"))?;
    session.run(&format!(
        "cd /mnt/{name} && sha256sum --check sums && diff -r --no-dereference /etc etc"
    ))?;
    session.headline(&format!("volume {name}: fstrim gives the space of a deleted file back"));
    session.run("lunar pool status tank")?;
    session.run(&format!("lunar volume map {name} --checkpoint > /dev/null"))?;
    let before = mapped_bytes(session)?;
    session.run(&format!("rm /mnt/{name}/dropped && sync -f /mnt/{name}"))?;
    session.run(&format!("fstrim -v /mnt/{name}"))?;
    session.run(&format!("lunar volume map {name} --checkpoint > /dev/null"))?;
    session.run("lunar pool status tank")?;
    let after = mapped_bytes(session)?;
    check(after + (32 << 20) <= before, || {
        format!("fstrim of a 48 MiB file gave {} B back", before.saturating_sub(after))
    })?;
    session.run(&format!("umount /mnt/{name}"))?;
    Ok(())
}

/// Random writes over several queues, verified by fio.
fn fill_raw(session: &Session<'_>, device: &str) -> Result<(), MachineError> {
    session.run(&fio(device, "--rw=randwrite --do_verify=1"))?;
    Ok(())
}

/// The fio job of the raw volume: two jobs, so that two queues are used.
fn fio(device: &str, mode: &str) -> String {
    format!(
        "fio --name=verify --filename={device} --direct=1 --ioengine=libaio --bs=4k --iodepth=16 \
         --numjobs=2 --size=16M --offset_increment=5G --verify=crc32c --verify_fatal=1 \
         --verify_state_save=0 --group_reporting --minimal {mode} > /dev/null"
    )
}

/// A snapshot, damage and the way back; a clone beside its parent.
///
/// # Errors
/// When a step fails, or something is not as it was.
pub fn use_snapshots(session: &Session<'_>) -> Result<(), MachineError> {
    session.headline("a snapshot of a mounted file system, damage, and the way back");
    let device = device_of(session, "alpha")?;
    session.run(&format!("mount {device} /mnt/alpha"))?;
    session.run("lunar snapshot create alpha before")?;
    session.run("cd /mnt/alpha && rm -r etc && head -c 24M /dev/urandom > kept && sync -f .")?;
    session.run("umount /mnt/alpha")?;
    session.run("lunar volume rollback alpha before --reattach")?;
    let device = device_of(session, "alpha")?;
    session.run(&format!("mount {device} /mnt/alpha"))?;
    session.run(&content_is_whole("alpha"))?;
    session.run("umount /mnt/alpha")?;

    session.headline("a clone, mounted beside its parent");
    let device = device_of(session, "beta")?;
    session.run(&format!("mount {device} /mnt/beta"))?;
    session.run("lunar snapshot create beta base")?;
    session.run("lunar volume clone base delta")?;
    let clone = attach(session, "delta")?;
    session.run(&format!("mkdir -p /mnt/delta && mount -o nouuid {clone} /mnt/delta"))?;
    session.run("diff -r --no-dereference /mnt/beta /mnt/delta")?;
    session.run("rm -r /mnt/delta/etc /mnt/delta/kept && sync -f /mnt/delta")?;
    session.run(&content_is_whole("beta"))?;
    session.run("umount /mnt/delta /mnt/beta")?;
    session.run("lunar snapshot list")?;
    session.run("lunar volume detach delta && lunar volume delete delta")?;
    session
        .run("lunar snapshot delete base --no-wait && lunar snapshot delete before --no-wait")?;
    Ok(())
}

/// What is kept on a file system of the main job is as it was written.
fn content_is_whole(name: &str) -> String {
    format!(
        "cd /mnt/{name} && grep kept sums | sha256sum --check \
         && diff -r --no-dereference /etc etc"
    )
}

/// Verifies the content of every attached volume.
///
/// # Errors
/// When something is not as it was written.
pub fn verify_content(session: &Session<'_>) -> Result<(), MachineError> {
    for (name, usage) in VOLUMES {
        let device = device_of(session, name)?;
        match usage {
            Use::FileSystem(_) => {
                session.run(&format!("mkdir -p /mnt/{name} && mount {device} /mnt/{name}"))?;
                session.run(&content_is_whole(name))?;
                session.run(&format!("umount /mnt/{name}"))?;
            }
            Use::Raw => {
                session.run(&fio(&device, "--rw=randread --verify_only=1"))?;
            }
        }
    }
    Ok(())
}

/// Attaches every volume.
///
/// # Errors
/// When one cannot be.
pub fn attach_all(session: &Session<'_>) -> Result<(), MachineError> {
    for (name, _) in VOLUMES {
        attach(session, name)?;
    }
    Ok(())
}

/// Detaches every volume.
///
/// # Errors
/// When one cannot be.
pub fn detach_all(session: &Session<'_>) -> Result<(), MachineError> {
    for (name, _) in VOLUMES {
        session.run(&format!("lunar volume detach {name}"))?;
    }
    Ok(())
}

/// Detaches, restarts both daemons, attaches and verifies.
///
/// # Errors
/// When a step fails.
pub fn survive_restart(
    session: &Session<'_>,
    product: &mut Product<'_>,
) -> Result<(), MachineError> {
    session.headline("detach, restart both daemons, attach again, verify");
    detach_all(session)?;
    product.stop_fs_core()?;
    product.stop_metadata()?;
    product.start_metadata()?;
    product.start_fs_core()?;
    attach_all(session)?;
    verify_content(session)
}

/// Shows what there is, and checks the metadata.
///
/// # Errors
/// When a step fails or fsck finds something.
pub fn show_all(session: &Session<'_>) -> Result<(), MachineError> {
    session.headline("what there is now");
    for command in ["volume list", "pool status", "node list", "fsck"] {
        session.run(&format!("lunar {command}"))?;
    }
    Ok(())
}
