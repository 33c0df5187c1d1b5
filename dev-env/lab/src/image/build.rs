//! One image build, in a directory of its own: bootstrap, kernel, file system.

use super::mirror::Mirror;
use super::recipe::{KERNEL_FLAVOUR, KERNEL_SUITE, LABINIT, LEFT_OUT, PACKAGES, ROOT_BYTES, SUITE};
use super::{CACHE_VARIABLE, KERNEL_FILE, ROOT_FILE};
use crate::error::{AtPath, LabError, Result};
use crate::host::{self, MKE2FS, MMDEBSTRAP, QEMU, Tool, UNSHARE};
use crate::progress::Step;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Space that a build needs: the tree, the image, the packages.
const NEEDED_MIB: u64 = 2048;

const MODULES_NEEDED: [&str; 2] = ["ublk_drv", "virtio_blk"];

/// Builds root image and kernel into `partial` under `lock`; gives the kernel release.
pub(super) fn build(partial: &Path, pinned_kernel: Option<String>, lock: &File) -> Result<String> {
    // Missing programs are reported before minutes are spent.
    QEMU.path()?;
    MKE2FS.path()?;
    MMDEBSTRAP.path()?;
    host::require_space("an image build", partial, NEEDED_MIB, CACHE_VARIABLE)?;
    let mirror = Mirror::of_host()?;
    let version = match pinned_kernel {
        Some(version) => version.trim_end_matches(&format!("-{KERNEL_FLAVOUR}")).to_owned(),
        None => mirror.newest_kernel()?,
    };
    let release = format!("{version}-{KERNEL_FLAVOUR}");
    let tree = partial.join("tree");
    bootstrap(&mirror, &release, partial, &tree, lock)?;
    let modules = tree.join("usr/lib/modules").join(&release);
    check_modules(&modules)?;
    let kernel = modules.join("vmlinuz");
    fs::copy(&kernel, partial.join(KERNEL_FILE)).at("copy the kernel", kernel)?;
    let step = Step::begin("making the file system image");
    let image = partial.join(ROOT_FILE);
    host::sparse_file(&image, ROOT_BYTES)?;
    let mut format = MKE2FS.command_as_root()?;
    format.args(["-q", "-t", "ext4", "-F", "-L", "lunar-lab", "-d"]).arg(&tree).arg(&image);
    host::run("making the root file system", &mut format)?;
    remove_tree(&tree)?;
    drop(step);
    Ok(release)
}

/// Removes a directory that may hold files of root.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    let tool = Tool { program: "rm", package: "coreutils" };
    let mut command = tool.command_as_root()?;
    command.args(["-rf", "--one-file-system", "--"]).arg(path);
    host::run("removing an unfinished image", &mut command).map(|_| ())
}

fn bootstrap(
    mirror: &Mirror,
    release: &str,
    partial: &Path,
    tree: &Path,
    lock: &File,
) -> Result<()> {
    let script = partial.join("labinit");
    fs::write(&script, LABINIT).at("write", &script)?;
    let sources = partial.join("sources.list");
    let lines = [SUITE, KERNEL_SUITE].map(|suite| mirror.source_line(suite) + "\n");
    fs::write(&sources, lines.concat()).at("write", &sources)?;
    // Its mounts are in a namespace of their own and so go with it, however it ends.
    let mut command = UNSHARE.command_as_root()?;
    command.arg("--mount").arg(MMDEBSTRAP.path()?);
    bootstrap_arguments(&mut command, mirror, release, &script)?;
    command.arg(SUITE).arg(tree).arg(&sources);
    // The installer reads nothing, but holding the lock's file it holds the lock: when this process
    // is killed, nobody takes the directory away under an installer that is still at work.
    command.stdin(lock.try_clone().at("use the lock for", tree)?);
    let step = Step::begin(format!("installing {SUITE} with kernel {release}"));
    run_with_log(&mut command, &partial.join("build.log"), &step)
}

fn bootstrap_arguments(
    command: &mut Command,
    mirror: &Mirror,
    release: &str,
    script: &Path,
) -> Result<()> {
    let script = script.display().to_string();
    if script.contains('\'') {
        return Err(LabError::Settings(format!("the cache path {script} has a quote in it")));
    }
    command.args(["--variant=minbase", "--mode=root", "--format=directory"]);
    let kernel = format!("linux-modules-{release},linux-binary-{release}");
    command.arg(format!("--include={},{kernel}", PACKAGES.join(",")));
    command.args(mirror.apt_options.iter().map(|line| format!("--aptopt={line}")));
    command.args(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    command.arg(format!("--customize-hook=install -m 755 '{script}' \"$1/labinit\""));
    command.arg("--customize-hook=mkdir -p \"$1/opt/lunar\" \"$1/var/lib/lunar\"");
    // Settings and addresses of the build host stay with the build host.
    command.arg("--customize-hook=rm -f \"$1/etc/apt/apt.conf.d/99mmdebstrap\"");
    command.arg("--customize-hook=rm -f \"$1/etc/resolv.conf\" \"$1/etc/apt/sources.list\"");
    Ok(())
}

/// Runs the installer with its output in a file and its steps on the progress line.
fn run_with_log(command: &mut Command, log: &Path, step: &Step) -> Result<()> {
    let (reader, writer) = std::io::pipe().at("make a pipe for", command.get_program())?;
    let both = writer.try_clone().at("make a pipe for", command.get_program())?;
    command.stdout(both).stderr(writer);
    let mut child = command.spawn().at("run", command.get_program())?;
    let line = host::command_line(command);
    // The command keeps the writing ends of the pipe open until its streams are replaced.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut text = String::new();
    for line in BufReader::new(reader).lines().map_while(std::io::Result::ok) {
        if let Some(detail) = line.strip_prefix("I: ") {
            step.detail(detail.split_whitespace().take(8).collect::<Vec<_>>().join(" "));
        }
        text.push_str(&line);
        text.push('\n');
    }
    let status = child.wait().at("wait for", command.get_program())?;
    fs::write(log, &text).at("write", log)?;
    if status.success() {
        return Ok(());
    }
    Err(LabError::ToolFailed {
        what: "installing the packages of the image".to_owned(),
        command: line,
        status: status.to_string(),
        output: host::tail(log, 30),
    })
}

/// The image is useless without these; better said now than in the first test.
fn check_modules(modules: &Path) -> Result<()> {
    let path = modules.join("modules.dep");
    let index = fs::read_to_string(&path).at("read", &path)?;
    for name in MODULES_NEEDED {
        if !index.contains(&format!("/{name}.ko")) {
            return Err(LabError::Image(format!(
                "the kernel in {} has no module {name}",
                modules.display()
            )));
        }
    }
    Ok(())
}
