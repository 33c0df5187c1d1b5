//! The metadata store is lost and comes back with a backup, onto the same LUNs.
//!
//! Between the backup and the loss a volume is deleted, another one is written full with something
//! else, and a file is added: what the backup names must show what it showed, and nothing of what
//! the other volume has written.

mod support;

use lunar_e2e::main_job::attach_quietly;
use lunar_e2e::product::Product;
use lunar_e2e::session::{Session, wait_until};
use lunar_lab::{Lab, LunSpec};
use std::time::Duration;
use support::{GIB, lab, make_pool, must, product, session, volume};

const BACKUP: &str = "/var/lib/lunar/backup";
const STORE: &str = "/var/lib/lunar/metadata.redb";
const LIMIT: Duration = Duration::from_secs(60);

/// What is there when the backup is made: the sums of the deleted volume and of the snapshot.
struct Before {
    deleted: String,
    snapshot: String,
    file: String,
}

fn sha256(session: &Session<'_>, daemons: &Product<'_>, path: &str) -> String {
    let text = must(daemons, session.quiet(&format!("sha256sum < {path}")));
    text.trim().to_owned()
}

/// Random data over a whole device of so many MiB.
fn fill(session: &Session<'_>, daemons: &Product<'_>, device: &str, mib: u32) {
    let dd = format!("dd if=/dev/urandom of={device} bs=1M count={mib} oflag=direct conv=fsync");
    must(daemons, session.quiet(&dd));
}

fn make_volumes(session: &Session<'_>, daemons: &Product<'_>) -> Before {
    let kept = must(daemons, volume(session, "kept", "256MiB"));
    let mount = format!("mkfs.ext4 -q {kept} && mkdir -p /mnt/kept && mount {kept} /mnt/kept");
    must(daemons, session.quiet(&mount));
    let write = "head --bytes=20M /dev/urandom > /mnt/kept/one && sync";
    must(daemons, session.quiet(write));
    must(daemons, session.quiet("lunar snapshot create kept s --fsfreeze always"));
    let file = sha256(session, daemons, "/mnt/kept/one");
    let deleted = must(daemons, volume(session, "deleted", "64MiB"));
    fill(session, daemons, &deleted, 64);
    let sum = sha256(session, daemons, &deleted);
    must(daemons, session.quiet("lunar volume detach deleted"));
    must(daemons, session.quiet("lunar volume clone s look"));
    let look = must(daemons, attach_quietly(session, "look"));
    let snapshot = sha256(session, daemons, &look);
    must(daemons, session.quiet("lunar volume detach look"));
    must(daemons, session.quiet("lunar volume delete look"));
    must(daemons, session.quiet("lunar volume map kept --checkpoint > /dev/null"));
    Before { deleted: sum, snapshot, file }
}

/// What the backup does not know of.
fn go_on(session: &Session<'_>, daemons: &Product<'_>) {
    must(daemons, session.quiet("lunar volume delete deleted"));
    let quarantined = |session: &Session<'_>| {
        let status = session.json("pool status")?;
        Ok(status["pools"][0]["usage"]["quarantined_bytes"].as_u64() >= Some(64 << 20))
    };
    let held = wait_until("what was deleted to be held back", LIMIT, || quarantined(session));
    must(daemons, held);
    // All that the pool has left: it would reach what was deleted, if that could be had.
    let other = must(daemons, volume(session, "other", "2GiB"));
    let full = format!(
        "said=$(dd if=/dev/urandom of={other} bs=1M oflag=direct conv=fsync 2>&1 || true); \
         echo \"$said\" | grep 'No space left'"
    );
    must(daemons, session.quiet(&full));
    must(daemons, session.quiet("head --bytes=3M /dev/urandom > /mnt/kept/two; sync; true"));
}

/// The machine loses its power and the store; the backup brings the metadata back.
fn lose_and_restore<'n>(lab: &'n Lab, mut daemons: Product<'n>) -> Product<'n> {
    daemons.power_lost();
    lab.node(0).cut().expect("the machine can be cut");
    lab.node(0).boot().expect("the machine boots");
    lab.node(0).exec_ok(&["modprobe", "ublk_drv"]).expect("the lab's kernel has ublk");
    let session = session(lab);
    let restore = |number: u32, more: &str| {
        format!("metadata-service restore --from {BACKUP} --store {STORE} --number {number} {more}")
    };
    let refused = |command: String| {
        let said = session.quiet(&format!("! {command} 2>&1"));
        said.expect("it is refused")
    };
    let said = refused(restore(1, ""));
    assert!(said.contains(STORE), "the store is still there: {said}");
    session.quiet(&format!("rm {STORE}")).expect("the store is lost");
    let said = refused(restore(2, ""));
    assert!(said.contains("--number names backup 2"), "another number: {said}");
    session.quiet(&restore(1, "--dry-run")).expect("it can be restored");
    session.quiet(&format!("! test -e {STORE}")).expect("nothing was made");
    session.quiet(&restore(1, "")).expect("it is restored");
    product(lab)
}

#[test]
fn a_lost_store_comes_back_without_anything_of_another_volume() {
    let lab = lab([LunSpec::new(GIB)]);
    let daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    let before = make_volumes(&session, &daemons);
    must(&daemons, session.quiet(&format!("lunar backup create {BACKUP}")));
    go_on(&session, &daemons);

    let daemons = lose_and_restore(&lab, daemons);
    must(&daemons, session.quiet("lunar fsck"));
    must(&daemons, session.refused("lunar volume show other", 3));
    let said = must(&daemons, session.refused("lunar volume attach kept", 4));
    assert!(said.contains("release-quarantine"), "{said}");
    must(&daemons, session.quiet("lunar pool release-quarantine tank --confirm tank"));
    let said = must(&daemons, session.refused("lunar volume attach kept", 4));
    assert!(said.contains("--accept-restored"), "{said}");
    for volume in ["kept", "deleted"] {
        let attach = format!("lunar volume attach {volume} --accept-restored");
        must(&daemons, session.quiet(&attach));
    }
    let device = |name| lunar_e2e::main_job::device_of(&session, name);
    let deleted = must(&daemons, device("deleted"));
    assert_eq!(
        sha256(&session, &daemons, &deleted),
        before.deleted,
        "exact: nobody has written it"
    );
    let kept = must(&daemons, device("kept"));
    let mount = format!("fsck.ext4 -p {kept} || [ $? = 1 ]; mount {kept} /mnt/kept");
    must(&daemons, session.quiet(&format!("mkdir -p /mnt/kept; {mount}")));
    assert_eq!(sha256(&session, &daemons, "/mnt/kept/one"), before.file);
    must(&daemons, session.quiet("lunar volume clone s look"));
    must(&daemons, session.quiet("lunar volume attach look --accept-restored"));
    let look = must(&daemons, device("look"));
    assert_eq!(sha256(&session, &daemons, &look), before.snapshot);
    must(&daemons, session.quiet("umount /mnt/kept"));
    for volume in ["kept", "deleted", "look"] {
        must(&daemons, session.quiet(&format!("lunar volume detach {volume}")));
    }
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}
