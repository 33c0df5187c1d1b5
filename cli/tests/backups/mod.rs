//! `lunar backup` against the real service.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;

use lunar_metadata::restore::{Asked, Survey, restore};
use lunar_metadata::seams::block_on;
use lunar_metadata::store::RedbStore;

use crate::World;
use crate::snapshots::with_volumes;

#[test]
fn a_backup_is_made_checked_and_listed() {
    let world = with_volumes(&["v"]);
    assert_eq!(world.json("backup list")["backups"].as_array().map(Vec::len), Some(0));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("one");
    let file = path.display();
    let made = world.json(&format!("backup create {file}"));
    assert_eq!((&made["number"], &made["is_confirmed"]), (&1.into(), &true.into()));
    assert!(made["entries"].as_u64() > Some(10), "{made}");
    let held = fs::metadata(&path).expect("it is there");
    assert_eq!(made["bytes"], held.len());
    assert_eq!(held.permissions().mode() & 0o777, 0o600);
    let checked = world.json(&format!("backup check {file}"));
    assert_eq!(checked["entries"], made["entries"]);
    let list = world.json("backup list");
    assert_eq!(list["newest_complete"], 1);
    assert_eq!(list["backups"][0]["may_be_restored"], true);
    assert_eq!(world.json("fsck")["findings"].as_array().map(Vec::len), Some(0));
    let said = world.refused(&format!("backup create {file}"), 4);
    assert!(said.contains("never overwrites"), "{said}");
    assert_eq!(
        fs::read_dir(folder.path()).expect("listed").count(),
        1,
        "nothing is left beside it"
    );
}

#[test]
fn a_damaged_backup_is_told_from_a_whole_one() {
    let world = World::start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("one");
    world.json(&format!("backup create {}", path.display()));
    let whole = fs::read(&path).expect("read");
    let wrong = folder.path().join("wrong");
    let check = format!("backup check {}", wrong.display());
    let said = world.refused(&check, 3);
    assert!(said.contains("No such file"), "{said}");
    for (bytes, why) in [
        (whole[..whole.len() - 1].to_vec(), "ends"),
        ([&whole[..], b"x"].concat(), "follow"),
        (b"not one".to_vec(), "no backup"),
    ] {
        fs::write(&wrong, bytes).expect("written");
        let said = world.refused(&check, 1);
        assert!(said.contains("make another one"), "{why}: {said}");
        world.refused(&format!("backup confirm {}", wrong.display()), 1);
    }
}

#[test]
fn a_backup_whose_end_was_not_heard_of_is_confirmed_later() {
    let world = World::start();
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    world.json(&format!("backup create {}", one.display()));
    world.json("backup horizon off");
    let off = world.json("backup list");
    assert_eq!((&off["is_horizon_off"], &off["newest_complete"]), (&true.into(), &().into()));
    world.json("backup horizon on");
    world.json(&format!("backup create {}", two.display()));
    let again = world.json(&format!("backup confirm {}", two.display()));
    assert_eq!(again["is_confirmed"], true);
    let newest = world.json("backup list")["newest_complete"].clone();
    assert_eq!(newest, again["number"]);
    let other = World::start();
    let said = other.refused(&format!("backup confirm {}", two.display()), 4);
    assert!(said.contains("it is of cluster"), "{said}");
}

#[test]
fn a_backup_is_restored_certified_and_its_volumes_accepted() {
    let lost = with_volumes(&["v"]);
    lost.json("snapshot create v s");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("one");
    lost.json(&format!("backup create {}", path.display()));
    let backups = lost.json("backup list");
    let begun = backups["backups"][0]["begun_at"].as_u64().expect("a time");
    drop(lost);
    let open = || File::open(&path).expect("it is there");
    let survey = Survey::read(open(), Asked { number: 1, now: begun + 60, unprotected: false });
    let survey = survey.expect("it may be restored");
    let store = RedbStore::open(&folder.path().join("m.redb")).expect("a fresh store");
    block_on(restore(&store, open(), &survey)).expect("restored");
    let world = World::start_on(store, folder);
    assert_eq!(world.json("volume show v")["restored"], true);
    assert_eq!(world.json("snapshot show s")["restored"], true);
    assert_eq!(world.json("fsck")["findings"].as_array().map(Vec::len), Some(0));
    assert_eq!(world.json("backup list")["newest_complete"], 1);
    let usage = world.json("pool status")["pools"][0]["usage"].clone();
    assert_eq!((&usage["free_bytes"], &usage["mapped_bytes"]), (&0.into(), &0.into()));
    let released = world.json("pool release-quarantine tank --confirm tank");
    assert_eq!(
        world.json("pool status")["pools"][0]["usage"]["quarantined_bytes"],
        0,
        "{released}"
    );
    let attached = || world.script.accepted.lock().expect("not poisoned").clone();
    world.json("volume attach v");
    assert!(attached().is_empty(), "it is accepted only when somebody says so");
    world.json("volume detach v");
    world.json("volume attach v --accept-restored");
    assert_eq!(attached(), ["v"]);
}
