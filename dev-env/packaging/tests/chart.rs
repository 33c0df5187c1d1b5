//! What the Helm chart renders, and what it refuses.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use lunar_packaging::checks;
use lunar_packaging::objects::Objects;
use lunar_packaging::pods;
use lunar_packaging::tools;

use support::{dev_env, helm, kustomize, overlay, programs, read, rendered, template};

/// The namespace is part of what kustomize renders.
const WITH_NAMESPACE: &str = "namespace.create=true,namespace.name=lunar";

/// Sets of values that people choose.
const CHOICES: [&[&str]; 16] = [
    &[],
    &["file:values-loop-dev.yaml"],
    &["tls.bootstrap=false"],
    &["tls.nodes.source=hostPath"],
    &["metadata.storage.type=hostPath"],
    &["metadata.storage.storageClassName=local-path,metadata.storage.size=1Gi"],
    &["metadata.enabled=false,metadata.endpoint=https://meta.example:7420"],
    &["metadata.disruptionBudget=true,csiController.disruptionBudget=false"],
    &["fsCore.hostSystemd=true"],
    &["fsCore.privileged=false"],
    &["fsCore.queues=8,fsCore.queueDepth=256,fsCore.maxIoBytes=1048576,fsCore.consolidateRate=0"],
    &["fsCore.luns={/dev/sdx,/srv/lun.raw},fsCore.lunDirectories={/srv,/var/luns}"],
    &["snapshots.enabled=false,csiDriver.storageCapacity=false,storageClasses.enabled=false"],
    &["snapshots.groups=false,storageClasses.blockSize=4096,storageClasses.default=xfs"],
    &["snapshotMetadata.enabled=true,snapshotMetadata.caCert=eA==,networkPolicies.enabled=true"],
    &["images.pullSecrets={one,two},kubeletRoot=/var/lib/k0s/kubelet,runDirectory=/run/other"],
];

fn pool_of(objects: &Objects) -> &str {
    objects.get("StorageClass", "lunar-ext4").expect("it is there").text("/parameters/pool")
}

#[test]
fn the_chart_has_no_findings_of_lint() {
    let Some(helm) = helm() else { return };
    let mut lint = Command::new(&helm);
    lint.args(["lint", "--strict"]).arg(dev_env().join("helm/lunar"));
    let said = tools::run(&mut lint).unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains("0 chart(s) failed"), "{said}");
}

#[test]
fn what_every_choice_renders_is_sound_and_understood_by_the_programs() {
    let Some(helm) = helm() else { return };
    for values in CHOICES {
        let objects = rendered(&helm, values);
        assert_eq!(checks::findings(&objects), [""; 0], "{values:?}");
        programs::assert_understood(&objects);
    }
}

#[test]
fn what_cannot_be_is_refused_and_named() {
    let Some(helm) = helm() else { return };
    let refused = [
        ("fsCore.queues=0", "/fsCore/queues"),
        ("fsCore.queues=65", "/fsCore/queues"),
        ("fsCore.maxIoBytes=100000", "/fsCore/maxIoBytes"),
        ("fsCore.luns={relative}", "/fsCore/luns"),
        ("fsCore.lunDirectories={/a/../b}", "/fsCore/lunDirectories"),
        ("fsCore.livenessProbe=true", "livenessProbe"),
        ("fsCore.resources=null", "resources"),
        ("storageClasses.blockSize=1024", "/storageClasses/blockSize"),
        ("storageClasses.pool=no pool", "/storageClasses/pool"),
        ("storageClasses.default=ext3", "/storageClasses/default"),
        ("images.fsCore.tag=latest", "/images/fsCore/tag"),
        ("sidecars.attacher.tag=", "/sidecars/attacher/tag"),
        ("sidecars.verbosity=11", "/sidecars/verbosity"),
        ("tls.nodes.source=vault", "/tls/nodes/source"),
        ("tls.enabled=perhaps", "/tls/enabled"),
        ("tls.key=secret", "'key'"),
        ("metadata.replicas=3", "'replicas'"),
        ("metadata.requestRetentionSeconds=10", "/metadata/requestRetentionSeconds"),
        ("csiController.replicas=0", "/csiController/replicas"),
        ("unknown=1", "'unknown'"),
        ("metadata.enabled=false", "metadata.endpoint"),
        ("snapshotMetadata.enabled=true", "snapshotMetadata.caCert"),
    ];
    for (value, named) in refused {
        let output = tools::output(&mut template(&helm, &[value])).expect("helm runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{value} is not refused");
        assert!(said.contains(named), "{value}: {said}");
    }
}

#[test]
fn every_image_is_of_the_registry_and_tag_that_were_chosen() {
    let Some(helm) = helm() else { return };
    let tags = [
        "provisioner",
        "attacher",
        "resizer",
        "snapshotter",
        "snapshotMetadata",
        "registrar",
        "livenessProbe",
    ];
    let mut values: Vec<String> = tags.iter().map(|it| format!("sidecars.{it}.tag=s1")).collect();
    let ours = ["metadataService", "fsCore", "csiDriver"];
    values.extend(ours.iter().map(|it| format!("images.{it}.tag=o1")));
    values.push("images.registry=host:5000/ours,sidecars.registry=host:5000/theirs/".to_owned());
    values.push("snapshotMetadata.enabled=true,snapshotMetadata.caCert=eA==".to_owned());
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let objects = rendered(&helm, &values);
    let images: BTreeSet<_> = pods::containers(&objects).map(|it| it.image()).collect();
    assert_eq!(images.len(), tags.len() + ours.len());
    for image in images {
        let ours = image.starts_with("host:5000/ours/lunar/") && image.ends_with(":o1");
        let theirs = image.starts_with("host:5000/theirs/sig-storage/") && image.ends_with(":s1");
        assert!(ours || theirs, "{image}");
    }
}

#[test]
fn every_log_filter_and_every_resource_is_a_value() {
    let Some(helm) = helm() else { return };
    let parts = ["metadata", "fsCore", "csiController", "csiNode"];
    let of_part = |part| format!("{part}.log=lunar=trace,{part}.resources.requests.cpu=77m");
    let mut values: Vec<String> = parts.into_iter().map(of_part).collect();
    values.push("sidecars.resources.requests.cpu=77m,sidecars.verbosity=9".to_owned());
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let objects = rendered(&helm, &values);
    for container in pods::containers(&objects) {
        assert_eq!(container.spec["resources"]["requests"]["cpu"], "77m", "{container}");
        let log = ["--log=lunar=trace", "--v=9"];
        let told = container.arguments().iter().any(|argument| log.contains(argument));
        assert!(told, "{container}: {:?}", container.arguments());
    }
}

#[test]
fn fs_core_of_the_host_has_no_pod_and_a_unit_of_systemd() {
    let Some(helm) = helm() else { return };
    let objects = rendered(&helm, &["fsCore.hostSystemd=true"]);
    assert!(objects.get("DaemonSet", "lunar-fs-core").is_none());
    assert!(objects.get("ServiceAccount", "lunar-fs-core").is_none());
    let unit = read(&dev_env().join("systemd/fs-core.service"));
    let needed = ["fs-core serve", "Restart=always", "LimitMEMLOCK=infinity", "KillMode=process"];
    for line in needed {
        assert!(unit.contains(line), "the unit has no {line}");
    }
}

#[test]
fn the_seccomp_profile_lets_fs_core_work_and_is_there_before_it() {
    let Some(helm) = helm() else { return };
    let objects = rendered(&helm, &["fsCore.privileged=false"]);
    let map = objects.get("ConfigMap", "lunar-fs-core-seccomp").expect("it is there");
    let profile: serde_json::Value =
        serde_json::from_str(map.text("/data/fs-core.json")).expect("it is JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ALLOW");
    let denied = profile["syscalls"][0]["names"].to_string();
    assert!(denied.contains("\"kexec_load\""), "{denied}");
    let needed = [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "unshare",
        "mount",
        "umount2",
        "ioctl",
        "mlockall",
        "prctl",
        "execve",
        "setrlimit",
        "prlimit64",
    ];
    for call in needed {
        assert!(!denied.contains(&format!("\"{call}\"")), "fs-core needs {call}");
    }
    let pods =
        pods::Pods { workload: objects.get("DaemonSet", "lunar-fs-core").expect("it is there") };
    let installs = pods.container("install-seccomp-profile").expect("it is there");
    let path = installs.spec["command"].as_array().and_then(|words| words.last()).cloned();
    let context = &pods.container("fs-core").expect("it is there").spec["securityContext"];
    let used = context["seccompProfile"]["localhostProfile"].as_str().expect("it has a profile");
    assert_eq!(path, Some(format!("/host/seccomp/{used}").into()));
}

#[test]
fn a_pool_and_a_default_class_can_be_chosen() {
    let Some(helm) = helm() else { return };
    let objects = rendered(&helm, &["storageClasses.pool=fast,storageClasses.default=xfs"]);
    assert_eq!(pool_of(&objects), "fast");
    let is_default = |name: &str| {
        let class = objects.get("StorageClass", name).expect("it is there");
        class.text("/metadata/annotations/storageclass.kubernetes.io~1is-default-class") == "true"
    };
    assert_eq!(["lunar-ext4", "lunar-xfs", "lunar-block"].map(is_default), [false, true, false]);
}

#[test]
fn the_base_of_kustomize_is_what_the_chart_renders() {
    let Some(helm) = helm() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let mut render = template(&helm, &[WITH_NAMESPACE]);
    tools::run(render.arg("--output-dir").arg(folder.path()))
        .unwrap_or_else(|error| panic!("{error}"));
    let base = dev_env().join("k8s/base");
    let mut rendered = BTreeSet::new();
    for entry in fs::read_dir(folder.path().join("lunar/templates")).expect("it is rendered") {
        let entry = entry.expect("readable");
        let (name, text) = (entry.file_name(), read(&entry.path()));
        if std::env::var_os("LUNAR_BLESS").is_some() {
            fs::write(base.join(&name), &text).expect("written");
        }
        assert_eq!(text, read(&base.join(&name)), "{name:?}: LUNAR_BLESS=1 writes it anew");
        rendered.insert(name);
    }
    let kept =
        fs::read_dir(&base).expect("readable").map(|entry| entry.expect("readable").file_name());
    let kept: BTreeSet<_> = kept.filter(|name| name != "kustomization.yaml").collect();
    assert_eq!(kept, rendered);
}

#[test]
fn the_chart_and_kustomize_give_the_same_objects() {
    let Some(helm) = helm() else { return };
    let pairs: [(&str, &[&str]); 2] = [
        ("default", &[WITH_NAMESPACE]),
        ("loop-dev", &[WITH_NAMESPACE, "file:values-loop-dev.yaml"]),
    ];
    for (name, values) in pairs {
        let Some(of_kustomize) = kustomize(&overlay(name)) else { return };
        let differences = rendered(&helm, values).differences(&of_kustomize);
        assert_eq!(differences, [""; 0], "{name}");
    }
}

#[test]
fn every_value_is_described() {
    let page = read(&support::repository().join("docs/kubernetes/reference.md"));
    let values = read(&dev_env().join("helm/lunar/values.yaml"));
    let mut path: Vec<&str> = Vec::new();
    for line in values.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let Some((name, rest)) = line.trim_start().split_once(':') else { continue };
        path.truncate((line.len() - line.trim_start().len()) / 2);
        path.push(name);
        let is_leaf = !rest.trim().is_empty() || name == "resources";
        let inside_resources = path[..path.len() - 1].contains(&"resources");
        if is_leaf && !inside_resources {
            let value = format!("`{}`", path.join("."));
            assert!(page.contains(&value), "docs/kubernetes/reference.md has no {value}");
        }
    }
}
