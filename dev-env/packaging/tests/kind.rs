//! The scripts for kind, with programs that stand in for those that need an engine and a cluster:
//! what they refuse, what they call, and what they hand over.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lunar_packaging::checks;
use lunar_packaging::objects::Objects;
use lunar_packaging::pods;
use lunar_packaging::tools;

use support::{dev_env, helm, read, template};

/// Stands in for each program: writes down how it was called and what it was given, and answers
/// what the scripts wait for.
const STAND_IN: &str = r#"#!/usr/bin/env bash
program=$(basename "$0")
printf '%s' "$program" >>"$CALLS/calls"
printf '\t%s' "$@" >>"$CALLS/calls"
echo >>"$CALLS/calls"
case "$program $*" in
    "kind create cluster"*) cat >"$CALLS/cluster.yaml" ;;
    "kind get clusters"*) echo lunar ;;
    "kubectl get nodes"*) printf 'n1\nn2\nn3\n' ;;
    "kubectl get secret"*) exit 1 ;;
    "kubectl exec"*"lunar doctor"*)
        echo 'ok  metadata service  127.0.0.1:7420, version 0.1.0, cluster '"$CLUSTER_ID"; exit 1 ;;
    *"logs demo-"*) echo "${*: -1}: ok" ;;
    "lunar pki init"*) mkdir -p "$4"; touch "$4/ca.crt" "$4/ca.key" ;;
    "lunar pki issue"*) touch "$4/$8.crt" "$4/$8.key" ;;
esac
"#;
const CLUSTER_ID: &str = "5f0c7f6e-6f0d-4d2c-9c0f-0a1b2c3d4e5f";

/// A host that is made up: its kernel, its programs and what they were called with.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    /// A host that has everything.
    fn complete() -> Self {
        let host = Self { folder: tempfile::tempdir().expect("a folder") };
        fs::create_dir_all(host.path("root/dev")).expect("made");
        fs::write(host.path("root/dev/ublk-control"), "").expect("written");
        fs::create_dir_all(host.path("root/proc/sys/kernel")).expect("made");
        fs::write(host.path("root/proc/sys/kernel/io_uring_disabled"), "0\n").expect("written");
        fs::create_dir_all(host.path("bin")).expect("made");
        for program in ["docker", "helm", "kind", "kubectl", "lunar"] {
            let path = host.path("bin").join(program);
            fs::write(&path, STAND_IN).expect("written");
            tools::run(Command::new("chmod").arg("+x").arg(&path)).expect("it may be run");
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn disks(&self) -> PathBuf {
        self.path("disks")
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(dev_env().join("kind").join(script));
        // Of the real host's programs only those of the base system.
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        command.env("PATH", path).env("CALLS", self.folder.path()).env("CLUSTER_ID", CLUSTER_ID);
        command.env("LUNAR_PREFLIGHT_ROOT", self.path("root"));
        command
            .env("LUNAR_KIND_DIR", self.disks())
            .env("LUNAR_SIDECAR_REGISTRY", "registry.example");
        command
    }

    fn run(&self, script: &str) -> Output {
        tools::output(&mut self.command(script)).expect("it can be started")
    }

    /// How programs were called: name and arguments.
    fn calls(&self) -> Vec<Vec<String>> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let call = |line: &str| line.split('\t').map(str::to_owned).collect();
        text.lines().map(call).collect()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether a call changes anything: looking at the engine does not.
fn changes(call: &[String]) -> bool {
    call != ["docker", "info"]
}

fn assert_refused(host: &Host, script: &str, why: &str) {
    let output = host.run(script);
    assert!(!output.status.success(), "{script} is not refused");
    assert!(said(&output).contains(why), "{script}: {}", said(&output));
    let changing: Vec<_> = host.calls().into_iter().filter(|call| changes(call)).collect();
    assert_eq!(changing, [[""; 0]; 0], "{script}");
    assert!(!host.disks().exists(), "{script}");
}

#[test]
fn without_ublk_nothing_is_changed_and_it_is_said_how_to_get_it() {
    for script in ["preflight.sh", "up.sh", "demo.sh"] {
        let host = Host::complete();
        fs::remove_file(host.path("root/dev/ublk-control")).expect("removed");
        assert_refused(&host, script, "has no ublk (module ublk_drv, CONFIG_BLK_DEV_UBLK)");
        assert_refused(&host, script, "apt-get install -t trixie-backports linux-image-amd64");
    }
}

#[test]
fn a_module_that_is_there_and_not_loaded_is_told_from_a_kernel_without_it() {
    let host = Host::complete();
    fs::remove_file(host.path("root/dev/ublk-control")).expect("removed");
    let release = tools::run(Command::new("uname").arg("-r")).expect("every host has a kernel");
    let modules = host.path("root/lib/modules").join(release.trim()).join("kernel");
    fs::create_dir_all(&modules).expect("made");
    fs::write(modules.join("ublk_drv.ko.xz"), "").expect("written");
    assert_refused(&host, "up.sh", "the module ublk_drv is not loaded: modprobe ublk_drv");
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let host = Host::complete();
    fs::remove_file(host.path("bin/kind")).expect("removed");
    fs::write(host.path("root/proc/sys/kernel/io_uring_disabled"), "2\n").expect("written");
    let mut command = host.command("preflight.sh");
    let output = tools::output(command.env_remove("LUNAR_SIDECAR_REGISTRY")).expect("it starts");
    assert!(!output.status.success());
    for missing in ["kind is not on PATH", "io_uring_disabled is 2", "LUNAR_SIDECAR_REGISTRY"] {
        assert!(said(&output).contains(missing), "{}", said(&output));
    }
}

/// The cluster that kind was told to make.
fn cluster(host: &Host) -> serde_json::Value {
    // An object of Kubernetes has a name, which that of kind lacks.
    let text = read(&host.path("cluster.yaml")) + "metadata: {name: cluster}\n";
    let objects = Objects::parse(&text).expect("it is YAML");
    objects.iter().next().expect("there is one").at("/nodes").clone()
}

/// The values that Helm was given.
fn values(host: &Host) -> Vec<String> {
    let calls = host.calls();
    let call = calls.iter().find(|call| call[0] == "helm").expect("helm was called");
    let pairs = call.windows(2).filter(|pair| pair[0] == "--set");
    pairs.map(|pair| pair[1].clone()).collect()
}

fn rendered_values(helm: &Path, host: &Host) -> Objects {
    let values = values(host);
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let yaml = tools::run(&mut template(helm, &values)).unwrap_or_else(|error| panic!("{error}"));
    Objects::parse(&yaml).expect("it is a rendering")
}

#[test]
fn a_complete_host_gets_three_nodes_that_see_the_same_disks_and_a_pool_of_them() {
    let host = Host::complete();
    let output = host.run("up.sh");
    assert!(output.status.success(), "{}", said(&output));
    let nodes = cluster(&host);
    assert_eq!(nodes.as_array().map(Vec::len), Some(3));
    let disks = host.disks().join("luns");
    for node in nodes.as_array().into_iter().flatten() {
        let mounts = node["extraMounts"].to_string();
        for path in [disks.to_string_lossy().as_ref(), "/dev", "/lib/modules"] {
            assert!(mounts.contains(&format!("\"hostPath\":\"{path}\"")), "{mounts}");
        }
    }
    for lun in ["lun0.raw", "lun1.raw"] {
        let size = fs::metadata(disks.join(lun)).expect("it was made").len();
        assert_eq!(size, 8 << 30, "{lun}");
    }
    let mut made = host.calls().into_iter().filter(|call| call.contains(&"create".to_owned()));
    let last = made.next_back().expect("something was created").join(" ");
    let pool = "exec lunar-admin -- lunar pool create tank /var/lib/lunar/luns/lun0.raw \
                /var/lib/lunar/luns/lun1.raw --fencing none";
    assert!(last.ends_with(pool), "{last}");
    let issued: Vec<_> =
        host.calls().into_iter().filter(|it| it.contains(&"issue".into())).collect();
    assert_eq!(issued.len(), 6, "service, controller, admin, and a certificate for each node");
    let made =
        host.calls().into_iter().find(|it| it.contains(&"init".into())).expect("an authority");
    assert_eq!(made.last().map(String::as_str), Some(CLUSTER_ID));

    let Some(helm) = helm() else { return };
    let objects = rendered_values(&helm, &host);
    assert_eq!(checks::findings(&objects), [""; 0]);
    let fs_core =
        pods::containers(&objects).find(|it| it.name() == "fs-core").expect("it is there");
    for argument in ["--scan-luns=false", "--lun=/var/lib/lunar/luns/lun1.raw"] {
        assert!(fs_core.arguments().contains(&argument), "{:?}", fs_core.arguments());
    }
    assert!(fs_core.mount_at("/var/lib/lunar/luns").is_some());
    assert!(
        pods::containers(&objects)
            .any(|it| it.image().starts_with("registry.example/sig-storage/"))
    );
}

#[test]
fn the_demonstration_applies_a_claim_of_each_kind_and_ends_with_ok() {
    let host = Host::complete();
    let output = host.run("demo.sh");
    assert!(output.status.success(), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("demo: ok\n"));
    for kind in ["ext4", "xfs", "block"] {
        let file = format!("k8s/examples/{kind}.yaml");
        let applied = host.calls().iter().any(|call| {
            call.contains(&"apply".to_owned()) && call.iter().any(|word| word.ends_with(&file))
        });
        assert!(applied, "{kind}");
    }
}

#[test]
fn what_was_made_is_taken_away_claims_first() {
    let host = Host::complete();
    assert!(host.run("up.sh").status.success());
    let output = host.run("down.sh");
    assert!(output.status.success(), "{}", said(&output));
    assert!(!host.disks().exists());
    let calls = host.calls();
    let place =
        |word: &str| calls.iter().rposition(|call| call.iter().any(|it| it.ends_with(word)));
    assert!(place("examples/block.yaml") < place("lunar"), "{calls:?}");
    let deleted = ["kind", "delete", "cluster", "--name", "lunar"].map(str::to_owned);
    assert!(calls.contains(&deleted.to_vec()), "{calls:?}");
}
