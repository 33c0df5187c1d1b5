//! `lunar` as it is installed, against a stand-in for fs-core: what it says and how it ends.

mod double;

use std::path::Path;
use std::process::Output;

use double::{Double, Script};
use lunar_proto::v1;
use serde_json::Value;

/// Nobody listens on port 1 of this host.
const NO_SERVICE: &str = "127.0.0.1:1";

fn code(output: &Output) -> i32 {
    output.status.code().expect("lunar ends by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lun(path: &str, state: v1::LunState) -> v1::LocalLun {
    v1::LocalLun { path: path.to_owned(), state: state.into(), ..v1::LocalLun::default() }
}

fn double(luns: Vec<v1::LocalLun>) -> Double {
    Double::start(Script { luns, unknown: vec!["none".to_owned()], ..Script::default() })
}

#[test]
fn attach_names_the_device_and_detach_lets_it_go() {
    let double = double(Vec::new());
    let attached = double.lunar(NO_SERVICE, "volume attach v");
    assert_eq!((code(&attached), stderr(&attached).as_str()), (0, ""));
    assert_eq!(stdout(&attached), "volume 'v' is attached as /dev/ublkb7\n");
    let detached = double.lunar(NO_SERVICE, "volume detach v");
    assert_eq!((code(&detached), stdout(&detached).as_str()), (0, "volume 'v' is detached\n"));
    let again = double.lunar(NO_SERVICE, "volume detach v");
    assert_eq!((code(&again), stdout(&again).as_str()), (4, ""));
    assert_eq!(stderr(&again), "error: volume 'v' is not attached here\n");
}

#[test]
fn only_a_volume_that_nodes_share_is_moved() {
    let double = double(Vec::new());
    double.lunar(NO_SERVICE, "volume attach alone");
    double.lunar(NO_SERVICE, "volume attach shared --migratable");
    let refused = double.lunar(NO_SERVICE, "volume move alone");
    assert_eq!((code(&refused), stdout(&refused).as_str()), (4, ""));
    assert!(stderr(&refused).contains("is here alone"), "{}", stderr(&refused));
    let moved = double.lunar(NO_SERVICE, "volume move shared -o json");
    let object: Value = serde_json::from_str(&stdout(&moved)).expect("JSON");
    assert_eq!(
        (object["migratable"].as_bool(), object["state"].as_str()),
        (Some(true), Some("live"))
    );
}

#[test]
fn attaching_twice_is_refused_with_the_device() {
    let double = double(Vec::new());
    assert_eq!(code(&double.lunar(NO_SERVICE, "volume attach v")), 0);
    for volume in ["v", double::VOLUME_ID] {
        let twice = double.lunar(NO_SERVICE, &format!("volume attach {volume}"));
        assert_eq!(code(&twice), 4, "{volume}");
        assert!(stderr(&twice).contains("/dev/ublkb7"), "{}", stderr(&twice));
    }
}

#[test]
fn forced_detach_says_what_is_left_to_do() {
    let double = double(Vec::new());
    double.lunar(NO_SERVICE, "volume attach v");
    let forced = double.lunar(NO_SERVICE, "volume detach v --force -o json");
    let object: Value = serde_json::from_str(&stdout(&forced)).expect("JSON");
    assert_eq!(object["pending"], true);
    assert_eq!(object["journal_kept"], true);
}

#[test]
fn unknown_volumes_and_devices_end_with_3() {
    let double = double(Vec::new());
    for line in ["volume attach none", "volume detach none", "lun status /dev/none"] {
        let output = double.lunar(NO_SERVICE, line);
        assert_eq!((code(&output), stdout(&output).as_str()), (3, ""), "{line}");
        assert!(stderr(&output).contains("does not exist"), "{line}: {}", stderr(&output));
    }
}

#[test]
fn luns_are_listed_without_a_metadata_service() {
    let double = double(vec![lun("/dev/sdb", v1::LunState::Unlabelled)]);
    let output = double.lunar(NO_SERVICE, "lun list");
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("/dev/sdb"), "{}", stdout(&output));
    assert!(stdout(&output).contains("pools are unknown: the metadata service cannot be reached"));
}

#[test]
fn a_lun_without_label_cannot_make_a_pool() {
    let double = double(vec![lun("/dev/sdb", v1::LunState::Unlabelled)]);
    let output = double.lunar(NO_SERVICE, "pool create p --fencing none /dev/sdb");
    assert_eq!(code(&output), 4);
    assert!(stderr(&output).contains("help: lunar lun label /dev/sdb"), "{}", stderr(&output));
}

#[test]
fn foreign_content_is_destroyed_only_by_its_uuid() {
    let uuid = "0d0e0a0d-0000-4000-8000-000000000001".to_owned();
    let signature =
        v1::ForeignSignature { kind: "ext4".to_owned(), uuid, ..v1::ForeignSignature::default() };
    let foreign = v1::LocalLun {
        signatures: vec![signature],
        ..lun("/dev/sdb", v1::LunState::ForeignSignature)
    };
    let double = double(vec![foreign]);
    let label = "lun label /dev/sdb";
    let refused = double.lunar(NO_SERVICE, label);
    assert_eq!(code(&refused), 4);
    assert!(stderr(&refused).contains("0d0e0a0d"), "{}", stderr(&refused));
    let named = format!("{label} --force-foreign 0d0e0a0d-0000-4000-8000-000000000001");
    assert_eq!(code(&double.lunar(NO_SERVICE, &named)), 0);
}

#[test]
fn absent_services_end_with_5_and_say_which() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("none");
    let daemon = double::lunar(NO_SERVICE, &socket, "volume attach v");
    assert_eq!(code(&daemon), 5);
    assert!(stderr(&daemon).contains("fs-core cannot be reached"), "{}", stderr(&daemon));
    let service = double::lunar(NO_SERVICE, &socket, "volume list");
    assert_eq!(code(&service), 5);
    assert!(stderr(&service).contains(NO_SERVICE), "{}", stderr(&service));
}

#[test]
fn errors_for_programs_are_json_on_the_standard_error() {
    let output = double::lunar(NO_SERVICE, Path::new("/nonexistent"), "volume list -o json");
    assert_eq!((code(&output), stdout(&output).as_str()), (5, ""));
    let object: Value = serde_json::from_str(&stderr(&output)).expect("JSON");
    assert_eq!(object["error"]["exit_code"], 5);
    assert_eq!(object["error"]["reason"], "METADATA_UNREACHABLE");
}

#[test]
fn doctor_lists_every_check_and_ends_with_1_where_one_fails() {
    let double = double(Vec::new());
    let output = double.lunar(NO_SERVICE, "doctor -o json");
    assert_eq!(code(&output), 1);
    let object: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let checks = object["checks"].as_array().expect("a list");
    let verdict_of = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        check.map(|check| check["verdict"].clone())
    };
    assert_eq!(verdict_of("metadata service"), Some("fail".into()));
    assert_eq!(verdict_of("LUNs"), Some("warn".into()));
    assert!(verdict_of("ublk").is_some() && verdict_of("io_uring").is_some());
}

#[test]
fn usage_errors_end_with_2() {
    let output = double::lunar(NO_SERVICE, Path::new("/nonexistent"), "volume create a/b --pool p");
    assert_eq!((code(&output), stdout(&output).as_str()), (2, ""));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut lunar = std::process::Command::new(env!("CARGO_BIN_EXE_lunar"))
        .args(["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("lunar runs");
    drop(lunar.stdout.take());
    let output = lunar.wait_with_output().expect("lunar ends");
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}
