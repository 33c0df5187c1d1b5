//! The images, built by a real Docker engine of programs that were built before, and run as the
//! pods run them.
//!
//! Needs root, dockerd (or an engine that answers) and mmdebstrap, which makes the base: nothing is
//! pulled. Without them it says so; LUNAR_REQUIRE_DOCKER=1 makes that a failure.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use lunar_packaging::objects::Objects;
use lunar_packaging::tools::{self, on_path, run};

use support::{dev_env, read, repository, target, tell};

const PROGRAMS: [&str; 4] = ["metadata-service", "fs-core", "csi-driver", "lunar"];
const BASE: &str = "lunar/test-base:1";
/// What the programs call, so that images need no network to be built.
const PACKAGES: &str = "e2fsprogs,kmod,util-linux,xfsprogs";
const TAG: &str = "packaging-test";
/// As in the pods: no privilege, and nothing of the image can be written.
const CONFINED: [&str; 7] = [
    "--user=65532:65532",
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--tmpfs=/var/lib/lunar:uid=65532,gid=65532",
    "--tmpfs=/csi:uid=65532,gid=65532",
    "--detach",
];

/// The arguments of the controller; those of the chart are checked elsewhere.
const CONTROLLER: [&str; 6] = [
    "controller",
    "--endpoint=/csi/csi.sock",
    "--metadata=https://127.0.0.1:7420",
    "--tls-ca=/etc/lunar/tls/ca.crt",
    "--tls-cert=/etc/lunar/tls/tls.crt",
    "--tls-key=/etc/lunar/tls/tls.key",
];

/// The capabilities of fs-core where it is not privileged; the chart's are compared with them.
const FS_CORE_CAPS: [&str; 8] = [
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "KILL",
    "SYS_ADMIN",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
];

/// An engine, of the host or our own, and the containers that were started in it.
struct Engine {
    host: Option<String>,
    daemon: Option<(Child, tempfile::TempDir)>,
    containers: Vec<String>,
}

impl Engine {
    /// The engine of the host or one that is started; nothing where there is neither.
    fn get() -> Result<Self, String> {
        let mut engine = Self { host: None, daemon: None, containers: Vec::new() };
        if on_path("docker").is_none() {
            return Err("there is no docker on PATH".to_owned());
        }
        if engine.answers() {
            return Ok(engine);
        }
        engine.start()?;
        Ok(engine)
    }

    fn start(&mut self) -> Result<(), String> {
        let dockerd = on_path("dockerd").or_else(|| Some(PathBuf::from("/usr/sbin/dockerd")));
        let dockerd = dockerd.filter(|path| path.is_file());
        let dockerd = dockerd.ok_or("no engine answers, and there is no dockerd")?;
        let folder = tempfile::tempdir_in(target()).map_err(|error| error.to_string())?;
        let socket = format!("unix://{}", folder.path().join("sock").display());
        let option =
            |name: &str, file: &str| format!("--{name}={}", folder.path().join(file).display());
        let mut command = Command::new(dockerd);
        command.args([option("data-root", "data"), option("exec-root", "exec")]);
        command.args([option("pidfile", "pid"), format!("--host={socket}")]);
        command.args(["--bridge=none", "--iptables=false"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = command.spawn().map_err(|error| format!("dockerd: {error}"))?;
        self.host = Some(socket);
        self.daemon = Some((daemon, folder));
        match within(Duration::from_secs(30), || self.answers()) {
            true => Ok(()),
            false => Err("dockerd was started and does not answer: it needs root".to_owned()),
        }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some(host) = &self.host {
            command.env("DOCKER_HOST", host);
        }
        command
    }

    fn answers(&self) -> bool {
        let output = self.command("docker").arg("version").output();
        output.is_ok_and(|output| output.status.success())
    }

    fn docker(&self, arguments: &[&str]) -> Result<String, tools::ToolError> {
        run(self.command("docker").args(arguments))
    }

    /// Starts a container, which goes with the engine's value.
    fn start_container(&mut self, arguments: &[&str]) -> String {
        let all = [&["run", "--network=none"][..], arguments].concat();
        let id = self.docker(&all).unwrap_or_else(|error| panic!("{error}"));
        let id = id.trim().to_owned();
        self.containers.push(id.clone());
        id
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for container in &self.containers {
            // The container may have ended by itself.
            drop(self.docker(&["rm", "--force", container]));
        }
        if let Some((mut daemon, folder)) = self.daemon.take() {
            drop(run(Command::new("kill").arg(daemon.id().to_string())));
            drop(daemon.wait());
            drop(folder);
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "waits for a real engine on a real clock")]
fn within(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// The folder with all four programs: that of this test's own profile, or of LUNAR_PROGRAMS.
fn programs() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let own = own.parent().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
    let folder = std::env::var_os("LUNAR_PROGRAMS").map_or(own, PathBuf::from);
    match PROGRAMS.iter().find(|program| !folder.join(program).is_file()) {
        Some(missing) => Err(format!("{} has no {missing}: make build", folder.display())),
        None => Ok(folder),
    }
}

/// Makes the base image, once for each engine.
fn make_base(engine: &Engine) -> Result<(), String> {
    if engine.docker(&["image", "inspect", BASE]).is_ok() {
        return Ok(());
    }
    let archive = target().join("tools/images-base.tar");
    if !archive.is_file() {
        let mmdebstrap = on_path("mmdebstrap").ok_or("there is no mmdebstrap to make a base")?;
        let release = read(Path::new("/etc/os-release"));
        let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let suite = suite.ok_or("/etc/os-release names no suite of Debian")?;
        std::fs::create_dir_all(target().join("tools")).map_err(|error| error.to_string())?;
        let partial = archive.with_extension("partial.tar");
        let mut make = Command::new(mmdebstrap);
        make.args(["--variant=minbase", &format!("--include={PACKAGES}"), suite]).arg(&partial);
        run(&mut make).map_err(|error| error.to_string())?;
        std::fs::rename(&partial, &archive).map_err(|error| error.to_string())?;
    }
    let archive = archive.to_string_lossy();
    engine.docker(&["import", &archive, BASE]).map_err(|error| error.to_string())?;
    Ok(())
}

fn built() -> Result<Engine, String> {
    let programs = programs()?;
    on_path("kubectl").ok_or("there is no kubectl, which make-secrets.sh calls")?;
    let engine = Engine::get()?;
    make_base(&engine)?;
    let mut build = engine.command(dev_env().join("docker/images.sh"));
    build.arg(programs).env("BASE_IMAGE", BASE).env("LUNAR_IMAGE_TAG", TAG);
    run(&mut build).unwrap_or_else(|error| panic!("{error}"));
    Ok(engine)
}

fn image(program: &str) -> String {
    format!("lunar/{program}:{TAG}")
}

fn versions_and_tools(engine: &Engine) {
    for program in PROGRAMS {
        let said = engine.docker(&["run", "--rm", "--network=none", &image(program), "--version"]);
        let said = said.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(said.trim(), format!("{program} {}", env!("CARGO_PKG_VERSION")));
    }
    let called = [
        ("fs-core", ["blkid", "modprobe", "lunar"].as_slice()),
        ("metadata-service", &["lunar", "chown"]),
        ("csi-driver", &["blkid", "e2fsck", "mkfs.ext4", "mkfs.xfs", "resize2fs", "xfs_growfs"]),
    ];
    for (program, tools) in called {
        for tool in tools {
            let find = format!("command -v {tool}");
            let image = image(program);
            let arguments =
                ["run", "--rm", "--network=none", "--entrypoint=sh", &image, "-c", &find];
            assert!(engine.docker(&arguments).is_ok(), "{program} has no {tool}");
        }
    }
}

fn labels_and_users(engine: &Engine) {
    for (program, user) in PROGRAMS.into_iter().zip(["65532:65532", "", "", "65532:65532"]) {
        let text = engine.docker(&["image", "inspect", &image(program)]).expect("it was built");
        let image: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let config = &image[0]["Config"];
        assert_eq!(config["User"], user, "{program}");
        assert_eq!(config["Labels"]["org.opencontainers.image.title"], program);
        assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(config["Entrypoint"], serde_json::json!([format!("/usr/local/bin/{program}")]));
    }
}

/// Stands for kubectl: `exec` is the container's, of the rest it keeps what would be applied.
fn stand_in(folder: &Path, service: &str) {
    let script = format!(
        "#!/bin/sh\nset -e\ncase \"$1\" in\n\
         exec) while [ \"$1\" != -- ]; do shift; done\n\
         shift; exec docker exec {service} \"$@\" ;;\n\
         wait|delete) ;;\n\
         create) real=$(PATH=${{PATH#*:}} command -v kubectl); exec \"$real\" \"$@\" ;;\n\
         apply) echo --- >>{folder}/applied.yaml; cat >>{folder}/applied.yaml ;;\n\
         get) [ \"$2\" = nodes ] && printf 'n1\\nn2\\n' ;;\n\
         *) exit 2 ;;\nesac\n",
        folder = folder.display(),
    );
    let path = folder.join("bin/kubectl");
    std::fs::create_dir_all(folder.join("bin")).expect("made");
    std::fs::write(&path, script).expect("written");
    run(Command::new("chmod").arg("+x").arg(&path)).expect("it may be run");
}

/// The Secrets that the script makes for the service in that container.
fn made_secrets(engine: &Engine, folder: &Path, service: &str) -> Objects {
    stand_in(folder, service);
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = programs().expect("they were found before");
    let path = format!("{}/bin:{path}:{}", folder.display(), programs.display());
    let mut make = engine.command(dev_env().join("k8s/make-secrets.sh"));
    make.arg("lunar").arg(folder.join("pki")).env("PATH", path);
    run(&mut make).unwrap_or_else(|error| panic!("{error}"));
    Objects::parse(&read(&folder.join("applied.yaml"))).expect("they are objects")
}

/// Writes a Secret as kubelet does, readable for all as these are of a test.
fn written(secrets: &Objects, name: &str, folder: &Path) -> PathBuf {
    let secret = secrets.get("Secret", name).expect("it was made");
    let into = folder.join(name);
    std::fs::create_dir_all(&into).expect("made");
    for (key, value) in secret.at("/data").as_object().expect("it has data") {
        let encoded = value.as_str().expect("it is text");
        let decoded = BASE64.decode(encoded).expect("it is base64");
        std::fs::write(into.join(key), decoded).expect("written");
    }
    into
}

fn ready(engine: &Engine, container: &str) -> bool {
    let probe = ["exec", container, "csi-driver", "probe", "--endpoint=/csi/csi.sock"];
    engine.docker(&probe).is_ok()
}

fn log_of(engine: &Engine, container: &str) -> String {
    let output = tools::output(engine.command("docker").args(["logs", container]));
    output.map_or_else(|error| error.to_string(), |it| String::from_utf8_lossy(&it.stderr).into())
}

/// The service on its own loopback, then with the Secrets that were made for it, then a controller
/// that reaches it over TLS: what happens at an installation.
fn installation(engine: &mut Engine) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    std::fs::create_dir(&store).expect("made");
    run(Command::new("chown").arg("65532:65532").arg(&store)).expect("the test is root");
    let store = format!("--volume={}:/store", store.display());
    let serve = ["serve", "--store=/store/metadata.redb"];
    let service_image = image("metadata-service");
    let service = [&CONFINED[..], &[&store, &service_image], &serve].concat();
    let first = engine.start_container(&service);
    let secrets = made_secrets(engine, folder.path(), &first);
    engine.docker(&["stop", &first]).expect("it stops");

    let configured = secrets.get("Secret", "lunar-metadata-tls").expect("it was made");
    assert!(!configured.text("/data/config").is_empty());
    let config = folder.path().join("service.toml");
    let base = read(&dev_env().join("k8s/base/metadata.yaml"));
    let base = Objects::parse(&base).expect("it is a rendering");
    let text =
        base.get("ConfigMap", "lunar-metadata").expect("it is there").text("/data/service.toml");
    std::fs::write(&config, text).expect("written");
    let mounts = |secret: &str| {
        let from = written(&secrets, secret, folder.path());
        format!("--volume={}:/etc/lunar/tls:ro", from.display())
    };
    let config = format!("--volume={}:/etc/lunar/metadata/service.toml:ro", config.display());
    let variable = "--env=LUNAR_METADATA_CONFIG=/etc/lunar/metadata/service.toml";
    let tls = mounts("lunar-metadata-tls");
    let options = [store.as_str(), &tls, &config, variable, &service_image];
    let service = [&CONFINED[..], &options, &serve].concat();
    let second = engine.start_container(&service);

    let tls = mounts("lunar-csi-controller-tls");
    let shared = format!("--network=container:{second}");
    let driver = image("csi-driver");
    let all = [&["run", &shared][..], &CONFINED, &[&tls, &driver], &CONTROLLER].concat();
    let controller = engine.docker(&all).unwrap_or_else(|error| panic!("{error}"));
    let controller = controller.trim().to_owned();
    // It goes before the one whose network it shares.
    engine.containers.insert(0, controller.clone());
    let is_ready = within(Duration::from_secs(30), || ready(engine, &controller));
    assert!(is_ready, "{}\n{}", log_of(engine, &second), log_of(engine, &controller));
    engine.docker(&["stop", &second]).expect("it stops");
    assert!(!ready(engine, &controller), "it is ready without the service");
    nodes_have_their_own(&secrets);
}

/// fs-core with the capabilities and the profile of `fsCore.privileged=false`, and a node plugin.
/// Where the host has no ublk, or may not give what fs-core needs, fs-core says so and ends, and
/// the plugin answers that it is not ready.
fn node(engine: &mut Engine) {
    let profile = dev_env().join("helm/lunar/files/fs-core-seccomp.json");
    let profile = format!("--security-opt=seccomp={}", profile.display());
    let may_give = host_may_give_resources();
    let given = FS_CORE_CAPS.iter().filter(|name| may_give || **name != "SYS_RESOURCE");
    let caps: Vec<String> = given.map(|name| format!("--cap-add={name}")).collect();
    let caps: Vec<&str> = caps.iter().map(String::as_str).collect();
    let host = ["--pid=host", "--read-only", "--detach", "--cap-drop=ALL", "--volume=/dev:/dev"];
    let image_of_core = image("fs-core");
    let serve = ["--tmpfs=/run/lunar", &profile, &image_of_core, "serve", "--node-name=n1"];
    let all = [&host[..], &caps, &serve, &["--scan-luns=false"]].concat();
    let fs_core = engine.start_container(&all);
    let driver = image("csi-driver");
    let plugin = ["--tmpfs=/csi", &driver, "node", "--endpoint=/csi/csi.sock"];
    let plugin = engine.start_container(&[&host[..], &plugin].concat());
    let probe = ["exec", &plugin, "csi-driver", "probe", "--endpoint=/csi/csi.sock"];
    let not_ready = || {
        let said = engine.docker(&probe).err().map(|error| error.to_string());
        said.is_some_and(|said| said.contains("does not reach what it speaks to"))
    };
    assert!(within(Duration::from_secs(20), not_ready), "{}", log_of(engine, &plugin));
    let serves = || match (may_give, Path::new("/dev/ublk-control").exists()) {
        (false, _) => log_of(engine, &fs_core).contains("Linux 5.6 and CAP_SYS_RESOURCE"),
        (_, false) => log_of(engine, &fs_core).contains("/dev/ublk-control is missing"),
        (_, true) => engine.docker(&["exec", &fs_core, "lunar", "lun", "list"]).is_ok(),
    };
    assert!(within(Duration::from_secs(20), serves), "{}", log_of(engine, &fs_core));
}

/// Whether this host may give CAP_SYS_RESOURCE to anybody: a virtual one may lack it.
fn host_may_give_resources() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = read(Path::new("/proc/self/status"));
    let mask = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).expect("Linux says it");
    mask >> CAP_SYS_RESOURCE & 1 == 1
}

fn nodes_have_their_own(secrets: &Objects) {
    let nodes = secrets.get("Secret", "lunar-node-tls").expect("it was made");
    let keys: Vec<_> = nodes.at("/data").as_object().expect("it has data").keys().collect();
    assert_eq!(keys, ["ca.crt", "n1.crt", "n1.key", "n2.crt", "n2.key"]);
    assert!(secrets.get("Secret", "lunar-admin-tls").is_some());
    for secret in secrets.of_kind("Secret") {
        assert!(secret.at("/data/ca.key").is_null(), "{secret} has the key of the authority");
    }
}

#[test]
fn images_run_unprivileged_and_read_only_and_an_installation_gets_ready_over_tls() {
    let mut engine = match built() {
        Ok(engine) => engine,
        Err(why) => {
            let is_required = std::env::var("LUNAR_REQUIRE_DOCKER").is_ok_and(|value| value == "1");
            assert!(!is_required, "{why}");
            return tell(&format!("the images: {why}"));
        }
    };
    versions_and_tools(&engine);
    labels_and_users(&engine);
    installation(&mut engine);
    node(&mut engine);
}

#[test]
fn the_capabilities_that_are_tried_are_those_of_the_chart() {
    let template = read(&dev_env().join("helm/lunar/templates/fs-core.yaml"));
    let added = template.split_once("              add:\n").expect("it adds some").1;
    let added = added.lines().map_while(|line| line.trim().strip_prefix("- "));
    assert_eq!(added.collect::<Vec<_>>(), FS_CORE_CAPS);
}

#[test]
fn the_dockerfile_has_a_target_for_each_program_and_no_shell_runs_it() {
    let text = read(&dev_env().join("docker/Dockerfile"));
    for program in PROGRAMS {
        assert!(text.contains(&format!("\nFROM base AS {program}\n")), "{program}");
        assert!(text.contains(&format!("ENTRYPOINT [\"/usr/local/bin/{program}\"]")), "{program}");
    }
    let forms = ["ENTRYPOINT ", "CMD ", "RUN "];
    for line in text.lines() {
        if let Some(form) = forms.iter().find(|form| line.starts_with(**form)) {
            assert!(line[form.len()..].starts_with('['), "a shell would run: {line}");
        }
    }
    assert!(text.contains("ARG BASE_IMAGE="));
    assert!(!text.contains(":latest"));
    assert!(repository().join("dev-env/docker/compile.Dockerfile").is_file());
}
