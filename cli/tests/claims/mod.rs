//! `lunar explain pvc`, with a stand-in for kubectl that answers as one of a cluster does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use serde_json::json;

use super::{World, double};

/// Answers what was put down for it, and says of everything else that it is not there.
const KUBECTL: &str = r#"#!/bin/sh
file="$(dirname "$0")/$2"
[ -f "$file" ] && exec cat "$file"
echo "Error from server (NotFound): $2 \"$3\" not found" >&2
exit 1
"#;

fn kubectl(folder: &Path) {
    let program = folder.join("kubectl");
    fs::write(&program, KUBECTL).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("made a program");
}

fn lunar(world: &World, path: &str, line: &str) -> Output {
    let mut lunar = double::command(&world.endpoint, &world.double.socket(), line);
    lunar.env("PATH", path).output().expect("lunar runs")
}

#[test]
fn a_claim_is_explained_with_the_volume_that_it_is_bound_to() {
    let world = World::start();
    world.json("pool create tank --fencing none /dev/lun0");
    let made = world.json("volume create v --pool tank --size 1GiB");
    let folder = tempfile::tempdir().expect("a folder");
    kubectl(folder.path());
    let put = |what: &str, value: serde_json::Value| {
        fs::write(folder.path().join(what), value.to_string()).expect("written");
    };
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").expect("set"));
    let said = |line: &str, code: i32| {
        let output = lunar(&world, &path, line);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {text}");
        text
    };
    assert!(said("explain pvc db", 3).contains("not found"));
    put(
        "persistentvolumeclaim",
        json!({
            "metadata": { "namespace": "shop" },
            "status": { "phase": "Pending" },
            "spec": {},
        }),
    );
    assert!(said("explain pvc db -n shop", 0).contains("kubectl describe pvc db"));
    put(
        "persistentvolumeclaim",
        json!({
            "metadata": { "namespace": "shop" },
            "status": { "phase": "Bound" },
            "spec": { "volumeName": "pvc-1" },
        }),
    );
    let bound_to = |handle: &serde_json::Value| {
        put(
            "persistentvolume",
            json!({
                "metadata": { "name": "pvc-1" },
                "spec": { "csi": { "driver": "csi.lunar.storage", "volumeHandle": handle } },
            }),
        );
    };
    bound_to(&made["volume_id"]);
    put("volumeattachments", json!({ "items": [] }));
    let told = said("explain pvc db", 0);
    assert!(told.contains("shop/db") && told.contains("nobody"), "{told}");
    bound_to(&json!("0b7e4a52-9f57-4d1f-8c6c-2a106fa1c2d4"));
    assert!(said("explain pvc db", 0).contains("does not exist any more"));
}

#[test]
fn a_host_without_kubectl_is_told_how_to_go_on() {
    let world = World::start();
    let output = lunar(&world, "/nowhere", "explain pvc db");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("kubectl") && said.contains("lunar explain volume"), "{said}");
}
