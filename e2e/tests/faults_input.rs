//! Bad input: a clear error that names what and why, the right exit code, and nothing lost.

mod support;

use lunar_e2e::session::Session;
use lunar_lab::{Lab, LunSpec};
use support::{GIB, devices, lab, make_pool, must, product, session, volume};

/// Refused before anything is done: the arguments cannot be what they say.
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const REFUSED: i32 = 4;

/// Runs a command that has to fail so, and says all of these.
fn refused(session: &Session<'_>, command: &str, code: i32, says: &[&str]) {
    let error = session.refused(command, code).unwrap_or_else(|error| panic!("{error}"));
    for text in says {
        assert!(error.contains(text), "'{command}' should say '{text}' but says:\n{error}");
    }
}

/// The UUID that `lunar lun status` shows for a device's foreign content.
fn foreign_uuid(session: &Session<'_>, device: &str) -> String {
    let status = session.json(&format!("lun status {device}")).expect("it has a status");
    let uuid = status.pointer("/luns/0/signatures/0/uuid").and_then(|uuid| uuid.as_str());
    uuid.unwrap_or_else(|| panic!("no signature in {status}")).to_owned()
}

fn foreign_content(lab: &Lab, device: &str, make: &str) {
    lab.node(0).sh(&format!("wipefs -aq {device}; {make}")).expect("the content can be made");
}

#[test]
fn foreign_content_is_refused_unless_named() {
    let lab = lab([LunSpec::new(GIB)]);
    let daemons = product(&lab);
    let session = session(&lab);
    let device = devices(&lab).remove(0);
    let contents = [
        ("ext4", format!("mkfs.ext4 -q {device}")),
        ("xfs", format!("mkfs.xfs -qf {device}")),
        ("LVM2_member", format!("pvcreate -qq -f {device}")),
        ("gpt", format!("echo 'label: gpt' | sfdisk -q {device}")),
    ];
    for (kind, make) in contents {
        foreign_content(&lab, &device, &make);
        let uuid = foreign_uuid(&session, &device);
        let label = format!("lunar lun label {device}");
        refused(&session, &label, REFUSED, &[&device, kind, &uuid, "--force-foreign"]);
        let wrong = format!("{label} --force-foreign 6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10");
        refused(&session, &wrong, REFUSED, &[&device, &uuid]);
        let content = session.quiet(&format!("blkid -p -o value -s TYPE -s PTTYPE {device}"));
        assert_eq!(must(&daemons, content).trim(), kind, "a refusal leaves the content alone");
        must(&daemons, session.quiet(&format!("{label} --force-foreign {uuid}")));
        let state = must(&daemons, session.json(&format!("lun status {device}")));
        assert_eq!(state.pointer("/luns/0/state").and_then(|s| s.as_str()), Some("ours"));
        // Bare again for the next kind of content.
        lab.node(0)
            .sh(&format!(
                "dd if=/dev/zero of={device} bs=1M count=2 conv=fsync; \
             dd if=/dev/zero of={device} bs=1M seek=1022 count=2 conv=fsync"
            ))
            .expect("wiped");
    }
    lab.down();
}

#[test]
fn the_label_of_another_cluster_is_foreign() {
    let lab = lab([LunSpec::new(GIB)]);
    let mut daemons = product(&lab);
    let session = session(&lab);
    let device = devices(&lab).remove(0);
    must(&daemons, session.quiet(&format!("lunar lun label {device}")));
    // Another cluster: the same LUN, a fresh metadata service.
    let restarted = daemons
        .stop_fs_core()
        .and_then(|()| daemons.stop_metadata())
        .and_then(|()| session.quiet("rm /var/lib/lunar/metadata.redb; rm -rf /run/lunar/state"))
        .and_then(|_| daemons.start_metadata())
        .and_then(|()| daemons.start_fs_core());
    must(&daemons, restarted);
    refused(&session, &format!("lunar lun label {device}"), REFUSED, &[&device, "cluster"]);
    refused(&session, &format!("lunar pool create p --fencing none {device}"), REFUSED, &[&device]);
    lab.down();
}

#[test]
fn damaged_shrunken_and_duplicate_luns_are_refused() {
    let lab = lab([LunSpec::new(GIB), LunSpec::new(GIB)]);
    let node = lab.node(0);
    let daemons = product(&lab);
    let session = session(&lab);
    let luns = devices(&lab);
    must(&daemons, session.quiet(&format!("lunar lun label {}", luns[0])));
    let make = |pool: &str, lun: &str| format!("lunar pool create {pool} --fencing none {lun}");
    refused(&session, &make("p", &format!("{0} {0}", luns[0])), REFUSED, &["twice"]);

    // A flipped bit in one copy of the label.
    let flip = |at: u64| {
        let script = format!(
            "byte=$(dd if={0} bs=1 skip={at} count=1 2>/dev/null | od -An -tu1); \
             printf \"\\\\$(printf %03o $((byte ^ 1)))\" | \
             dd of={0} bs=1 seek={at} count=1 conv=notrunc,fsync 2>/dev/null",
            luns[0]
        );
        node.sh(&script).expect("a bit can be flipped");
    };
    flip((64 << 10) + 50);
    let words = ["head copy", &luns[0], "--repair"];
    refused(&session, &make("p", &luns[0]), REFUSED, &words);
    must(&daemons, session.quiet(&format!("lunar lun label --repair {}", luns[0])));
    // The transport has no reservations: what a pool then does not promise is chosen, not implied.
    let words = [&luns[0], "no persistent reservations", "--fencing lease", "--fencing none"];
    refused(&session, &format!("lunar pool create p {}", luns[0]), REFUSED, &words);
    must(&daemons, session.quiet(&make("p", &luns[0])));
    refused(&session, &make("q", &luns[0]), REFUSED, &["pool"]);

    // Two copies that disagree: the tail of another LUN.
    must(&daemons, session.quiet(&format!("lunar lun label {}", luns[1])));
    node.sh(&format!(
        "dd if={} of={} bs=64K skip=$((16384 - 1)) seek=$((16384 - 1)) count=1 conv=notrunc,fsync",
        luns[0], luns[1]
    ))
    .expect("it is copied");
    refused(&session, &make("q", &luns[1]), REFUSED, &["disagree"]);

    // A LUN that shrank: a smaller window on a labelled one.
    let script = "modprobe loop; truncate -s 64M /tmp/small; losetup --find --show /tmp/small";
    let small = node.sh(script).expect("a loop device");
    let small = small.trim();
    must(&daemons, session.quiet(&format!("lunar lun label {small}")));
    node.sh(&format!("truncate -s 40M /tmp/small; losetup -c {small}")).expect("it shrinks");
    refused(
        &session,
        &format!("lunar pool create q --fencing none {small}"),
        REFUSED,
        &["shrank", small],
    );
    lab.down();
}

#[test]
fn odd_names_sizes_and_states_are_refused() {
    let lab = lab([LunSpec::new(GIB), LunSpec::new(GIB)]);
    let daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    let device = must(&daemons, volume(&session, "v", "1GiB"));
    let create =
        |name: &str, size: &str| format!("lunar volume create {name} --pool tank --size {size}");
    let long = "n".repeat(129);
    refused(&session, &create(&long, "1GiB"), USAGE, &["129", "128"]);
    refused(&session, &create("a/b", "1GiB"), USAGE, &["a/b"]);
    refused(&session, &create("w", "0"), USAGE, &["0 B"]);
    refused(&session, &create("w", "4097"), USAGE, &["4097", "8192"]);
    refused(&session, &create("w", "5PiB"), USAGE, &["4 PiB"]);
    refused(&session, &create("v", "1GiB"), REFUSED, &["v", "exists"]);
    refused(&session, &create("w", "1GiB --logical-block-size 1024"), USAGE, &["1024"]);
    let unknown_pool = "lunar volume create w --pool nope --size 1GiB";
    refused(&session, unknown_pool, NOT_FOUND, &["nope"]);
    for command in ["show", "attach", "detach", "delete", "map"] {
        refused(&session, &format!("lunar volume {command} nope"), NOT_FOUND, &["nope"]);
    }
    refused(&session, "lunar volume attach v", REFUSED, &["v", "attached", &device]);
    refused(&session, "lunar volume delete v", REFUSED, &["v", "attached"]);
    refused(
        &session,
        "lunar pool create p --fencing none /dev/nonsense",
        REFUSED,
        &["/dev/nonsense", "No such"],
    );

    must(&daemons, session.quiet(&format!("mkfs.ext4 -q {device} && mount {device} /mnt")));
    refused(&session, "lunar volume detach v", REFUSED, &["v", "/mnt"]);
    must(&daemons, session.quiet("echo kept > /mnt/file && sync -f /mnt"));
    must(&daemons, session.quiet("lunar volume detach v --force"));
    must(&daemons, session.quiet("umount -l /mnt || true"));
    let device = must(&daemons, lunar_e2e::main_job::attach_quietly(&session, "v"));
    let content = session.quiet(&format!("mount {device} /mnt && cat /mnt/file && umount /mnt"));
    assert_eq!(must(&daemons, content), "kept\n", "what was flushed survives a forced detach");
    must(&daemons, session.quiet("lunar volume detach v"));
    must(&daemons, session.quiet("lunar volume delete v"));
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}
