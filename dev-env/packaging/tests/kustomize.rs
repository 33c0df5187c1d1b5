//! What kustomize renders: the base and every overlay.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lunar_csi::identity::DRIVER_NAME;
use lunar_packaging::checks;
use lunar_packaging::objects::Objects;
use lunar_packaging::pods::{self, Pods};
use lunar_packaging::tools;
use serde_json::{Value, json};

use support::{dev_env, kustomize, overlay, programs, read, repository, tell};

/// What is in every rendering.
const ALWAYS: [&str; 26] = [
    "CSIDriver 'csi.lunar.storage'",
    "ClusterRole 'lunar-csi-attacher'",
    "ClusterRole 'lunar-csi-provisioner'",
    "ClusterRole 'lunar-csi-resizer'",
    "ClusterRole 'lunar-csi-snapshotter'",
    "ClusterRoleBinding 'lunar-csi-attacher'",
    "ClusterRoleBinding 'lunar-csi-provisioner'",
    "ClusterRoleBinding 'lunar-csi-resizer'",
    "ClusterRoleBinding 'lunar-csi-snapshotter'",
    "DaemonSet 'lunar-csi-node'",
    "DaemonSet 'lunar-fs-core'",
    "Deployment 'lunar-csi-controller'",
    "Namespace 'lunar'",
    "Role 'lunar-csi-controller'",
    "RoleBinding 'lunar-csi-controller'",
    "Service 'lunar-metadata'",
    "ServiceAccount 'lunar-csi-controller'",
    "ServiceAccount 'lunar-csi-node'",
    "ServiceAccount 'lunar-fs-core'",
    "ServiceAccount 'lunar-metadata'",
    "StatefulSet 'lunar-metadata'",
    "StorageClass 'lunar-block'",
    "StorageClass 'lunar-ext4'",
    "StorageClass 'lunar-xfs'",
    "VolumeGroupSnapshotClass 'lunar'",
    "VolumeSnapshotClass 'lunar'",
];

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let to = to.join(entry.file_name());
        match entry.file_type().expect("known").is_dir() {
            true => copied(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).expect("copied")),
        }
    }
}

/// The overlay mtls beside certificates, which are no part of the repository.
fn mtls(folder: &Path) -> PathBuf {
    copied(&dev_env().join("k8s"), folder);
    let overlay = folder.join("overlays/mtls");
    let certs = overlay.join("certs");
    fs::create_dir_all(&certs).expect("made");
    for name in ["ca.crt", "meta1.crt", "meta1.key", "csi.crt", "csi.key", "n1.crt", "n1.key"] {
        fs::write(certs.join(name), name).expect("written");
    }
    overlay
}

/// The overlay default, of which all others are made; nothing where the host cannot render.
fn default() -> Option<Objects> {
    kustomize(&overlay("default"))
}

fn pods_of<'a>(objects: &'a Objects, kind: &str, name: &str) -> Pods<'a> {
    Pods { workload: objects.get(kind, name).expect("it is rendered") }
}

#[test]
fn base_and_overlays_render_sound_objects_that_the_programs_understand() {
    let names = fs::read_dir(dev_env().join("k8s/overlays")).expect("there are overlays");
    let names: BTreeSet<_> = names.map(|entry| entry.expect("readable").file_name()).collect();
    assert_eq!(names, ["default", "loop-dev", "mtls"].map(Into::into).into());
    let folder = tempfile::tempdir().expect("a folder");
    let with_secrets = mtls(folder.path());
    for path in [dev_env().join("k8s/base"), overlay("default"), overlay("loop-dev"), with_secrets]
    {
        let Some(objects) = kustomize(&path) else { return };
        let names = objects.names();
        let missing: Vec<_> =
            ALWAYS.iter().filter(|name| !names.contains(&(**name).into())).collect();
        assert_eq!(missing, [&""; 0], "{}", path.display());
        let found = checks::findings(&objects);
        let found: Vec<_> = found.iter().filter(|text| !text.contains("is a secret")).collect();
        assert_eq!(found, [&""; 0], "{}", path.display());
        programs::assert_understood(&objects);
    }
}

#[test]
fn no_secret_is_rendered_but_those_of_ones_own_certificates() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(objects) = kustomize(&mtls(folder.path())) else { return };
    let mut used = BTreeSet::new();
    for pods in pods::all(&objects) {
        let volumes = pods.spec()["volumes"].as_array().into_iter().flatten();
        used.extend(volumes.filter_map(|volume| volume["secret"]["secretName"].as_str()));
    }
    let made: BTreeSet<_> = objects.of_kind("Secret").map(|secret| secret.name()).collect();
    assert_eq!(made, used);
    let Some(default) = default() else { return };
    assert_eq!(default.of_kind("Secret").count(), 0);
}

#[test]
fn fs_core_is_replaced_by_hand_alone_and_never_killed_for_being_slow() {
    let Some(objects) = default() else { return };
    let pods = pods_of(&objects, "DaemonSet", "lunar-fs-core");
    assert_eq!(pods.workload.text("/spec/updateStrategy/type"), "OnDelete");
    let spec = pods.spec();
    assert_eq!(spec["priorityClassName"], "system-node-critical");
    assert_eq!(spec["hostPID"], true);
    assert!(spec["terminationGracePeriodSeconds"].as_u64() >= Some(60));
    assert_eq!(spec["tolerations"], json!([{ "operator": "Exists" }]));
    let container = pods.container("fs-core").expect("it is there");
    for absent in ["livenessProbe", "lifecycle"] {
        assert!(container.spec[absent].is_null(), "{absent}");
    }
    assert!(container.spec["resources"]["limits"].is_null());
    for (path, volume) in [("/dev", "dev"), ("/run/lunar", "run")] {
        let mount = container.mount_at(path).expect("it is mounted");
        assert_eq!(mount["name"], volume);
        // Into the container's own mount namespace nothing propagates, nor out of it.
        assert!(mount["mountPropagation"].is_null(), "{path}");
        assert_eq!(pods.volume(volume).expect("it is there")["hostPath"]["path"], path);
    }
}

#[test]
fn mounts_of_the_node_plugin_reach_kubelet_and_it_is_replaced_node_by_node() {
    let Some(objects) = default() else { return };
    let pods = pods_of(&objects, "DaemonSet", "lunar-csi-node");
    assert_eq!(pods.workload.text("/spec/updateStrategy/type"), "RollingUpdate");
    let driver = pods.container("csi-driver").expect("it is there");
    let kubelet = driver.mount_at("/var/lib/kubelet").expect("it is mounted");
    assert_eq!(kubelet["mountPropagation"], "Bidirectional");
    let registrar = pods.container("node-driver-registrar").expect("it is there");
    let path =
        format!("--kubelet-registration-path=/var/lib/kubelet/plugins/{DRIVER_NAME}/csi.sock");
    assert!(registrar.arguments().contains(&path.as_str()), "{:?}", registrar.arguments());
    let plugin = format!("/var/lib/kubelet/plugins/{DRIVER_NAME}");
    assert_eq!(pods.volume("plugin").expect("it is there")["hostPath"]["path"], plugin);
}

#[test]
fn every_sidecar_speaks_to_the_socket_of_its_driver_and_one_of_many_leads() {
    let Some(objects) = default() else { return };
    let sidecars = pods::containers(&objects).filter(|it| it.image().contains("sig-storage/"));
    let mut leading = Vec::new();
    for sidecar in sidecars {
        let arguments = sidecar.arguments();
        assert!(arguments.contains(&"--csi-address=/csi/csi.sock"), "{sidecar}");
        assert!(sidecar.mount_at("/csi").is_some(), "{sidecar}");
        if arguments.contains(&"--leader-election") {
            assert!(arguments.contains(&"--leader-election-namespace=lunar"), "{sidecar}");
            leading.push(sidecar.name().trim_start_matches("csi-"));
        }
    }
    assert_eq!(leading, ["attacher", "provisioner", "resizer", "snapshotter"]);
    let controller = pods_of(&objects, "Deployment", "lunar-csi-controller");
    assert!(controller.workload.at("/spec/replicas").as_u64() > Some(1));
    let snapshotter = controller.container("csi-snapshotter").expect("it is there");
    assert!(snapshotter.arguments().contains(&"--feature-gates=CSIVolumeGroupSnapshot=true"));
}

#[test]
fn the_driver_object_and_every_class_name_the_driver() {
    let Some(objects) = default() else { return };
    let driver = objects.get("CSIDriver", DRIVER_NAME).expect("it has the name of the driver");
    let expected = json!({
        "attachRequired": true,
        "podInfoOnMount": false,
        "fsGroupPolicy": "File",
        "requiresRepublish": false,
        "seLinuxMount": false,
        "storageCapacity": true,
        "volumeLifecycleModes": ["Persistent"],
    });
    assert_eq!(driver.at("/spec"), &expected);
    let classes = [
        ("StorageClass", "/provisioner"),
        ("VolumeSnapshotClass", "/driver"),
        ("VolumeGroupSnapshotClass", "/driver"),
    ];
    for (kind, at) in classes {
        for class in objects.of_kind(kind) {
            assert_eq!(class.text(at), DRIVER_NAME, "{class}");
        }
    }
}

/// The parameters that the design says, of which every other one is refused.
fn known_parameters() -> BTreeSet<String> {
    let design = read(&repository().join("docs/csi.md"));
    let row = design.lines().find(|line| line.starts_with("| StorageClass parameters"));
    let row = row.expect("the design has a row of them");
    let (known, _) = row.split_once("Every other one").expect("it says that others are refused");
    let words = known.split('`').skip(1).step_by(2);
    words.filter(|word| !word.starts_with("parameters")).map(str::to_owned).collect()
}

#[test]
fn storage_classes_have_only_parameters_that_the_driver_knows() {
    let known = known_parameters();
    let expected = ["pool", "blockSize", "csi.storage.k8s.io/fstype"].map(str::to_owned);
    assert_eq!(known, expected.into());
    let Some(objects) = default() else { return };
    for class in objects.of_kind("StorageClass") {
        let parameters = class.at("/parameters").as_object().expect("it has parameters");
        assert!(parameters.contains_key("pool"), "{class}");
        for (name, value) in parameters {
            assert!(known.contains(name), "{class}: '{name}'");
            assert!(value.is_string(), "{class}: '{name}' is no text");
        }
        assert_eq!(class.at("/allowVolumeExpansion"), &Value::Bool(true), "{class}");
        let kind = class.name().trim_start_matches("lunar-");
        let fstype = parameters.get("csi.storage.k8s.io/fstype").and_then(Value::as_str);
        assert_eq!(fstype, Some(kind).filter(|kind| *kind != "block"), "{class}");
    }
}

#[test]
fn every_image_of_the_default_overlay_can_be_replaced_there() {
    let Some(objects) = default() else { return };
    let overlay = read(&overlay("default").join("kustomization.yaml"));
    let images: BTreeSet<_> = pods::containers(&objects).map(|it| it.image()).collect();
    assert_eq!(images.len(), 9);
    for image in images {
        let (name, tag) = image.split_once(':').expect("it has a tag");
        assert!(overlay.contains(&format!("name: {name}")), "{name}");
        assert!(overlay.contains(&format!("newTag: {tag}")), "{image}");
    }
}

#[test]
fn the_service_waits_on_loopback_for_the_secret_that_opens_it() {
    let Some(objects) = default() else { return };
    let pods = pods_of(&objects, "StatefulSet", "lunar-metadata");
    let container = pods.container("metadata-service").expect("it is there");
    let opens =
        container.arguments().iter().any(|it| it.contains("listen") || it.contains("config"));
    assert!(!opens, "without the Secret it would listen to all, or not start");
    let variable = &container.spec["env"][0];
    assert_eq!(variable["name"], "LUNAR_METADATA_CONFIG");
    let key = &variable["valueFrom"]["secretKeyRef"];
    assert_eq!((&key["name"], &key["optional"]), (&json!("lunar-metadata-tls"), &json!(true)));
    // What the Secret points at is there, and names the files of the Secret.
    let script = read(&dev_env().join("k8s/make-secrets.sh"));
    assert!(script.contains("config=/etc/lunar/metadata/service.toml"));
    let file = objects.get("ConfigMap", "lunar-metadata").expect("it is there");
    let text = file.text("/data/service.toml");
    for line in ["listen = \"0.0.0.0:7420\"", "tls_client_ca = \"/etc/lunar/tls/ca.crt\""] {
        assert!(text.contains(line), "{text}");
    }
    // Variables of Services of the namespace begin like those of the programs.
    for pods in pods::all(&objects) {
        assert_eq!(pods.spec()["enableServiceLinks"], false, "{}", pods.workload);
    }
}

#[test]
fn the_examples_are_objects_of_what_is_installed() {
    let Some(objects) = default() else { return };
    let folder = dev_env().join("k8s/examples");
    let mut claims = 0;
    for entry in fs::read_dir(&folder).expect("there are examples") {
        let path = entry.expect("readable").path();
        let examples = Objects::parse(&read(&path)).unwrap_or_else(|error| panic!("{error}"));
        for claim in examples.of_kind("PersistentVolumeClaim") {
            claims += 1;
            let class = claim.text("/spec/storageClassName");
            assert!(objects.get("StorageClass", class).is_some(), "{}: {claim}", path.display());
        }
        let classes = [
            ("VolumeSnapshot", "VolumeSnapshotClass"),
            ("VolumeGroupSnapshot", "VolumeGroupSnapshotClass"),
        ];
        for (kind, class_kind) in classes {
            for snapshot in examples.of_kind(kind) {
                let at =
                    format!("/spec/{}{}Name", class_kind[..1].to_lowercase(), &class_kind[1..]);
                let class = snapshot.text(&at);
                assert!(objects.get(class_kind, class).is_some(), "{}: {snapshot}", path.display());
            }
        }
    }
    assert!(claims >= 3, "there is a claim of each kind");
}

#[test]
fn shell_scripts_are_clean() {
    let Some(shellcheck) = tools::on_path("shellcheck") else {
        assert!(std::env::var_os("LUNAR_REQUIRE_LAB").is_none(), "install shellcheck");
        return tell("there is no shellcheck: apt-get install shellcheck");
    };
    let scripts = [
        "k8s/make-secrets.sh",
        "kind/up.sh",
        "kind/demo.sh",
        "kind/down.sh",
        "kind/preflight.sh",
        "docker/images.sh",
    ];
    for script in scripts {
        let path = dev_env().join(script);
        let text = read(&path);
        assert!(text.starts_with("#!/usr/bin/env bash\n"), "{script}");
        assert!(text.contains("\nset -euo pipefail\n"), "{script}");
        let mut check = Command::new(&shellcheck);
        let found =
            tools::run(check.args(["--external-sources", "--source-path=SCRIPTDIR"]).arg(&path));
        assert!(found.is_ok(), "{}", found.expect_err("it has findings"));
    }
}
