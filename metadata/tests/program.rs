//! The program as an operator meets it: flags, exit codes, messages, signals.

#![allow(missing_docs, reason = "test names are claims")]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use lunar_backup::{BackupEncoder, BackupHeader};
use lunar_metadata::keyspace::{
    ClusterKey, KEYSPACE_VERSION, KeyedTxn, KeyspaceKey, KeyspaceRecord, PoolNameKey,
    PoolNameRecord, RestoreKey, RestoreRecord,
};
use lunar_metadata::seams::block_on;
use lunar_metadata::store::{KeyRange, MetaStore, RangeRead, RedbStore, StoreError, Txn};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metadata-service"));
    let variables = std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("LUNAR_")));
    for (name, _) in variables {
        command.env_remove(name);
    }
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// Starts the service on a free port and waits until it serves; gives its address.
fn start(store: &Path) -> (Child, String, impl Iterator<Item = String>) {
    let mut child = program()
        .args(["serve", "--listen", "127.0.0.1:0", "--store"])
        .arg(store)
        .env("NO_COLOR", "1")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let errors = BufReader::new(child.stderr.take().expect("piped"));
    let mut lines = errors.lines().map(|line| line.expect("text"));
    let line = lines.find(|line| line.contains("serving")).expect("it serves");
    let address = line.split("listen=").nth(1).expect("an address");
    (child, address.split_whitespace().next().expect("an address").to_owned(), lines)
}

fn terminate(child: &Child) {
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
    assert!(killed.success());
}

#[test]
fn the_service_starts_stops_on_sigterm_and_leaves_a_sound_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store.redb");
    for _ in 0..2 {
        let (mut child, address, lines) = start(&store);
        std::net::TcpStream::connect(&address).expect("it listens");
        let (code, _, errors) = run(program().args(["fsck", "--store"]).arg(&store));
        assert_eq!(code, Some(8), "{errors}");
        assert!(errors.contains("in use by another process"), "{errors}");
        terminate(&child);
        assert!(child.wait().expect("it ends").success());
        assert!(lines.into_iter().any(|line| line.contains("stopped")));
    }
    let (code, out, errors) = run(program().args(["fsck", "--store"]).arg(&store));
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.starts_with("0 findings in 0 pools"), "{out}");
}

/// Nobody reads the log of the second start: that does not keep it from stopping in order.
#[test]
fn a_killed_service_starts_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store.redb");
    let (mut child, ..) = start(&store);
    child.kill().expect("killed");
    child.wait().expect("it ends");
    let (code, _, errors) = run(program().args(["fsck", "--store"]).arg(&store));
    assert_eq!(code, Some(0), "{errors}");
    let (mut child, ..) = start(&store);
    terminate(&child);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store.redb");
    let mut command = program();
    command.args(["serve", "--listen", &address, "--store"]).arg(&store);
    let (code, _, errors) = run(&mut command);
    assert_eq!(code, Some(1));
    assert!(errors.contains(&address) && errors.contains("another metadata-service"), "{errors}");
}

#[test]
fn bad_settings_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store.redb");
    let serve = |arguments: &[&str]| {
        let mut command = program();
        command.arg("serve").args(arguments).env("LUNAR_METADATA_STORE", &store);
        let (code, _, errors) = run(&mut command);
        assert_eq!(code, Some(1), "{errors}");
        errors
    };
    assert!(serve(&["--listen", "0.0.0.0:0"]).contains("loopback only"));
    assert!(serve(&["--config", "/no/such/file"]).contains("/no/such/file"));
    assert!(serve(&["--log", "a=b=c"]).contains("--log 'a=b=c' is no filter"));
    let (code, _, errors) = run(program().arg("serve"));
    assert_eq!(code, Some(1));
    assert!(errors.contains("LUNAR_METADATA_STORE"), "{errors}");
    assert!(!store.exists());
}

fn change(path: &Path, body: impl Fn(&<RedbStore as MetaStore>::Txn) + Send + Sync) {
    let store = RedbStore::open(path).expect("opened");
    let body = &body;
    block_on(store.transact(|txn| async move {
        body(&txn);
        Ok::<_, StoreError>(())
    }))
    .expect("changed");
}

#[test]
fn a_damaged_store_gives_findings_and_exit_code_4() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    let (mut child, ..) = start(&path);
    terminate(&child);
    child.wait().expect("it ends");
    change(&path, |txn| txn.set(b"junk", b"junk"));
    let (code, out, errors) = run(program().args(["fsck", "--store"]).arg(&path));
    assert_eq!(code, Some(4), "{errors}");
    assert!(out.contains("entry-unreadable: key 6a756e6b: the key is of no table"), "{out}");
    assert!(out.contains("1 findings in"), "{out}");
}

#[test]
fn a_store_at_rest_is_repaired_by_the_digest_of_a_dry_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    let (mut child, ..) = start(&path);
    terminate(&child);
    child.wait().expect("it ends");
    let ghost = |name: &str| {
        let key = PoolNameKey { name: name.parse().expect("a name") };
        let record = PoolNameRecord { pool: lunar_types::PoolId::from_u128(7) };
        change(&path, |txn| txn.put(&key, &record));
    };
    ghost("ghost");
    let fsck = |flags: &[&str]| run(program().args(["fsck", "--store"]).arg(&path).args(flags));
    let (code, out, errors) = fsck(&["--repair", "--dry-run"]);
    assert_eq!(code, Some(4), "{errors}");
    assert!(out.contains("    repair: forget that the name 'ghost' leads to pool"), "{out}");
    assert!(out.contains("1 of 1 findings can be repaired safely, nothing was changed"), "{out}");
    let digest = out.trim_end().rsplit(' ').next().expect("a digest").to_owned();
    assert_eq!(fsck(&[]).0, Some(4), "a dry run repairs nothing");
    assert_eq!(fsck(&["--repair"]).0, Some(2), "a repair needs a dry run first");
    assert_eq!(fsck(&["--findings", &digest]).0, Some(2), "it is asked for by name");
    ghost("other");
    let (code, _, errors) = fsck(&["--repair", "--findings", &digest]);
    assert_eq!(code, Some(8));
    assert!(errors.contains("the check finds 2 findings"), "{errors}");
    let (_, out, _) = fsck(&["--repair", "--dry-run"]);
    let digest = out.trim_end().rsplit(' ').next().expect("a digest").to_owned();
    let (code, out, errors) = fsck(&["--repair", "--findings", &digest]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.contains("repaired: forget that the name 'ghost' leads to pool"), "{out}");
    assert_eq!(fsck(&[]).0, Some(0));
}

#[test]
fn stores_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    let fsck = || run(program().args(["fsck", "--store"]).arg(&path));
    let (code, _, errors) = fsck();
    assert_eq!(code, Some(8));
    assert!(errors.contains("cannot be opened") && !path.exists(), "{errors}");
    let later = KEYSPACE_VERSION + 1;
    for (command, expected, version) in [("fsck", 8, later), ("serve", 1, later), ("serve", 1, 1)] {
        change(&path, |txn| txn.put(&KeyspaceKey {}, &KeyspaceRecord { version }));
        let mut program = program();
        program.arg(command).env("LUNAR_METADATA_LISTEN", "127.0.0.1:0");
        let (code, _, errors) = run(program.env("LUNAR_METADATA_STORE", &path));
        assert_eq!(code, Some(expected));
        assert!(errors.contains(&format!("keyspace version {version}")), "{errors}");
    }
    std::fs::write(&path, "not a store at all").expect("written");
    let (code, _, errors) = fsck();
    assert_eq!(code, Some(8));
    assert!(errors.contains("is not a store"), "{errors}");
}

/// A backup with number 7 of a store, begun in 2026.
fn back_up(store: &Path, file: &Path) {
    let store = RedbStore::open_existing(store).expect("opened");
    let (cluster, entries) = block_on(async {
        let txn = store.begin().await.expect("begun");
        let cluster = txn.load_known(&ClusterKey {}).await.expect("a cluster").id;
        let everything = KeyRange::new(Vec::new(), vec![0xFF; 2]);
        let entries = txn.get_range(&RangeRead::first(everything, 100)).await.expect("read");
        (cluster, entries)
    });
    let (keyspace_version, begun) = (KEYSPACE_VERSION, 1_767_312_000);
    let header = BackupHeader { keyspace_version, cluster, number: 7, begun };
    let (mut encoder, mut bytes) = BackupEncoder::begin(&header);
    for (key, value) in &entries {
        bytes.extend(encoder.push(key, value).expect("it fits").unwrap_or_default());
    }
    bytes.extend(encoder.finish().0);
    std::fs::write(file, bytes).expect("written");
}

#[test]
fn a_backup_is_restored_by_its_number_and_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (lost, file, store) = (path("lost.redb"), path("backup"), path("store.redb"));
    let (mut child, ..) = start(&lost);
    terminate(&child);
    assert!(child.wait().expect("it ends").success());
    back_up(&lost, &file);
    let restore = |arguments: &[&str]| {
        let mut command = program();
        command.arg("restore").arg("--from").arg(&file).arg("--store").arg(&store);
        run(command.args(arguments))
    };
    let (code, _, errors) = restore(&["--number", "6"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("the file is backup 7"), "{errors}");
    let (code, out, errors) = restore(&["--number", "7", "--dry-run"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.contains("backup 7 of cluster") && out.contains("nothing was written"), "{out}");
    assert!(!store.exists(), "neither try has made a store");
    let (code, out, errors) = restore(&["--number", "7"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.contains("release-quarantine"), "{out}");
    let (code, _, errors) = restore(&["--number", "7"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("the store is not empty"), "{errors}");
    let (code, out, errors) = run(program().args(["fsck", "--store"]).arg(&store));
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.starts_with("0 findings"), "{out}");
    let mut serve = program();
    serve.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(&store).stderr(Stdio::piped());
    let mut child = serve.env("NO_COLOR", "1").spawn().expect("the program starts");
    let errors = BufReader::new(child.stderr.take().expect("piped"));
    let mut lines = errors.lines().map(|line| line.expect("text"));
    assert!(
        lines
            .by_ref()
            .take_while(|line| !line.contains("serving"))
            .any(|line| { line.contains("backup=7") && line.contains("release-quarantine") })
    );
    terminate(&child);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_store_that_was_not_restored_wholly_is_neither_served_nor_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store.redb");
    change(&store, |txn| {
        let (finished, backup, begun, restored) = (false, 7, 1, 2);
        txn.put(&RestoreKey {}, &RestoreRecord { finished, backup, begun, restored });
    });
    for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["fsck"]] {
        let (_, _, errors) = run(program().args(arguments).arg("--store").arg(&store));
        assert!(errors.contains("the restore of backup 7"), "{errors}");
        assert!(errors.contains("begin again with an empty store"), "{errors}");
    }
}
